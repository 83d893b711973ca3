"""The receipt of a run: everything an auditor needs, in one file."""

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from strongroom.wire.azure_attestation import KeyId
from strongroom.wire.key_service import LogProof, RunMember, RunRecord
from strongroom.wire.model import B64Url, CompactJws, DatasetName, Hex16, Hex32, Message, Timestamp, Url


class Output(Message):
    """What the run wrote to one dataset: the manifest that the key service countersigns at the run's end."""

    manifest_digest: Hex32
    files: int
    size_bytes: int


class VaultRecord(Message):
    """What the driver's agent knows of a key that a vault released to it: no service keeps a record there.

    Attributes:
        statement: Canonical JSON of the `VaultKey` that bindings pin.
        approvals: The owner's signed approvals, by dataset.
        member: The driver, with its evidence; who else had the key released, nobody counted.
        policy: The key's release policy when the driver received it, as the vault signed it: JSON, base64url.
        policy_immutable: Whether the vault said that the policy cannot change.
        version_keys: For each dataset: the JWK that signs versions which runs write.
        outputs: The statements of the versions that this run wrote.
    """

    statement: str
    approvals: dict[DatasetName, CompactJws] = Field(min_length=1)
    member: RunMember
    policy: B64Url
    policy_immutable: bool
    version_keys: dict[DatasetName, dict[str, str]]
    outputs: dict[DatasetName, CompactJws]


class ReceiptBody(Message):
    """What the driver's agent vouches for, with the proofs it received.

    Attributes:
        hardware: Kind of the TEEs' hardware; "simulated" protects nothing.
        ticket: The submitter's run ticket.
        application: The application's description, canonical JSON text.
        attestation_service: Issuer of the attestation results.
        attestation_certificates: Of a service of ours: its signing certificates, then its identity certificate, DER.
        attestation_keys: Of Azure Attestation: the certificate, DER, of each key that signed a result, by the id that
            the provider gives it.
        endorsements: What the members' evidence verifies with, by the platform's name: of SGX and TDX the collateral,
            JSON text; of SEV-SNP the root's revocation list, hexadecimal text.
        records: For each key service, by identity: members, approvals and leaves of the run.
        vaults: For each vault's key, by the digest of its statement: what the driver's agent knows of it.
        inputs: The countersigned versions that were read, or that an output builds on.
        input_proofs: The log leaf of each of these; version 1 had none.
        log_digest: SHA-256 of the application's standard output and error.
    """

    version: Literal[1, 2] = 2
    hardware: Literal["simulated", "real"]
    run: Hex32
    run_id: Hex16
    outcome: Literal["succeeded", "failed"]
    exit_status: int
    started_at: Timestamp
    finished_at: Timestamp
    ticket: CompactJws
    application: str
    attestation_service: Url
    attestation_certificates: tuple[B64Url, ...] = Field(default=(), max_length=16)
    attestation_keys: dict[KeyId, B64Url] = Field(default={}, max_length=16)
    endorsements: dict[str, str]
    records: dict[Hex32, RunRecord]
    vaults: dict[Hex32, VaultRecord] = Field(default={})
    inputs: dict[DatasetName, CompactJws]
    input_proofs: dict[DatasetName, LogProof] = Field(default_factory=dict)
    outputs: dict[DatasetName, Output]
    log_digest: Hex32

    @model_validator(mode="after")
    def _shows_one_services_keys(self) -> Self:
        ours, azures = self.attestation_certificates, self.attestation_keys
        if bool(ours) == bool(azures) or len(ours) == 1:
            raise ValueError("the keys of one attestation service are shown: ours with its identity, or Azure's")
        return self

    @model_serializer(mode="wrap")
    def _as_written_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write receipts of runs without vaults and without Azure as they always were: these bytes are signed."""
        fields: dict[str, Any] = serialize(self)
        if not self.vaults:
            del fields["vaults"]
        if self.attestation_keys:
            del fields["attestation_certificates"]
        else:
            del fields["attestation_keys"]
        return fields


class DsseSignature(Message):
    """A signature of an envelope: `keyid` is the key's thumbprint, `sig` base64 of an ECDSA signature in DER."""

    keyid: Hex32
    sig: str


class DsseEnvelope(Message):
    """A DSSE envelope; `payload` is base64 of the signed bytes.

    Source: DSSE, "Envelope".
    """

    payload: str
    payloadType: str  # noqa: N815 - the specification's name
    signatures: tuple[DsseSignature, ...] = Field(min_length=1, max_length=1)


class Receipt(Message):
    """A run's receipt.

    Attributes:
        attestation: An in-toto statement about the run for other people's tools, signed by the same key; version 1 had
            none.
        signature: The driver's signing key over `RECEIPT_CONTEXT` and the canonical JSON of `body`.
        closings: Each key service's statement that the run is closed, by identity.
    """

    version: Literal[1, 2] = 2
    body: ReceiptBody
    signature: B64Url
    closings: dict[Hex32, CompactJws]
    attestation: DsseEnvelope | None = None


RECEIPT_CONTEXT = b"strongroom receipt 1\n"
