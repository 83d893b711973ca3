"""A master key in this process's memory: read from an owner-only file, or put together from custodians' shares."""

from typing import Final

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.keys.providers import envelope
from strongroom.keys.providers.envelope import WrapAlgorithm

_BEFORE_ENVELOPES: Final = 0x01
"""First byte of what `file:` wrapped before wrapped keys named their algorithm."""
_MIN_BODY_BYTES: Final = 29


class LocalMasterKey:
    """A master key that this process holds.

    Args:
        key: 32 bytes.
        algorithm: How keys that it wraps are marked.
    """

    __slots__ = ("_algorithm", "_key")

    def __init__(self, key: SecretBytes, *, algorithm: WrapAlgorithm) -> None:
        self._key = key
        self._algorithm = algorithm

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a key; `context` says what it is for."""
        bound = envelope.bound(self._algorithm, context)
        return envelope.write(self._algorithm, aead.encrypt(self._key, key.reveal(), context=bound))

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt what `wrap` made in the same context.

        Raises:
            IntegrityError: Wrapped by another master key, for another context, or changed.
        """
        if self._algorithm is WrapAlgorithm.FILE_A256GCM and wrapped[:1] == bytes((_BEFORE_ENVELOPES,)):
            return self._decrypt(wrapped, context)
        body = envelope.read(self._algorithm, wrapped, min_body_bytes=_MIN_BODY_BYTES)
        return self._decrypt(body, envelope.bound(self._algorithm, context))

    def close(self) -> None:
        """Nothing is held but the key itself."""

    def _decrypt(self, sealed: bytes, context: bytes) -> SecretBytes:
        try:
            return aead.decrypt(self._key, sealed, context=context)
        except (FormatError, IntegrityError) as error:
            raise envelope.damaged() from error
