"""What the desks share about approvals: stored ones with signatures and rosters, what was used of them, who signs."""

from dataclasses import dataclass
from datetime import datetime

from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import (
    AuthenticationError,
    Mismatch,
    NotFoundError,
    RefusedError,
    RoleError,
    VerificationError,
)
from strongroom.keys.admission import Candidate, revoked
from strongroom.keys.records import ApprovalRecord
from strongroom.keys.store import Transaction
from strongroom.keys.store.leases import ApprovalUse, RevocationRecord, revocation_of, use_of
from strongroom.keys.store.rosters import rosters_of, signatures_of
from strongroom.keys.store.rotations import names_of
from strongroom.policy.consent import SignedApproval, read_approval
from strongroom.policy.roster import Roster
from strongroom.policy.signatures import Signers
from strongroom.services.http import Call
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import People, Person, Role
from strongroom.services.roster_members import roster_in
from strongroom.wire.approvals import ApprovalProof


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredApproval:
    """A stored approval, every signature verified anew, and what became of it.

    Attributes:
        proof: Further signatures and rosters, as they are stored.
        use: What was used of it.
        revocation: Who revoked it, and when; None where nobody did.
    """

    record: ApprovalRecord
    proof: ApprovalProof
    signed: SignedApproval
    use: ApprovalUse
    revocation: RevocationRecord | None

    def faults(self) -> tuple[Mismatch, ...]:
        """Return why it does not count, whatever it says."""
        faults = list(self.signed.faults())
        if self.revocation is not None:
            by, at = self.revocation.by, self.revocation.at
            faults.append(revoked(self.record.dataset, self.record.id, by=by, at=at))
        return tuple(faults)

    def candidate(self) -> Candidate:
        """Return it as decisions take it."""
        return Candidate(
            id=self.record.id,
            approval=self.signed.approval,
            faults=self.faults(),
            runs_opened=self.use.runs,
            executors_joined=self.use.executors,
        )

    def state(self, *, now: datetime) -> str:
        """Return in a word what became of it."""
        approval = self.signed.approval
        if self.revocation is not None:
            return "revoked"
        if self.signed.ended_by is not None:
            return "ended by a roster"
        if self.signed.faults():
            return "waits for signatures"
        moment = to_rfc3339(now)
        if approval.not_before is not None and moment < approval.not_before:
            return "not yet valid"
        if approval.not_after is not None and moment > approval.not_after:
            return "expired"
        return "used up" if self.use.runs >= approval.max_runs else "standing"


def proof_of(tx: Transaction, *, approval: str, dataset: str) -> ApprovalProof:
    """Return what is stored of an approval beside its first signature."""
    return ApprovalProof(
        signatures=tuple(each.signature for each in signatures_of(tx, approval)), rosters=rosters_of(tx, dataset)
    )


def stored(desk: KeyDesk, tx: Transaction, record: ApprovalRecord) -> StoredApproval:
    """Return a stored approval.

    Raises:
        VerificationError: Its signer is nobody (any more) who may sign.
        IntegrityError: Something of it was edited.
    """
    proof = proof_of(tx, approval=record.id, dataset=record.dataset)
    return StoredApproval(
        record=record,
        proof=proof,
        signed=read_approval(record.approval, proof, owners=owners_of(desk, tx, record.dataset)),
        use=use_of(tx, record.id),
        revocation=revocation_of(tx, record.id),
    )


def stored_if_known(desk: KeyDesk, tx: Transaction, record: ApprovalRecord) -> StoredApproval | None:
    """Return a stored approval; None if who signed it may not sign any more."""
    try:
        return stored(desk, tx, record)
    except VerificationError:
        return None


def candidates(desk: KeyDesk, tx: Transaction, *, dataset: str, application: str) -> list[Candidate]:
    """Return the approvals of an application for a dataset, whatever became of them."""
    found = [stored_if_known(desk, tx, record) for record in tx.approvals_for(dataset, application)]
    return [each.candidate() for each in found if each is not None]


def held(desk: KeyDesk, tx: Transaction, dataset: str, approval: str) -> Candidate:
    """Return an approval that a run was opened under.

    Raises:
        RefusedError: Who signed it may not sign any more.
    """
    found = stored_if_known(desk, tx, tx.approval(approval))
    if found is None:
        raise RefusedError(
            f"the approval for dataset {dataset} is not an owner's any more",
            action="Have it approved by an owner whom the key service knows.",
        )
    return found.candidate()


def roster_now(tx: Transaction, dataset: str) -> Roster | None:
    """Return the roster that holds for a dataset; None where the owners approve alone.

    The rows are authenticated, and were verified before they were stored.
    """
    signed = rosters_of(tx, dataset)
    return None if not signed else roster_in(signed[-1].statement)


def owners_of(desk: KeyDesk, tx: Transaction, dataset: str) -> Signers:
    """Return who signs for a dataset that has no roster, and its first roster: its owner, while the service knows him.

    Raises:
        NotFoundError: There is no such dataset.
    """
    names = names_of(tx, tx.dataset(dataset).owner)
    return {thumbprint: key for thumbprint, key in desk.owners.items() if thumbprint in names}


def answers_for(tx: Transaction, person: str, dataset: str) -> bool:
    """Return whether a person answers for a dataset: its owner, or a member of its roster."""
    if person in names_of(tx, tx.dataset(dataset).owner):
        return True
    roster = roster_now(tx, dataset)
    return roster is not None and person in roster.keys


def demand_answers_for(tx: Transaction, person: str, dataset: str, *, hidden: str = "") -> None:
    """Refuse a person who does not answer for a dataset: to him it does not exist.

    Args:
        tx: The transaction.
        person: By key thumbprint.
        dataset: The dataset's name.
        hidden: What he asked for, if it was not the dataset.

    Raises:
        NotFoundError: As if there were no such thing.
    """
    if not answers_for(tx, person, dataset):
        raise NotFoundError(f"there is no {hidden or f'dataset {dataset}'}")


def approver(desk: KeyDesk, call: Call, *others: Role) -> Person:
    """Return the person who calls: one who owns or approves, or a member of a roster that holds.

    Args:
        desk: The service's means.
        call: The call.
        others: Further roles that may call this.

    Raises:
        AuthenticationError: The call is nobody's whom the service or a roster knows.
        RoleError: It is somebody's with other roles.
    """
    try:
        return desk.caller(call, Role.OWNER, Role.APPROVER, *others)
    except (AuthenticationError, RoleError) as error:
        try:
            return _roster_members(desk).caller(call, Role.APPROVER)
        except AuthenticationError:
            raise error from None


def _roster_members(desk: KeyDesk) -> People:
    """Return the members of all rosters that hold: they need not stand in the configuration.

    Each proves who he is with the key that the roster names; what is not his dataset does not exist for him.
    """
    with desk.store.reading() as tx:
        return desk.roster_members.read(
            tx, audience=desk.identity.identity, issuers=desk.people.issuers, clock=desk.clock
        )
