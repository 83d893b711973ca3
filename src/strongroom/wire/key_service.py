"""The key service's own messages, under `/strongroom/v1/`.

A TEE signs each request as a compact JWS with the signing key of its runtime data (`typ` as below; `kid` is its number
in the run, once it has one); the service answers with a JWS of its statement key. People send a bearer token
(`PersonToken`).
"""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from strongroom.base.errors import FormatError
from strongroom.base.limits import LIMITS
from strongroom.wire.approvals import ApprovalProof
from strongroom.wire.model import (
    B64Url,
    ColumnName,
    CompactJwe,
    CompactJws,
    DatasetName,
    Hex16,
    Hex32,
    Message,
    TeeKind,
    Timestamp,
)
from strongroom.wire.service import MasterKeyHolder, Mode

PERSON_TOKEN_TYP: Final = "strongroom-token+jws"  # noqa: S105 - a media type
APPROVAL_TYP: Final = "strongroom-approval+jws"
JOIN_TYP: Final = "strongroom-join+jws"
KEYS_TYP: Final = "strongroom-keys+jws"
CLOSE_TYP: Final = "strongroom-close+jws"
LIST_TYP: Final = "strongroom-list+jws"
REBASE_TYP: Final = "strongroom-rebase+jws"
REBASED_TYP: Final = "strongroom-rebased+jws"
RELEASE_TYP: Final = "strongroom-release+jws"
RELEASED_KEYS_TYP: Final = "strongroom-released-keys+jws"
CLOSING_TYP: Final = "strongroom-closing+jws"
VERSION_TYP: Final = "strongroom-version+jws"
SERVICE_STATEMENT_TYP: Final = "strongroom-service+jws"

WorkloadToken = Annotated[CompactJws, Field(max_length=16 << 10)]
"""A service account's token, as Kubernetes projects it into a pod. Its signature is the key service's to check."""


class PersonToken(Message):
    """Payload of a person's bearer token: short-lived, for one service, signed with a key the service knows."""

    aud: Hex32
    sub: Hex32
    iat: int
    exp: int


class Nonce(Message):
    """A fresh value of a key service; single use."""

    nonce: str = Field(max_length=256)
    expires_at: Timestamp


class VtpmEvidence(Message):
    """What the vTPM of an Azure confidential VM says: there the guest does not choose the hardware's report data.

    Attributes:
        hcl_report: The paravisor's report, NV index 0x01400001: it names the vTPM's attestation key.
        tpm_quote: TPMS_ATTEST of TPM2_Quote, whose nonce is SHA-256 of the runtime data.
        tpm_signature: The attestation key's signature over it.
        pcrs: Values of the quoted registers by number.
    """

    hcl_report: B64Url
    tpm_quote: B64Url
    tpm_signature: B64Url
    pcrs: dict[Annotated[str, StringConstraints(pattern=r"^(1?[0-9]|2[0-3])\Z")], Hex32] = Field(min_length=1)


class Evidence(Message):
    """Evidence as it travels: the vendor's bytes and the runtime data they bind, both base64url.

    Attributes:
        quote: The quote, or on SEV-SNP the report.
        certificate_chain: On SEV-SNP, else None: PEM of VCEK or VLEK, ASK or ASVK, ARK.
        initdata: The document whose hash was fixed at launch in the application digest's place (a pod's), base64url;
            None where the digest itself was.
        vtpm: In an Azure confidential VM: what binds the runtime data there, in the quote's place.
    """

    kind: TeeKind
    quote: B64Url
    runtime_data: B64Url
    certificate_chain: str | None = Field(default=None, max_length=LIMITS.evidence_bytes)
    initdata: B64Url | None = Field(
        default=None, max_length=LIMITS.initdata_bytes * 4 // 3 + 4, exclude_if=lambda document: document is None
    )
    vtpm: VtpmEvidence | None = Field(default=None, exclude_if=lambda vtpm: vtpm is None)

    @model_validator(mode="after")
    def _is_of_one_form(self) -> Self:
        if self.kind == "sgx" and (self.initdata is not None or self.vtpm is not None):
            raise ValueError("an enclave has neither initdata nor a vTPM")
        if self.initdata is not None and self.vtpm is not None:
            raise ValueError("evidence has initdata, or is a vTPM's")
        return self


