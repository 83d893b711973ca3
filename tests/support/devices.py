"""Fake device trees: they behave as kernels and library operating systems do, over simulated hardware.

Every fault is one field. The files that open_device looks for lie in a real folder; what happens when they are written
and read is done here, because no ordinary file does it.
"""

import ctypes
import errno
import os
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support.amd import AmdBench, amd_bench
from tests.support.platform import CONFIG_ID, Bench

from strongroom.attestation.attester import occlum, sev_guest
from strongroom.attestation.attester.controls import Argument
from strongroom.attestation.evidence.snp_report import SnpReport
from strongroom.base.errors import LimitError
from strongroom.crypto import x509

BENCH = Bench.new()
GUIDS = {
    "VCEK": "63da758d-e664-4564-adc5-f4b93be8accd",
    "VLEK": "a8074bc2-a25a-483e-aae6-39c045a0b8a1",
    "ASK": "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "ARK": "c0b406a4-a803-4952-9743-3fb6014cd0ae",
}
Maker = Callable[[bytes], bytes]
"""Makes a quote of 64 bytes of report data."""


def sgx_maker(bench: Bench = BENCH, *, config_id: bytes = CONFIG_ID) -> Maker:
    return lambda report_data: bench.quote(report_data=report_data, config_id=config_id)


def tdx_maker(bench: Bench = BENCH, *, mrconfigid: bytes = CONFIG_ID[:48]) -> Maker:
    return lambda report_data: bench.td_quote(report_data=report_data, mrconfigid=mrconfigid)


def snp_report(bench: AmdBench, report_data: bytes, *, vmpl: int = 0, host_data: bytes = CONFIG_ID[:32]) -> SnpReport:
    return bench.report(report_data=report_data, host_data=host_data, vmpl=vmpl)


def table_entry(name: str, offset: int, length: int) -> bytes:
    return uuid.UUID(GUIDS.get(name, name)).bytes + struct.pack("<II", offset, length)


