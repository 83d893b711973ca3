"""What people ask of the key service about approvals: propose, sign, look at, revoke.

An approval counts once enough people signed it (`policy.consent`). Each of them signs its very bytes; the service
collects the signatures and can make none.
"""

from collections.abc import Iterator
from datetime import datetime

from starlette.routing import BaseRoute

from strongroom.application.description import ApplicationDescription, parse_description
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import ConflictError, Mismatch, NotFoundError, RefusedError, VerificationError, differences
from strongroom.crypto.jose import unverified_payload
from strongroom.keys.records import ApprovalRecord
from strongroom.keys.store import Transaction
from strongroom.keys.store.leases import RevocationRecord, add_revocation, revocation_of
from strongroom.keys.store.rosters import SignatureRecord, add_signature
from strongroom.policy.approval import Approval, demand_enforceable
from strongroom.policy.consent import SignedApproval, approval_id, read_approval
from strongroom.policy.signatures import attach, signer_of
from strongroom.services.access import may_see
from strongroom.services.consents import (
    StoredApproval,
    approver,
    demand_answers_for,
    owners_of,
    proof_of,
    roster_now,
    stored,
    stored_if_known,
)
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX
from strongroom.wire.approvals import RevocationRequest, SignatureUpload
from strongroom.wire.key_service import ApprovalUpload


class ApprovalDesk:
    """The part of the key service that keeps approvals."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: list[tuple[str, str, Handler]] = [
            ("POST", "/approvals", self.approve),
            ("GET", "/approvals", self.approvals),
            ("GET", "/approvals/{approval}", self.approval),
            ("POST", "/approvals/{approval}/signatures", self.sign),
            ("POST", "/approvals/{approval}/revoke", self.revoke),
        ]
        return [
            endpoint(PREFIX + path, handler, methods=(method,), errors=strongroom_error)
            for method, path, handler in handlers
        ]

    def approve(self, call: Call) -> Reply:
        """Store an approval with its first signature, and the description it approves."""
        person = approver(self._desk, call)
        upload, now = ApprovalUpload.from_json(call.body), self._desk.clock.now()
        description = parse_description(upload.application.encode("utf-8"))
        claimed = Approval.from_json(unverified_payload(upload.approval))
        with self._desk.store.transaction() as tx:
            now = tx.present(now)
            demand_answers_for(tx, person.identity, claimed.dataset)
            proof = proof_of(tx, approval=approval_id(upload.approval), dataset=claimed.dataset)
            signed = read_approval(upload.approval, proof, owners=owners_of(self._desk, tx, claimed.dataset))
            _demand_roster_of_now(tx, signed.approval)
            self._demand_here(signed.approval)
            _demand_agreement(signed.approval, description)
            self._demand_meetable(signed.approval)
            record = ApprovalRecord(
                id=signed.id,
                owner=signer_of(upload.approval),
                dataset=signed.approval.dataset,
                application=signed.approval.application,
                approval=upload.approval,
                description=upload.application,
                stored_at=to_rfc3339(now),
            )
            tx.add_approval(record)
            if signed.faults():
                tx.append_leaf("approval-proposed", now=now, what=_leaf(record, signed))
            else:
                tx.append_leaf("approved", now=now, what=_leaf(record, signed))
        answer: Json = {
            "approval": record.id,
            "stored_at": record.stored_at,
            "signatures": len(signed.signers),
            "needed": signed.needed,
        }
        return json_reply(answer, status=201)

    def sign(self, call: Call) -> Reply:
        """Add another person's signature to a proposed approval; with the last one that it needs, it counts."""
        person = approver(self._desk, call)
        upload, now = SignatureUpload.from_json(call.body), self._desk.clock.now()
        with self._desk.store.transaction() as tx:
            now = tx.present(now)
            record = tx.approval(call.path["approval"])
            demand_answers_for(tx, person.identity, record.dataset, hidden="such approval")
            found = stored(self._desk, tx, record)
            if found.revocation is not None:
                raise ConflictError("the approval was revoked", action="Propose it anew.")
            _demand_roster_of_now(tx, found.signed.approval)
            signer = signer_of(attach(upload.signature, unverified_payload(record.approval)))
            if signer in found.signed.signers:
                raise ConflictError("this person has signed it already", action="Another person has to sign it.")
            proof = found.proof.model_copy(update={"signatures": (*found.proof.signatures, upload.signature)})
            signed = read_approval(record.approval, proof, owners=owners_of(self._desk, tx, record.dataset))
            add_signature(
                tx,
                SignatureRecord(
                    subject=record.id, signer=signer, signature=upload.signature, signed_at=to_rfc3339(now)
                ),
            )
            what = {"approval": record.id, "signer": signer, "dataset": record.dataset}
            tx.append_leaf("approval-signed", now=now, what={**what, "signatures": len(signed.signers)})
            if found.signed.faults() and not signed.faults():
                tx.append_leaf("approved", now=now, what=_leaf(record, signed))
        answer: Json = {"approval": record.id, "signatures": len(signed.signers), "needed": signed.needed}
        return json_reply(answer, status=201)

    def approvals(self, call: Call) -> Reply:
        """List the approvals that concern the caller, with what was used of them."""
        person, now = approver(self._desk, call, Role.AUDITOR), self._desk.clock.now()
        with self._desk.store.reading() as tx:
            now = tx.present(now)
            found = [
                approval_json(record, stored_if_known(self._desk, tx, record), now=now)
                for record in tx.approvals()
                if may_see(tx, tx.dataset(record.dataset), person)
            ]
        return json_reply({"approvals": found})

    def approval(self, call: Call) -> Reply:
        """Answer with one approval, its signatures and its rosters: everything that a person needs to check it."""
        person, now = approver(self._desk, call, Role.AUDITOR), self._desk.clock.now()
        with self._desk.store.reading() as tx:
            record = tx.approval(call.path["approval"])
            if not may_see(tx, tx.dataset(record.dataset), person):
                raise NotFoundError("there is no such approval")
            found = stored_if_known(self._desk, tx, record)
            return json_reply(approval_json(record, found, now=tx.present(now)))

    def revoke(self, call: Call) -> Reply:
        """Revoke an approval: no new run, and nothing more for running ones. One person is enough."""
        person, now, approval = approver(self._desk, call), self._desk.clock.now(), call.path["approval"]
        reason = RevocationRequest.from_json(call.body).reason if call.body else ""
        with self._desk.store.transaction() as tx:
            now = tx.present(now)
            record = tx.approval(approval)
            demand_answers_for(tx, person.identity, record.dataset, hidden="such approval")
            if revocation_of(tx, approval) is None:
                add_revocation(
                    tx, RevocationRecord(approval=approval, by=person.identity, at=to_rfc3339(now), reason=reason)
                )
                what: dict[str, Json] = {"approval": approval, "owner": person.identity, "dataset": record.dataset}
                tx.append_leaf("revoked", now=now, what=what)
        return json_reply({"approval": approval, "revoked": True})

    def _demand_here(self, approval: Approval) -> None:
        if approval.key_service != self._desk.identity.identity:
            expected = self._desk.identity.identity
            raise VerificationError(
                "the approval is for another key service",
                mismatches=(Mismatch(name="key_service", expected=expected, actual=approval.key_service),),
            )

    def _demand_meetable(self, approval: Approval) -> None:
        """Refuse an approval that no run could ever meet here."""
        if approval.hardware != self._desk.hardware:
            raise RefusedError(
                "the approval is for hardware that this key service does not accept",
                mismatches=(Mismatch(name="hardware", expected=self._desk.hardware, actual=approval.hardware),),
            )
        if not self._desk.issuers.knows(approval.attestation_issuer):
            actual = approval.attestation_issuer
            raise RefusedError(
                "the approval names an attestation service that this key service does not trust",
                mismatches=(Mismatch(name="attestation_issuer", expected="a configured one", actual=actual),),
            )
        unknown = [each.issuer for each in approval.workloads if not self._knows_cluster(each.issuer)]
        if unknown:
            raise RefusedError(
                "the approval names a service account of a cluster that this key service does not know",
                action="Configure the cluster's keys at the key service (workload_issuers), or approve without it.",
                mismatches=(Mismatch(name="workload issuer", expected="a configured one", actual=unknown[0]),),
            )
        demand_enforceable(approval, self._desk.issuers.back_end(approval.attestation_issuer))

    def _knows_cluster(self, issuer: str) -> bool:
        return self._desk.workloads is not None and self._desk.workloads.knows(issuer)


