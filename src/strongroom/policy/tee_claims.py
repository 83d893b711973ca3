"""What each kind of TEE's claims are called, and what is demanded of each whatever else is approved.

Source: Azure Attestation, "Claim sets"; names with `x-ms-strongroom-` are ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from strongroom.base.encoding import Json
from strongroom.policy.claims import Claims
from strongroom.wire.model import TeeKind

HARDWARE: Final = "x-ms-strongroom-hardware"
"""Whether the hardware is real or simulated. Azure Attestation has no such claim: all that it vouches for is real."""
QUOTE_HASH: Final = "x-ms-strongroom-quotehash"
"""SHA-256 of the quote or report, for the kinds for which Azure Attestation has no such claim."""
ISOLATION: Final = "x-ms-isolation-tee"
"""In results of Azure confidential VMs: what the hardware under the paravisor says."""
AZURE_VM: Final = "azurevm"
"""Value of `x-ms-attestation-type` in these results."""
RUNTIME_ATTESTED: Final = "x-ms-strongroom-runtime-data-attested"
"""Whether the vTPM signed the runtime data."""
INITDATA: Final = "x-ms-strongroom-initdata"
"""SHA-256 of the document whose hash was fixed at launch."""
INITDATA_APPLICATION: Final = "x-ms-strongroom-initdata-application"
"""The application digest that this document names."""
POD_CONFIGURATION: Final = "x-ms-strongroom-pod-configuration"
"""Digest of everything else in it: what runs in the pod."""
POD_TEMPLATE: Final = "x-ms-strongroom-pod-template"
"""The same with the image left open: it says what runs together with the next one alone."""
IMAGE: Final = "x-ms-strongroom-image"
"""The image that the document lets the pod start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeClaims:
    """Names and demands of one kind.

    Attributes:
        attestation_type: Value of `x-ms-attestation-type`.
        measurement: Claim with what was measured at launch.
        launched_with: Claim with what the host fixed at launch.
        launched_with_bytes: Its size; the application digest stands first, zeros follow.
        report_data: Claim with what the TEE itself chose, 64 bytes: the hash of its runtime data.
        demanded: What every approval demands: the host can neither look into the TEE, nor move it away, nor has
            something in it more to say than what asks for keys.
    """

    attestation_type: str
    measurement: str
    launched_with: str
    launched_with_bytes: int
    report_data: str
    demanded: Mapping[str, str | int]

    def launch_value(self, application: str) -> str:
        """Return what the launch claim says for an application, by its digest in hexadecimal."""
        return application.ljust(2 * self.launched_with_bytes, "0")


TEE_CLAIMS: Final[Mapping[TeeKind, TeeClaims]] = MappingProxyType(
    {
        "sgx": TeeClaims(
            attestation_type="sgx",
            measurement="x-ms-sgx-mrenclave",
            launched_with="x-ms-sgx-config-id",
            launched_with_bytes=64,
            report_data="x-ms-sgx-report-data",
            demanded={"x-ms-sgx-is-debuggable": False},
        ),
        "tdx": TeeClaims(
            attestation_type="tdxvm",
            measurement="tdx_mrtd",
            launched_with="tdx_mrconfigid",
            launched_with_bytes=48,
            report_data="tdx_report_data",
            demanded={
                "tdx_td_attributes_debug": False,
                "dbgstat": "disabled",
                "tdx_td_attributes_septve_disable": True,
                "x-ms-strongroom-migratable": False,
            },
        ),
        "snp": TeeClaims(
            attestation_type="sevsnpvm",
            measurement="x-ms-sevsnpvm-launchmeasurement",
            launched_with="x-ms-sevsnpvm-hostdata",
            launched_with_bytes=32,
            report_data="x-ms-sevsnpvm-reportdata",
            demanded={
                "x-ms-sevsnpvm-is-debuggable": False,
                "x-ms-sevsnpvm-migration-allowed": False,
                "x-ms-sevsnpvm-vmpl": 0,
            },
        ),
    }
)


def hardware_type(claims: Claims) -> Json:
    """Return the attestation type of the hardware that a result is about; of a confidential VM the one below it."""
    match claims:
        case {"x-ms-attestation-type": "azurevm", "x-ms-isolation-tee": {"x-ms-attestation-type": str(kind)}}:
            return kind
        case _:
            return claims.get("x-ms-attestation-type")


def measurement_of(claims: Claims, tee: TeeKind) -> str | None:
    """Return what a result says was measured at launch; of a confidential VM what lies below it."""
    found: Json = claims.get(ISOLATION) if claims.get("x-ms-attestation-type") == AZURE_VM else claims
    value = found.get(TEE_CLAIMS[tee].measurement) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else None


def quote_hash(claims: Claims, tee: TeeKind) -> str | None:
    """Return the SHA-256, hexadecimal, of the quote that a result was made from.

    Args:
        claims: The claims of a verified attestation result.
        tee: The kind of TEE that the quote is said to be of.

    Returns:
        The digest; None where the result is of another kind, or does not say.
    """
    if hardware_type(claims) != TEE_CLAIMS[tee].attestation_type:
        return None
    match claims:
        case {"x-ms-sgx-collateral": {"quotehash": str(digest)}} if tee == "sgx":
            return digest
        case {"x-ms-strongroom-quotehash": str(digest)} if tee != "sgx":
            return digest
        case _:
            return None
