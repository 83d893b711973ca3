"""Which of the vendor's TCB levels a platform and its quoting enclave reach.

Source: Intel SGX Provisioning Certification Service API, version 4, "TCB levels: how to find the status".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from strongroom.attestation.endorsements.tcb import (
    QeIdentity,
    QeLevel,
    TcbComponent,
    TcbInfo,
    TcbLevel,
    TcbStatus,
    TdxModuleIdentity,
)
from strongroom.attestation.evidence.pck import PckExtension
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.base.errors import VerificationError, differences

PlatformStatus: TypeAlias = TcbStatus | Literal["TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"]
"""A level's status, or what follows from two levels of a trust domain: it was launched on a TDX module that is out of
date, and the module was replaced under it since."""

_FROM_BEST_TO_WORST: Final[tuple[TcbStatus, ...]] = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
_MODULE_SVN: Final = 0
_MODULE_VERSION: Final = 1
_MODULE_SVN_BYTES: Final = 2
_NEEDS_CONFIGURATION: Final = ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded")
_OUT_OF_DATE: Final = ("OutOfDate", "OutOfDateConfigurationNeeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbResult:
    """Status and advisories of platform, quoting enclave and TDX module together; the oldest date of their levels."""

    status: PlatformStatus
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
    mismatches = differences(found)
    if mismatches:
        raise VerificationError("the quote was made by another quoting enclave", mismatches=mismatches)


def find_tcb(
    pck: PckExtension,
    tcb_info: TcbInfo,
    *,
    qe_svn: int,
    qe_identity: QeIdentity,
    td_report: TdReportBody | None = None,
) -> TcbResult:
    """Find the TCB status.

    Args:
        pck: The platform's versions, from its verified certificate.
        tcb_info: The vendor's levels for this platform family, best first.
        qe_svn: The quoting enclave's version.
        qe_identity: The vendor's levels for the quoting enclave.
        td_report: The trust domain's report, which names the TDX module and its versions; None for an enclave.

    Returns:
        The worst of platform, quoting enclave and TDX module, and all advisories. A trust domain of TDX 1.5 has two
        versions, of its launch and of now: both must be known to the vendor and not revoked; the advisories and the
        date are those of its launch.

    Raises:
        VerificationError: Another platform family, an unknown TDX module, no level is reached, or one is revoked.

    Source: Intel SGX DCAP quote verification library, `convergeTcbStatuses` and `checkForRelaunch`.
    """
    if (pck.fmspc, pck.pceid) != (tcb_info.fmspc.lower(), tcb_info.pce_id.lower()):
        raise VerificationError("the TCB info is of another platform family")
    if td_report is not None:
        _check_module(td_report, tcb_info)
    qe = _level(qe_svn, qe_identity.tcb_levels, what="quoting enclave")
    launched = _appraise(pck, tcb_info, qe, tee_tcb_svn=None if td_report is None else td_report.tee_tcb_svn)
    if td_report is None or td_report.tee_tcb_svn2 is None:
        return launched
    current = _appraise(pck, tcb_info, qe, tee_tcb_svn=td_report.tee_tcb_svn2)
    return replace(launched, status=_after_relaunch(launched.status, current.status))


def _appraise(pck: PckExtension, tcb_info: TcbInfo, qe: QeLevel, *, tee_tcb_svn: bytes | None) -> TcbResult:
    """Appraise the platform with one set of the TDX module's versions, or without."""
    platform = _platform_level(pck, tcb_info, tee_tcb_svn)
    module = None if tee_tcb_svn is None else _module_level(tee_tcb_svn, tcb_info)
    status, date = platform.tcb_status, platform.tcb_date
    if module is not None:
        status, date = _converge(status, module.tcb_status), min(date, module.tcb_date)
    status = _converge(status, qe.tcb_status)
    if status == "Revoked":
        raise VerificationError("the vendor has revoked this platform's TCB level", action="Update the platform.")
    levels = (platform, qe) if module is None else (platform, module, qe)
    advisories = {advisory for level in levels for advisory in level.advisory_ids}
    return TcbResult(status=status, advisory_ids=tuple(sorted(advisories)), tcb_date=date)


