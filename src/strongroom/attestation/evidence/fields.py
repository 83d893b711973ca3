"""What evidence of every kind says, whatever its vendor calls it."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.base.errors import FormatError
from strongroom.wire.model import TeeKind

CONFIG_ID_BYTES: Final = 64
_LAUNCH_FIELDS: Final[Mapping[TeeKind, tuple[str, int]]] = MappingProxyType(
    {"sgx": ("CONFIG_ID", CONFIG_ID_BYTES), "tdx": ("MRCONFIGID", 48), "snp": ("HOST_DATA", 32)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFields:
    """The fields with one meaning on all hardware. They are claims until the evidence is verified.

    Attributes:
        report_data: 64 bytes that the TEE chose.
        measurement: MRENCLAVE (32 bytes), MRTD or MEASUREMENT (48 bytes).
        launched_with: What was fixed at launch: CONFIG_ID, MRCONFIGID or HOST_DATA; None for an enclave without key
            separation and sharing (KSS), which has no such field.
        vmpl: On SEV-SNP the privilege level of who asked, else None.
    """

    report_data: bytes
    measurement: bytes
    launched_with: bytes | None
    vmpl: int | None = None


def read_fields(kind: TeeKind, quote: bytes) -> EvidenceFields:
    """Read the common fields of a quote or report.

    Args:
        kind: The kind of evidence.
        quote: The bytes of the DCAP quote, or of the SEV-SNP report.

    Raises:
        FormatError: Not such evidence.
        LimitError: It is larger than `LIMITS.evidence_bytes`.
    """
    match kind:
        case "sgx":
            enclave = parse_sgx_quote(quote).report
            return EvidenceFields(
                report_data=enclave.report_data,
                measurement=enclave.mrenclave,
                launched_with=enclave.config_id if enclave.attributes.kss else None,
            )
        case "tdx":
            domain = parse_tdx_quote(quote).report
            return EvidenceFields(
                report_data=domain.report_data, measurement=domain.mrtd, launched_with=domain.mrconfigid
            )
        case "snp":
            guest = parse_snp_report(quote)
            return EvidenceFields(
                report_data=guest.report_data,
                measurement=guest.measurement,
                launched_with=guest.host_data,
                vmpl=guest.vmpl,
            )


def launch_field(kind: TeeKind) -> str:
    """Return the vendor's name of the field that is fixed at launch."""
    return _LAUNCH_FIELDS[kind][0]


def launch_value(kind: TeeKind, config_id: bytes) -> bytes:
    """Return what must stand in the field that is fixed at launch.

    Args:
        kind: The kind of evidence.
        config_id: 64 bytes: a SHA-256 digest and 32 zero bytes.

    Returns:
        The first 64 (SGX), 48 (TDX) or 32 bytes (SEV-SNP) of it.

    Raises:
        FormatError: Another size, or something stands behind the digest that the field cannot hold.
    """
    size = _LAUNCH_FIELDS[kind][1]
    if len(config_id) != CONFIG_ID_BYTES:
        raise FormatError(f"{CONFIG_ID_BYTES} bytes were expected")
    if any(config_id[size:]):
        raise FormatError(f"{launch_field(kind)} has {size} bytes, which do not hold this configuration")
    return config_id[:size]
