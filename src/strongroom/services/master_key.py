"""Which master key goes with which mode of running the key service, and what of it clients pin."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, get_args
from urllib.parse import unquote

from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.keys.custody import roster_digest
from strongroom.wire.custody import CustodyRoster
from strongroom.wire.service import HOLDERS_WHEN_ATTESTED, MasterKeyHolder, Mode

_HOLDERS: Final[tuple[MasterKeyHolder, ...]] = get_args(MasterKeyHolder)
_MAX_ROSTER_BYTES: Final = 64 << 10
_PINS: Final[Mapping[MasterKeyHolder, str]] = MappingProxyType(
    {"pkcs11": "module-sha256", "vault": "ca-sha256", "https": "ca-sha256"}
)
_WHAT_FITS: Final = (
    "Have it held in custody (strongroom custody split), or in a module or a vault (docs/how-to/master-key.md)."
)


def holder_of(uri: str) -> MasterKeyHolder:
    """Return how a master key is held: its address's scheme.

    Raises:
        ConfigurationError: There is no such scheme.
    """
    scheme = uri.partition(":")[0]
    for holder in _HOLDERS:
        if holder == scheme:
            return holder
    raise ConfigurationError(
        f"no provider of master keys is called {scheme!r}", action=f"Use one of: {', '.join(_HOLDERS)}."
    )


def demand_fitting(uri: str, *, mode: Mode, has_platform: bool) -> None:
    """Refuse a master key that does not go with the mode.

    1. An attested service runs in a TEE, and its operator cannot read its master key.
    2. The address itself says by digest which authorities vouch for a vault, and which module's code is loaded into the
       TEE: clients pin the address.
    3. Only an attested service can show custodians whom they give their shares to.

    Args:
        uri: The master key's address.
        mode: Owner-operated or attested.
        has_platform: Whether the service runs in a TEE.

    Raises:
        ConfigurationError: One of these does not hold.
    """
    holder = holder_of(uri)
    if mode == "owner-operated":
        if holder == "custody":  # 3
            raise ConfigurationError(
                "a master key in custody needs an attested key service",
                action='Run it in a TEE, with "mode": "attested" and a platform.',
            )
        return
    if not has_platform:  # 1
        raise ConfigurationError(
            "an attested key service runs in a TEE, and the configuration names no platform",
            action='Name the platform, or run it "owner-operated".',
        )
    if holder not in HOLDERS_WHEN_ATTESTED:
        raise ConfigurationError("an attested key service has no master key in a file", action=_WHAT_FITS)
    pin = _PINS.get(holder)  # 2
    if pin is not None and f"{pin}=" not in uri:
        raise ConfigurationError(
            "the address of an attested service's master key names a file that its operator may exchange, or none",
            action=f"Add that file's SHA-256 to the address: {pin}=HEX.",
        )


def pinned_parts(uri: str, *, mode: Mode, roster: CustodyRoster | None) -> Mapping[str, Json]:
    """Return what the digest of the effective configuration says of the master key.

    Of an owner-operated service: how it is held. Of an attested one also where, for whoever runs the vault or the
    module in its place could read everything; or the digest of the custodians' roster.

    Args:
        uri: The master key's address.
        mode: Owner-operated or attested.
        roster: The custodians, where the key is in custody: the very ones that will unlock it.
    """
    parts: dict[str, Json] = {"master_key": holder_of(uri)}
    if roster is not None:
        return parts | {"custody": roster_digest(roster)}
    return parts if mode == "owner-operated" else parts | {"master_key_address": uri}


def read_roster(uri: str) -> CustodyRoster | None:
    """Read the roster of `custody:///absolute/path`; of other addresses, nothing.

    Raises:
        ConfigurationError: Not such an address, or the file holds no roster.
    """
    if holder_of(uri) != "custody":
        return None
    path_text = unquote(uri.removeprefix("custody://"))
    if not uri.startswith("custody:///") or any(character in uri for character in "?#") or "\0" in path_text:
        raise ConfigurationError("the address of a master key in custody must be custody:///absolute/path/roster.json")
    return load_roster(Path(path_text))


def load_roster(path: Path) -> CustodyRoster:
    """Read a roster's file.

    Raises:
        ConfigurationError: It cannot be read, or holds no roster.
    """
    try:
        with path.open("rb") as file:
            return CustodyRoster.from_json(file.read(_MAX_ROSTER_BYTES))
    except OSError as error:
        raise ConfigurationError(
            f"the custodians' roster {path} cannot be read: {error.strerror}",
            action="Copy it there; `strongroom custody split` wrote it, and it is no secret.",
        ) from error
    except FormatError as error:
        raise ConfigurationError(f"the custodians' roster {path} is {error.message}") from error
