"""The platform and the processes it launches are real processes, each with its own interpreter."""

import base64
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

import strongroom
from strongroom.attestation.attester import SimulatedDevice, collect_evidence
from strongroom.attestation.attester.simulated import ask_platform, short_address
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements
from strongroom.attestation.endorsements.snp import DirectoryRevocations, SnpEndorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.pck import platform_kind
from strongroom.attestation.evidence.simulated import entry_command
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSgx, verify_sgx, verify_snp, verify_tdx
from strongroom.base.clock import SystemClock
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from strongroom.crypto import x509
from strongroom.simulation.server import endorsements_of, expected_measurement, listen, prepare, serve, socket_of
from strongroom.wire.model import TeeKind

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
CONFIG_ID = b"application digest".ljust(64, b"\x00")

PLATFORM = """
import sys
from pathlib import Path
from strongroom.simulation.server import serve
serve(Path(sys.argv[1]), ready=lambda: print("ready", flush=True))
"""

ENCLAVE = '''
"""Stands where the agent stands: does on the device what its standard input says, and answers line by line."""
import base64, json, os, subprocess, sys
from pathlib import Path
from strongroom.attestation.attester import SimulatedDevice, collect_evidence
from strongroom.base.errors import StrongroomError

device = SimulatedDevice(Path(sys.argv[1]), kind=sys.argv[2] if len(sys.argv) > 2 else "sgx")

def do(request):
    match request:
        case ["launch", config_id]:
            device.launch(bytes.fromhex(config_id))
            return "launched"
        case ["evidence", runtime_data]:
            evidence = collect_evidence(device, runtime_data=runtime_data.encode())
            return base64.b64encode(evidence.quote).decode()
        case ["chain", runtime_data]:
            return collect_evidence(device, runtime_data=runtime_data.encode()).certificate_chain
        case ["child", inner]:
            child = [sys.executable, "-I", "-m", "strongroom.agent", sys.argv[1]]
            text = json.dumps(inner) + "\\n"
            return json.loads(subprocess.run(child, input=text, capture_output=True, text=True, check=True).stdout)
        case ["fork", inner]:
            reader, writer = os.pipe()
            if os.fork() == 0:
                os.write(writer, json.dumps(answer(inner)).encode())
                os._exit(0)
            os.close(writer)
            os.wait()
            return json.loads(os.read(reader, 65536))

def answer(request):
    try:
        return do(request)
    except StrongroomError as error:
        return {"error": error.code, "message": error.message}

for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
'''


