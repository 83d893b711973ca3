"""Key Vault's contract: rotation, rotation policies, and what becomes due by the clock.

A key is rotated when it is due: the service looks at every call, at most every quarter of a minute, and every half
minute without calls. A deleted key whose time to recover is over is destroyed the same way.
"""

import contextlib
import logging
import threading
from collections.abc import Generator
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import ConflictError, FormatError, StrongroomError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import vault_keys
from strongroom.crypto.random import random_id
from strongroom.crypto.vault_keys import KeyKind
from strongroom.keys.records import KeyRecord
from strongroom.keys.rotation import DEFAULT_NOTICE, NEVER, demand_sound, expiry_of, next_due
from strongroom.keys.store import StoredKey, Transaction
from strongroom.keys.store.vault import VaultRows
from strongroom.keys.vault_records import LifetimeAction, RotationRecord, RotationRule
from strongroom.services.http import Call
from strongroom.services.key_vault_desk import VaultDesk, demand_ordinary, find, key_leaf, kind_of, pin_immutable
from strongroom.services.key_vault_messages import LifetimeActionBody, RotationPolicyBody

SCHEDULE: Final = "schedule"
"""Stands in the log where a person would, for what the clock did."""
_LOOK_EVERY_S: Final = 15
_WAKE_EVERY_S: Final = 30
_ROTATE_DATASET: Final = "Rotate a dataset's key with: strongroom keys rotate"
_log = logging.getLogger(__name__)


