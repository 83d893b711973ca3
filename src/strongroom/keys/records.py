"""What the key service keeps, as the rows of its store: everything in them is authenticated, secrets are encrypted."""

from typing import Literal

from pydantic import Field

from strongroom.wire.key_service import Evidence
from strongroom.wire.model import B64Url, ColumnName, CompactJws, DatasetName, Hex16, Hex32, Message, Timestamp
from strongroom.wire.workload import Workload

DATASET_KEY_PREFIX = "dataset-"
"""Names of the keys that are datasets' KEKs."""


class KeyReleasePolicy(Message):
    """A key's release policy as Key Vault carries it: `data` is base64url of its JSON."""

    content_type: str
    data: B64Url
    immutable: bool


class KeyRecord(Message):
    """One version of a key, without its private part.

    Attributes:
        kty: Key Vault's key type, such as "RSA-HSM".
        created, updated, not_before, expires: Unix time in seconds.
        public_jwk: The public members of its JWK; empty for symmetric keys.
    """

    name: str
    version: Hex16
    number: int = Field(ge=1)
    kty: str
    key_ops: tuple[str, ...]
    enabled: bool
    exportable: bool
    created: int
    updated: int
    not_before: int | None
    expires: int | None
    tags: dict[str, str] | None
    release_policy: KeyReleasePolicy | None
    public_jwk: dict[str, str]

    def is_usable(self, *, at: float) -> bool:
        """Return whether the key may be used at this Unix time."""
        started = self.not_before is None or self.not_before <= at
        return self.enabled and started and (self.expires is None or at < self.expires)


class DatasetRecord(Message):
    """A dataset.

    Attributes:
        columns: The columns that have keys of their own; fixed when it is made.
    """

    name: DatasetName
    created_at: Timestamp
    owner: Hex32
    columns: tuple[ColumnName, ...] = ()


class VersionRecord(Message):
    """One version of a dataset: the countersigned statement, and the position of the leaf that records it."""

    dataset: DatasetName
    number: int = Field(ge=1)
    statement: CompactJws
    leaf: int | None = Field(default=None, ge=0)


class ApprovalRecord(Message):
    """An owner's approval, with the application description that it approves.

    Attributes:
        id: SHA-256 of the bytes that are signed.
        owner: Thumbprint of the key that signed it first.
        approval: A compact JWS, the first signature; further ones are rows of their own (`keys.store.rosters`).
    """

    id: Hex32
    owner: Hex32
    dataset: DatasetName
    application: Hex32
    approval: CompactJws
    description: str
    stored_at: Timestamp


class RunWrite(Message):
    """A write that a run was opened with.

    Attributes:
        wrapped: Its write key under the dataset's KEK.
        columns: Its column keys under the columns' KEKs.
    """

    write_id: Hex16
    wrapped: B64Url
    base: int | None
    columns: dict[ColumnName, B64Url] = Field(default_factory=dict)


class OpenedRun(Message):
    """An opened run.

    Attributes:
        approvals: For each dataset of this service: the approval's id.
        reads: For each dataset that is read: its version.
        writes: For each dataset that is written: the write.
        driver_key: Thumbprint of the driver's signing key.
    """

    run: Hex32
    ticket: CompactJws
    application: Hex32
    approvals: dict[DatasetName, Hex32]
    reads: dict[DatasetName, int]
    writes: dict[DatasetName, RunWrite]
    driver_key: Hex32
    opened_at: Timestamp

    def bound_version(self, dataset: str) -> int | None:
        """Return the version whose keys the run may have: the one it reads, or the one its write builds on."""
        if dataset in self.reads:
            return self.reads[dataset]
        write = self.writes.get(dataset)
        return write.base if write else None


class OpenedRunSecrets(Message):
    """A run's secrets, as they stand encrypted in its row."""

    share: B64Url
    write_keys: dict[DatasetName, B64Url]
    column_keys: dict[DatasetName, dict[ColumnName, B64Url]] = Field(default_factory=dict)


class MemberRecord(Message):
    """A TEE that joined a run.

    Attributes:
        signing_key: JWK of the key that signs its requests.
        encryption_key: JWK of the RSA key to which its secrets are sealed.
        tee_key: Thumbprint of that RSA key.
        workload: Who the pod is around it, by its service account's token; None where no such token counted.
    """

    run: Hex32
    number: int = Field(ge=0)
    role: Literal["driver", "executor"]
    joined_at: Timestamp
    signing_key: dict[str, str]
    encryption_key: dict[str, str]
    tee_key: Hex32
    result: CompactJws
    evidence: Evidence
    workload: Workload | None = None
