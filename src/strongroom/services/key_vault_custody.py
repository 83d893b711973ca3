"""Key Vault's contract: deleting, recovering and destroying keys, backing them up and restoring them."""

from typing import Final

from strongroom.base.encoding import Json, from_any_b64, from_b64url, to_b64url
from strongroom.base.errors import FormatError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import sha256_hex
from strongroom.keys.backup import MAX_VERSIONS, open_backup, seal_backup
from strongroom.keys.records import KeyRecord
from strongroom.keys.store.vault import VaultRows
from strongroom.keys.vault_records import BackedUpKey, KeyBackup
from strongroom.services.access import is_own_key
from strongroom.services.http import Call
from strongroom.services.key_vault_desk import (
    VaultDesk,
    demand_name,
    demand_not_deleted,
    demand_ordinary,
    key_leaf,
    page_size,
    pin_immutable,
    policy_digest,
    skipped,
)
from strongroom.services.key_vault_errors import KeyConflictError, KeyRefusedError
from strongroom.services.key_vault_messages import RestoreBody
from strongroom.services.key_vault_rotation import forget, purge, reschedule

_DAY_S: Final = 86400
_DELETE_DATASET: Final = "Destroy a dataset's keys with: strongroom dataset shred"
_BACK_UP_DATASET: Final = "Datasets' keys are backed up with the key service's whole state."


