"""What people ask of the key service, each call with an owner's token: approvals, runs, the log.

And what anybody may read of the log: its checkpoint and proofs.
"""

from typing import Final

from starlette.routing import BaseRoute

from strongroom.application.description import ApplicationDescription, parse_description
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import Mismatch, RefusedError, differences
from strongroom.crypto.derive import sha256_hex
from strongroom.keys.records import ApprovalRecord, OpenedRun
from strongroom.keys.release import verify_ticket
from strongroom.keys.store import Transaction
from strongroom.policy.approval import Approval, demand_enforceable
from strongroom.services.access import demand_concerned, may_see, may_see_run, own_dataset, seen_run
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, json_reply, text_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
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

    # --- approvals ----------------------------------------------------------------------------------------------

    def approve(self, call: Call) -> Reply:
        """Store an owner's approval with the description it approves; its signature counts, not who sends it."""
        self._desk.caller(call, Role.OWNER, Role.APPROVER)
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
            own_dataset(tx, approval.dataset, owner)
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
        """List the approvals that concern the caller, with how often each was used."""
        person = self._desk.caller(call, Role.OWNER, Role.APPROVER, Role.AUDITOR)
        with self._desk.store.reading() as tx:
            found = [each for each in tx.approvals() if may_see(tx, tx.dataset(each.dataset), person)]
            return json_reply({"approvals": [self._approval_json(tx, record) for record in found]})

    def revoke(self, call: Call) -> Reply:
        """Revoke an approval: no new run, and nothing more for running ones."""
        person, now, approval = (
            self._desk.caller(call, Role.OWNER, Role.APPROVER),
            self._desk.clock.now(),
            call.path["approval"],
        )
        with self._desk.store.transaction() as tx:
            record = tx.approval(approval)
            demand_concerned(tx, record, person)
            if not tx.is_revoked(approval):
                tx.append_leaf(
                    "revoked", now=now, what={"approval": approval, "owner": person.identity, "dataset": record.dataset}
                )
        return json_reply({"approval": approval, "revoked": True})

    # --- runs ---------------------------------------------------------------------------------------------------

    def runs(self, call: Call) -> Reply:
        """List the runs that concern the caller, oldest first."""
        person = self._desk.caller(call, *Role)
        with self._desk.store.reading() as tx:
            return json_reply({"runs": [self._run_json(tx, run) for run in tx.runs() if may_see_run(tx, run, person)]})

    def run(self, call: Call) -> Reply:
        """Answer with everything known of a run that concerns the caller."""
        person = self._desk.caller(call, *Role)
        with self._desk.store.reading() as tx:
            run = seen_run(tx, call.path["run"], person)
            record: Json = run_record(tx, run).model_dump(mode="json")
            return json_reply({**self._run_json(tx, run), "record": record})

    # --- the log ------------------------------------------------------------------------------------------------

    def checkpoint(self, _call: Call) -> Reply:
        """Answer with the newest checkpoint, a signed note."""
        return text_reply(self._desk.store.checkpoint())

    def leaves(self, call: Call) -> Reply:
        """List leaves; they say who runs what on which data of whomever, so only auditors read them."""
        self._desk.person(call, role=Role.AUDITOR)
        start, end = call.number("start"), call.number("end")
        with self._desk.store.reading() as tx:
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
