"""What owners ask of the key service about datasets, each call with an owner's token: make, import, unwrap, versions.

And what anybody may read: a dataset's newest version.
"""

from starlette.routing import BaseRoute

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, to_b64url
from strongroom.base.errors import FormatError, Mismatch, NotFoundError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import seal
from strongroom.crypto.random import random_id
from strongroom.crypto.vault_keys import generate_key
from strongroom.keys.records import DatasetRecord, KeyRecord
from strongroom.services.access import may_see, own_dataset, seen_dataset
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, jose_reply, json_reply
from strongroom.services.key_desk import (
    KeyDesk,
    commit_version,
    kek_name,
    make_write,
    stored_version,
    unwrap_write_keys,
)
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
        """Make a dataset and its KEK, which never leaves this service."""
        owner, now = self._desk.person(call), self._desk.clock.now()
        name = wire.NewDataset.from_json(call.body).dataset
        seconds = int(now.timestamp())
        kek = KeyRecord(
            name=kek_name(name),
            version=random_id(),
            number=1,
            kty="oct-HSM",
            key_ops=(),  # used through datasets only; Key Vault's own operations are not for it
            enabled=True,
            exportable=False,
            created=seconds,
            updated=seconds,
            not_before=None,
            expires=None,
            tags={"strongroom-dataset": name},
            release_policy=None,
            public_jwk={},
        )
        with self._desk.store.transaction() as tx:
            tx.add_dataset(DatasetRecord(name=name, created_at=to_rfc3339(now), owner=owner))
            tx.add_key(kek, generate_key("oct", size_bits=256, curve=None))
            tx.append_leaf("dataset-created", now=now, what={"dataset": name, "owner": owner, "kek": kek.version})
        return json_reply({"dataset": name, "kek": kek.name, "created_at": to_rfc3339(now)}, status=201)

    def datasets(self, call: Call) -> Reply:
        """List the datasets that concern the caller."""
        person = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            found: list[Json] = [
                {
                    "dataset": each.name,
                    "created_at": each.created_at,
                    "owner": each.owner,
                    "head": tx.head(each.name),
                    "enabled": tx.key(kek_name(each.name)).record.is_usable(at=self._desk.clock.now().timestamp()),
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
            own_dataset(tx, name, owner)
            write, key = make_write(tx, name, base=tx.head(name), now=now)
        new = wire.NewWrite(
            write_id=write.write_id, key=to_b64url(key.reveal()), wrapped=write.wrapped, base=write.base
        )
        context = {"purpose": "owner-write", "dataset": name}
        sealed = seal(SecretBytes(new.to_json()), recipient_jwk=recipient, context=context)
        return json_reply(wire.OwnerSealed(sealed=sealed))

    def unwrap(self, call: Call) -> Reply:
        """Open a version's write keys for an owner, sealed to the owner's key."""
        owner = self._desk.person(call)
        name, now = call.path["name"], self._desk.clock.now()
        request = wire.OwnerUnwrapRequest.from_json(call.body)
        asked = request.version
        with self._desk.store.transaction() as tx:
            own_dataset(tx, name, owner)
            foreign = sorted(set(asked.write_keys) - set(stored_version(self._desk, tx, name, asked.number).write_ids))
            if foreign:
                raise RefusedError(
                    f"version {asked.number} of dataset {name} has no such writes",
                    mismatches=tuple(
                        Mismatch(name="write", expected="one of the version's", actual=each) for each in foreign
                    ),
                )
            keys = {name: unwrap_write_keys(tx, name, asked, now=now)}
            tx.append_leaf(
                "keys-released",
                now=now,
                what={
                    "owner": owner,
                    "datasets": {name: {"version": asked.number, "write_ids": sorted(asked.write_keys)}},
                },
            )
        context = {"purpose": "owner-unwrap", "dataset": name}
        secret = SecretBytes(wire.WriteKeys(keys=keys).to_json())
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
