"""How a wrapped key is written, whoever wrapped it: `version (1 byte, 0x02) | algorithm (1 byte) | body`.

Version, algorithm and context are authenticated by every provider, so that what one wrapped for one purpose opens
neither at another provider nor for another purpose.
"""

import enum
from typing import Final

from strongroom.base.errors import IntegrityError

_VERSION: Final = 0x02
_HEADER_BYTES: Final = 2
_MAX_BYTES: Final = 16 << 10
DAMAGED: Final = "the wrapped key was changed, or belongs to another master key or place"
ACTION: Final = "Restore the newest copy of the state folder, and configure the master key it was made with."


class WrapAlgorithm(enum.IntEnum):
    """Who wraps, and how. A number is never given a second meaning.

    The last one is a service's own, for its keys at rest; a master key wraps it.
    """

    FILE_A256GCM = 1
    PKCS11_A256GCM = 2
    TRANSIT_A256GCM = 3
    VAULT_RSA_OAEP_A256GCM_PS256 = 4
    VAULT_A256GCM = 5
    CUSTODY_A256GCM = 6
    STATE_A256GCM = 7


def bound(algorithm: WrapAlgorithm, context: bytes) -> bytes:
    """Return what a provider must authenticate beside the key: the header, and what the key is for."""
    return _header(algorithm) + context


def write(algorithm: WrapAlgorithm, body: bytes) -> bytes:
    """Return a wrapped key as it is stored."""
    return _header(algorithm) + body


def read(algorithm: WrapAlgorithm, wrapped: bytes, *, min_body_bytes: int) -> bytes:
    """Return a wrapped key's body; nothing in it is authentic yet.

    Args:
        algorithm: The only one that the caller's key unwraps.
        wrapped: What `write` made.
        min_body_bytes: The shortest body there can be.

    Raises:
        IntegrityError: Of another version or algorithm, too short or too long.
    """
    if not _HEADER_BYTES + min_body_bytes <= len(wrapped) <= _MAX_BYTES:
        raise damaged()
    if wrapped[:_HEADER_BYTES] != _header(algorithm):
        raise IntegrityError("the wrapped key is of another kind of master key", action=ACTION)
    return wrapped[_HEADER_BYTES:]


def damaged() -> IntegrityError:
    """Return the one error of every wrapped key that does not open: it does not tell which byte was wrong."""
    return IntegrityError(DAMAGED, action=ACTION)


def _header(algorithm: WrapAlgorithm) -> bytes:
    return bytes((_VERSION, algorithm))