class CustodyOperations:
    """What deletes keys and brings them back."""

    def __init__(self, vault: VaultDesk) -> None:
        self._vault = vault

    # --- deleting -----------------------------------------------------------------------------------------------

    def delete(self, call: Call, person: str) -> Json:
        """Delete a key, all of its versions; it can be recovered (`DELETE /keys/{name}`)."""
        name, seconds = call.path["name"], self._vault.seconds
        demand_ordinary(name, action=_DELETE_DATASET)
        with self._vault.desk.store.transaction() as tx:
            newest, rows = tx.key(name).record, VaultRows(tx)
            deletion = rows.delete(name, deleted=seconds, purged_at=seconds + self._vault.recovery.days * _DAY_S)
            what = {**key_leaf(newest, person=person), "purged_at": deletion.purged_at}
            tx.append_leaf("key-deleted", now=self._vault.now, what=what)
        return self._vault.deleted_bundle(newest, deletion)

    def deleted(self, call: Call, _person: str) -> Json:
        """Describe a deleted key (`GET /deletedkeys/{name}`)."""
        name = call.path["name"]
        with self._vault.desk.store.reading() as tx:
            rows = VaultRows(tx)
            return self._vault.deleted_bundle(rows.newest_deleted(name), rows.deletion(name))

    def deleted_keys(self, call: Call, person: str) -> Json:
        """List the deleted keys (`GET /deletedkeys`), but for those of others' datasets."""
        limit, after = page_size(call), skipped(call.query)
        if after:
            demand_name(after)
        with self._vault.desk.store.reading() as tx:
            rows = VaultRows(tx)
            found = rows.deletions(after=after, limit=limit)
            shown = [each for each in found if is_own_key(tx, each.name, person)]
            items: list[Json] = [self._vault.deleted_item(rows.newest_deleted(each.name), each) for each in shown]
        last, hidden = found[-1].name if found else "", len(found) - len(shown)
        return self._vault.page(call, "/deletedkeys", items, limit=limit, last=last, hidden=hidden)

    def recover(self, call: Call, person: str) -> Json:
        """Bring a deleted key back (`POST /deletedkeys/{name}/recover`)."""
        name = call.path["name"]
        with self._vault.desk.store.transaction() as tx:
            rows = VaultRows(tx)
            rows.recover(name)
            reschedule(rows, tx, name)
            newest = tx.key(name).record
            tx.append_leaf("key-recovered", now=self._vault.now, what=key_leaf(newest, person=person))
        return self._vault.bundle(newest)

    def purge(self, call: Call, person: str) -> None:
        """Destroy a deleted key (`DELETE /deletedkeys/{name}`)."""
        name = call.path["name"]
        with self._vault.desk.store.transaction() as tx:
            VaultRows(tx).deletion(name)
            if self._vault.recovery.purge_protection:
                raise KeyRefusedError(
                    "deleted keys are protected here until their time to recover is over",
                    inner_code="PurgeProtected",
                    action="Wait for scheduledPurgeDate.",
                )
            purge(self._vault, tx, name, person=person)
        forget(self._vault)

    # --- backups ------------------------------------------------------------------------------------------------

    def backup(self, call: Call, person: str) -> Json:
        """Answer with a key whole, for this service's family alone (`POST /keys/{name}/backup`)."""
        name = call.path["name"]
        demand_ordinary(name, action=_BACK_UP_DATASET)
        with self._vault.desk.store.transaction() as tx:
            newest = tx.key(name).record
            versions = tx.key_versions(name)
            if len(versions) > MAX_VERSIONS:
                raise FormatError(f"a key with more than {MAX_VERSIONS} versions is not backed up")
            keys = tuple(
                BackedUpKey(record=each.record, material=to_b64url(each.material.reveal())) for each in versions
            )
            content = KeyBackup(name=name, keys=keys, rotation=VaultRows(tx).rotation(name))
            blob = seal_backup(content, master_key=self._vault.desk.store.master_key)
            what = {**key_leaf(newest, person=person), "backup": sha256_hex(blob), "versions": len(versions)}
            tx.append_leaf("key-backed-up", now=self._vault.now, what=what)
        return {"value": to_b64url(blob)}

    def restore(self, call: Call, person: str) -> Json:
        """Bring a key back from a backup, all of its versions (`POST /keys/restore`)."""
        blob = from_any_b64(RestoreBody.from_json(call.body).value)
        content = open_backup(blob, master_key=self._vault.desk.store.master_key)
        records = [each.record for each in content.keys]
        demand_name(content.name)
        demand_ordinary(content.name, action=_BACK_UP_DATASET)
        if any(record.name != content.name for record in records):
            raise FormatError("the backup holds versions of another key")
        if [record.number for record in records] != list(range(1, len(records) + 1)):
            raise FormatError("the backup does not hold every version of its key")
        with self._vault.desk.store.transaction() as tx:
            rows = VaultRows(tx)
            _demand_new(rows, content.name)
            for each in content.keys:
                _demand_pinned_policy(rows, each.record)
                tx.add_key(each.record, SecretBytes(from_b64url(each.material)))
                pin_immutable(rows, each.record)
            if content.rotation is not None:
                rows.set_rotation(content.rotation.model_copy(update={"name": content.name}))
                reschedule(rows, tx, content.name)
            what = {**key_leaf(records[-1], person=person), "backup": sha256_hex(blob), "versions": len(records)}
            tx.append_leaf("key-restored", now=self._vault.now, what=what)
        return self._vault.bundle(records[-1])


def _demand_new(rows: VaultRows, name: str) -> None:
    demand_not_deleted(rows, name)
    if rows.newest_number(name):
        raise KeyConflictError(
            f"there is a key {name} already, and a backup is not restored over a key",
            inner_code="KeyAlreadyExists",
            action="Delete and purge the key first, if the backup is what you want.",
        )


def _demand_pinned_policy(rows: VaultRows, record: KeyRecord) -> None:
    """Refuse a version whose release policy was made immutable after the backup, with another policy in it."""
    pinned = rows.pinned_policy(record.version)
    if pinned is None:
        return
    policy = record.release_policy
    if policy is None or not policy.immutable or policy_digest(record) != pinned.policy:
        raise RefusedError(
            f"version {record.version} has an immutable release policy, and the backup has another one",
            action="Restore a backup that was made after the policy was made immutable.",
        )
