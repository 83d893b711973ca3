"""A 256-bit secret in shares, any `threshold` of which give it back and fewer of which tell nothing.

Shamir's scheme over GF(2**128), from PyCryptodome, for each half of the secret with polynomials of its own; a share is
the two halves' shares of one number. Whether a share is genuine, the scheme cannot tell: the caller MUST check it.

Source: A. Shamir, How to share a secret, 1979; PyCryptodome, `Crypto.Protocol.SecretSharing`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.base.secret import SecretBytes

if TYPE_CHECKING:
    from Crypto.Protocol.SecretSharing import Shamir

SECRET_BYTES: Final = 32
_HALF_BYTES: Final = 16


def split_secret(secret: SecretBytes, *, threshold: int, shares: int) -> dict[int, SecretBytes]:
    """Split a secret.

    Args:
        secret: 32 bytes.
        threshold: How many shares give it back, at least 2.
        shares: How many there are.

    Returns:
        The shares, 32 bytes each, by number from 1.

    Raises:
        FormatError: The secret has another length, or the numbers make no sense.
        ConfigurationError: PyCryptodome is not installed.
    """
    if len(secret) != SECRET_BYTES or not 2 <= threshold <= shares:  # noqa: PLR2004 - one share is no sharing
        raise FormatError("a secret of 32 bytes is split into at least as many shares as it takes, which is 2 or more")
    value, shamir = secret.reveal(), _shamir()
    first = dict(shamir.split(threshold, shares, value[:_HALF_BYTES]))
    second = dict(shamir.split(threshold, shares, value[_HALF_BYTES:]))
    return {number: SecretBytes(first[number] + second[number]) for number in sorted(first)}


def combine_shares(shares: Mapping[int, SecretBytes]) -> SecretBytes:
    """Give a secret back from as many shares as it takes; from fewer or others, other bytes.

    Raises:
        FormatError: A share has another length, or there are fewer than two.
        ConfigurationError: PyCryptodome is not installed.
    """
    if len(shares) < 2 or any(len(share) != SECRET_BYTES for share in shares.values()):  # noqa: PLR2004
        raise FormatError("a secret is put together from two or more shares of 32 bytes")
    shamir = _shamir()
    halves = (slice(None, _HALF_BYTES), slice(_HALF_BYTES, None))
    return SecretBytes(
        b"".join(
            shamir.combine([(number, share.reveal()[half]) for number, share in sorted(shares.items())])
            for half in halves
        )
    )


def _shamir() -> "type[Shamir]":
    try:
        from Crypto.Protocol.SecretSharing import Shamir  # noqa: PLC0415 - key services and custodians alone
    except ImportError as error:
        raise ConfigurationError(
            "master keys in custody need PyCryptodome", action="Install it: pip install 'strongroom[services]'"
        ) from error
    return Shamir