def _after_relaunch(launched: PlatformStatus, current: PlatformStatus) -> PlatformStatus:
    """Return the status of a trust domain under which the TDX module was replaced."""
    if launched not in _OUT_OF_DATE or current in _OUT_OF_DATE:
        return launched
    if launched == "OutOfDateConfigurationNeeded" or current in _NEEDS_CONFIGURATION:
        return "TDRelaunchAdvisedConfigurationNeeded"
    return "TDRelaunchAdvised"


def _platform_level(pck: PckExtension, tcb_info: TcbInfo, tee_tcb_svn: bytes | None) -> TcbLevel:
    for level in tcb_info.tcb_levels:
        if (
            _reaches(pck.tcb_components, level.tcb.sgxtcbcomponents)
            and pck.pce_svn >= level.tcb.pcesvn
            and (tee_tcb_svn is None or _reaches_tdx(tee_tcb_svn, level))
        ):
            return level
    raise VerificationError("the platform reaches none of the vendor's TCB levels", action="Update the platform.")


def _reaches(have: Sequence[int], need: Sequence[TcbComponent]) -> bool:
    return all(svn >= component.svn for svn, component in zip(have, need, strict=True))


def _reaches_tdx(tee_tcb_svn: bytes, level: TcbLevel) -> bool:
    if level.tcb.tdxtcbcomponents is None:
        return False
    # A module with a version of its own is judged by its own levels: its two bytes are not the platform's.
    start = _MODULE_SVN_BYTES if tee_tcb_svn[_MODULE_VERSION] else 0
    return _reaches(tee_tcb_svn[start:], level.tcb.tdxtcbcomponents[start:])


def _module_identity(tee_tcb_svn: bytes, tcb_info: TcbInfo) -> TdxModuleIdentity | None:
    """Return the vendor's word on the TDX module of this version; None for the first one, which has none of its own."""
    version = tee_tcb_svn[_MODULE_VERSION]
    if not version:
        return None
    for identity in tcb_info.tdx_module_identities:
        if identity.id.upper() == f"TDX_{version:02X}":
            return identity
    raise VerificationError(f"the vendor does not know the TDX module of version {version}")


def _module_level(tee_tcb_svn: bytes, tcb_info: TcbInfo) -> QeLevel | None:
    identity = _module_identity(tee_tcb_svn, tcb_info)
    return None if identity is None else _level(tee_tcb_svn[_MODULE_SVN], identity.tcb_levels, what="TDX module")


def _check_module(report: TdReportBody, tcb_info: TcbInfo) -> None:
    """Check that the trust domain was launched on the vendor's TDX module, without attributes outside the mask."""
    module = _module_identity(report.tee_tcb_svn, tcb_info) or tcb_info.tdx_module
    if module is None:
        raise VerificationError("the vendor does not know the first TDX module")
    mask = bytes.fromhex(module.attributes_mask)
    found = {
        "tdx module mrsigner": (module.mrsigner.lower(), report.mrsignerseam.hex()),
        "tdx module attributes": (_masked(bytes.fromhex(module.attributes), mask).hex(), report.seam_attributes.hex()),
    }
    mismatches = differences(found)
    if mismatches:
        raise VerificationError("the trust domain runs on another TDX module", mismatches=mismatches)


def _level(svn: int, levels: Sequence[QeLevel], *, what: str) -> QeLevel:
    for level in sorted(levels, key=lambda level: level.tcb.isvsvn, reverse=True):
        if svn >= level.tcb.isvsvn:
            return level
    raise VerificationError(f"the {what} reaches none of the vendor's TCB levels", action="Update it.")


def _converge(platform: TcbStatus, part: TcbStatus) -> TcbStatus:
    if part == "OutOfDate" and platform in _NEEDS_CONFIGURATION:
        return "OutOfDateConfigurationNeeded"
    return max(platform, part, key=_FROM_BEST_TO_WORST.index)


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(left & right for left, right in zip(value, mask, strict=True))
