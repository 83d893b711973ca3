"""What every part of Key Vault's contract works with: keys as the contract shows them, and who may have which name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.base.encoding import Json, from_any_b64, to_b64url
from strongroom.base.errors import FormatError, NotFoundError, RefusedError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.vault_keys import KeyKind
from strongroom.keys.records import DATASET_KEY_PREFIX, KeyRecord
from strongroom.keys.store import StoredKey, Transaction
from strongroom.keys.store.vault import VaultRows
from strongroom.keys.vault_records import DeletionRecord, PinnedPolicy
from strongroom.services.http import Call
from strongroom.services.key_desk import KeyDesk
from strongroom.services.key_vault_errors import KeyConflictError, KeyRefusedError

_NAME: Final = re.compile(r"[0-9A-Za-z-]{1,127}")
_VERSION: Final = re.compile(r"[0-9a-f]{32}")
_FULL_DAYS: Final = 90
_SHORTEST_DAYS: Final = 7
PAGE: Final = 25
"""As many entries a page has at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What happens to deleted keys.

    Attributes:
        days: How long a deleted key can be recovered, 7 to 90 days.
        purge_protection: Whether nobody destroys it before.
    """

    days: int = _FULL_DAYS
    purge_protection: bool = False

    def __post_init__(self) -> None:
        if not _SHORTEST_DAYS <= self.days <= _FULL_DAYS:
            raise FormatError(f"deleted keys are kept {_SHORTEST_DAYS} to {_FULL_DAYS} days")

    @property
    def level(self) -> str:
        """The contract's name of it."""
        level = "Recoverable" if self.days == _FULL_DAYS else "CustomizedRecoverable"
        return level if self.purge_protection else f"{level}+Purgeable"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultDesk:
    """The key service's means, as Key Vault's contract needs them."""

    desk: KeyDesk
    recovery: Recovery

    @property
    def now(self) -> datetime:
        """The present time."""
        return self.desk.clock.now()

    @property
    def seconds(self) -> int:
        """The present time in Unix seconds."""
        return int(self.now.timestamp())

    # --- as the contract shows them -----------------------------------------------------------------------------

    def kid(self, record: KeyRecord) -> str:
        """Return a version's identifier."""
        return f"{self.desk.url}/keys/{record.name}/{record.version}"

    def bundle(self, record: KeyRecord) -> dict[str, Json]:
        """Return a version as the contract shows it, without anything secret."""
        key: Json = {
            "kid": self.kid(record),
            "kty": record.kty,
            "key_ops": list(record.key_ops),
            **record.public_jwk,
        }
        bundle: dict[str, Json] = {"key": key, "attributes": self._attributes(record)}
        if record.tags is not None:
            bundle["tags"] = record.tags
        if record.release_policy is not None:
            policy = record.release_policy
            bundle["release_policy"] = {
                "contentType": policy.content_type,
                "data": policy.data,
                "immutable": policy.immutable,
            }
        return bundle

    def deleted_bundle(self, record: KeyRecord, deletion: DeletionRecord) -> dict[str, Json]:
        """Return a deleted key as the contract shows it."""
        return {**self.bundle(record), **self._deletion(deletion)}

    def item(self, record: KeyRecord, *, versioned: bool) -> dict[str, Json]:
        """Return an entry of a list."""
        kid = self.kid(record) if versioned else f"{self.desk.url}/keys/{record.name}"
        return {"kid": kid, "attributes": self._attributes(record), **({"tags": record.tags} if record.tags else {})}

    def deleted_item(self, record: KeyRecord, deletion: DeletionRecord) -> dict[str, Json]:
        """Return an entry of the list of deleted keys."""
        return {**self.item(record, versioned=False), **self._deletion(deletion)}

    def page(self, call: Call, path: str, items: list[Json], *, limit: int, last: str, hidden: int = 0) -> Json:
        """Return a page of a list.

        Args:
            call: The call, for its version of the contract.
            path: The list's path.
            items: The page's entries.
            limit: As many were asked for.
            last: What names the last of them: the next page begins behind it.
            hidden: How many of the page's entries are not for the caller, and left out.
        """
        if len(items) + hidden < limit:
            return {"value": items, "nextLink": None}
        version = call.required("api-version")
        token = to_b64url(last.encode("ascii"))
        link = f"{self.desk.url}{path}?api-version={version}&$skiptoken={token}&maxresults={limit}"
        return {"value": items, "nextLink": link}

    def _deletion(self, deletion: DeletionRecord) -> dict[str, Json]:
        return {
            "recoveryId": f"{self.desk.url}/deletedkeys/{deletion.name}",
            "deletedDate": deletion.deleted,
            "scheduledPurgeDate": deletion.purged_at,
        }

    def _attributes(self, record: KeyRecord) -> dict[str, Json]:
        attributes: dict[str, Json] = {
            "enabled": record.enabled,
            "created": record.created,
            "updated": record.updated,
            "recoveryLevel": self.recovery.level,
            "recoverableDays": self.recovery.days,
            "exportable": record.exportable,
        }
        times = {"nbf": record.not_before, "exp": record.expires}
        return attributes | {name: seconds for name, seconds in times.items() if seconds is not None}