class RotationOperations:
    """What rotates keys, on request and by the clock. Threads may share it."""

    def __init__(self, vault: VaultDesk) -> None:
        self._vault = vault
        self._lock = threading.Lock()
        self._looked_at = 0

    def rotate(self, call: Call, person: str) -> Json:
        """Make a new version like the newest one (`POST /keys/{name}/rotate`)."""
        name = call.path["name"]
        demand_ordinary(name, action=_ROTATE_DATASET)
        return self._vault.bundle(self._rotate(name, person=person))

    def get_policy(self, call: Call, _person: str) -> Json:
        """Answer with a key's rotation policy, or with what happens without one (`GET …/rotationpolicy`)."""
        with self._vault.desk.store.reading() as tx:
            newest = find(tx, call).record
            record = VaultRows(tx).rotation(newest.name)
        if record is not None:
            return self._policy_json(record)
        return {
            "id": self._policy_id(newest.name),
            "lifetimeActions": [_action_json(DEFAULT_NOTICE)],
            "attributes": {"created": newest.created, "updated": newest.created},
        }

    def put_policy(self, call: Call, person: str) -> Json:
        """Set a key's rotation policy (`PUT …/rotationpolicy`)."""
        name, seconds = call.path["name"], self._vault.seconds
        rule = _rule(RotationPolicyBody.from_json(call.body))
        demand_sound(rule)
        demand_ordinary(name, action=_ROTATE_DATASET)
        with self._vault.desk.store.transaction() as tx:
            newest, rows = find(tx, call).record, VaultRows(tx)
            old = rows.rotation(name)
            record = RotationRecord(
                name=name,
                rule=rule,
                created=old.created if old else seconds,
                updated=seconds,
                notified=old.notified if old else None,
                due_at=NEVER,
            )
            rows.set_rotation(_scheduled(record, newest))
            what = {**key_leaf(newest, person=person), "policy": rule.model_dump(mode="json")}
            tx.append_leaf("key-rotation-policy-set", now=self._vault.now, what=what)
        return self._policy_json(record)

    # --- by the clock -------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Do what is due; what fails is written to the service's own log, and tried again.

        Nothing is, while the service may not serve: a restored backup must not go on before its owner says so.
        """
        seconds = self._vault.seconds
        if abs(seconds - self._looked_at) < _LOOK_EVERY_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = seconds
            with _noted():
                self._vault.desk.store.demand_sound()
                self._do_due(seconds)
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def running(self) -> Generator[None, None, None]:
        """Look at the clock while the block runs."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_WAKE_EVERY_S):
                self.catch_up()

        watcher = threading.Thread(target=watch, name="key-rotation", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    def _do_due(self, seconds: int) -> None:
        with self._vault.desk.store.transaction() as tx:
            rows = VaultRows(tx)
            due = rows.rotations_due(now=seconds)
            purged = rows.purgeable(now=seconds)
            for deletion in purged:
                purge(self._vault, tx, deletion.name, person=SCHEDULE)
        if purged:
            forget(self._vault)
        for record in due:
            with _noted():  # one that fails does not keep the others back
                self._do_rotation(record, seconds)

    def _do_rotation(self, record: RotationRecord, seconds: int) -> None:
        with self._vault.desk.store.transaction() as tx:
            rows = VaultRows(tx)
            if rows.is_deleted(record.name):  # nothing until it is recovered
                rows.set_rotation(record.model_copy(update={"due_at": NEVER}))
                return
            newest = tx.key(record.name).record
            due = _next(record, newest)
            if due is None or due[0] > seconds:
                reschedule(rows, tx, record.name)
                return
            if due[1] == "Notify":
                noticed = record.model_copy(update={"notified": newest.version})
                rows.set_rotation(_scheduled(noticed, newest))
                what = {**key_leaf(newest, person=SCHEDULE), "expires": newest.expires}
                tx.append_leaf("key-near-expiry", now=self._vault.now, what=what)
                return
        self._rotate(record.name, person=SCHEDULE)

    def _rotate(self, name: str, *, person: str) -> KeyRecord:
        """Make a version like the newest; making it takes long, so it happens outside of the transaction."""
        with self._vault.desk.store.reading() as tx:
            seen = tx.key(name)
        material, seconds = _like(seen), self._vault.seconds
        kind = kind_of(seen.record.kty)
        with self._vault.desk.store.transaction() as tx:
            rows, old = VaultRows(tx), tx.key(name).record
            if old != seen.record:
                raise ConflictError(f"key {name} was changed while it was rotated", action="Try again.")
            rotation = rows.rotation(name)
            record = old.model_copy(
                update={
                    "version": random_id(),
                    "number": old.number + 1,
                    "created": seconds,
                    "updated": seconds,
                    "not_before": None,
                    "expires": None if rotation is None else expiry_of(rotation.rule, created=seconds),
                    "public_jwk": vault_keys.public_jwk(kind, material),
                }
            )
            tx.add_key(record, material)
            pin_immutable(rows, record)
            reschedule(rows, tx, name)
            what = {**key_leaf(record, person=person), "previous": old.version}
            tx.append_leaf("key-rotated", now=self._vault.now, what=what)
        return record

    def _policy_id(self, name: str) -> str:
        return f"{self._vault.desk.url}/keys/{name}/rotationpolicy"

    def _policy_json(self, record: RotationRecord) -> Json:
        attributes: dict[str, Json] = {"created": record.created, "updated": record.updated}
        if record.rule.expiry_time is not None:
            attributes["expiryTime"] = record.rule.expiry_time
        return {
            "id": self._policy_id(record.name),
            "lifetimeActions": [_action_json(action) for action in record.rule.actions],
            "attributes": attributes,
        }


@contextlib.contextmanager
def _noted() -> Generator[None, None, None]:
    try:
        yield
    except StrongroomError as error:
        _log.error("keys that are due were not rotated or destroyed: %s", error.message)


def reschedule(rows: VaultRows, tx: Transaction, name: str) -> None:
    """Note when a key's next action is due, after its newest version became another."""
    record = rows.rotation(name)
    if record is not None:
        rows.set_rotation(_scheduled(record, tx.key(name).record))


def purge(vault: VaultDesk, tx: Transaction, name: str, *, person: str) -> None:
    """Destroy a deleted key, and log it.

    Raises:
        NotFoundError: There is no such deleted key.
    """
    versions = VaultRows(tx).purge(name)
    tx.append_leaf("key-purged", now=vault.now, what={"key": name, "owner": person, "versions": versions})


def forget(vault: VaultDesk) -> None:
    """Remove what memory and files still hold of keys that were destroyed.

    Raises:
        ConfigurationError: The database cannot be written.
        UnavailableError: It is in use, or its server does not answer.
    """
    vault_keys.forget_parsed_keys()
    vault.desk.store.scrub()


def _next(record: RotationRecord, newest: KeyRecord) -> tuple[int, str] | None:
    return next_due(
        record.rule, created=newest.created, expires=newest.expires, notified=record.notified == newest.version
    )


def _scheduled(record: RotationRecord, newest: KeyRecord) -> RotationRecord:
    due = _next(record, newest)
    return record.model_copy(update={"due_at": NEVER if due is None else due[0]})


def _like(stored: StoredKey) -> SecretBytes:
    """Make a key of the type and size of another."""
    kind: KeyKind = kind_of(stored.record.kty)
    size = vault_keys.size_bits(kind, stored.material)
    return vault_keys.generate_key(kind, size_bits=size, curve=stored.record.public_jwk.get("crv"))


def _rule(body: RotationPolicyBody) -> RotationRule:
    actions = tuple(_action(each) for each in body.lifetime_actions or ())
    if not any(action.type == "Notify" for action in actions):
        actions = (*actions, DEFAULT_NOTICE)
    return RotationRule(actions=actions, expiry_time=body.attributes.expiry_time if body.attributes else None)


def _action(body: LifetimeActionBody) -> LifetimeAction:
    before, after = body.trigger.time_before_expiry, body.trigger.time_after_create
    match body.action.type.lower():
        case "rotate":
            return LifetimeAction(type="Rotate", time_after_create=after, time_before_expiry=before)
        case "notify":
            return LifetimeAction(type="Notify", time_after_create=after, time_before_expiry=before)
        case _:
            raise FormatError('an action of a rotation policy is "Rotate" or "Notify"')


def _action_json(action: LifetimeAction) -> Json:
    times = {"timeAfterCreate": action.time_after_create, "timeBeforeExpiry": action.time_before_expiry}
    trigger: dict[str, Json] = {name: text for name, text in times.items() if text is not None}
    return {"trigger": trigger, "action": {"type": action.type}}
