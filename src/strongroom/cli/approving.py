"""Approvals and rosters as the key service has them, verified here before anybody signs or believes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from strongroom.application.description import ApplicationDescription, difference, parse_description
from strongroom.base.errors import FormatError, Mismatch, VerificationError
from strongroom.cli.approval_words import approval_changes
from strongroom.clients.owner import OwnerClient
from strongroom.policy.approval import Approval
from strongroom.policy.consent import SignedApproval, read_approval
from strongroom.policy.roster import Roster, SignedBy, read_roster, verify_rosters
from strongroom.wire.approvals import ApprovalProof, SignedRoster
from strongroom.wire.trust import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadApproval:
    """An approval that the key service keeps: its signatures hold, and its application is the one it names.

    Attributes:
        record: What the key service says of it: its state and what was used.
    """

    signed: SignedApproval
    description: ApplicationDescription
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRosters:
    """A dataset's rosters.

    Attributes:
        chain: Those that hold or held, from the first one.
        waiting: Those that wait for signatures.
    """

    dataset: str
    chain: tuple[Roster, ...]
    waiting: tuple[SignedBy, ...]

    @property
    def now(self) -> Roster | None:
        """The roster that holds; None where the owners approve alone."""
        return self.chain[-1] if self.chain else None


def read_stored_approval(record: Mapping[str, Any], *, trust: Trust) -> ReadApproval:
    """Read an approval from the key service's answer, back to the owners of the trust file.

    Raises:
        FormatError: The answer is not of that form.
        VerificationError: A signature does not hold, or the description is another application's.
    """
    statement, text = record.get("statement"), record.get("description")
    if not isinstance(statement, str) or not isinstance(text, str):
        raise FormatError("the key service's answer holds no approval")
    proof = ApprovalProof.from_object(record.get("proof") or {})
    signed = read_approval(statement, proof, owners=dict.fromkeys(trust.owners))
    description = parse_description(text.encode("utf-8"))
    expected = {"approval": record.get("approval"), "application": signed.approval.application}
    actual = {"approval": signed.id, "application": description.digest}
    mismatches = tuple(
        Mismatch(name=name, expected=str(expected[name]), actual=actual[name])
        for name in expected
        if expected[name] != actual[name]
    )
    if mismatches:
        raise VerificationError(
            "the key service shows another approval, or another application, than it names", mismatches=mismatches
        )
    return ReadApproval(signed=signed, description=description, record=record)


def read_rosters(client: OwnerClient, dataset: str, *, key_service: str, trust: Trust) -> ReadRosters:
    """Ask for a dataset's rosters, and verify them back to an owner of the trust file.

    Raises:
        FormatError: The answer is not of that form.
        VerificationError: A signature does not hold, or the rosters do not follow each other.
        RefusedError: Too few people signed one.
    """
    answer = client.rosters(dataset)
    owners = dict.fromkeys(trust.owners)
    chain = tuple(SignedRoster.from_object(each) for each in _list(answer, "rosters"))
    rosters = verify_rosters(chain, dataset=dataset, key_service=key_service, owners=owners)
    before = rosters[-1] if rosters else None
    waiting = [_signed_roster(each) for each in _list(answer, "waiting")]
    return ReadRosters(
        dataset=dataset,
        chain=rosters,
        waiting=tuple(read_roster(each, before=before, owners=owners) for each in waiting),
    )


def changes_since(earlier: ReadApproval, later: Approval, description: ApplicationDescription) -> list[str]:
    """Return what a later approval and its application say otherwise than an earlier one, one line for each."""
    changes = approval_changes(earlier.signed.approval, later)
    if earlier.description.digest != description.digest:
        changes += [f"application: {line}" for line in difference(earlier.description, description)]
    return changes


def earlier_approval(
    records: list[dict[str, Any]], approval: Approval, description: ApplicationDescription, *, trust: Trust
) -> ReadApproval | None:
    """Return the newest other approval of an application of that name for the same access to the same dataset."""
    for record in reversed(records):
        if (record.get("dataset"), record.get("access")) != (approval.dataset, approval.access):
            continue
        try:
            found = read_stored_approval(record, trust=trust)
        except (FormatError, VerificationError):
            continue  # its owner is not trusted any more: nothing to compare with
        if found.signed.approval != approval and found.description.name == description.name:
            return found
    return None


def _signed_roster(each: object) -> SignedRoster:
    match each:
        case {"statement": statement, "signatures": signatures}:
            return SignedRoster.from_object({"statement": statement, "signatures": signatures})
        case _:
            raise FormatError("the key service's answer holds no roster")


def _list(answer: Mapping[str, Any], name: str) -> list[Any]:
    found = answer.get(name)
    if not isinstance(found, list):
        raise FormatError(f"the key service's answer names no {name}")
    return found