class Machine:
    """A machine with an environment and a simulated platform that runs."""

    def __init__(self, folder: Path) -> None:
        # Deeper than the 108 bytes that an address of a Unix socket may have.
        self.folder = folder / ("deep-" * 20) / ("folder-" * 10) / "platform"
        self.folder.parent.mkdir(parents=True)
        self.python = _environment(folder / "environment")
        self.platform = subprocess.Popen(
            [str(self.python), "-I", "-c", PLATFORM, str(self.folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.platform.stdout is not None
        assert self.platform.stdout.readline() == "ready\n"

    @property
    def socket(self) -> Path:
        return socket_of(self.folder)

    def stop(self) -> None:
        self.platform.kill()
        self.platform.communicate()

    def enclave(self, python: Path | None = None, *, options: tuple[str, ...] = (), tee: TeeKind = "sgx") -> "Enclave":
        command = entry_command(str(python or self.python), "strongroom.agent")
        return Enclave([command[0], *options, *command[1:], str(self.socket), tee])

    @property
    def roots(self) -> TrustedRoots:
        found = x509.parse_pem_chain((endorsements_of(self.folder) / "roots.pem").read_bytes())
        return TrustedRoots(roots=tuple(TrustedRoot(certificate_der=each, simulated=True) for each in found))

    def verify(self, quote: bytes, runtime_data: bytes) -> VerifiedSgx:
        kind = platform_kind(parse_sgx_quote(quote))
        source = DirectoryEndorsements(endorsements_of(self.folder))
        return verify_sgx(
            UnverifiedEvidence(kind="sgx", quote=quote, runtime_data=runtime_data),
            trusted_roots=self.roots,
            endorsements=source.get(fmspc=kind.fmspc, ca=kind.ca),
            now=datetime.now(tz=UTC),
        )


class Enclave:
    """A process that was started as an entry."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def do(self, *request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def _environment(folder: Path) -> Path:
    """Make a virtual environment with Strongroom's sources, where the agent is the script above."""
    packages = folder / "lib" / PYTHON / "site-packages"
    shutil.copytree(
        Path(strongroom.__file__).parent,
        packages / "strongroom",
        ignore=shutil.ignore_patterns("__pycache__", "agent", "services", "engine", "cli", "cluster", "submit"),
    )
    (packages / "strongroom" / "agent.py").write_text(ENCLAVE)
    libraries = Path(x509.x509.__file__).parents[2]
    for name in ("cryptography", "_cffi_backend*", "cffi", "typing_extensions.py", "rfc8785", "pydantic*", "joserfc"):
        for path in libraries.glob(name):
            if not path.name.endswith(".dist-info"):
                (packages / path.name).symlink_to(path)
    for name in ("annotated_types", "typing_inspection"):
        (packages / name).symlink_to(libraries / name)
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (folder / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    yield machine
    machine.stop()


def test_a_launched_process_is_quoted_with_its_measurement_and_configuration(machine: Machine) -> None:
    with machine.enclave() as enclave:
        assert enclave.do("launch", CONFIG_ID.hex()) == "launched"
        quote = enclave.do("evidence", "runtime data")
    verified = machine.verify(_b64(quote), b"runtime data")
    report = verified.quote.report
    assert report.config_id == CONFIG_ID
    assert report.isv_prod_id == 1
    assert report.mrenclave.hex() == expected_measurement(machine.socket, entry="strongroom.agent")
    assert verified.hardware == "simulated"


def test_a_process_may_be_launched_as_a_trust_domain(machine: Machine) -> None:
    with machine.enclave(tee="tdx") as domain:
        assert domain.do("launch", CONFIG_ID.hex()) == "launched"
        quote = _b64(domain.do("evidence", "runtime data"))
        assert domain.do("chain", "runtime data") is None
    kind = platform_kind(parse_tdx_quote(quote))
    verified = verify_tdx(
        UnverifiedEvidence(kind="tdx", quote=quote, runtime_data=b"runtime data"),
        trusted_roots=machine.roots,
        endorsements=DirectoryEndorsements(endorsements_of(machine.folder)).get(
            fmspc=kind.fmspc, ca=kind.ca, tee="TDX"
        ),
        now=datetime.now(tz=UTC),
    )
    assert verified.quote.report.mrconfigid == CONFIG_ID[:48]
    expected = expected_measurement(machine.socket, entry="strongroom.agent", tee="tdx")
    assert (verified.quote.report.mrtd.hex(), verified.hardware) == (expected, "simulated")


def test_a_process_may_be_launched_as_a_guest(machine: Machine) -> None:
    with machine.enclave(tee="snp") as guest:
        assert guest.do("launch", CONFIG_ID.hex()) == "launched"
        report = _b64(guest.do("evidence", "runtime data"))
        chain = guest.do("chain", "runtime data")
    root = x509.parse_pem_chain(chain.encode())[-1]
    crl = DirectoryRevocations(endorsements_of(machine.folder)).crl(root)
    verified = verify_snp(
        UnverifiedEvidence(kind="snp", quote=report, runtime_data=b"runtime data"),
        trusted_roots=machine.roots,
        endorsements=SnpEndorsements(certificate_chain=chain, crl=crl.hex()),
        now=datetime.now(tz=UTC),
    )
    assert verified.report.host_data == CONFIG_ID[:32]
    expected = expected_measurement(machine.socket, entry="strongroom.agent", tee="snp")
    assert (verified.report.measurement.hex(), verified.hardware) == (expected, "simulated")


def test_entries_have_different_measurements(machine: Machine) -> None:
    entries = ("strongroom.agent", "strongroom.services.attestation_service", "strongroom.services.key_service")
    assert len({expected_measurement(machine.socket, entry=entry) for entry in entries}) == 3
    with pytest.raises(NotFoundError):
        expected_measurement(machine.socket, entry="strongroom.cli")


def test_a_second_launch_is_refused(machine: Machine) -> None:
    with machine.enclave() as enclave:
        enclave.do("launch", CONFIG_ID.hex())
        for config_id in (bytes(64), CONFIG_ID):
            assert enclave.do("launch", config_id.hex())["error"] == "conflict"
        report = parse_sgx_quote(_b64(enclave.do("evidence", "x"))).report
        assert report.config_id == CONFIG_ID


def test_a_process_that_was_not_launched_is_not_quoted(machine: Machine) -> None:
    with machine.enclave() as enclave:
        assert enclave.do("evidence", "x")["error"] == "refused"


@pytest.mark.parametrize("kind", ["child", "fork"])
@pytest.mark.parametrize("request_", [["evidence", "x"], ["launch", bytes(64).hex()]], ids=["evidence", "launch"])
def test_descendants_of_an_enclave_have_no_quoting_device(machine: Machine, kind: str, request_: list[str]) -> None:
    with machine.enclave() as enclave:
        enclave.do("launch", CONFIG_ID.hex())
        assert enclave.do(kind, request_)["error"] == "refused"
        assert enclave.do(kind, [kind, request_])["error"] == "refused"


@pytest.mark.parametrize("options", [("-B",), ("-X", "pycache_prefix=/nowhere")], ids=["-B", "-X"])
def test_a_process_started_in_another_way_is_not_launched(machine: Machine, options: tuple[str, ...]) -> None:
    with machine.enclave(options=options) as enclave:
        assert enclave.do("launch", CONFIG_ID.hex())["error"] == "refused"


def test_this_process_is_not_launched(machine: Machine) -> None:
    device = SimulatedDevice(machine.socket)
    with pytest.raises(RefusedError):
        device.launch(bytes(64))
    with pytest.raises(RefusedError):
        collect_evidence(device, runtime_data=b"")


def test_another_environment_has_another_measurement(machine: Machine, tmp_path: Path) -> None:
    other = _environment(tmp_path / "environment")
    agent = other.parent.parent / "lib" / PYTHON / "site-packages" / "strongroom" / "agent.py"
    agent.write_text(ENCLAVE + "# one line more\n")
    with machine.enclave(other) as enclave:
        enclave.do("launch", CONFIG_ID.hex())
        report = parse_sgx_quote(_b64(enclave.do("evidence", "x"))).report
    assert report.mrenclave.hex() != expected_measurement(machine.socket, entry="strongroom.agent")


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"op": "quote"},
        {"op": "quote", "report_data": "00"},
        {"op": "launch", "tee": "sgx", "value": "zz"},
        {"op": "launch", "tee": "sgx", "value": bytes(64).hex(), "entry": "strongroom.agent"},
        {"op": "launch", "tee": "sgx", "value": bytes(48).hex()},
        {"op": "launch", "tee": "snp", "value": bytes(64).hex()},
        {"op": "launch", "tee": "sev", "value": bytes(64).hex()},
        {"op": "launch", "value": bytes(64).hex()},
        {"op": "measure", "entry": "strongroom.agent"},
        {"op": "measure", "entry": "strongroom.agent", "tee": "sev"},
    ],
    ids=json.dumps,
)
def test_malformed_requests_are_format_errors(machine: Machine, request_: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        ask_platform(machine.socket, request_)


@pytest.mark.parametrize("line", [b"\x00\xff\n", b"[]\n", b"x" * 5000 + b"\n", b"null\n"])
def test_the_platform_survives_any_bytes(machine: Machine, line: bytes) -> None:
    with short_address(machine.socket) as address, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(line)
        assert b'"format"' in connection.makefile("rb").readline()
    assert expected_measurement(machine.socket, entry="strongroom.agent")


def test_only_the_owner_reaches_the_socket(machine: Machine, tmp_path: Path) -> None:
    assert machine.folder.stat().st_mode & 0o777 == 0o700
    for _ in ("new", "there already"):
        with listen(tmp_path, clock=SystemClock()):
            assert tmp_path.stat().st_mode & 0o777 == 0o700
        tmp_path.chmod(0o755)


def test_a_second_platform_process_in_the_same_folder_is_refused(machine: Machine) -> None:
    with pytest.raises(ConfigurationError, match="another process"):
        serve(machine.folder, ready=pytest.fail)
    assert expected_measurement(machine.socket, entry="strongroom.agent")


def test_a_platform_that_does_not_run_is_unavailable(tmp_path: Path) -> None:
    for path in (tmp_path / "platform.sock", tmp_path / "missing" / "platform.sock"):
        with pytest.raises(UnavailableError) as caught:
            SimulatedDevice(path).quote(bytes(64))
        assert "Start the simulated platform" in caught.value.action


def test_a_device_takes_only_64_bytes(tmp_path: Path) -> None:
    device = SimulatedDevice(tmp_path / "platform.sock")
    for call in (device.launch, device.quote):
        with pytest.raises(FormatError):
            call(bytes(63))


def test_a_restarted_platform_has_the_same_root_and_knows_no_enclaves(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    roots = (endorsements_of(machine.folder) / "roots.pem").read_bytes()
    with machine.enclave() as enclave:
        enclave.do("launch", CONFIG_ID.hex())
        machine.stop()
        again = subprocess.Popen(
            [str(machine.python), "-I", "-c", PLATFORM, str(machine.folder)], stdout=subprocess.PIPE, text=True
        )
        machine.platform = again
        assert again.stdout is not None
        assert again.stdout.readline() == "ready\n"
        assert enclave.do("evidence", "x")["error"] == "refused"
    machine.stop()
    assert (endorsements_of(machine.folder) / "roots.pem").read_bytes() == roots


def test_a_public_platform_is_reached_by_everybody_and_its_keys_by_nobody_else(tmp_path: Path) -> None:
    state, public = tmp_path / "state", tmp_path / "public"
    roots = prepare(state, clock=SystemClock())
    assert prepare(state, clock=SystemClock()) == roots
    with listen(state, clock=SystemClock(), public=public):
        assert state.stat().st_mode & 0o777 == 0o700
        assert public.stat().st_mode & 0o777 == 0o755
        assert socket_of(public).stat().st_mode & 0o777 == 0o666
        assert (endorsements_of(public) / "roots.pem").read_text() == roots
        assert {path.name for path in public.iterdir()} == {"endorsements", "platform.lock", "platform.sock"}
        with (
            pytest.raises(ConfigurationError, match="another process"),
            listen(state, clock=SystemClock(), public=public),
        ):
            pytest.fail("two platforms in one place")
    assert not socket_of(state).exists()


def _b64(text: object) -> bytes:
    assert isinstance(text, str), text
    return base64.b64decode(text)
