"""What people read before they sign: everything, and unshortened."""

import json
from typing import Any

import pytest

from strongroom.cli.approval_words import approval_changes, approval_words, duration_words, roster_changes, roster_words
from strongroom.crypto.keys import SigningKey
from strongroom.policy.approval import Approval
from strongroom.policy.roster import Roster

RECIPIENT = SigningKey.generate("ES256").verifying_key
ALICE, BOB, CAROL = (SigningKey.generate("ES256").verifying_key for _ in range(3))
FULL: dict[str, Any] = {
    "dataset": "trips",
    "key_service": "b2" * 32,
    "application": "a1" * 32,
    "access": "read",
    "evidence_policy_hash": "A" * 43,
    "attestation_issuer": "https://attest.example",
    "hardware": "simulated",
    "platform": {"machines": ["ppid:" + "0a" * 16], "min_tcb_evaluation_data_number": 17, "min_crl_number": 5},
    "tees": ["tdx"],
    "shapes": ["process"],
    "max_runs": 7,
    "not_after": "2026-12-31T00:00:00Z",
    "submitters": ["c3" * 32],
    "recipients": [RECIPIENT.to_jwk()],
    "columns": ["salary"],
    "issued_at": "2026-03-01T00:00:00Z",
    "not_before": "2026-04-01T00:00:00Z",
    "max_executors": 3,
    "max_executors_total": 30,
    "max_duration_s": 7200,
    "versions": {"first": 2, "last": 4},
    "writers": ["application:" + "d4" * 32],
    "purpose": "a study",
    "roster": "e5" * 32,
}
OTHER: dict[str, Any] = {
    "dataset": "others",
    "key_service": "b2" * 31 + "00",
    "application": "a1" * 31 + "00",
    "evidence_policy_hash": "A" * 42 + "B",
    "attestation_issuer": "https://attest.examples",
    "hardware": "real",
    "platform": {"machines": "any", "min_tcb_evaluation_data_number": 17, "min_crl_number": 5},
    "tees": ["snp"],
    "shapes": ["confidential-node"],
    "max_runs": 8,
    "not_after": None,
    "submitters": ["c3" * 31 + "00"],
    "recipients": [],
    "columns": [],
    "not_before": None,
    "max_executors": None,
    "max_executors_total": None,
    "max_duration_s": None,
    "versions": None,
    "writers": ["application:" + "d4" * 31 + "00"],
    "purpose": "another study",
    "roster": None,
    "workloads": [{"issuer": "https://cluster.example", "subject": "system:serviceaccount:team-a:spark"}],
    "back_end": "azure-managed-hsm",
}


def approval(**changed: Any) -> Approval:
    return Approval.from_json(json.dumps({**FULL, **changed}))


@pytest.mark.parametrize("field", sorted(OTHER))
def test_every_word_of_an_approval_is_shown_and_so_is_its_change(field: str) -> None:
    changes = approval_changes(approval(), approval(**{field: OTHER[field]}))
    assert len(changes) == 1, f"{field} is not in what people read"


def test_access_is_shown() -> None:
    reading, writing = approval(versions=None, writers=None), approval(versions=None, writers=None, access="write")
    assert "dataset: read trips  →  write trips" in approval_changes(reading, writing)


def test_every_field_is_compared_above() -> None:
    shown_otherwise = {"version", "access", "shape", "issued_at"}
    assert set(Approval.model_fields) - set(OTHER) == shown_otherwise


def test_shapes_are_shown_with_whom_they_trust_and_an_older_approval_means_the_strongest() -> None:
    old, new = approval(shape="process", shapes=[]), approval()
    assert approval_changes(old, new) == []
    weaker = dict(approval_words(approval(shapes=["pod", "confidential-node"])))["shape"]
    assert "WEAKER: the cluster's administrator is inside the TEE" in weaker
    assert "WEAKER" not in dict(approval_words(new))["shape"]


def test_when_it_was_issued_is_shown_but_is_no_difference() -> None:
    later = approval(issued_at="2026-03-02T00:00:00Z")
    assert ("issued", "2026-03-02T00:00:00Z") in approval_words(later)
    assert approval_changes(approval(), later) == []


def test_digests_are_never_shortened() -> None:
    text = " ".join(words for _, words in approval_words(approval()))
    for digest in ("b2" * 32, "a1" * 32, "c3" * 32, "d4" * 32, "e5" * 32, RECIPIENT.thumbprint):
        assert digest in text


@pytest.mark.parametrize(("seconds", "words"), [(60, "1 min"), (7200, "2 h"), (86400, "1 d"), (3661, "3661 s")])
def test_says_a_length_of_time_in_its_largest_whole_unit(seconds: int, words: str) -> None:
    assert duration_words(seconds) == words


def test_shows_who_joins_and_who_leaves_a_roster() -> None:
    def roster(*members: Any, number: int, threshold: int, keeps_approvals: bool) -> Roster:
        return Roster(
            key_service="b2" * 32,
            dataset="trips",
            number=number,
            previous=None if number == 1 else "f" * 64,
            members=tuple(member.to_jwk() for member in members),
            threshold=threshold,
            keeps_approvals=keeps_approvals,
            issued_at="2026-03-01T00:00:00Z",
        )

    first = roster(ALICE, BOB, number=1, threshold=1, keeps_approvals=False)
    second = roster(ALICE, CAROL, number=2, threshold=2, keeps_approvals=True)
    assert roster_changes(first, second) == [
        f"joins: {CAROL.thumbprint}",
        f"leaves: {BOB.thumbprint}",
        "signatures: 1 of 2  →  2 of 2",
    ]
    words = dict(roster_words(second))
    assert words["signatures"] == "2 of 2 people's"
    assert "they go on" in words["approvals"]
    assert {text for name, text in roster_words(second) if name == "member"} == {ALICE.thumbprint, CAROL.thumbprint}