def approval_json(record: ApprovalRecord, found: StoredApproval | None, *, now: datetime) -> dict[str, Json]:
    """Return an approval for people and their programs.

    Args:
        record: The approval.
        found: What was verified of it; None if who signed it may not sign any more.
        now: The present time.
    """
    known: dict[str, Json] = {
        "approval": record.id,
        "owner": record.owner,
        "stored_at": record.stored_at,
        "statement": record.approval,
        "description": record.description,
        "dataset": record.dataset,
        "application": record.application,
    }
    if found is None:
        return {**known, "access": None, "max_runs": 0, "not_after": None, "revoked": True, "state": "signer unknown"}
    return {**known, **dict(_told(found, now=now))}


def _told(found: StoredApproval, *, now: datetime) -> Iterator[tuple[str, Json]]:
    approval, signed = found.signed.approval, found.signed
    yield "access", approval.access
    yield "max_runs", approval.max_runs
    yield "not_before", approval.not_before
    yield "not_after", approval.not_after
    yield "max_executors", approval.max_executors
    yield "max_executors_total", approval.max_executors_total
    yield "purpose", approval.purpose
    yield "runs_opened", found.use.runs
    yield "executors_joined", found.use.executors
    yield "signers", list(signed.signers)
    yield "signatures", len(signed.signers)
    yield "needed", signed.needed
    yield "proof", found.proof.model_dump(mode="json")
    yield "state", found.state(now=now)
    yield "revoked", found.revocation is not None
    yield "revocation", None if found.revocation is None else found.revocation.model_dump(mode="json")


def _leaf(record: ApprovalRecord, signed: SignedApproval) -> dict[str, Json]:
    approval = signed.approval
    return {
        "approval": record.id,
        "owner": record.owner,
        "dataset": approval.dataset,
        "application": approval.application,
        "access": approval.access,
        "shapes": list(approval.admitted_shapes),
        "max_runs": approval.max_runs,
        "max_executors_total": approval.max_executors_total,
        "purpose": approval.purpose,
        "roster": approval.roster,
        "signers": list(signed.signers),
    }


def _demand_roster_of_now(tx: Transaction, approval: Approval) -> None:
    """Refuse to collect signatures under a roster that does not hold (any more)."""
    roster = roster_now(tx, approval.dataset)
    expected, actual = roster.digest if roster else "none", approval.roster or "none"
    if expected != actual:
        raise RefusedError(
            f"the approval is for another roster than dataset {approval.dataset} has now",
            action="Look at it (strongroom roster show), and propose the approval anew.",
            mismatches=(Mismatch(name="roster", expected=expected, actual=actual),),
        )


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
