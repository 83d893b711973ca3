"""What every part of the key service works with: its keys, its store, whom it knows, and datasets' keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import IntegrityError, Mismatch, NotFoundError, RefusedError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.random import random_id, random_secret
from strongroom.keys.hierarchy import kek_version_of, unwrap_write_key, wrap_write_key
from strongroom.keys.records import DATASET_KEY_PREFIX, ApprovalRecord, RunWrite, VersionRecord
from strongroom.keys.release import Hardware
from strongroom.keys.store import Store, StoredKey, Transaction
from strongroom.policy.approval import Approval
from strongroom.services.http import Call
from strongroom.services.identity import ServiceIdentity
from strongroom.services.issuers import TrustedIssuers
from strongroom.services.people import People, Person, Role
from strongroom.wire.key_service import APPROVAL_TYP, VERSION_TYP, Commit, DatasetVersion, WrittenDataset
from strongroom.wire.model import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDesk:
    """The key service's means.

    Attributes:
        people: Everybody whom the service knows, with their roles.
        issuers: The attestation services that are believed.
        hardware: The one kind of hardware that is accepted.
        url: The service's address, for key identifiers.
    """

    store: Store
    identity: ServiceIdentity
    people: People
    issuers: TrustedIssuers
    hardware: Hardware
    clock: Clock
    url: str

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

    def verify_own(self, token: str, *, typ: str) -> bytes:
        """Return the payload of a statement that this service signed.

        Raises:
            IntegrityError: It did not.
        """
        try:
            return verify_jws(token, key=self.identity.statement.key.verifying_key, typ=typ).payload
        except VerificationError as error:
            raise IntegrityError("a stored statement is not this service's") from error

    def approval(self, token: str) -> tuple[str, Approval]:
        """Verify an approval's signature by an owner whom the service knows (still).

        Returns:
            The owner's key thumbprint, and what the owner approved.

        Raises:
            FormatError: Not an approval.
            VerificationError: Nobody known signed it, or it is for another key service.
        """
        kid = unverified_header(token).get("kid")
        key = self.owners.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise VerificationError("the approval is not signed by an owner this key service knows")
        approval = Approval.from_json(verify_jws(token, key=key, typ=APPROVAL_TYP).payload)
        if approval.key_service != self.identity.identity:
            raise VerificationError(
                "the approval is for another key service",
                mismatches=(
                    Mismatch(name="key_service", expected=self.identity.identity, actual=approval.key_service),
                ),
            )
        return key.thumbprint, approval

    def stored_approval(self, record: ApprovalRecord) -> Approval:
        """Return a stored approval, verified anew.

        Raises:
            RefusedError: Its owner is not configured any more.
        """
        try:
            return self.approval(record.approval)[1]
        except VerificationError as error:
            raise RefusedError(
                f"the approval for dataset {record.dataset} is not an owner's any more",
                action="Have it approved by an owner whom the key service knows.",
                step=Step.RELEASE,
            ) from error


_KEK_ACTION: Final = "Enable the dataset's key at the key service, if that is meant."


def kek_name(dataset: str) -> str:
    """Return the name of a dataset's KEK."""
    return DATASET_KEY_PREFIX + dataset


def usable_kek(tx: Transaction, dataset: str, *, version: str | None = None, now: datetime) -> StoredKey:
    """Return a dataset's KEK; the newest version without one.

    Raises:
        NotFoundError: There is no such dataset or version.
        RefusedError: The key is disabled, expired or not valid yet.
    """
    kek = tx.key(kek_name(dataset), version)
    if not kek.record.is_usable(at=now.timestamp()):
        raise RefusedError(
            f"the key of dataset {dataset} is disabled or outside its time of validity",
            action=_KEK_ACTION,
            step=Step.RELEASE,
        )
    return kek


def make_write(tx: Transaction, dataset: str, *, base: int | None, now: datetime) -> tuple[RunWrite, SecretBytes]:
    """Make a write key for a dataset.

    Returns:
        What is kept of it openly, and the key itself.

    Raises:
        NotFoundError: There is no such dataset.
        RefusedError: Its KEK may not be used.
    """
    kek = usable_kek(tx, dataset, now=now)
    write_id, write_key = random_id(), random_secret()
    wrapped = wrap_write_key(
        kek.material, write_key, dataset=dataset, write_id=write_id, kek_version=kek.record.version
    )
    return RunWrite(write_id=write_id, wrapped=to_b64url(wrapped), base=base), write_key


def unwrap_write_keys(tx: Transaction, dataset: str, asked: WrittenDataset, *, now: datetime) -> dict[str, str]:
    """Return write keys in the clear: write id → base64url.

    Raises:
        FormatError: A wrapped key is malformed.
        VerificationError: A wrapped key is not this dataset's and this write's.
        RefusedError: The KEK may not be used.
    """
    keys: dict[str, str] = {}
    for write_id, text in asked.write_keys.items():
        wrapped = from_b64url(text)
        try:
            kek = usable_kek(tx, dataset, version=kek_version_of(wrapped), now=now)
            opened = unwrap_write_key(kek.material, wrapped, dataset=dataset, write_id=write_id)
        except (IntegrityError, NotFoundError) as error:
            raise VerificationError(
                f"a wrapped key of dataset {dataset} was changed, or belongs elsewhere",
                action="The manifest is damaged: restore it from a copy.",
                step=Step.RELEASE,
            ) from error
        keys[write_id] = to_b64url(opened.reveal())
    return keys


def stored_version(desk: KeyDesk, tx: Transaction, dataset: str, number: int) -> DatasetVersion:
    """Return what a dataset's version is.

    Raises:
        NotFoundError: There is no such version.
        IntegrityError: What is stored is not this service's statement about it.
    """
    statement = tx.version(dataset, number).statement
    version = DatasetVersion.from_json(desk.verify_own(statement, typ=VERSION_TYP))
    if (version.dataset, version.number) != (dataset, number):
        raise IntegrityError("a stored statement is about another version")
    return version


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
    record = VersionRecord(dataset=commit.dataset, number=version.number, statement=statement)
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
