"""What owners do with datasets' keys: look at them, rotate, retire, enable and disable, and destroy them.

Rotation is two things. A new version of a KEK is made, and everything written from then on stands under it; and write
keys that stand under older versions are wrapped anew, a few at a time, until none is left. Both versions open what
stands under them, so rotation may stop anywhere and go on later; only then can the older version be retired.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from starlette.routing import BaseRoute

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import IntegrityError, Mismatch, NotFoundError, RefusedError
from strongroom.crypto.derive import sha256_hex
from strongroom.keys.records import DatasetRecord, KeyRecord
from strongroom.keys.store import Transaction
from strongroom.keys.store.write_keys import write_keys_under
from strongroom.services.access import own_dataset, seen_dataset
from strongroom.services.data_keys import (
    demand_not_shredded,
    forget_write_keys,
    kek_name,
    make_kek,
    retire_kek,
    rewrap,
    usable_kek,
)
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.services.shredding_consents import demand_consents
from strongroom.wire import data_keys as wire

_REWRAPPED_AT_ONCE: Final = 500
"""Few enough that others' requests wait for a moment only."""


class KeyCare:
    """The part of the key service that looks after datasets' keys."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        posts: dict[str, Callable[[Call], Reply]] = {
            "rotate": self.rotate,
            "rewrap": self.rewrap,
            "retire": self.retire,
            "key-state": self.set_state,
            "shred": self.shred,
        }
        gets: dict[str, Callable[[Call], Reply]] = {"keys": self.keys, "shredding": self.shredding}
        return [
            endpoint(f"{PREFIX}/datasets/{{name}}/{path}", handler, methods=(method,), errors=strongroom_error)
            for method, handlers in (("POST", posts), ("GET", gets))
            for path, handler in handlers.items()
        ]

    def keys(self, call: Call) -> Reply:
        """List the versions of a dataset's KEKs."""
        person = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            dataset = seen_dataset(tx, call.path["name"], person)
            shredded = tx.shredded_at(dataset.name) is not None
            answer = wire.DatasetKeys(
                dataset=dataset.name,
                owner=dataset.owner,
                shredded=shredded,
                keys=() if shredded else _keys_of(tx, dataset),
            )
        return json_reply(answer)

    def rotate(self, call: Call) -> Reply:
        """Make the next version of a KEK; new writes stand under it from now on."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        column = wire.KeyChoice.from_json(call.body).column
        with self._desk.store.transaction() as tx:
            dataset = self._own(tx, call, owner=owner, column=column)
            before = usable_kek(tx, dataset.name, column=column, now=now).record
            record = make_kek(tx, dataset.name, column=column, now=now)
            tx.append_leaf(
                "key-rotated",
                now=now,
                what={
                    "dataset": dataset.name,
                    "column": column,
                    "kek": record.version,
                    "number": record.number,
                    "previous": before.version,
                    "owner": owner,
                },
            )
            return json_reply(_key_of(tx, record, column=column, newest=record.version), status=201)

    def rewrap(self, call: Call) -> Reply:
        """Wrap some write keys under the newest version of a KEK; the caller asks again until none is left."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        column = wire.KeyChoice.from_json(call.body).column
        with self._desk.store.transaction() as tx:
            dataset = self._own(tx, call, owner=owner, column=column)
            done, remaining = rewrap(tx, dataset.name, column=column, limit=_REWRAPPED_AT_ONCE, now=now)
            if done:
                kek = usable_kek(tx, dataset.name, column=column, now=now).record.version
                counted: dict[str, Json] = {"dataset": dataset.name, "column": column, "kek": kek, "count": done}
                tx.append_leaf("keys-rewrapped", now=now, what=counted)
        return json_reply(wire.Rewrapped(rewrapped=done, remaining=remaining))

    def retire(self, call: Call) -> Reply:
        """Destroy an older version of a KEK, under which nothing stands any more."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        request = wire.RetireRequest.from_json(call.body)
        with self._desk.store.transaction() as tx:
            dataset = self._own(tx, call, owner=owner, column=request.column)
            record = retire_kek(tx, dataset.name, column=request.column, version=request.version, now=now)
        self._desk.store.scrub()
        return json_reply({"retired": record.version, "number": record.number})

    def set_state(self, call: Call) -> Reply:
        """Enable or disable a KEK: while it is disabled nothing of it is released, and nothing committed."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        request = wire.KeyStateRequest.from_json(call.body)
        with self._desk.store.transaction() as tx:
            dataset = self._own(tx, call, owner=owner, column=request.column)
            demand_not_shredded(tx, dataset.name)
            for stored in tx.key_versions(kek_name(dataset.name, request.column)):
                changed = {"enabled": request.enabled, "updated": int(now.timestamp())}
                tx.update_key(stored.record.model_copy(update=changed), stored.material)
            tx.append_leaf(
                "key-enabled" if request.enabled else "key-disabled",
                now=now,
                what={"dataset": dataset.name, "column": request.column, "owner": owner},
            )
        return json_reply({"dataset": dataset.name, "column": request.column, "enabled": request.enabled})

    def shred(self, call: Call) -> Reply:
        """Destroy every version of every KEK of a dataset; the log says so for good, with their ids."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        name, request = call.path["name"], wire.ShredRequest.from_json(call.body)
        if request.confirm != name:
            raise RefusedError(
                "what was confirmed is another dataset",
                mismatches=(Mismatch(name="dataset", expected=name, actual=request.confirm),),
            )
        with self._desk.store.transaction() as tx:
            dataset = self._own(tx, call, owner=owner, column=None)
            demand_not_shredded(tx, name)
            consenting = demand_consents(self._desk, tx, name, request.consents, now=now)
            gone: list[Json] = []
            for column in (None, *dataset.columns):
                for stored in tx.key_versions(kek_name(name, column)):
                    tx.destroy_key(stored.record)
                    gone.append({"key": stored.record.name, "column": column, "version": stored.record.version})
            forget_write_keys(tx, name)
            tx.append_leaf(
                "key-shredded", now=now, what={"dataset": name, "owner": owner, "keys": gone, "consenting": consenting}
            )
        self._desk.store.scrub()
        return json_reply(self._proof(name), status=201)

    def shredding(self, call: Call) -> Reply:
        """Answer with the proof that a dataset's keys were destroyed."""
        person = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            name = seen_dataset(tx, call.path["name"], person).name
        return json_reply(self._proof(name))

    def _proof(self, dataset: str) -> wire.ShreddingProof:
        with self._desk.store.reading() as tx:
            position = tx.shredded_at(dataset)
            if position is None:
                raise NotFoundError(f"the keys of dataset {dataset} were not destroyed")
            proof = tx.prove([position])[0]
        leaf = parse_json_object(proof.leaf)
        statement = wire.Shredding.from_object(
            {
                "key_service": self._desk.identity.identity,
                "dataset": dataset,
                "keys": leaf.get("keys"),
                "by": leaf.get("owner"),
                "shredded_at": leaf.get("time"),
                "leaf": sha256_hex(proof.leaf.encode()),
                "issued_at": to_rfc3339(self._desk.clock.now()),
            }
        )
        return wire.ShreddingProof(statement=self._desk.sign(statement, typ=wire.SHREDDING_TYP), proof=proof)

    def _own(self, tx: Transaction, call: Call, *, owner: str, column: str | None) -> DatasetRecord:
        """Return the dataset of a call, if it is the caller's and has a key of that column."""
        dataset = own_dataset(tx, call.path["name"], owner)
        if column is not None and column not in dataset.columns:
            raise NotFoundError(f"column {column} of dataset {dataset.name} has no key of its own")
        return dataset


def _keys_of(tx: Transaction, dataset: DatasetRecord) -> tuple[wire.DatasetKey, ...]:
    found: list[wire.DatasetKey] = []
    for column in (None, *dataset.columns):
        records = [stored.record for stored in tx.key_versions(kek_name(dataset.name, column))]
        if not records:
            raise IntegrityError(f"dataset {dataset.name} has no key, and the log does not say that it was destroyed")
        found += [_key_of(tx, record, column=column, newest=records[-1].version) for record in records]
    return tuple(found)


def _key_of(tx: Transaction, record: KeyRecord, *, column: str | None, newest: str) -> wire.DatasetKey:
    return wire.DatasetKey(
        key=record.name,
        column=column,
        version=record.version,
        number=record.number,
        enabled=record.enabled,
        current=record.version == newest,
        in_use=next(write_keys_under(tx, record.version, limit=1), None) is not None,
        created_at=_moment(record.created),
        changed_at=_moment(record.updated),
    )


def _moment(seconds: int) -> str:
    return to_rfc3339(datetime.fromtimestamp(seconds, tz=UTC))