class JoinRequest(Message):
    """A TEE asks to open (driver) or to join (executor) a run. Sent as a JWS of the TEE's signing key.

    Attributes:
        workload_token: On Kubernetes: the pod's service-account token for this key service (its audience is
            `wire.pod.token_audience`), read just before; None where there is none.
    """

    version: Literal[1] = 1
    ticket: CompactJws
    result: CompactJws
    evidence: Evidence
    workload_token: WorkloadToken | None = Field(default=None, exclude_if=lambda token: token is None)


class LogProof(Message):
    """A leaf of the release log with its inclusion proof.

    Attributes:
        leaf: The leaf's data, canonical JSON text.
        index: Zero-based position.
        checkpoint: A signed note (C2SP tlog-checkpoint) whose tree holds the leaf.
        path: Inclusion proof, hashes in hexadecimal, from the leaf upwards.
    """

    leaf: str
    index: int = Field(ge=0)
    checkpoint: str
    path: tuple[Hex32, ...] = Field(max_length=64)


class DatasetVersion(Message):
    """What the key service countersigns: this manifest is that version of the dataset."""

    version: Literal[1] = 1
    key_service: Hex32
    dataset: DatasetName
    number: int = Field(ge=1)
    previous: Hex32 | None
    manifest_digest: Hex32
    write_ids: tuple[Hex16, ...]
    writer: str
    created_at: Timestamp


class Release(Message):
    """Answer to a join. `sealed` opens, in the TEE only, to a `RunSecrets`.

    Attributes:
        number: The member's number in the run: 0 is the driver.
        tee_key: Thumbprint of the TEE's ephemeral RSA key.
        versions: For each dataset that is read: the countersigned version statement (a JWS of `DatasetVersion`).
        version_proofs: The leaf of each of these statements; the TEE uses none without.
        simulated: True where the evidence came from simulated hardware.
    """

    version: Literal[1] = 1
    key_service: Hex32
    run: Hex32
    role: Literal["driver", "executor"]
    number: int = Field(ge=0)
    tee_key: Hex32
    versions: dict[DatasetName, CompactJws]
    sealed: CompactJwe
    simulated: bool
    proof: LogProof
    version_proofs: dict[DatasetName, LogProof] = Field(default_factory=dict)


class NewColumnKey(Message):
    """A column key made for one write, like the write key beside it."""

    key: B64Url
    wrapped: B64Url


class NewWrite(Message):
    """A write key made for one run and one dataset.

    Attributes:
        key: The 32 bytes, base64url (this message is only ever sealed).
        wrapped: The same key under the dataset's KEK, for the manifest.
        base: Number of the version that the write builds on; None for the first.
        columns: For each column that has a key of its own: this write's.
    """

    write_id: Hex16
    key: B64Url
    wrapped: B64Url
    base: int | None
    columns: dict[ColumnName, NewColumnKey] = Field(default_factory=dict)


class RunSecrets(Message):
    """What a member of a run receives, sealed: its share of the RPC secret and the keys for what it writes."""

    share: B64Url
    writes: dict[DatasetName, NewWrite]


class WrittenDataset(Message):
    """A dataset's version and its keys as the manifest holds them: wrapped under the KEKs, base64url.

    Attributes:
        write_keys: By write id.
        column_keys: By column, then by write id. What the approval does not name is left out of the answer.
    """

    number: int = Field(ge=1)
    write_keys: dict[Hex16, B64Url]
    column_keys: dict[ColumnName, dict[Hex16, B64Url]] = Field(default_factory=dict)


class KeysRequest(Message):
    """A member asks for the write keys of bound versions. Sent as a JWS of the TEE's signing key."""

    version: Literal[1] = 1
    run: Hex32
    issued_at: Timestamp
    datasets: dict[DatasetName, WrittenDataset] = Field(min_length=1)


class ReleasedKeys(Message):
    """Answer to `KeysRequest`. `sealed` opens to a `WriteKeys`."""

    version: Literal[1] = 1
    key_service: Hex32
    run: Hex32
    tee_key: Hex32
    sealed: CompactJwe
    proof: LogProof


class WriteKeys(Message):
    """Keys in the clear (this message is only ever sealed), each 32 bytes, base64url.

    Attributes:
        keys: Write keys: dataset → write id → key.
        columns: Column keys: dataset → column → write id → key.
    """

    keys: dict[DatasetName, dict[Hex16, B64Url]]
    columns: dict[DatasetName, dict[ColumnName, dict[Hex16, B64Url]]] = Field(default_factory=dict)