def certificate_table(certificates: Mapping[str, bytes], *, page_bytes: int = 4096) -> bytes:
    """A table as hosts lay it out: entries, an entry of zeros, certificates, filled up to whole pages."""
    head, body = b"", b""
    start = (len(certificates) + 1) * 24
    for name, certificate in certificates.items():
        head += table_entry(name, start + len(body), len(certificate))
        body += certificate
    table = head + bytes(24) + body
    return table.ljust(-(-len(table) // page_bytes) * page_bytes, b"\0")


def chip_certificates(bench: AmdBench | None = None) -> dict[str, bytes]:
    certificates = (bench or amd_bench()).amd.certificates
    return {"VCEK": certificates["VCEK"], "ASK": certificates["ask"], "ARK": certificates["ark"]}


def pem_chain(*certificates: bytes) -> str:
    return "".join(map(x509.to_pem, certificates))


def make_tree(root: Path, *places: str) -> Path:
    """The files and folders (with a final slash) that a device's place is recognised by."""
    for place in places:
        path = root / place
        (path if place.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not place.endswith("/"):
            path.touch()
    return root


class PseudoFiles:
    """Folders are not made in this tree unless a device does it."""

    errors: dict[str, int]

    def refuse(self, name: str) -> None:
        if name in self.errors:
            raise OSError(self.errors[name], os.strerror(self.errors[name]), name)

    def limited(self, name: str, data: bytes, limit_bytes: int) -> bytes:
        if len(data) > limit_bytes:
            raise LimitError(f"{name} of the quoting device is larger than allowed")
        return data


@dataclass(kw_only=True)
class GramineTree(PseudoFiles):
    """/dev/attestation of one process.

    `edit` changes what is quoted; `errors` says which file refuses with which number.
    """

    attestation_type: bytes = b"dcap"
    make: Maker = field(default_factory=sgx_maker)
    edit: Callable[[bytes], bytes] = lambda quote: quote
    errors: dict[str, int] = field(default_factory=dict)
    report_data: bytes | None = None
    keeps_first: bool = False

    def read(self, path: Path, *, limit_bytes: int) -> bytes:
        self.refuse(path.name)
        match path.name:
            case "attestation_type":
                return self.attestation_type
            case "quote":
                assert self.report_data is not None
                return self.limited("quote", self.edit(self.make(self.report_data)), limit_bytes)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path.name)

    def write(self, path: Path, data: bytes) -> None:
        self.refuse(path.name)
        assert (path.name, len(data)) == ("user_report_data", 64)
        if self.report_data is None or not self.keeps_first:
            self.report_data = data

    def make_folder(self, path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path.name)

    remove_folder = make_folder


@dataclass
class Request:
    generation: int = 0
    inblob: bytes = b""
    privlevel: int = 0


@dataclass(kw_only=True)
class TsmTree(PseudoFiles):
    """configfs-tsm: a folder that is made has attributes, a write raises the generation, and nothing can stay open.

    `others_write` is the name of the attribute whose reading somebody else uses for a write of their own.
    """

    provider: bytes = b"tdx_guest\n"
    report: Callable[[Request], bytes] = lambda request: tdx_maker()(request.inblob)
    auxblob: bytes | None = None
    privlevel_floor: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    drops_inblob: bool = False
    others_write: str = ""
    requests: dict[Path, Request] = field(default_factory=dict)
    made: list[Path] = field(default_factory=list)

    def make_folder(self, path: Path) -> None:
        self.refuse("mkdir")
        if path in self.requests:
            raise FileExistsError(errno.EEXIST, "File exists", path.name)
        self.requests[path] = Request()
        self.made.append(path)

    def remove_folder(self, path: Path) -> None:
        self.refuse("rmdir")
        del self.requests[path]

    def write(self, path: Path, data: bytes) -> None:
        request = self.requests[path.parent]
        self.refuse(path.name)
        match path.name:
            case "inblob":
                if self.drops_inblob:  # the kernel takes what was written at close, whose errors nobody sees
                    return
                request.inblob = data
            case "privlevel":
                if int(data) < self.privlevel_floor:
                    raise OSError(errno.EINVAL, "Invalid argument", path.name)
                request.privlevel = int(data)
            case _:
                raise PermissionError(errno.EACCES, "Permission denied", path.name)
        request.generation += 1

    def read(self, path: Path, *, limit_bytes: int) -> bytes:
        request = self.requests[path.parent]
        self.refuse(path.name)
        if path.name == self.others_write:
            request.generation += 1
        match path.name:
            case "provider":
                return self.provider
            case "generation":
                return f"{request.generation}\n".encode()
            case "privlevel_floor":
                return f"{self.privlevel_floor}\n".encode()
            case "outblob":
                if not request.inblob and not self.drops_inblob:
                    raise OSError(errno.EINVAL, "Invalid argument", path.name)
                return self.limited(path.name, self.report(request), limit_bytes)
            case "auxblob" if self.auxblob is not None:
                return self.limited(path.name, self.auxblob, limit_bytes)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path.name)


def snp_tree(**changed: object) -> TsmTree:
    """configfs-tsm of an SEV-SNP guest whose host hands out the chip's certificates."""
    bench = amd_bench()
    tree = TsmTree(
        provider=b"sev_guest\n",
        report=lambda request: bench.amd.sign(snp_report(bench, request.inblob, vmpl=request.privlevel)),
        auxblob=certificate_table(chip_certificates()),
    )
    return replace(tree, **changed)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class OcclumDriver:
    """/dev/sgx: follows the addresses that it is given, as the library operating system does."""

    make: Maker = field(default_factory=sgx_maker)
    busy: int = 0
    errors: dict[int, int] = field(default_factory=dict)
    announced: int | None = None
    says_size: int | None = None
    calls: list[int] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def ioctl(self, device: int, request: int, argument: Argument) -> object:
        os.fstat(device)
        self.calls.append(request)
        if request in self.errors:
            raise OSError(self.errors[request], os.strerror(self.errors[request]))
        if request == occlum.GET_DCAP_QUOTE_SIZE:
            assert isinstance(argument, ctypes.c_uint32)
            argument.value = len(self.make(bytes(64))) if self.announced is None else self.announced
            return 0
        assert request == occlum.GEN_DCAP_QUOTE
        assert isinstance(argument, occlum.GenDcapQuote)
        if self.busy > 0:
            self.busy -= 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        size = ctypes.c_uint32.from_address(argument.quote_len)
        quote = self.make(ctypes.string_at(argument.report_data, 64))[: size.value]
        ctypes.memmove(argument.quote_buf, quote, len(quote))
        size.value = len(quote) if self.says_size is None else self.says_size
        return 0


@dataclass(kw_only=True)
class SevGuestDriver:
    """/dev/sev-guest. `vmm_error` is what the host answers, `busy` how often it is busy before."""

    report: Callable[[bytes, int], bytes] = lambda data, vmpl: amd_bench().amd.sign(
        snp_report(amd_bench(), data, vmpl=vmpl)
    )
    table: bytes = field(default_factory=lambda: certificate_table(chip_certificates()))
    errors: dict[int, int] = field(default_factory=dict)
    vmm_error: int = 0
    busy: int = 0
    status: int = 0
    says_size: int | None = None
    calls: list[int] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def ioctl(self, device: int, request: int, argument: Argument) -> object:
        os.fstat(device)
        self.calls.append(request)
        assert isinstance(argument, sev_guest.GuestRequest)
        assert ctypes.sizeof(argument) == request >> 16 & 0x3FFF == 32
        argument.exitinfo2 = 0
        if request in self.errors:
            raise OSError(self.errors[request], os.strerror(self.errors[request]))
        if self.busy > 0 or self.vmm_error:
            argument.exitinfo2 = (2 if self.busy > 0 else self.vmm_error) << 32
            self.busy -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        asked = sev_guest.ReportRequest.from_address(argument.req_data)
        if request == sev_guest.SNP_GET_EXT_REPORT:
            extended = sev_guest.ExtendedReportRequest.from_address(argument.req_data)
            assert extended.certs_len % 4096 == 0
            assert extended.certs_len <= sev_guest.CERTIFICATES_BYTES
            ctypes.memmove(extended.certs_address, self.table, len(self.table))
        report = self.report(bytes(asked.user_data), asked.vmpl)
        size = len(report) if self.says_size is None else self.says_size
        response = struct.pack("<II24x", self.status, size) + report
        ctypes.memmove(argument.resp_data, response, len(response))
        return 0
