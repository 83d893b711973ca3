"""Evidence of an Azure confidential VM: the HCL report that its vTPM keeps, and a quote of that vTPM.

On these VMs the paravisor ("HCL") asks the hardware for the report, before the guest starts. It binds the vTPM's
attestation key (AK), the VM's configuration and 64 bytes of the guest's choice, all in one JSON document whose hash
stands in the report data. The guest then signs what is fresh, a nonce and its PCRs, with that key.

Source: Azure confidential VM guest attestation (`IsolationInfo.cpp`, `TpmInfo.cpp`); kinvolk azure-cvm-tooling
(`az-cvm-vtpm`, HCL report); TCG, TPM 2.0 Library, Part 2: Structures, 10.12 (TPMS_ATTEST).
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from strongroom.attestation.evidence.reader import ByteReader
from strongroom.attestation.evidence.snp_report import REPORT_BYTES as SNP_REPORT_BYTES
from strongroom.attestation.evidence.tpm import ALG_SHA256, read_attest_header, sized
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm, UnverifiedEvidence
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import VerifyingKey

HclKind: TypeAlias = Literal["snp", "tdx"]

AK_KID: Final = "HCLAkPub"
TDREPORT_BYTES: Final = 1024
USER_DATA_BYTES: Final = 64
GUEST_PCRS: Final = tuple(range(8))
"""What the firmware and the boot loader extend; what Azure's client attests on Linux."""

_HEADER: Final = struct.Struct("<4sIIII12x")
_REQUEST: Final = struct.Struct("<IIIII")
_HARDWARE_AREA_BYTES: Final = SNP_REPORT_BYTES
_MAGIC: Final = b"HCLA"
_REQUEST_TYPE: Final = 2
_VERSIONS: Final = (1, 2)
_KINDS: Final[Mapping[int, HclKind]] = {2: "snp", 4: "tdx"}
_HASHES: Final = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}
_HARDWARE_BYTES: Final[Mapping[HclKind, int]] = {"snp": SNP_REPORT_BYTES, "tdx": TDREPORT_BYTES}
_REPORT_DATA_BYTES: Final = 64

