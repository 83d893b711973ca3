"""Reports of SEV-SNP guests through the older device `/dev/sev-guest` (Linux 5.19 and later), without configfs-tsm.

Source: Linux, include/uapi/linux/sev-guest.h and Documentation/virt/coco/sev-guest.rst; AMD, SEV-SNP Firmware ABI
(document 56860), MSG_REPORT_REQ and MSG_REPORT_RSP.
"""

import ctypes
import errno
import struct
from functools import partial
from pathlib import Path
from typing import Final

from strongroom.attestation.attester.controls import Controls, is_busy, opened
from strongroom.attestation.attester.device import Quote
from strongroom.attestation.attester.snp_certificates import certificate_chain
from strongroom.attestation.evidence.snp_report import REPORT_BYTES, parse_snp_report
from strongroom.base.errors import FormatError, LimitError, UnavailableError

DEVICE: Final = "dev/sev-guest"
SNP_GET_REPORT: Final = 0xC0205300
SNP_GET_EXT_REPORT: Final = 0xC0205302
CERTIFICATES_BYTES: Final = 0x4000
"""The most that the kernel takes from the host (SEV_FW_BLOB_MAX_SIZE)."""
_MESSAGE_VERSION: Final = 1
_RESPONSE_BYTES: Final = 4000
_RESPONSE: Final = struct.Struct("<II24x")
_VMM_ERROR_SHIFT: Final = 32
_VMM_INVALID_LENGTH: Final = 1
_VMM_BUSY: Final = 2
_NO_EXTENDED_REQUESTS: Final = (errno.ENOTTY, errno.EOPNOTSUPP)
_NOT_THERE: Final = "Run this as root inside an SEV-SNP guest whose kernel has the driver sev-guest."


class ReportRequest(ctypes.Structure):
    """snp_report_req: the guest's 64 bytes and the privilege level that the report shall name."""

    _fields_ = (("user_data", ctypes.c_uint8 * 64), ("vmpl", ctypes.c_uint32), ("reserved", ctypes.c_uint8 * 28))


class ExtendedReportRequest(ctypes.Structure):
    """snp_ext_report_req: the same, with a place for the host's certificates."""

    _fields_ = (("data", ReportRequest), ("certs_address", ctypes.c_uint64), ("certs_len", ctypes.c_uint32))


class GuestRequest(ctypes.Structure):
    """snp_guest_request_ioctl: addresses of request and response; the error holds the firmware's and the host's."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("exitinfo2", ctypes.c_uint64),
    )


def ask_sev_guest(report_data: bytes, *, controls: Controls, root: Path, privilege_level: int = 0) -> Quote:
    """Have the firmware report on this guest.

    1. Ask for report and certificates; while the host is busy, again, a bounded number of times.
    2. If the kernel knows no such request, ask for the report alone.

    Args:
        report_data: 64 bytes.
        controls: How the driver is called.
        root: The root of the file system.
        privilege_level: The privilege level (VMPL) that the report shall name.

    Raises:
        ConfigurationError: There is no such device here.
        FormatError: The firmware's answer is malformed.
        LimitError: The host has more certificates than the kernel takes.
        UnavailableError: Firmware or host refuse, or stay busy.
    """
    plain = ReportRequest(user_data=(ctypes.c_uint8 * 64)(*report_data), vmpl=privilege_level)
    certificates = (ctypes.c_uint8 * CERTIFICATES_BYTES)()
    extended = ExtendedReportRequest(
        data=plain, certs_address=ctypes.addressof(certificates), certs_len=CERTIFICATES_BYTES
    )
    with opened(root / DEVICE, action=_NOT_THERE) as device:
        try:
            response = _ask(controls, device, SNP_GET_EXT_REPORT, extended)  # 1
        except OSError as error:
            if error.errno not in _NO_EXTENDED_REQUESTS:
                raise _refused(error) from error
            try:
                response = _ask(controls, device, SNP_GET_REPORT, plain)  # 2
            except OSError as second:
                raise _refused(second) from second
    report = _read_response(response)
    chain = certificate_chain(bytes(certificates), signing_key=parse_snp_report(report).signing_key)
    return Quote(kind="snp", data=report, certificate_chain=chain)


def _ask(controls: Controls, device: int, request: int, data: ReportRequest | ExtendedReportRequest) -> bytes:
    response = (ctypes.c_uint8 * _RESPONSE_BYTES)()
    argument = GuestRequest(
        msg_version=_MESSAGE_VERSION, req_data=ctypes.addressof(data), resp_data=ctypes.addressof(response)
    )
    try:
        controls.call_patiently(device, request, argument, busy=partial(_is_busy, argument))
    except OSError as error:
        if _vmm_error(argument) == _VMM_INVALID_LENGTH:
            raise LimitError(
                "the host has more certificates for the guest than the kernel takes",
                action="Ask the operator to load only VCEK or VLEK, ASK and ARK.",
            ) from error
        raise
    return bytes(response)


def _is_busy(argument: GuestRequest, error: OSError) -> bool:
    return is_busy(error) or _vmm_error(argument) == _VMM_BUSY


def _vmm_error(argument: GuestRequest) -> int:
    return int(argument.exitinfo2) >> _VMM_ERROR_SHIFT


def _refused(error: OSError) -> UnavailableError:
    return UnavailableError(
        f"the SEV-SNP firmware gave no report: {error.strerror}",
        action="Look at the guest's kernel log; without a usable message key (VMPCK) the guest must be started again.",
    )


def _read_response(response: bytes) -> bytes:
    status, size_bytes = _RESPONSE.unpack_from(response)
    if status != 0:
        raise UnavailableError(
            f"the SEV-SNP firmware refuses to report: status {status}",
            action="Ask for the privilege level at which this guest runs.",
        )
    if size_bytes != REPORT_BYTES:
        raise FormatError(f"the SEV-SNP firmware's report has {size_bytes} bytes, not {REPORT_BYTES}")
    return response[_RESPONSE.size : _RESPONSE.size + REPORT_BYTES]
