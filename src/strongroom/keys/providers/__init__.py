"""Who holds the master key, by URI scheme. A provider never gives it away: it wraps and unwraps.

`custody:` is not opened here: its key exists only in a measured service, after its custodians unlocked it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers import file, key_vault, pkcs11, transit


class MasterKey(Protocol):
    """A master encryption key (MEK) at its provider."""

    def wrap(self, key: SecretBytes, *, context: bytes) -> bytes:
        """Encrypt a key; `context` says what it is for."""

    def unwrap(self, wrapped: bytes, *, context: bytes) -> SecretBytes:
        """Decrypt what `wrap` made in the same context."""

    def close(self) -> None:
        """Let go of the provider; the key is not used any more."""


_Opener: TypeAlias = Callable[..., MasterKey]
_PROVIDERS: Final[Mapping[str, _Opener]] = MappingProxyType(
    {
        "file": file.open_master_key,
        "https": key_vault.open_master_key,
        "pkcs11": pkcs11.open_master_key,
        "vault": transit.open_master_key,
    }
)


def open_master_key(uri: str, *, create: bool) -> MasterKey:
    """Open a master key.

    Args:
        uri: Where it is, such as `file:///var/lib/strongroom/mek`.
        create: Make it if it is not there; only for a key service without any state.

    Raises:
        ConfigurationError: Unknown scheme, no such key, kept where others can read it, or its holder refuses.
        UnavailableError: Its holder does not answer.
        VerificationError: What answers in its holder's place is not vouched for.
    """
    scheme = uri.partition(":")[0]
    opener = _PROVIDERS.get(scheme)
    if opener is None:
        raise ConfigurationError(
            f"no provider of master keys is called {scheme!r}", action=f"Use one of: {', '.join(sorted(_PROVIDERS))}."
        )
    return opener(uri, create=create)
