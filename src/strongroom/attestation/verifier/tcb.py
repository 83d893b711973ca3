"""Which of the vendor's TCB levels a platform and its quoting enclave reach.

Source: Intel SGX Provisioning Certification Service API, version 4, "TCB levels: how to find the status".
"""

from dataclasses import dataclass
from typing import Final

from strongroom.attestation.endorsements.tcb import QeIdentity, QeLevel, TcbInfo, TcbLevel, TcbStatus
from strongroom.attestation.evidence.pck import PckExtension
from strongroom.attestation.evidence.sgx_quote import SgxReportBody
from strongroom.base.errors import Mismatch, VerificationError

_FROM_BEST_TO_WORST: Final[tuple[TcbStatus, ...]] = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
_NEEDS_CONFIGURATION: Final = ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbResult:
    """Status and advisories of platform and quoting enclave together."""

    status: TcbStatus
    advisory_ids: tuple[str, ...]
    tcb_date: str


def check_qe_identity(report: SgxReportBody, identity: QeIdentity) -> None:
    """Check that the quoting enclave is the vendor's.

    Args:
        report: The quoting enclave's report, its signature verified.
        identity: The vendor's description, its signature verified.

    Raises:
        VerificationError: It is another enclave, or a debug one; all differences are named.
    """
    attributes_mask = bytes.fromhex(identity.attributes_mask)
    miscselect_mask = int(identity.miscselect_mask, 16)
    found = {
        "qe mrsigner": (identity.mrsigner.lower(), report.mrsigner.hex()),
        "qe isv_prod_id": (str(identity.isvprodid), str(report.isv_prod_id)),
        "qe attributes": (
            _masked(bytes.fromhex(identity.attributes), attributes_mask).hex(),
            _masked(report.attributes.to_bytes(), attributes_mask).hex(),
        ),
        "qe miscselect": (
            f"{int(identity.miscselect, 16) & miscselect_mask:08x}",
            f"{report.miscselect & miscselect_mask:08x}",
        ),
        "qe debug": ("False", str(report.attributes.debug)),
    }
    mismatches = tuple(
        Mismatch(name=name, expected=expected, actual=actual)
        for name, (expected, actual) in found.items()
        if expected != actual
    )
    if mismatches:
        raise VerificationError("the quote was made by another quoting enclave", mismatches=mismatches)


def find_tcb(pck: PckExtension, tcb_info: TcbInfo, *, qe_svn: int, qe_identity: QeIdentity) -> TcbResult:
    """Find the TCB status.

    Args:
        pck: The platform's versions, from its verified certificate.
        tcb_info: The vendor's levels for this platform family, best first.
        qe_svn: The quoting enclave's version.
        qe_identity: The vendor's levels for the quoting enclave.

    Returns:
        The worse of both, and all advisories.

    Raises:
        VerificationError: Another platform family, no level is reached, or the level is revoked.
    """
    if (pck.fmspc, pck.pceid) != (tcb_info.fmspc.lower(), tcb_info.pce_id.lower()):
        raise VerificationError("the TCB info is of another platform family")
    platform = _platform_level(pck, tcb_info)
    qe = _qe_level(qe_svn, qe_identity)
    status = _converge(platform.tcb_status, qe.tcb_status)
    if status == "Revoked":
        raise VerificationError("the vendor has revoked this platform's TCB level", action="Update the platform.")
    advisories = {*platform.advisory_ids, *qe.advisory_ids}
    return TcbResult(status=status, advisory_ids=tuple(sorted(advisories)), tcb_date=platform.tcb_date)


def _platform_level(pck: PckExtension, tcb_info: TcbInfo) -> TcbLevel:
    for level in tcb_info.tcb_levels:
        required = (component.svn for component in level.tcb.sgxtcbcomponents)
        reached = all(have >= need for have, need in zip(pck.tcb_components, required, strict=True))
        if reached and pck.pce_svn >= level.tcb.pcesvn:
            return level
    raise VerificationError("the platform reaches none of the vendor's TCB levels", action="Update the platform.")


def _qe_level(qe_svn: int, identity: QeIdentity) -> QeLevel:
    for level in sorted(identity.tcb_levels, key=lambda level: level.tcb.isvsvn, reverse=True):
        if qe_svn >= level.tcb.isvsvn:
            return level
    raise VerificationError("the quoting enclave reaches none of the vendor's TCB levels", action="Update it.")


def _converge(platform: TcbStatus, qe: TcbStatus) -> TcbStatus:
    if qe == "OutOfDate" and platform in _NEEDS_CONFIGURATION:
        return "OutOfDateConfigurationNeeded"
    return max(platform, qe, key=_FROM_BEST_TO_WORST.index)


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(left & right for left, right in zip(value, mask, strict=True))