_TPM_ST_ATTEST_QUOTE: Final = 0x8018
_SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """What the vTPM's NV index 0x01400001 holds.

    Attributes:
        kind: Of which hardware the report is.
        hardware_report: The SEV-SNP report (1184 bytes) or the TDREPORT (1024 bytes).
        runtime_data: The exact bytes of the paravisor's JSON document.
        report_data: 64 bytes; what the hardware's report data must be to stand for this document.
        attestation_key: The vTPM's AK, RSA.
        vm_configuration: What the paravisor says about the VM, such as `secure-boot`.
        user_data: 64 bytes that the guest chose; zero if it chose none.
    """

    kind: HclKind
    hardware_report: bytes
    runtime_data: bytes
    report_data: bytes
    attestation_key: VerifyingKey
    vm_configuration: Mapping[str, Any]
    user_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmQuote:
    """TPMS_ATTEST of a quote.

    Attributes:
        qualified_signer: Name of the key that signed.
        extra_data: What the caller gave: the nonce.
        clock: Milliseconds since the TPM was cleared.
        reset_count: How often it was reset.
        restart_count: How often it was suspended since.
        safe: Whether the clock never went back.
        firmware_version: As the TPM's maker writes it.
        pcrs: The quoted registers of the SHA-256 bank, ascending.
        pcr_digest: SHA-256 over their values.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int
    pcrs: tuple[int, ...]
    pcr_digest: bytes


def parse_hcl_report(report_bytes: bytes) -> HclReport:
    """Read an HCL report.

    Args:
        report_bytes: The NV index, with the zeros that fill it up.

    Returns:
        The report; its values are claims until `verify_azure_vm` has verified them.

    Raises:
        FormatError: Another format, version, kind of hardware or hash; bytes that should be zero and are not; runtime
            data without an attestation key.
    """
    start = _HEADER.size + _HARDWARE_AREA_BYTES
    if len(report_bytes) < start + _REQUEST.size:
        raise FormatError("the HCL report is truncated")
    magic, version, _size, request_type, _status = _HEADER.unpack_from(report_bytes)
    if magic != _MAGIC or version not in _VERSIONS or request_type != _REQUEST_TYPE:
        raise FormatError("not an HCL report of version 1 or 2")
    _data_size, _data_version, report_type, hash_type, length = _REQUEST.unpack_from(report_bytes, start)
    kind, hash_function = _KINDS.get(report_type), _HASHES.get(hash_type)
    if kind is None or hash_function is None:
        raise FormatError("the HCL report is of unknown hardware, or uses an unknown hash")
    runtime_data = report_bytes[start + _REQUEST.size :][:length]
    if len(runtime_data) != length:
        raise FormatError("the HCL report is truncated")
    area = report_bytes[_HEADER.size : start]
    hardware_report = area[: _HARDWARE_BYTES[kind]]
    if any(area[len(hardware_report) :]) or any(report_bytes[start + _REQUEST.size + length :]):
        raise FormatError("a byte of the HCL report that should be zero is not")
    report_data = hash_function(runtime_data).digest().ljust(_REPORT_DATA_BYTES, b"\0")
    return read_paravisor_document(runtime_data, kind=kind, hardware_report=hardware_report, report_data=report_data)


def read_paravisor_document(
    runtime_data: bytes, *, kind: HclKind, hardware_report: bytes, report_data: bytes | None = None
) -> HclReport:
    """Read the paravisor's JSON document, where it comes without the report around it.

    Args:
        runtime_data: The document's exact bytes.
        kind: Of which hardware the report is.
        hardware_report: The hardware's report that should stand for the document.
        report_data: What its report data must be; without it SHA-256 of the document and 32 zero bytes.

    Returns:
        The report; its values are claims until `verify_azure_vm` or `verify_azure_guest` has verified them.

    Raises:
        FormatError: No strict JSON object, no attestation key or several, no configuration.
    """
    if report_data is None:
        report_data = hashlib.sha256(runtime_data).digest().ljust(_REPORT_DATA_BYTES, b"\0")
    runtime = parse_json_object(runtime_data)
    match runtime:
        case {"keys": [*keys], "vm-configuration": dict(configuration)}:
            pass
        case _:
            raise FormatError("the HCL report's runtime data names no keys or no configuration")
    named = [key for key in keys if isinstance(key, dict) and key.get("kid") == AK_KID]
    if len(named) != 1 or named[0].get("key_ops") != ["sign"]:
        raise FormatError("the HCL report names no attestation key, or several")
    user_data = runtime.get("user-data", "00" * USER_DATA_BYTES)
    if not isinstance(user_data, str):
        raise FormatError("the HCL report's user data is not text")
    return HclReport(
        kind=kind,
        hardware_report=hardware_report,
        runtime_data=runtime_data,
        report_data=report_data,
        attestation_key=VerifyingKey.from_jwk(named[0]),
        vm_configuration=configuration,
        user_data=from_hex(user_data.lower(), size_bytes=USER_DATA_BYTES),
    )


def parse_tpm_quote(attest_bytes: bytes) -> TpmQuote:
    """Read a TPM's quote.

    Args:
        attest_bytes: TPMS_ATTEST, as the TPM signed it; nothing behind it.

    Raises:
        FormatError: Not a quote over registers of the SHA-256 bank alone, truncated, or with bytes behind it.

    Source: TCG TPM 2.0 Library, Part 2, 10.12.8 (TPMS_ATTEST), 10.12.1 (TPMS_QUOTE_INFO), 10.6.2 (TPMS_PCR_SELECTION).
    """
    reader = ByteReader(attest_bytes, what="the TPM's quote")
    header = read_attest_header(reader, kind=_TPM_ST_ATTEST_QUOTE, what="a TPM's quote")
    if reader.big_endian(4) != 1 or reader.big_endian(2) != ALG_SHA256:
        raise FormatError("the TPM's quote is not over the SHA-256 bank alone")
    bits = int.from_bytes(reader.take(reader.big_endian(1)), "little")
    pcr_digest = sized(reader)
    reader.finish()
    if len(pcr_digest) != _SHA256_BYTES:
        raise FormatError("the TPM's quote has no SHA-256 digest")
    return TpmQuote(
        qualified_signer=header.qualified_signer,
        extra_data=header.extra_data,
        clock=header.clock,
        reset_count=header.reset_count,
        restart_count=header.restart_count,
        safe=header.safe,
        firmware_version=header.firmware_version,
        pcrs=tuple(number for number in range(bits.bit_length()) if bits >> number & 1),
        pcr_digest=pcr_digest,
    )


def azure_vm_of(evidence: UnverifiedEvidence) -> UnverifiedAzureVm:
    """Return evidence of a confidential VM, as it travels beside that of other TEEs, in the form that is verified.

    Raises:
        FormatError: No vTPM speaks in it, or the paravisor's document is of another hardware's evidence.
        LimitError: A part is larger than allowed.
    """
    vtpm = evidence.vtpm
    if vtpm is None or evidence.runtime_data is None:
        raise FormatError("the evidence is not a confidential VM's")
    hcl = parse_hcl_report(vtpm.hcl_report)
    if hcl.kind != evidence.kind or (hcl.kind == "snp" and hcl.hardware_report != evidence.quote):
        raise FormatError("the paravisor's report is of another hardware report than the one beside it")
    return UnverifiedAzureVm(
        hcl_report=vtpm.hcl_report,
        td_quote=evidence.quote if evidence.kind == "tdx" else None,
        tpm_quote=vtpm.tpm_quote,
        tpm_signature=vtpm.tpm_signature,
        pcr_values=tuple(vtpm.pcrs[number] for number in sorted(vtpm.pcrs)),
        runtime_data=evidence.runtime_data,
    )


def demand_vtpm_binds(evidence: UnverifiedAzureVm, *, report_data: bytes) -> None:
    """Refuse a confidential VM's evidence that does not bind these very bytes of runtime data.

    1. The hardware's report data stand for the paravisor's document, which names the vTPM's key.
    2. That key signed the quote, whose nonce is SHA-256 of the runtime data.
    The hardware's own signature MUST be verified by others (`verify_azure_vm`).

    Args:
        evidence: The evidence.
        report_data: What the hardware's report has in that field.

    Raises:
        FormatError: A part is malformed.
        VerificationError: Something else is bound.
    """
    hcl, quote = parse_hcl_report(evidence.hcl_report), parse_tpm_quote(evidence.tpm_quote)
    if hcl.report_data != report_data:  # 1
        raise VerificationError("the hardware does not vouch for the vTPM's key")
    hcl.attestation_key.verify(evidence.tpm_quote, evidence.tpm_signature)  # 2
    if quote.extra_data != hashlib.sha256(evidence.runtime_data).digest():
        raise VerificationError("the vTPM's quote does not bind this runtime data")
