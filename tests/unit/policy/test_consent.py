"""Rosters and what makes an approval count: pure, as the key service and auditors decide it alike."""

from collections.abc import Sequence
from typing import Any

import pytest

from strongroom.base.errors import FormatError, RefusedError, StrongroomError, VerificationError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.policy.approval import Approval
from strongroom.policy.consent import NO_PROOF, approval_id, read_approval, verify_approval
from strongroom.policy.roster import Roster, verify_rosters
from strongroom.policy.signatures import Signers, detach
from strongroom.wire.approvals import ROSTER_TYP, ApprovalProof, SignedRoster
from strongroom.wire.key_service import APPROVAL_TYP
from strongroom.wire.model import Message

KEY_SERVICE = "b2" * 32
OWNER, ALICE, BOB, CAROL, DAVE = (SigningKey.generate("ES256") for _ in range(5))
OWNERS: Signers = {OWNER.verifying_key.thumbprint: None}


def roster(members: Sequence[SigningKey], threshold: int, before: Roster | None = None, **changed: Any) -> Roster:
    fields: dict[str, Any] = {
        "key_service": KEY_SERVICE,
        "dataset": "trips",
        "number": before.number + 1 if before else 1,
        "previous": before.digest if before else None,
        "members": tuple(member.verifying_key.to_jwk() for member in members),
        "threshold": threshold,
        "issued_at": "2026-03-01T12:00:00Z",
        **changed,
    }
    return Roster(**fields)


def approval(**changed: Any) -> Approval:
    fields: dict[str, Any] = {
        "dataset": "trips",
        "key_service": KEY_SERVICE,
        "application": "a1" * 32,
        "access": "read",
        "evidence_policy_hash": "A" * 43,
        "attestation_issuer": "https://attest.example",
        "hardware": "simulated",
        "shape": "process",
        "submitters": ("c3" * 32,),
        "issued_at": "2026-03-01T12:00:00Z",
        **changed,
    }
    return Approval(**fields)


def token(statement: Message, key: SigningKey, *, typ: str) -> str:
    public = key.verifying_key
    header = {"typ": typ, "kid": public.thumbprint, "jwk": public.to_jwk()}
    return sign_jws(statement.to_json(), key=key, header=header)


def signed(each: Roster, *signers: SigningKey) -> SignedRoster:
    first, *others = (token(each, key, typ=ROSTER_TYP) for key in signers)
    return SignedRoster(statement=first, signatures=tuple(map(detach, others)))


def consent(each: Approval, *signers: SigningKey, rosters: Sequence[SignedRoster] = ()) -> tuple[str, ApprovalProof]:
    first, *others = (token(each, key, typ=APPROVAL_TYP) for key in signers)
    return first, ApprovalProof(signatures=tuple(map(detach, others)), rosters=tuple(rosters))


FIRST = roster([ALICE, BOB, CAROL], 2)
SECOND = roster([ALICE, DAVE], 2, before=FIRST)
KEEPING = roster([ALICE, DAVE], 2, before=FIRST, keeps_approvals=True)


def verified(chain: Sequence[SignedRoster]) -> tuple[Roster, ...]:
    return verify_rosters(chain, dataset="trips", key_service=KEY_SERVICE, owners=OWNERS)


def test_rosters_hang_together_from_the_owners_on() -> None:
    assert verified([]) == ()
    assert verified([signed(FIRST, OWNER), signed(SECOND, CAROL, ALICE)]) == (FIRST, SECOND)


@pytest.mark.parametrize(
    "chain",
    [
        [signed(FIRST, ALICE)],
        [signed(FIRST, OWNER), signed(SECOND, BOB)],
        [signed(FIRST, OWNER), signed(SECOND, ALICE, DAVE)],
        [signed(FIRST, OWNER), signed(SECOND, BOB, BOB)],
        [signed(FIRST, OWNER), signed(SECOND, OWNER, ALICE)],
        [signed(SECOND, ALICE, BOB)],
        [signed(FIRST, OWNER), signed(FIRST, OWNER)],
        [signed(FIRST, OWNER), signed(FIRST, ALICE, BOB)],
        [signed(FIRST, OWNER), signed(roster([ALICE], 1, before=SECOND), ALICE, BOB)],
        [signed(FIRST, OWNER), signed(roster([ALICE], 1, before=FIRST, previous="f" * 64), ALICE, BOB)],
        [signed(FIRST, OWNER), signed(roster([ALICE], 1, before=FIRST, dataset="other"), ALICE, BOB)],
        [signed(FIRST, OWNER), signed(roster([ALICE], 1, before=FIRST, key_service="f" * 64), ALICE, BOB)],
        [signed(roster([ALICE], 1, dataset="other"), OWNER)],
        [signed(roster([ALICE], 1, key_service="f" * 64), OWNER)],
    ],
)
def test_refuses_rosters_that_too_few_or_others_signed_or_that_do_not_follow(chain: list[SignedRoster]) -> None:
    with pytest.raises((VerificationError, RefusedError)):
        verified(chain)


