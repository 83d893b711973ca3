"""What the store keeps for Key Vault's contract beside the keys: deleted keys, rotation policies, policies that stay.

A deleted key's rows are in a table of their own: whatever uses keys does not find them, and a row cannot be moved back
from outside, because its table is in what it is authenticated with. Lists are read page by page, along an index.
"""

from collections.abc import Iterator
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import NotFoundError
from strongroom.crypto.random import random_secret
from strongroom.keys.records import KeyRecord
from strongroom.keys.store.rows import edited
from strongroom.keys.store.transaction import StoredKey, Transaction
from strongroom.keys.vault_records import DeletionRecord, PinnedPolicy, RotationRecord

VAULT_TABLES: Final = """
CREATE TABLE deleted_keys (
  name TEXT NOT NULL, version TEXT NOT NULL UNIQUE, number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (name, number)
) STRICT;
CREATE TABLE deletions (
  name TEXT PRIMARY KEY, purged_at INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX deletions_by_purge ON deletions (purged_at);
CREATE TABLE rotations (
  name TEXT PRIMARY KEY, due_at INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX rotations_by_due ON rotations (due_at);
CREATE TABLE immutable_policies (version TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
"""
_DUE_AT_ONCE: Final = 100


class VaultRows:
    """Key Vault's part of the store, within one transaction."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._rows = tx.rows

    # --- keys ---------------------------------------------------------------------------------------------------

    def is_deleted(self, name: str) -> bool:
        """Return whether a key of this name is deleted and can be recovered: nobody else gets its name."""
        return self._deletion(name) is not None

    def newest_number(self, name: str) -> int:
        """Return the number of a key's newest version; 0 where there is no such key."""
        found = next(self._rows.select("keys", {"name": name}, KeyRecord, ("number DESC",), limit=1), None)
        return 0 if found is None else found[0].number

    def versions(self, name: str, *, after: int, limit: int) -> list[KeyRecord]:
        """Return the versions of a key whose numbers are above this one, oldest first."""
        return [stored.record for stored in self._stored("keys", name, after=after, limit=limit)]

    # --- deleted keys -------------------------------------------------------------------------------------------

    def delete(self, name: str, *, deleted: int, purged_at: int) -> DeletionRecord:
        """Delete a key, all of its versions; it can be recovered.

        Raises:
            NotFoundError: There is no such key.
        """
        self._tx.key(name)
        deletion = DeletionRecord(name=name, deleted=deleted, purged_at=purged_at)
        self._move(name, source="keys", target="deleted_keys")
        self._rows.insert("deletions", _deletion_key(deletion), deletion)
        return deletion

    def recover(self, name: str) -> None:
        """Bring a deleted key back as it was.

        Raises:
            NotFoundError: There is no such deleted key.
        """
        deletion = self.deletion(name)
        self._move(name, source="deleted_keys", target="keys")
        self._rows.delete("deletions", _deletion_key(deletion))

    def purge(self, name: str) -> int:
        """Destroy a deleted key and its rotation policy; what the file still holds of it, `Store.scrub` removes.

        Returns:
            How many versions it had.

        Raises:
            NotFoundError: There is no such deleted key.
        """
        deletion = self.deletion(name)
        versions = list(self._stored("deleted_keys", name))
        for stored in versions:
            self._rows.update("deleted_keys", _row_key(stored.record), stored.record, random_secret())
            self._rows.delete("deleted_keys", _row_key(stored.record))
        self._rows.delete("deletions", _deletion_key(deletion))
        self.remove_rotation(name)
        return len(versions)

    def deletion(self, name: str) -> DeletionRecord:
        """Return when a key was deleted.

        Raises:
            NotFoundError: There is no such deleted key.
        """
        found = self._deletion(name)
        if found is None:
            raise NotFoundError(f"a deleted key {name} was not found in this key vault")
        return found

    def newest_deleted(self, name: str) -> KeyRecord:
        """Return the newest version of a deleted key.

        Raises:
            NotFoundError: There is no such deleted key.
        """
        self.deletion(name)
        found = next(self._rows.select("deleted_keys", {"name": name}, KeyRecord, ("number DESC",), limit=1), None)
        if found is None:
            raise edited(f"deleted key {name} is gone")
        return found[0]

    def deletions(self, *, after: str, limit: int) -> list[DeletionRecord]:
        """Return the deletions of keys whose names come after this one, by name."""
        found = self._rows.select("deletions", {}, DeletionRecord, ("name",), after=("name", after), limit=limit)
        return [deletion for deletion, _ in found]

    def purgeable(self, *, now: int) -> list[DeletionRecord]:
        """Return some deletions whose time to recover is over."""
        found = self._rows.select("deletions", {}, DeletionRecord, ("purged_at",), limit=_DUE_AT_ONCE)
        return [deletion for deletion, _ in found if deletion.purged_at <= now]

    # --- rotation -----------------------------------------------------------------------------------------------

    def rotation(self, name: str) -> RotationRecord | None:
        """Return a key's rotation policy; None where nobody set one."""
        found = self._rows.find("rotations", {"name": name}, RotationRecord)
        return None if found is None else found[0]

    def set_rotation(self, record: RotationRecord) -> None:
        """Store a key's rotation policy, in the place of the one that it has."""
        self.remove_rotation(record.name)
        self._rows.insert("rotations", {"name": record.name, "due_at": record.due_at}, record)

    def remove_rotation(self, name: str) -> None:
        """Forget a key's rotation policy, if it has one."""
        record = self.rotation(name)
        if record is not None:
            self._rows.delete("rotations", {"name": name, "due_at": record.due_at})

    def rotations_due(self, *, now: int) -> list[RotationRecord]:
        """Return some rotation policies that have an action due."""
        found = self._rows.select("rotations", {}, RotationRecord, ("due_at",), limit=_DUE_AT_ONCE)
        return [record for record, _ in found if record.due_at <= now]

    # --- policies that stay -------------------------------------------------------------------------------------

    def pin_policy(self, pinned: PinnedPolicy) -> None:
        """Remember for ever that a version's release policy is immutable."""
        if self.pinned_policy(pinned.version) is None:
            self._rows.insert("immutable_policies", {"version": pinned.version}, pinned)

    def pinned_policy(self, version: str) -> PinnedPolicy | None:
        """Return what is remembered of a version's immutable policy."""
        found = self._rows.find("immutable_policies", {"version": version}, PinnedPolicy)
        return None if found is None else found[0]

    # --- parts --------------------------------------------------------------------------------------------------

    def _deletion(self, name: str) -> DeletionRecord | None:
        found = self._rows.find("deletions", {"name": name}, DeletionRecord)
        return None if found is None else found[0]

    def _move(self, name: str, *, source: str, target: str) -> None:
        """Move all versions of a key: each is opened where it was and sealed for where it goes."""
        for stored in list(self._stored(source, name)):
            self._rows.delete(source, _row_key(stored.record))
            self._rows.insert(target, _row_key(stored.record), stored.record, stored.material)

    def _stored(self, table: str, name: str, *, after: int = 0, limit: int | None = None) -> Iterator[StoredKey]:
        found = self._rows.select(table, {"name": name}, KeyRecord, ("number",), after=("number", after), limit=limit)
        for record, material in found:
            yield StoredKey(record=record, material=material)


def _row_key(record: KeyRecord) -> dict[str, Json]:
    return {"name": record.name, "version": record.version, "number": record.number}


def _deletion_key(deletion: DeletionRecord) -> dict[str, Json]:
    return {"name": deletion.name, "purged_at": deletion.purged_at}