# --- keys -------------------------------------------------------------------------------------------------------------


def kind_of(kty: str) -> KeyKind:
    """Return the kind of a key of the contract's type."""
    match kty.removesuffix("-HSM"):
        case "RSA":
            return "RSA"
        case "EC":
            return "EC"
        case _:
            return "oct"


def find(tx: Transaction, call: Call) -> StoredKey:
    """Return the version that a call's address names; the newest without one.

    Raises:
        NotFoundError: There is no such key.
    """
    name, version = call.path["name"], call.path.get("version") or None
    if version is not None and not _VERSION.fullmatch(version):
        raise NotFoundError(f"key {name} has no such version in this key vault")
    return tx.key(name, version)


def key_leaf(record: KeyRecord, *, person: str) -> dict[str, Json]:
    """Return what the log says of a version: who did something to it, and the digest of what it is now."""
    return {
        "key": record.name,
        "key_version": record.version,
        "owner": person,
        "record": sha256_hex(record.to_json()),
    }


def demand_name(name: str) -> None:
    """Refuse what is no key's name.

    Raises:
        FormatError: Not 1 to 127 letters, digits and hyphens.
    """
    if not _NAME.fullmatch(name):
        raise FormatError("a key's name has 1 to 127 characters: letters, digits and hyphens")


def is_dataset_key(name: str) -> bool:
    """Return whether a key's name is one that datasets' keys have."""
    return name.lower().startswith(DATASET_KEY_PREFIX)


def demand_ordinary(name: str, *, action: str) -> None:
    """Refuse an operation on a dataset's key.

    Raises:
        RefusedError: The name is a dataset's key's.
    """
    if is_dataset_key(name):
        raise RefusedError(f"keys named {DATASET_KEY_PREFIX}… belong to datasets", action=action)


def demand_not_deleted(rows: VaultRows, name: str) -> None:
    """Refuse a name that a deleted key still has.

    Raises:
        KeyConflictError: There is a deleted key of this name.
    """
    if rows.is_deleted(name):
        raise KeyConflictError(
            f"key {name} is deleted but recoverable, and its name cannot be used for another",
            inner_code="ObjectIsDeletedButRecoverable",
            action="Recover the deleted key, or purge it.",
        )


def demand_usable(record: KeyRecord, *, operation: str, at: int, in_time: bool) -> None:
    """Refuse a key that is disabled, or outside its time.

    Args:
        record: The key.
        operation: What is to be done with it.
        at: The present time, Unix seconds.
        in_time: Whether the operation is only for keys inside their time of validity.

    Raises:
        KeyRefusedError: It may not be used so.
    """
    if not record.enabled:
        raise KeyRefusedError(f"operation {operation} is not allowed on a disabled key", inner_code="KeyDisabled")
    if in_time and record.not_before is not None and at < record.not_before:
        raise KeyRefusedError(f"operation {operation} is not allowed on a key before nbf", inner_code="KeyNotYetValid")
    if in_time and record.expires is not None and at >= record.expires:
        raise KeyRefusedError(f"operation {operation} is not allowed on an expired key", inner_code="KeyExpired")


def pin_immutable(rows: VaultRows, record: KeyRecord) -> None:
    """Remember a release policy that is immutable, so that no backup from before brings another one back."""
    if record.release_policy is not None and record.release_policy.immutable:
        rows.pin_policy(PinnedPolicy(version=record.version, policy=policy_digest(record)))


def policy_digest(record: KeyRecord) -> str:
    """Return SHA-256 of a version's release policy; of nothing where it has none."""
    return sha256_hex(from_any_b64(record.release_policy.data) if record.release_policy else b"")


def skipped(query: Mapping[str, str]) -> str:
    """Return behind which entry a page of a list begins; "" for the first page.

    Raises:
        FormatError: Not a mark of ours.
    """
    try:
        return from_any_b64(query.get("$skiptoken", "")).decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("$skiptoken is not of a nextLink of ours") from error


def page_size(call: Call) -> int:
    """Return how many entries a page of a list has.

    Raises:
        FormatError: Not 1 to 25.
    """
    if "maxresults" not in call.query:
        return PAGE
    size = call.number("maxresults")
    if not 1 <= size <= PAGE:
        raise FormatError(f"maxresults is 1 to {PAGE}")
    return size
