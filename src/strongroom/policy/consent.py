"""Whether an approval counts: enough of the right people signed exactly what it says, and it has not ended.

Key services ask this at every decision, auditors when they verify a receipt, both with the same function and their own
anchors.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy.approval import Approval
from strongroom.policy.roster import Roster, missing_signatures, verify_rosters
from strongroom.policy.signatures import Signers, read_signed
from strongroom.wire.approvals import ApprovalProof
from strongroom.wire.key_service import APPROVAL_TYP

NO_PROOF = ApprovalProof()
"""Of an approval that one owner alone gave."""
_REMEMBERED: Final = 256
_REMEMBERED_CHARACTERS: Final = 32 << 10
"""Longer approvals, proof included, are read anew each time: so few megabytes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedApproval:
    """An approval whose signatures all hold. Only `demand_consent` says whether it counts.

    Attributes:
        id: SHA-256 of its bytes: the same content is the same approval, whoever signed it first.
        approval: What it says.
        payload: Its exact bytes: what each person signs.
        signers: Thumbprints of those who signed.
        needed: How many it takes.
        rosters: The dataset's rosters; empty where the owners approve alone.
        ended_by: The number of the roster that ended it; None where none did.
    """

    id: str
    approval: Approval
    payload: bytes
    signers: tuple[str, ...]
    needed: int
    rosters: tuple[Roster, ...]
    ended_by: int | None

    def faults(self) -> tuple[Mismatch, ...]:
        """Return why it does not count (yet, or any more); nothing where it does."""
        faults: list[Mismatch] = []
        if len(self.signers) < self.needed:
            faults.append(missing_signatures(self.signers, self.needed))
        if self.ended_by is not None:
            faults.append(Mismatch(name="roster", expected="the dataset's roster", actual="an earlier roster"))
        return tuple(faults)


def approval_id(statement: str) -> str:
    """Return an approval's id: SHA-256 of the bytes that are signed.

    Raises:
        FormatError: Not a compact JWS.
    """
    return sha256_hex(unverified_payload(statement))


def read_approval(statement: str, proof: ApprovalProof, *, owners: Signers) -> SignedApproval:
    """Read an approval and check every signature that it has, be they enough or not.

    1. The dataset's rosters hang together from one that an owner signed (`verify_rosters`).
    2. The approval names one of them, or none, which means: one of the owners, before the first roster.
    3. It is canonical, and every signature is over exactly its bytes by another one of those who may sign.
    4. It ended if a later roster did not keep the approvals before it.
    Nothing else decides, neither the time nor what became of the approval since: so what was read is remembered by all
    three arguments, whole, and returned for the very same ones. Another signature, roster, owner or owner's key is
    another argument; what does not hold raises and is not remembered. The caller MUST ask for revocation, time and
    counts each time.

    Args:
        statement: The first signature, a JWS.
        proof: Further signatures, and the rosters.
        owners: The owners that the reader trusts, by key thumbprint.

    Raises:
        FormatError: Not an approval.
        VerificationError: A signature does not hold, is nobody's who may sign, or the roster is unknown.
        RefusedError: A roster is signed by too few.
    """
    anchors = tuple(sorted(owners.items(), key=lambda each: each[0]))
    if _is_short(statement, proof):
        return _remembered(statement, proof, anchors)
    return _read_approval(statement, proof, anchors)


def verify_approval(statement: str, proof: ApprovalProof, *, owners: Signers) -> SignedApproval:
    """Verify that an approval counts: `read_approval`, and enough people signed it, and it has not ended.

    The caller MUST check what it is for (dataset, key service, application) and whether it was revoked.

    Raises:
        FormatError: Not an approval.
        VerificationError: A signature does not hold.
        RefusedError: It does not count (yet, or any more).
    """
    signed = read_approval(statement, proof, owners=owners)
    demand_consent(signed)
    return signed


def demand_consent(signed: SignedApproval) -> None:
    """Refuse an approval that too few people signed, or that a roster ended.

    Raises:
        RefusedError: It does not count.
    """
    if faults := signed.faults():
        raise RefusedError(
            f"the approval for dataset {signed.approval.dataset} does not count",
            action="Have it signed by the others (strongroom approvals sign), or propose it anew.",
            step=Step.RELEASE,
            mismatches=faults,
        )


def _place(approval: Approval, rosters: Sequence[Roster]) -> int:
    """Return which of the rosters an approval was given under; -1 for the owners, before the first one."""
    if approval.roster is None:
        return -1
    for place, roster in enumerate(rosters):
        if roster.digest == approval.roster:
            return place
    raise VerificationError(
        "the approval was given under a roster that the dataset never had",
        mismatches=(
            Mismatch(
                name="roster",
                expected=" or ".join(roster.digest for roster in rosters) or "none",
                actual=approval.roster,
            ),
        ),
    )


def _is_short(statement: str, proof: ApprovalProof) -> bool:
    rosters = sum(len(each.statement) + sum(map(len, each.signatures)) for each in proof.rosters)
    return len(statement) + sum(map(len, proof.signatures)) + rosters <= _REMEMBERED_CHARACTERS


def _read_approval(
    statement: str, proof: ApprovalProof, anchors: tuple[tuple[str, VerifyingKey | None], ...]
) -> SignedApproval:
    owners: Signers = dict(anchors)
    claimed = Approval.from_json(unverified_payload(statement))
    rosters = verify_rosters(  # 1
        proof.rosters, dataset=claimed.dataset, key_service=claimed.key_service, owners=owners
    )
    place = _place(claimed, rosters)  # 2
    under = rosters[place] if place >= 0 else None
    signers: Signers = owners if under is None else under.keys
    read = read_signed(statement, proof.signatures, typ=APPROVAL_TYP, signers=signers)  # 3
    ended_by = next((later.number for later in rosters[place + 1 :] if not later.keeps_approvals), None)  # 4
    return SignedApproval(
        id=sha256_hex(read.payload),
        approval=claimed,
        payload=read.payload,
        signers=read.signers,
        needed=1 if under is None else under.threshold,
        rosters=rosters,
        ended_by=ended_by,
    )


_remembered: Final = functools.lru_cache(maxsize=_REMEMBERED)(_read_approval)
