"""What every part of the key service works with: its keys, its store, whom it knows, and datasets' keys."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.errors import IntegrityError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.keys.joined import JoinedRuns
from strongroom.keys.records import VersionRecord
from strongroom.keys.release import Hardware
from strongroom.keys.store import Store, Transaction
from strongroom.log.checkpoint import parse_checkpoint_text
from strongroom.log.note import parse_note
from strongroom.services.data_keys import usable_kek
from strongroom.services.http import Call
from strongroom.services.identity import ServiceIdentity
from strongroom.services.issuers import TrustedIssuers
from strongroom.services.people import People, Person, Role
from strongroom.services.roster_members import RosterMembers
from strongroom.services.witnessing import Witnesses
from strongroom.services.workloads import WorkloadIssuers
from strongroom.wire.key_service import VERSION_TYP, Commit, DatasetVersion, LogProof
from strongroom.wire.model import Message
from strongroom.wire.service import MasterKeyHolder, Mode

_REMEMBERED_VERSIONS: Final = 512
_REMEMBERED_CHARACTERS: Final = 8 << 10
"""Longer statements are read anew each time: so few megabytes are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDesk:
    """The key service's means.

    Attributes:
        people: Everybody whom the service knows, with their roles.
        issuers: The attestation services that are believed.
        hardware: The one kind of hardware that is accepted.
        url: The service's address, for key identifiers.
        mode: Who is trusted with this service.
        master_key: How its master key is held.
        witnesses: Who cosigns the log's checkpoints; None for nobody.
        workloads: The clusters whose service accounts are known; None for none.
        roster_members: Who stands in rosters.
        joined: Who joined runs.
    """

    store: Store
    identity: ServiceIdentity
    people: People
    issuers: TrustedIssuers
    hardware: Hardware
    clock: Clock
    url: str
    mode: Mode = "owner-operated"
    master_key: MasterKeyHolder = "file"
    witnesses: Witnesses | None = None
    workloads: WorkloadIssuers | None = None
    roster_members: RosterMembers = field(default_factory=RosterMembers)
    joined: JoinedRuns = field(default_factory=JoinedRuns)

    @property
    def owners(self) -> Mapping[str, VerifyingKey]:
        """The keys, by thumbprint, of those who may sign approvals."""
        return self.people.keys(Role.OWNER, Role.APPROVER)

    def caller(self, call: Call, *roles: Role) -> Person:
        """Return the person who calls, who must have one of these roles.

        Raises:
            AuthenticationError: The call is nobody's whom the service knows.
            RoleError: It is somebody's with other roles.
            UnavailableError: The person signed in, and the issuer's keys cannot be had.
        """
        return self.people.caller(call, *roles)

    def person(self, call: Call, *, role: Role = Role.OWNER) -> str:
        """Return the identity of the person who calls, who must have this role (see `caller`)."""
        return self.caller(call, role).identity

    def sign(self, statement: Message, *, typ: str) -> str:
        """Sign a statement with the statement key."""
        return self.identity.statement.sign(statement.to_json(), header={"typ": typ})

    def demand_witnesses(self) -> None:
        """Refuse what witnesses must have seen, where too few of them answer; before anything is recorded.

        Raises:
            UnavailableError: Fewer witnesses than required answer.
        """
        if self.witnesses is not None:
            self.witnesses.demand_working()

    def prove_witnessed(self, positions: Sequence[int]) -> tuple[LogProof, ...]:
        """Return leaves with their proofs under one checkpoint that the witnesses cosigned; wait for them if need be.

        Where no witness is required and none cosigns, the proofs are under the newest checkpoint as it is.

        Raises:
            UnavailableError: Fewer witnesses than required cosigned in time.
        """
        note = self.witnesses.cosigned(max(positions) + 1) if self.witnesses is not None else None
        if note is None:
            return self.store.prove(positions)
        size = parse_checkpoint_text(parse_note(note).text).size
        with self.store.reading() as tx:
            leaves = [tx.leaves(position, position + 1)[0] for position in positions]
        paths = [tuple(node.hex() for node in self.store.inclusion(position, size)) for position in positions]
        return tuple(
            LogProof(leaf=leaf, index=position, checkpoint=note, path=path)
            for leaf, position, path in zip(leaves, positions, paths, strict=True)
        )

    def verify_own(self, token: str, *, typ: str) -> bytes:
        """Return the payload of a statement that this service signed.

        Raises:
            IntegrityError: It did not.
        """
        try:
            return verify_jws(token, key=self.identity.statement.key.verifying_key, typ=typ).payload
        except VerificationError as error:
            raise IntegrityError("a stored statement is not this service's") from error


def stored_version(desk: KeyDesk, tx: Transaction, dataset: str, number: int) -> DatasetVersion:
    """Return what a dataset's version is.

    Raises:
        NotFoundError: There is no such version.
        IntegrityError: What is stored is not this service's statement about it.
    """
    statement = tx.version(dataset, number).statement
    payload = desk.verify_own(statement, typ=VERSION_TYP)
    version = _version_in(payload) if len(payload) <= _REMEMBERED_CHARACTERS else DatasetVersion.from_json(payload)
    if (version.dataset, version.number) != (dataset, number):
        raise IntegrityError("a stored statement is about another version")
    return version


@functools.lru_cache(maxsize=_REMEMBERED_VERSIONS)
def _version_in(payload: bytes) -> DatasetVersion:
    """Return what a statement says whose signature holds; its bytes alone decide."""
    return DatasetVersion.from_json(payload)


def commit_version(desk: KeyDesk, tx: Transaction, commit: Commit, *, writer: str, now: datetime) -> str:
    """Countersign a dataset's next version (compare and swap) and log it.

    Returns:
        The statement.

    Raises:
        NotFoundError: There is no such dataset.
        ConflictError: Another version came in between.
        RefusedError: The KEK may not be used.
    """
    usable_kek(tx, commit.dataset, now=now)
    previous = None
    if commit.base is not None and commit.base == tx.head(commit.dataset):
        previous = stored_version(desk, tx, commit.dataset, commit.base).manifest_digest
    version = DatasetVersion(
        key_service=desk.identity.identity,
        dataset=commit.dataset,
        number=(commit.base or 0) + 1,
        previous=previous,
        manifest_digest=commit.manifest_digest,
        write_ids=commit.write_ids,
        writer=writer,
        created_at=to_rfc3339(now),
    )
    statement = desk.sign(version, typ=VERSION_TYP)
    position = tx.next_position
    record = VersionRecord(dataset=commit.dataset, number=version.number, statement=statement, leaf=position)
    tx.add_version(record, base=commit.base)
    tx.append_leaf(
        "dataset-version",
        now=now,
        what={
            "dataset": commit.dataset,
            "dataset_version": version.number,
            "manifest_digest": commit.manifest_digest,
            "write_ids": list(commit.write_ids),
            "writer": writer,
            "statement": sha256_hex(statement.encode("ascii")),
        },
    )
    return statement
