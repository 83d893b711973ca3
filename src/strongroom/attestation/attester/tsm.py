"""Quotes of TDX trust domains and reports of SEV-SNP guests, through the kernel's configfs-tsm (Linux 6.7 and later).

Source: Linux, Documentation/ABI/testing/configfs-tsm-report.
"""

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from strongroom.attestation.attester.device import Quote
from strongroom.attestation.attester.files import DeviceFiles
from strongroom.attestation.attester.snp_certificates import certificate_chain
from strongroom.attestation.evidence.dcap_quote import parse_tdx_quote
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    LimitError,
    Mismatch,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto.random import random_id

FOLDER: Final = "sys/kernel/config/tsm/report"
_TEXT_BYTES: Final = 4096
_TRY_AGAIN: Final = "Let nothing else in this TEE write to the request, and try again."
_MOUNT: Final = (
    "It needs Linux 6.7 or later with CONFIG_TSM_REPORTS and the driver tdx_guest or sev-guest, and configfs mounted: "
    "mount -t configfs none /sys/kernel/config"
)
_REFUSALS: Final[Mapping[int, tuple[type[StrongroomError], str, str]]] = {
    errno.EFBIG: (LimitError, "the report is larger than the kernel hands out", "Update the guest's kernel."),
    errno.EINVAL: (ConfigurationError, "the kernel took the report data or the privilege level for wrong", _TRY_AGAIN),
    errno.EWOULDBLOCK: (ConflictError, "the request was changed while the report was read", _TRY_AGAIN),
    errno.EBUSY: (UnavailableError, "the quoting device is busy", "Try again."),
    errno.ENOTTY: (ConfigurationError, "the kernel has no quoting device", _MOUNT),
    errno.ENXIO: (ConfigurationError, "the kernel has no quoting device", _MOUNT),
    errno.ENOENT: (ConfigurationError, "the kernel has no quoting interface (configfs-tsm)", _MOUNT),
    errno.EACCES: (ConfigurationError, "the quoting interface may not be used", "Start the agent as root of the TEE."),
    errno.EPERM: (ConfigurationError, "the quoting interface may not be used", "Start the agent as root of the TEE."),
    errno.ETIMEDOUT: (
        UnavailableError,
        "the host's quoting service did not answer in time",
        "Ask the operator whether the quoting service of the host (TDX: QGS) runs and is reachable from guests.",
    ),
}

_log = logging.getLogger(__name__)


def ask_tsm(report_data: bytes, *, files: DeviceFiles, root: Path, privilege_level: int = 0) -> Quote:
    """Have the kernel quote this trust domain or guest.

    1. Make a request of its own; it is removed in the end, whatever happens.
    2. Its provider says what this TEE is. On SEV-SNP ask for the privilege level, if the kernel may.
    3. Write the report data. The kernel hands them on when the file is closed, and then reports no error.
    4. Read the report, on SEV-SNP the certificates as well.
    5. The generation has grown by exactly what was written here: all of it was taken, and nobody else wrote.

    Args:
        report_data: 64 bytes.
        files: The operations on the files.
        root: The root of the file system.
        privilege_level: On SEV-SNP the privilege level (VMPL) to ask for.

    Raises:
        ConfigurationError: The kernel has no such interface, or not for this process.
        ConflictError: Somebody else wrote to the request.
        FormatError: What the kernel says is malformed.
        LimitError: It says more than allowed.
        RefusedError: Another kind of TEE, or a privilege level that this kernel may not ask for.
        UnavailableError: The hardware or the host's quoting service does not answer.
    """
    with _explained(), _request(files, root / FOLDER) as request:  # 1
        provider = _text(files, request / "provider")  # 2
        before = _number(files, request / "generation")
        writes = 0
        if provider == "sev_guest":
            _demand_level(files, request, privilege_level)
            files.write(request / "privlevel", str(privilege_level).encode("ascii"))
            writes += 1
        elif provider != "tdx_guest":
            raise RefusedError(
                "this kind of TEE is not supported",
                action="Use TDX or SEV-SNP.",
                mismatches=(Mismatch(name="provider", expected="tdx_guest or sev_guest", actual=provider[:80]),),
            )
        files.write(request / "inblob", report_data)  # 3
        writes += 1
        report = files.read(request / "outblob", limit_bytes=LIMITS.evidence_bytes)  # 4
        is_snp = provider == "sev_guest"
        table = files.read(request / "auxblob", limit_bytes=LIMITS.evidence_bytes) if is_snp else b""
        _demand_generation(_number(files, request / "generation"), before + writes)  # 5
    if not is_snp:
        return Quote(kind="tdx", data=parse_tdx_quote(report).to_bytes())  # some hosts fill it up with zeros
    chain = certificate_chain(table, signing_key=parse_snp_report(report).signing_key)
    return Quote(kind="snp", data=report, certificate_chain=chain)


@contextmanager
def _request(files: DeviceFiles, folder: Path) -> Iterator[Path]:
    request = folder / f"strongroom-{random_id()}"
    files.make_folder(request)
    try:
        yield request
    finally:
        try:
            files.remove_folder(request)
        except OSError as error:  # harmless: each request has a folder of its own, and this one holds no secret
            _log.warning("a quoting request could not be removed: %s", error.strerror)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind, message, action = _REFUSALS.get(
            error.errno or 0,
            (UnavailableError, f"the kernel gave no report: {error.strerror}", "Look at the guest's kernel log."),
        )
        raise kind(message, action=action) from error


def _demand_level(files: DeviceFiles, request: Path, level: int) -> None:
    floor = _number(files, request / "privlevel_floor")
    if level < floor:
        raise RefusedError(
            "this kernel may not ask for reports of that privilege level",
            action="Launch the guest without a paravisor at a higher level; approvals demand privilege level 0.",
            mismatches=(Mismatch(name="VMPL", expected=str(level), actual=f"{floor} or more"),),
        )


def _demand_generation(actual: int, expected: int) -> None:
    if actual != expected:
        raise ConflictError(
            "the quoting request was not only changed by this process",
            action=_TRY_AGAIN,
            mismatches=(Mismatch(name="generation", expected=str(expected), actual=str(actual)),),
        )


def _text(files: DeviceFiles, path: Path) -> str:
    return files.read(path, limit_bytes=_TEXT_BYTES).decode("ascii", errors="replace").strip()


def _number(files: DeviceFiles, path: Path) -> int:
    text = _text(files, path)
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(1 << 64))):
        raise FormatError(f"{path.name} of the quoting request is no number")
    return int(text)
