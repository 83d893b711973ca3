"""What people ask of the key service, each call with an owner's token: datasets, imports, approvals, runs.

And what anybody may read: a dataset's newest version, and the log.
"""

from typing import Final

from starlette.routing import BaseRoute

from strongroom.application.description import ApplicationDescription, parse_description
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, to_b64url
from strongroom.base.errors import FormatError, Mismatch, NotFoundError, RefusedError, differences
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import seal
from strongroom.crypto.random import random_id
from strongroom.crypto.vault_keys import generate_key
from strongroom.keys.records import ApprovalRecord, DatasetRecord, KeyRecord, OpenedRun
from strongroom.keys.release import verify_ticket
from strongroom.keys.store import Transaction
from strongroom.policy.approval import Approval, demand_enforceable
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, jose_reply, json_reply, text_reply
from strongroom.services.key_desk import (
    KeyDesk,
    commit_version,
    kek_name,
    make_write,
    stored_version,
    unwrap_write_keys,
)
from strongroom.services.runs import PREFIX, run_record
from strongroom.wire import key_service as wire

_MAX_LEAVES: Final = 1000


class OwnerDesk:
    """The part of the key service that people talk to."""

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
            ("POST", "/approvals", self.approve),
            ("GET", "/approvals", self.approvals),
            ("POST", "/approvals/{approval}/revoke", self.revoke),
            ("GET", "/runs", self.runs),
            ("GET", "/runs/{run}", self.run),
            ("GET", "/log/checkpoint", self.checkpoint),
            ("GET", "/log/leaves", self.leaves),
            ("GET", "/log/inclusion", self.inclusion),
            ("GET", "/log/consistency", self.consistency),
        ]
        return [
            endpoint(PREFIX + path, handler, methods=(method,), errors=strongroom_error)
            for method, path, handler in handlers
        ]

    # --- datasets -----------------------------------------------------------------------------------------------

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
        """List the datasets."""
        self._desk.person(call)
        with self._desk.store.transaction() as tx:
            found: list[Json] = [
                {
                    "dataset": each.name,
                    "created_at": each.created_at,
                    "owner": each.owner,
                    "head": tx.head(each.name),
                    "enabled": tx.key(kek_name(each.name)).record.is_usable(at=self._desk.clock.now().timestamp()),
                }
                for each in tx.datasets()
            ]
        return json_reply({"datasets": found})

    def head(self, call: Call) -> Reply:
        """Answer with a dataset's newest version statement; open, so that submitters can pin it."""
        name = call.path["name"]
        with self._desk.store.transaction() as tx:
            tx.dataset(name)
            number = tx.head(name)
            if number is None:
                raise NotFoundError(f"dataset {name} has no version yet")
            return jose_reply(tx.version(name, number).statement)

    def versions(self, call: Call) -> Reply:
        """List a dataset's version statements, oldest first."""
        self._desk.person(call)
        name = call.path["name"]
        with self._desk.store.transaction() as tx:
            tx.dataset(name)
            return json_reply({"dataset": name, "versions": [each.statement for each in tx.versions(name)]})

    def start_write(self, call: Call) -> Reply:
        """Make a write key for an owner's import, sealed to the owner's key."""
        self._desk.person(call)
        name, now = call.path["name"], self._desk.clock.now()
        recipient = wire.OwnerWriteRequest.from_json(call.body).recipient
        with self._desk.store.transaction() as tx:
            tx.dataset(name)
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
            tx.dataset(name)
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
            tx.dataset(commit.dataset)
            statement = commit_version(self._desk, tx, commit, writer=f"owner:{owner}", now=now)
        return json_reply({"statement": statement}, status=201)

    # --- approvals ----------------------------------------------------------------------------------------------

    def approve(self, call: Call) -> Reply:
        """Store an owner's approval with the description it approves."""
        self._desk.person(call)
        upload, now = wire.ApprovalUpload.from_json(call.body), self._desk.clock.now()
        owner, approval = self._desk.approval(upload.approval)
        description = parse_description(upload.application.encode("utf-8"))
        _demand_agreement(approval, description)
        self._demand_meetable(approval)
        record = ApprovalRecord(
            id=sha256_hex(upload.approval.encode("ascii")),
            owner=owner,
            dataset=approval.dataset,
            application=approval.application,
            approval=upload.approval,
            description=upload.application,
            stored_at=to_rfc3339(now),
        )
        with self._desk.store.transaction() as tx:
            tx.dataset(approval.dataset)
            tx.add_approval(record)
            tx.append_leaf(
                "approved",
                now=now,
                what={
                    "approval": record.id,
                    "owner": record.owner,
                    "dataset": approval.dataset,
                    "application": approval.application,
                    "access": approval.access,
                    "max_runs": approval.max_runs,
                },
            )
        return json_reply({"approval": record.id, "stored_at": record.stored_at}, status=201)

    def approvals(self, call: Call) -> Reply:
        """List the approvals with how often each was used."""
        self._desk.person(call)
        with self._desk.store.transaction() as tx:
            return json_reply({"approvals": [self._approval_json(tx, record) for record in tx.approvals()]})

    def revoke(self, call: Call) -> Reply:
        """Revoke an approval: no new run, and nothing more for running ones."""
        owner, now, approval = self._desk.person(call), self._desk.clock.now(), call.path["approval"]
        with self._desk.store.transaction() as tx:
            record = tx.approval(approval)
            if not tx.is_revoked(approval):
                tx.append_leaf(
                    "revoked", now=now, what={"approval": approval, "owner": owner, "dataset": record.dataset}
                )
        return json_reply({"approval": approval, "revoked": True})

    # --- runs ---------------------------------------------------------------------------------------------------

    def runs(self, call: Call) -> Reply:
        """List the runs, oldest first."""
        self._desk.person(call)
        with self._desk.store.transaction() as tx:
            return json_reply({"runs": [self._run_json(tx, run) for run in tx.runs()]})

    def run(self, call: Call) -> Reply:
        """Answer with everything known of a run."""
        self._desk.person(call)
        with self._desk.store.transaction() as tx:
            run = tx.run(call.path["run"]).record
            record: Json = run_record(self._desk, tx, run).model_dump(mode="json")
            return json_reply({**self._run_json(tx, run), "record": record})

    # --- the log ------------------------------------------------------------------------------------------------

    def checkpoint(self, _call: Call) -> Reply:
        """Answer with the newest checkpoint, a signed note."""
        return text_reply(self._desk.store.checkpoint())

    def leaves(self, call: Call) -> Reply:
        """List leaves; they say who runs what on which data, so only owners read them."""
        self._desk.person(call)
        start, end = call.number("start"), call.number("end")
        with self._desk.store.transaction() as tx:
            return json_reply({"leaves": list(tx.leaves(start, min(end, start + _MAX_LEAVES)))})

    def inclusion(self, call: Call) -> Reply:
        """Answer with an inclusion proof."""
        path = self._desk.store.inclusion(call.number("index"), call.number("size"))
        return json_reply({"path": [node.hex() for node in path]})

    def consistency(self, call: Call) -> Reply:
        """Answer with a consistency proof."""
        path = self._desk.store.consistency(call.number("first"), call.number("second"))
        return json_reply({"path": [node.hex() for node in path]})

    def _demand_meetable(self, approval: Approval) -> None:
        """Refuse an approval that no run could ever meet here."""
        if approval.hardware != self._desk.hardware:
            raise RefusedError(
                "the approval is for hardware that this key service does not accept",
                mismatches=(Mismatch(name="hardware", expected=self._desk.hardware, actual=approval.hardware),),
            )
        if not self._desk.issuers.knows(approval.attestation_issuer):
            raise RefusedError(
                "the approval names an attestation service that this key service does not trust",
                mismatches=(
                    Mismatch(
                        name="attestation_issuer", expected="a configured one", actual=approval.attestation_issuer
                    ),
                ),
            )

        demand_enforceable(approval, self._desk.issuers.back_end(approval.attestation_issuer))

    def _approval_json(self, tx: Transaction, record: ApprovalRecord) -> Json:
        approval = self._desk.stored_approval(record) if record.owner in self._desk.owners else None
        return {
            "approval": record.id,
            "owner": record.owner,
            "stored_at": record.stored_at,
            "statement": record.approval,
            "description": record.description,
            "dataset": record.dataset,
            "application": record.application,
            "access": approval.access if approval else None,
            "max_runs": approval.max_runs if approval else 0,
            "not_after": approval.not_after if approval else None,
            "runs_opened": tx.runs_opened(record.id),
            "revoked": tx.is_revoked(record.id) or approval is None,
        }

    def _run_json(self, tx: Transaction, run: OpenedRun) -> dict[str, Json]:
        ticket = verify_ticket(run.ticket).ticket
        return {
            "run": run.run,
            "run_id": ticket.run_id,
            "application": run.application,
            "submitter": ticket.submitter,
            "opened_at": run.opened_at,
            "approvals": dict(run.approvals),
            "reads": dict(run.reads),
            "writes": sorted(run.writes),
            "members": len(tx.members(run.run)),
            "outcome": tx.outcome(run.run),
            "hardware": self._desk.hardware,
        }


def _demand_agreement(approval: Approval, description: ApplicationDescription) -> None:
    """Refuse a description that is not what the approval names."""
    binding = description.datasets.get(approval.dataset)
    found = {
        "application": (approval.application, description.digest),
        "key_service": (approval.key_service, binding.key_service if binding else "no binding of the dataset"),
        "access": (approval.access, binding.access if binding else "no binding of the dataset"),
    }
    mismatches = differences(found)
    if mismatches:
        raise RefusedError("the approval and the application's description differ", mismatches=mismatches)
