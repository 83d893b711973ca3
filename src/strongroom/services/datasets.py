"""What owners ask of the key service about datasets, each call with an owner's token: make, import, unwrap, versions.

And what anybody may read: a dataset's newest version.
"""

from datetime import datetime

from starlette.routing import BaseRoute

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError, NotFoundError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import seal
from strongroom.keys.records import DatasetRecord
from strongroom.keys.store import Transaction
from strongroom.services.access import may_see, own_dataset, seen_dataset
from strongroom.services.data_keys import (
    foreign_writes,
    kek_name,
    make_kek,
    make_write,
    new_write,
    unwrap_write_keys,
)
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, jose_reply, json_reply
from strongroom.services.key_desk import KeyDesk, commit_version, stored_version
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.wire import key_service as wire


class DatasetDesk:
    """The part of the key service that keeps datasets."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: list[tuple[str, str, Handler]] = [
            ("POST", "/datasets", self.create_dataset),
            ("GET", "/datasets", self.datasets),
            ("GET", "/datasets/{name}/head", self.head),
            ("GET", "/datasets/{name}/versions", self.versions),
            ("POST", "/datasets/{name}/versions", self.commit),
            ("POST", "/datasets/{name}/writes", self.start_write),
            ("POST", "/datasets/{name}/unwrap", self.unwrap),
        ]
        return [
            endpoint(PREFIX + path, handler, methods=(method,), errors=strongroom_error)
            for method, path, handler in handlers
        ]

    def create_dataset(self, call: Call) -> Reply:
        """Make a dataset and its KEK, and one for each column that shall have its own; none leaves this service."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        asked = wire.NewDataset.from_json(call.body)
        name, columns = asked.dataset, tuple(sorted(asked.columns))
        with self._desk.store.transaction() as tx:
            tx.add_dataset(DatasetRecord(name=name, created_at=to_rfc3339(now), owner=owner, columns=columns))
            kek = make_kek(tx, name, column=None, now=now)
            made: dict[str, Json] = {column: make_kek(tx, name, column=column, now=now).version for column in columns}
            what: dict[str, Json] = {"dataset": name, "owner": owner, "kek": kek.version}
            tx.append_leaf("dataset-created", now=now, what={**what, **({"columns": made} if made else {})})
        answer: dict[str, Json] = {"dataset": name, "kek": kek.name, "created_at": to_rfc3339(now), "columns": columns}
        return json_reply(answer, status=201)

    def datasets(self, call: Call) -> Reply:
        """List the datasets that concern the caller."""
        person = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            now = self._desk.clock.now()
            found: list[Json] = [
                {
                    "dataset": each.name,
                    "created_at": each.created_at,
                    "owner": each.owner,
                    "columns": each.columns,
                    "head": tx.head(each.name),
                    "enabled": _is_enabled(tx, each.name, now=now),
                    "shredded": tx.shredded_at(each.name) is not None,
                }
                for each in tx.datasets()
                if may_see(tx, each, person)
            ]
        return json_reply({"datasets": found})

    def head(self, call: Call) -> Reply:
        """Answer with a dataset's newest version statement; open, so that submitters can pin it."""
        name = call.path["name"]
        with self._desk.store.reading() as tx:
            tx.dataset(name)
            number = tx.head(name)
            if number is None:
                raise NotFoundError(f"dataset {name} has no version yet")
            return jose_reply(tx.version(name, number).statement)

    def versions(self, call: Call) -> Reply:
        """List a dataset's version statements, oldest first."""
        person, name = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR), call.path["name"]
        with self._desk.store.reading() as tx:
            seen_dataset(tx, name, person)
            return json_reply({"dataset": name, "versions": [each.statement for each in tx.versions(name)]})

    def start_write(self, call: Call) -> Reply:
        """Make a write key for an owner's import, sealed to the owner's key."""
        owner, name, now = self._desk.person(call), call.path["name"], self._desk.clock.now()
        recipient = wire.OwnerWriteRequest.from_json(call.body).recipient
        with self._desk.store.transaction() as tx:
            made = make_write(tx, own_dataset(tx, name, owner), base=tx.head(name), now=now)
        context = {"purpose": "owner-write", "dataset": name}
        sealed = seal(SecretBytes(new_write(made).to_json()), recipient_jwk=recipient, context=context)
        return json_reply(wire.OwnerSealed(sealed=sealed))

    def unwrap(self, call: Call) -> Reply:
        """Open a version's write keys for an owner, sealed to the owner's key."""
        owner = self._desk.person(call)
        name, now = call.path["name"], self._desk.clock.now()
        request = wire.OwnerUnwrapRequest.from_json(call.body)
        asked = request.version
        with self._desk.store.transaction() as tx:
            dataset = own_dataset(tx, name, owner)
            write_ids = stored_version(self._desk, tx, name, asked.number).write_ids
            if foreign := foreign_writes(asked, dataset=name, write_ids=write_ids):
                raise RefusedError(f"version {asked.number} of dataset {name} has no such writes", mismatches=foreign)
            keys = unwrap_write_keys(tx, name, asked, columns=dataset.columns, now=now)
            tx.append_leaf(
                "keys-released",
                now=now,
                what={
                    "owner": owner,
                    "datasets": {name: {"version": asked.number, "write_ids": sorted(asked.write_keys)}},
                },
            )
        context = {"purpose": "owner-unwrap", "dataset": name}
        secret = SecretBytes(keys.to_json())
        return json_reply(wire.OwnerSealed(sealed=seal(secret, recipient_jwk=request.recipient, context=context)))

    def commit(self, call: Call) -> Reply:
        """Make an owner's import the dataset's next version."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        commit = wire.OwnerCommit.from_json(call.body).commit
        if commit.dataset != call.path["name"]:
            raise FormatError("the commit is for another dataset than its address")
        with self._desk.store.transaction() as tx:
            own_dataset(tx, commit.dataset, owner)
            statement = commit_version(self._desk, tx, commit, writer=f"owner:{owner}", now=now)
        return json_reply({"statement": statement}, status=201)


def _is_enabled(tx: Transaction, dataset: str, *, now: datetime) -> bool:
    if tx.shredded_at(dataset) is not None:
        return False
    return tx.key(kek_name(dataset)).record.is_usable(at=now.timestamp())
