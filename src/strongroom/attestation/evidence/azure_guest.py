"""Evidence in the form of Azure's guest attestation: bytes out of its JSON, nothing of it known to be true.

Source: Azure guest attestation client library (`AttestationParameters.cpp`, `TpmInfo.cpp`, `IsolationInfo.cpp`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.evidence.azure_vtpm import HclReport, read_paravisor_document
from strongroom.base.encoding import from_any_b64
from strongroom.base.errors import FormatError, LimitError, RefusedError
from strongroom.base.limits import LIMITS
from strongroom.wire.azure_guest import AttestationInfo, GuestTpmInfo, IsolationEvidence, SnpProof

_MAX_TEXT: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSystem:
    """What the guest says of its operating system; nothing vouches for it."""

    protocol_version: str
    kind: str
    distribution: str
    build: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedAzureGuest:
    """What a guest of an Azure confidential VM sends to `POST /attest/AzureGuest`.

    Attributes:
        hcl: The paravisor's document, and on SEV-SNP the hardware's report.
        td_quote: On TDX the hardware's quote; None on SEV-SNP.
        certificate_chain: On SEV-SNP the certificates that the guest sent, PEM; empty on TDX.
        aik_certificate: DER of the attestation key's certificate; may be empty.
        aik_public: TPM2B_PUBLIC of the attestation key.
        tpm_quote: TPMS_ATTEST of the quote.
        tpm_signature: Signature over it.
        pcr_values: The quoted registers' values by number.
        ephemeral_public: TPM2B_PUBLIC of the key to which the result is to be sealed.
        certification: TPMS_ATTEST about that key.
        certification_signature: Signature over it.
        event_log: The firmware's event log; may be empty.
        client_payload: What the caller wants to see in the result, base64 as it was sent, by name.
        system: The guest's operating system.
    """

    hcl: HclReport
    td_quote: bytes | None
    certificate_chain: bytes
    aik_certificate: bytes
    aik_public: bytes
    tpm_quote: bytes
    tpm_signature: bytes
    pcr_values: Mapping[int, bytes]
    ephemeral_public: bytes
    certification: bytes
    certification_signature: bytes
    event_log: bytes
    client_payload: Mapping[str, str]
    system: GuestSystem


def parse_attestation_info(info_json: bytes) -> UnverifiedAzureGuest:
    """Read what a guest sends.

    Args:
        info_json: The JSON text inside `attestationInfo`.

    Returns:
        Its parts; nothing of it is verified.

    Raises:
        FormatError: Not such a message, or a part is malformed.
        LimitError: A part is larger than allowed.
        RefusedError: No hardware isolates the VM (trusted launch).
    """
    info = AttestationInfo.from_json(info_json)
    if info.IsolationInfo.Type == "TrustedLaunch":
        raise RefusedError(
            "the VM is started by trusted launch, and no hardware isolates it from its host",
            action="Use a confidential VM (SEV-SNP or TDX).",
        )
    evidence = info.IsolationInfo.Evidence
    if evidence is None:
        raise FormatError("IsolationInfo needs Evidence")
    hcl, td_quote, chain = _hardware(evidence, is_snp=info.IsolationInfo.Type == "SevSnp")
    tpm = info.TpmInfo
    payload = dict(info.ClientPayload or {})
    if sum(map(len, payload.values())) > LIMITS.runtime_data_bytes * 4 // 3 + 4:
        raise LimitError("the client payload is larger than allowed")
    return UnverifiedAzureGuest(
        hcl=hcl,
        td_quote=td_quote,
        certificate_chain=chain,
        aik_certificate=_decode(tpm.AikCert),
        aik_public=_decode(tpm.AikPub),
        tpm_quote=_decode(tpm.PcrQuote),
        tpm_signature=_decode(tpm.PcrSignature),
        pcr_values=_registers(tpm),
        ephemeral_public=_decode(tpm.EncKeyPub),
        certification=_decode(tpm.EncKeyCertifyInfo),
        certification_signature=_decode(tpm.EncKeyCertifyInfoSignature),
        event_log=from_any_b64(info.TcgLogs),
        client_payload=payload,
        system=GuestSystem(
            protocol_version=info.AttestationProtocolVersion,
            kind=_text(info.OSType, "OSType"),
            distribution=_text(info.OSDistro, "OSDistro"),
            build=_text(info.OSBuild, "OSBuild"),
            major=info.OSVersionMajor,
            minor=info.OSVersionMinor,
        ),
    )


def _hardware(evidence: IsolationEvidence, *, is_snp: bool) -> tuple[HclReport, bytes | None, bytes]:
    proof, document = _decode(evidence.Proof), _decode(evidence.RunTimeData)
    if not is_snp:
        return read_paravisor_document(document, kind="tdx", hardware_report=b""), proof, b""
    parts = SnpProof.from_json(proof)
    report = _decode(parts.SnpReport)
    return read_paravisor_document(document, kind="snp", hardware_report=report), None, _decode(parts.VcekCertChain)


def _registers(tpm: GuestTpmInfo) -> dict[int, bytes]:
    values = {each.Index: _decode(each.Digest) for each in tpm.PCRs}
    if len(values) != len(tpm.PCRs) or sorted(tpm.PcrSet) != sorted(values):
        raise FormatError("PCRs has other registers than PcrSet, or one twice")
    return dict(sorted(values.items()))


def _decode(text: str) -> bytes:
    data = from_any_b64(text)
    if len(data) > LIMITS.evidence_bytes:
        raise LimitError("a part of the evidence is larger than allowed")
    return data


def _text(encoded: str, name: str) -> str:
    try:
        text = from_any_b64(encoded).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name} is not text") from error
    if len(text) > _MAX_TEXT:
        raise LimitError(f"{name} is longer than allowed")
    return text