class ListRequest(Message):
    """The driver asks for the run's members and leaves, to build the receipt. Sent as a JWS of its signing key."""

    version: Literal[1] = 1
    run: Hex32
    issued_at: Timestamp


class RunMember(Message):
    """One TEE of a run, as the key service saw it."""

    number: int
    role: Literal["driver", "executor"]
    joined_at: Timestamp
    result: CompactJws
    evidence: Evidence


class RunRecord(Message):
    """Answer to `ListRequest`: every member and every leaf of the run so far, in order.

    Attributes:
        approvals: For each dataset: the approval that the run was opened under, with its first signature.
        proofs: For each dataset whose approval rests on more than one owner's signature: further signatures, rosters.
    """

    run: Hex32
    members: tuple[RunMember, ...]
    approvals: dict[DatasetName, CompactJws]
    leaves: tuple[LogProof, ...]
    proofs: dict[DatasetName, ApprovalProof] = Field(default_factory=dict, exclude_if=lambda proofs: not proofs)


class Commit(Message):
    """A dataset's next version, as the driver's agent wrote it."""

    dataset: DatasetName
    base: int | None
    manifest_digest: Hex32
    write_ids: tuple[Hex16, ...]


class RebaseRequest(Message):
    """The driver asks that its write builds on the newest version, as another came in between. A JWS of its key."""

    version: Literal[1] = 1
    run: Hex32
    issued_at: Timestamp
    dataset: DatasetName


class Rebased(Message):
    """Answer to `RebaseRequest`: the version that the write builds on now (a JWS of `DatasetVersion`), and leaves."""

    version: Literal[1] = 1
    key_service: Hex32
    run: Hex32
    dataset: DatasetName
    statement: CompactJws
    proof: LogProof
    version_proof: LogProof | None = None


class CloseRequest(Message):
    """The driver ends the run: all commits take effect together, or none. A JWS of its signing key."""

    version: Literal[1] = 1
    run: Hex32
    issued_at: Timestamp
    outcome: Literal["succeeded", "failed"]
    leaves: int = Field(ge=1)
    receipt: Hex32
    commits: tuple[Commit, ...]


class Closing(Message):
    """Answer to `CloseRequest`: the run is closed and logged; the new versions are countersigned.

    Attributes:
        receipt: SHA-256 of the receipt's body.
        versions: The new version statements, by dataset.
        leaves: How many leaves the run has, this one excluded.
        proof: The closing leaf.
        member_proofs: All other leaves of the run, proved in the same checkpoint.
        mode: Who is trusted with the service: its operator, who is the owner, or the measured service itself.
        master_key: How its master key is held; None in statements of services that did not say.
    """

    version: Literal[1] = 1
    key_service: Hex32
    run: Hex32
    outcome: Literal["succeeded", "failed"]
    receipt: Hex32
    leaves: int
    versions: dict[DatasetName, CompactJws]
    proof: LogProof
    member_proofs: tuple[LogProof, ...]
    mode: Mode = "owner-operated"
    master_key: MasterKeyHolder | None = None


class ApprovalUpload(Message):
    """An owner stores an approval with the canonical description it approves."""

    approval: CompactJws
    application: str


class NewDataset(Message):
    """An owner makes a dataset: its KEK, and one for each column that has a key of its own."""

    dataset: DatasetName
    columns: tuple[ColumnName, ...] = Field(default=(), max_length=1000)

    @field_validator("columns")
    @classmethod
    def _columns_are_named_once(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len({column.casefold() for column in columns}) != len(columns):  # Spark does not tell them apart
            raise FormatError("a column is named twice; upper and lower case are the same")
        return columns


class OwnerWriteRequest(Message):
    """An owner starts an import: asks for a new write key, sealed to an RSA key of theirs."""

    recipient: dict[str, Any]


class OwnerUnwrapRequest(Message):
    """An owner asks for a version's write keys, sealed to an RSA key of theirs."""

    recipient: dict[str, Any]
    version: WrittenDataset


class OwnerSealed(Message):
    """Answer to an owner: opens to a `NewWrite` or a `WriteKeys`."""

    sealed: CompactJwe


class OwnerCommit(Message):
    """An owner makes an import the dataset's next version."""

    commit: Commit
