"""Rosters: who may approve for a dataset, and how many of them it takes.

A dataset's first roster is signed by an owner, each later one by as many members of the roster before it as that one
demands. The rosters hang together by their hashes, so that none can be left out, exchanged or put back.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from strongroom.base.errors import FormatError, Mismatch, RefusedError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy.signatures import Signed, Signers, read_signed
from strongroom.wire.approvals import MAX_ROSTERS, MAX_SIGNERS, ROSTER_TYP, SignedRoster
from strongroom.wire.model import DatasetName, Hex32, Message, Timestamp


class Roster(Message):
    """Who may approve for a dataset.

    Attributes:
        number: Counts the dataset's rosters from 1.
        previous: SHA-256 of the roster before this one; None for the first.
        members: The approvers' public P-256 JWKs (`kty`, `crv`, `x`, `y`), each once.
        threshold: How many of them must sign.
        keeps_approvals: Whether approvals given under the rosters before this one go on; otherwise they end with it.
        issued_at: When it was proposed.
    """

    version: Literal[1] = 1
    key_service: Hex32
    dataset: DatasetName
    number: int = Field(ge=1, le=MAX_ROSTERS)
    previous: Hex32 | None
    members: tuple[dict[str, str], ...] = Field(min_length=1, max_length=MAX_SIGNERS)
    threshold: int = Field(ge=1, le=MAX_SIGNERS)
    keeps_approvals: bool = False
    issued_at: Timestamp

    @field_validator("members")
    @classmethod
    def _members_are_different_keys(cls, members: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
        thumbprints = [_member_key(jwk).thumbprint for jwk in members]
        if len(set(thumbprints)) != len(thumbprints):
            raise FormatError("a member is named twice")
        return members

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.threshold > len(self.members):
            raise ValueError("a roster demands more signatures than it has members")
        if (self.number == 1) != (self.previous is None):
            raise ValueError("exactly a first roster has none before it")
        return self

    @property
    def keys(self) -> dict[str, VerifyingKey]:
        """The members' keys by thumbprint."""
        return {key.thumbprint: key for key in map(VerifyingKey.from_jwk, self.members)}

    @property
    def digest(self) -> str:
        """SHA-256 of the roster's canonical bytes: its name in approvals and in the next roster."""
        return sha256_hex(self.to_json())


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBy:
    """A roster and who signed it.

    Attributes:
        signers: Thumbprints.
        needed: How many signatures it takes.
    """

    roster: Roster
    signers: tuple[str, ...]
    needed: int

    @property
    def is_complete(self) -> bool:
        """Whether enough people signed."""
        return len(self.signers) >= self.needed


def read_roster(signed: SignedRoster, *, before: Roster | None, owners: Signers) -> SignedBy:
    """Read a roster and check every signature that it has, be they enough or not.

    1. It is canonical, and every signature is by another of those who may sign it: an owner for the first roster,
       members of the one before for each later one.
    2. It follows the one before: its number, its hash, its dataset and its key service.

    Args:
        signed: The roster.
        before: The roster that it replaces; None for the first.
        owners: Who may sign the first one.

    Raises:
        FormatError: Not a roster.
        VerificationError: A signature does not hold, or it does not follow the one before.
    """
    read: Signed = read_signed(
        signed.statement, signed.signatures, typ=ROSTER_TYP, signers=owners if before is None else before.keys
    )
    roster = Roster.from_json(read.payload)
    if roster.to_json() != read.payload:
        raise FormatError("the roster is not in its canonical form")
    expected: tuple[object, ...] = (1, None)
    found: tuple[object, ...] = (roster.number, roster.previous)
    if before is not None:
        expected = (before.number + 1, before.digest, before.dataset, before.key_service)
        found = (*found, roster.dataset, roster.key_service)
    if expected != found:
        raise VerificationError(
            "the roster does not follow the one before it",
            action="Propose it again: strongroom roster change",
            mismatches=(Mismatch(name="roster before", expected=_words(expected), actual=_words(found)),),
        )
    return SignedBy(roster=roster, signers=read.signers, needed=1 if before is None else before.threshold)


def verify_rosters(
    chain: Sequence[SignedRoster], *, dataset: str, key_service: str, owners: Signers
) -> tuple[Roster, ...]:
    """Verify a dataset's rosters, from the first one to the one that holds now.

    1. An owner signed the first one; it is for this dataset and key service.
    2. Each later one follows the one before it, and enough of that one's members signed it.

    Raises:
        FormatError: Not rosters.
        VerificationError: A signature or the chain does not hold, or they are another dataset's.
        RefusedError: Too few people signed one.
    """
    rosters: list[Roster] = []
    for signed in chain:
        read = read_roster(signed, before=rosters[-1] if rosters else None, owners=owners)
        if not read.is_complete:
            raise RefusedError(
                f"roster {read.roster.number} of dataset {dataset} is signed by too few",
                mismatches=(missing_signatures(read.signers, read.needed),),
            )
        rosters.append(read.roster)
    if rosters and (rosters[0].dataset, rosters[0].key_service) != (dataset, key_service):
        raise VerificationError("the rosters are another dataset's, or another key service's")
    return tuple(rosters)


def missing_signatures(signers: Collection[str], needed: int) -> Mismatch:
    """Return the mismatch of something that too few people signed."""
    return Mismatch(name="signatures", expected=f"{needed} people's", actual=f"{len(signers)}")


def _member_key(jwk: dict[str, str]) -> VerifyingKey:
    key = VerifyingKey.from_jwk(jwk)
    if key.algorithm != "ES256" or key.to_jwk() != jwk:
        raise FormatError("a member is a public P-256 JWK with nothing but kty, crv, x and y")
    return key


def _words(values: tuple[object, ...]) -> str:
    return ", ".join("none" if value is None else str(value) for value in values)
