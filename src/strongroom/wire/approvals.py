"""What people and the key service say to each other about approvals: signatures, rosters, revocations, refusals."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from strongroom.wire.model import CompactJws, DatasetName, Hex16, Hex32, Message, Timestamp

ROSTER_TYP: Final = "strongroom-roster+jws"
MAX_SIGNERS: Final = 32
MAX_ROSTERS: Final = 256
MAX_REASON: Final = 500

DetachedJws = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+\Z")]
"""A compact JWS without its payload, which stands elsewhere (RFC 7515, appendix F)."""


class SignedRoster(Message):
    """A roster with every signature over it.

    Attributes:
        statement: A JWS of `policy.roster.Roster`.
        signatures: Further signatures over the same payload.
    """

    statement: CompactJws
    signatures: tuple[DetachedJws, ...] = Field(default=(), max_length=MAX_SIGNERS)


class ApprovalProof(Message):
    """What an approval rests on beside its first signature.

    Attributes:
        signatures: Further signatures over the approval's payload.
        rosters: The dataset's rosters, from the first one on; empty where the owners alone approve.
    """

    signatures: tuple[DetachedJws, ...] = Field(default=(), max_length=MAX_SIGNERS)
    rosters: tuple[SignedRoster, ...] = Field(default=(), max_length=MAX_ROSTERS)


class SignatureUpload(Message):
    """A person adds a signature to what somebody proposed."""

    signature: DetachedJws


class RosterUpload(Message):
    """A person proposes a roster: a JWS of `policy.roster.Roster`, the first signature."""

    roster: CompactJws


class RevocationRequest(Message):
    """A person revokes an approval.

    Attributes:
        reason: For the owners; never shown to a run.
    """

    reason: str = Field(default="", max_length=MAX_REASON)


class FoundDifference(Message):
    """One thing that differed, as `base.errors.Mismatch`."""

    name: str
    expected: str
    actual: str


class ExplainedRefusal(Message):
    """Why one refusal came about, for those who answer for the dataset.

    Attributes:
        leaf: Position of the log's leaf that says that something was refused.
        run: Digest of the run ticket.
        run_id: How people name the run.
        dataset: The dataset that it is about; None where it is about the whole run.
        approval: The approval that was looked at; None where there is none.
        differences: Everything that differed from it.
    """

    leaf: int = Field(ge=0)
    run: Hex32
    run_id: Hex16
    at: Timestamp
    reason: str
    dataset: DatasetName | None
    approval: Hex32 | None
    differences: tuple[FoundDifference, ...]