@pytest.mark.parametrize(
    "changed",
    [
        {"threshold": 3},
        {"threshold": 0},
        {"members": ()},
        {"members": (ALICE.verifying_key.to_jwk(), ALICE.verifying_key.to_jwk())},
        {"members": ({**ALICE.verifying_key.to_jwk(), "kid": "x"},)},
        {"members": (SigningKey.generate("Ed25519").verifying_key.to_jwk(),)},
        {"number": 2},
        {"previous": "f" * 64},
        {"unknown": 1},
    ],
)
def test_refuses_a_roster_that_cannot_be(changed: dict[str, Any]) -> None:
    good = roster([ALICE, BOB], 2).model_dump(mode="json")
    with pytest.raises(FormatError):
        Roster.from_object({**good, **changed})


def test_one_owner_approves_where_there_is_no_roster() -> None:
    statement, proof = consent(approval(), OWNER)
    found = verify_approval(statement, proof, owners=OWNERS)
    assert (found.approval, found.needed, found.signers) == (approval(), 1, tuple(OWNERS))
    assert found.id == approval_id(statement)


def test_as_many_members_approve_as_the_roster_demands() -> None:
    under = approval(roster=FIRST.digest)
    statement, proof = consent(under, BOB, CAROL, rosters=[signed(FIRST, OWNER)])
    assert verify_approval(statement, proof, owners=OWNERS).needed == 2


@pytest.mark.parametrize(
    ("under", "signers", "chain"),
    [
        (None, [ALICE], []),
        (None, [OWNER], [signed(FIRST, OWNER)]),
        (FIRST, [ALICE], [signed(FIRST, OWNER)]),
        (FIRST, [ALICE, ALICE], [signed(FIRST, OWNER)]),
        (FIRST, [ALICE, OWNER], [signed(FIRST, OWNER)]),
        (FIRST, [ALICE, DAVE], [signed(FIRST, OWNER)]),
        (FIRST, [ALICE, BOB], [signed(FIRST, ALICE)]),
        (FIRST, [ALICE, BOB], []),
        (FIRST, [ALICE, BOB], [signed(FIRST, OWNER), signed(SECOND, ALICE, BOB)]),
        (SECOND, [ALICE, DAVE], [signed(FIRST, OWNER)]),
        (SECOND, [ALICE, BOB], [signed(FIRST, OWNER), signed(SECOND, ALICE, BOB)]),
    ],
)
def test_does_not_count_otherwise(under: Roster | None, signers: list[SigningKey], chain: list[SignedRoster]) -> None:
    statement, proof = consent(approval(roster=under.digest if under else None), *signers, rosters=chain)
    with pytest.raises((VerificationError, RefusedError)):
        verify_approval(statement, proof, owners=OWNERS)


def test_goes_on_under_a_later_roster_that_says_so() -> None:
    chain = [signed(FIRST, OWNER), signed(KEEPING, ALICE, BOB)]
    statement, proof = consent(approval(roster=FIRST.digest), ALICE, BOB, rosters=chain)
    assert verify_approval(statement, proof, owners=OWNERS).ended_by is None
    ended = [*chain, signed(roster([ALICE], 1, before=KEEPING), ALICE, DAVE)]
    statement, proof = consent(approval(roster=FIRST.digest), ALICE, BOB, rosters=ended)
    assert read_approval(statement, proof, owners=OWNERS).ended_by == 3
    with pytest.raises(RefusedError):
        verify_approval(statement, proof, owners=OWNERS)


def test_every_bit_of_what_is_signed_counts() -> None:
    chain = [signed(FIRST, OWNER)]
    under = approval(roster=FIRST.digest, max_runs=1)
    statement, _ = consent(under, ALICE)
    _, proof = consent(approval(roster=FIRST.digest, max_runs=2), ALICE, BOB, rosters=chain)
    with pytest.raises(VerificationError):
        verify_approval(statement, proof, owners=OWNERS)


@pytest.mark.parametrize("text", ["", "a.b.c", "x", "..", token(FIRST, OWNER, typ=ROSTER_TYP)])
def test_refuses_what_is_no_approval(text: str) -> None:
    with pytest.raises(StrongroomError):
        verify_approval(text, NO_PROOF, owners=OWNERS)


def test_what_was_read_before_is_read_anew_when_anything_of_it_changed() -> None:
    chain = [signed(FIRST, OWNER)]
    statement, proof = consent(approval(roster=FIRST.digest), ALICE, BOB, rosters=chain)
    first = read_approval(statement, proof, owners=OWNERS)
    assert read_approval(statement, proof, owners=OWNERS) == first
    assert read_approval(statement, ApprovalProof(rosters=tuple(chain)), owners=OWNERS).signers != first.signers
    ending = ApprovalProof(signatures=proof.signatures, rosters=(*chain, signed(SECOND, ALICE, BOB)))
    assert (first.ended_by, read_approval(statement, ending, owners=OWNERS).ended_by) == (None, 2)
    foreign = ApprovalProof(signatures=proof.signatures, rosters=(signed(FIRST, DAVE),))
    header, payload, signature = statement.split(".")
    other = "A" if signature[0] != "A" else "B"
    for changed, with_proof, owners in (
        (statement, proof, {}),
        (statement, proof, {DAVE.verifying_key.thumbprint: None}),
        (statement, proof, {OWNER.verifying_key.thumbprint: DAVE.verifying_key}),
        (statement, NO_PROOF, OWNERS),
        (statement, foreign, OWNERS),
        (f"{header}.{payload}.{other}{signature[1:]}", proof, OWNERS),
    ):
        with pytest.raises(StrongroomError):
            read_approval(changed, with_proof, owners=owners)
    assert read_approval(statement, proof, owners=OWNERS) == first
