"""A software TPM, provisioned as the vTPM of an Azure confidential VM: swtpm's process behind a Unix socket."""

import hashlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.attestation.attester.azure_vtpm import AK_HANDLE, HCL_REPORT_INDEX, USER_DATA_INDEX
from strongroom.attestation.attester.tpm import Tpm, TpmChannel, TransientKey
from strongroom.attestation.evidence.azure_vtpm import AK_KID
from strongroom.attestation.evidence.tpm import (
    ALG_NULL,
    ALG_RSA,
    ALG_RSASSA,
    ALG_SHA256,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    parse_tpm_public,
    sized,
)
from strongroom.crypto.keys import VerifyingKey
from strongroom.simulation.azure_vm import SimulatedAzureVm

OWNER, ENDORSEMENT, PLATFORM, NULL = 0x40000001, 0x4000000B, 0x4000000C, 0x40000007
EVICT_CONTROL, CREATE_PRIMARY, NV_WRITE, PCR_EXTEND = 0x120, 0x131, 0x137, 0x182
DEADLINE_S = 30
AK_ATTRIBUTES = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | USER_WITH_AUTH | RESTRICTED | SIGN


class SocketTpm(TpmChannel):
    """A TPM behind a Unix socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE_S)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rb")

    def transact(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        header = self._stream.read(10)
        return header + self._stream.read(int.from_bytes(header[2:6], "big") - len(header))

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Paravisor(TpmChannel):
    """What sits between guest and vTPM: when the guest writes user data, it has the hardware make a new report."""

    def __init__(self, channel: TpmChannel, document: "ParavisorVm") -> None:
        self._channel, self._vm = channel, document
        self.td_quote: bytes | None = None
        self.report(bytes(64))

    def transact(self, command: bytes) -> bytes:
        response = self._channel.transact(command)
        _tag, _size, code = struct.unpack_from(">HII", command)
        if code == NV_WRITE and struct.unpack_from(">I", command, 14)[0] == USER_DATA_INDEX:
            self.report(command[-66:-2])
        return response

    def report(self, user_data: bytes) -> None:
        index, self.td_quote = self._vm.hcl_report(user_data)
        Tpm(self._channel).nv_write(HCL_REPORT_INDEX, index.rstrip(b"\0"))  # swtpm's indices end at 2048 bytes


@dataclass(frozen=True, kw_only=True)
class ParavisorVm(SimulatedAzureVm):
    """A simulated VM whose attestation key lives in a real (software) TPM."""

    ak: VerifyingKey = field(repr=False)

    def paravisor_document(self, user_data: bytes) -> bytes:
        named = type("Named", (), {"verifying_key": self.ak})()
        plain = SimulatedAzureVm(
            machine=self.machine, key=named, configuration=self.configuration, pcr_values=self.pcr_values
        )
        document = plain.paravisor_document(user_data)
        assert AK_KID.encode() in document
        return document


@contextmanager
def swtpm() -> Iterator[SocketTpm]:
    """A new TPM, started, not provisioned."""
    folder = Path(tempfile.mkdtemp(prefix="swtpm-"))  # not pytest's: a Unix socket's path has at most 107 bytes
    command = [
        "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}",
        "--server", f"type=unixio,path={folder}/tpm",
        "--ctrl", f"type=unixio,path={folder}/control",
        "--flags", "not-need-init,startup-clear",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    channel: SocketTpm | None = None
    try:
        channel = _connect(process, f"{folder}/tpm")
        yield channel
    finally:
        if channel is not None:
            channel.close()
        process.terminate()
        process.wait(timeout=DEADLINE_S)
        shutil.rmtree(folder)


def _connect(process: "subprocess.Popen[bytes]", path: str) -> SocketTpm:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return SocketTpm(path)
        except (FileNotFoundError, ConnectionRefusedError):
            assert process.poll() is None, "swtpm ended"
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.01)


def create_key(tpm: Tpm, *, hierarchy: int, attributes: int, policy: bytes = b"", signs: bool = False) -> TransientKey:
    """Make an RSA key of any template."""
    scheme = struct.pack(">HH", ALG_RSASSA, ALG_SHA256) if signs else struct.pack(">H", ALG_NULL)
    area = b"".join(
        (
            struct.pack(">HHI", ALG_RSA, ALG_SHA256, attributes),
            struct.pack(">H", len(policy)) + policy,
            struct.pack(">H", ALG_NULL) + scheme + struct.pack(">HIH", 2048, 0, 0),
        )
    )
    parameters = struct.pack(">HI", 4, 0) + struct.pack(">H", len(area)) + area + struct.pack(">HI", 0, 0)
    handle, reader = tpm._execute_with_handle(CREATE_PRIMARY, handles=(hierarchy,), passwords=1, parameters=parameters)
    public = sized(reader)
    return TransientKey(handle=handle, public=len(public).to_bytes(2, "big") + public)


def provision_ak(tpm: Tpm, *, handle: int = AK_HANDLE) -> VerifyingKey:
    """Make an attestation key, and keep it under a handle."""
    key = create_key(tpm, hierarchy=ENDORSEMENT, attributes=AK_ATTRIBUTES, signs=True)
    tpm.execute(EVICT_CONTROL, handles=(OWNER, key.handle), passwords=1, parameters=handle.to_bytes(4, "big"))
    tpm.flush(key.handle)
    return parse_tpm_public(key.public).key


def extend(tpm: Tpm, pcr: int, digest: bytes) -> None:
    tpm.execute(PCR_EXTEND, handles=(pcr,), passwords=1, parameters=struct.pack(">IH", 1, ALG_SHA256) + digest)


def event_log(events: list[tuple[int, int, bytes]]) -> bytes:
    """Return a firmware's log of (register, kind, data), whose digests are SHA-1 and SHA-256 of the data."""
    spec = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 2) + struct.pack("<HHHH", 4, 20, 11, 32) + b"\0"
    log = struct.pack("<II20sI", 0, 3, bytes(20), len(spec)) + spec
    for pcr, kind, data in events:
        digests = (
            struct.pack("<H", 4) + hashlib.sha1(data).digest() + struct.pack("<H", 11) + hashlib.sha256(data).digest()
        )
        log += struct.pack("<III", pcr, kind, 2) + digests + struct.pack("<I", len(data)) + data
    return log


BOOT: list[tuple[int, int, bytes]] = [
    (0, 3, b"StartupLocality\0\0"),
    (0, 8, b"firmware"),
    (7, 0x80000001, b"secure boot"),
    (4, 0x80000003, b"boot loader"),
    *((pcr, 4, bytes(4)) for pcr in range(8)),
]
"""What a boot extends: register, kind of event, data."""


def boot(tpm: Tpm) -> bytes:
    """Extend the registers as a boot does, and return its log."""
    for pcr, kind, data in BOOT:
        if kind != 3:
            extend(tpm, pcr, hashlib.sha256(data).digest())
    return event_log(BOOT)


def azure_vm(channel: TpmChannel, machine: Any, **configuration: Any) -> tuple[Paravisor, bytes]:
    """Provision a TPM like the vTPM of an Azure confidential VM on this machine; return the guest's way to it."""
    tpm = Tpm(channel)
    log = boot(tpm)
    simulated = SimulatedAzureVm.create(machine)
    settings: Mapping[str, Any] = {**simulated.configuration, **configuration}
    vm = ParavisorVm(machine=machine, key=simulated.key, configuration=settings, pcr_values=(), ak=provision_ak(tpm))
    return Paravisor(channel, vm), log
