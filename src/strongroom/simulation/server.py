"""The simulated platform as a process: a Unix socket that launches and quotes, and a folder of endorsements.

One JSON object a line, one reply line each:

    {"op": "launch", "tee": kind, "value": hex}    → {}    once a process
    {"op": "quote", "report_data": hex}            → {"quote_b64", "certificate_chain"}    a launched process only
    {"op": "measure", "entry": name, "tee": kind}  → {"measurement": hex}    anybody: an entry's reference value here
    a refusal                                      → {"error": {"code", "message", "action"}}

The kinds are "sgx", "tdx" and "snp"; the value stands in CONFIG_ID (64 bytes), MRCONFIGID (48) or HOST_DATA (32).
"""

import base64
import fcntl
import json
import logging
import socketserver
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from strongroom.attestation.attester.device import REPORT_DATA_BYTES
from strongroom.attestation.attester.simulated import ask_platform, short_address
from strongroom.attestation.evidence.fields import CONFIG_ID_BYTES, launch_value
from strongroom.attestation.evidence.simulated import ENTRIES
from strongroom.attestation.evidence.snp_report import SnpReport
from strongroom.base.clock import Clock, SystemClock
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, StrongroomError
from strongroom.crypto import x509
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.containers import ContainerMeasurer, container_at
from strongroom.simulation.launch import Launched, Launches
from strongroom.simulation.measure import Environment, Measurer, tee_measurement
from strongroom.simulation.platform import SimulatedPlatform
from strongroom.simulation.processes import Process, peer_of
from strongroom.wire.model import TEE_KINDS, TeeKind

_log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 4096
_REFRESH: Final = timedelta(days=1)
_PRODUCT: Final = "Milan"
_RSA_BITS: Final = 2048
"""AMD's keys have 4096 bits, which take seconds to make; nothing else is different with these."""


def socket_of(folder: Path) -> Path:
    """Return the platform's socket."""
    return folder / "platform.sock"


def endorsements_of(folder: Path) -> Path:
    """Return the folder of the vendors' documents: `<fmspc>.json`, `<fmspc>-tdx.json`, `*.crl`, `roots.pem`."""
    return folder / "endorsements"


def serve(folder: Path, *, ready: Callable[[], None], clock: Clock | None = None, public: Path | None = None) -> None:
    """Run the platform until the process ends or `KeyboardInterrupt`.

    Args:
        folder: Its state, made if it is not there; mode 700.
        ready: Called once the endorsements are written and the socket accepts connections.
        clock: The time; the machine's unless told otherwise.
        public: Where socket and endorsements are, for all users and containers of this machine; None for the state
            folder, whose owner alone reaches them.

    Raises:
        ConfigurationError: The folder is not a platform's, or another process serves it.
    """
    with listen(folder, clock=clock or SystemClock(), public=public) as server:
        ready()
        server.serve_forever()


def expected_measurement(socket_path: Path, *, entry: str, tee: TeeKind = "sgx") -> str:
    """Return the measurement that an entry has when it is started from the platform's own environment.

    Args:
        socket_path: The platform's socket.
        entry: A name in `ENTRIES`.
        tee: As what it is started.

    Returns:
        64 hexadecimal digits (SGX) or 96, for an owner to register as a reference value.

    Raises:
        NotFoundError: No such entry.
        UnavailableError: The platform does not answer.
    """
    return str(ask_platform(socket_path, {"op": "measure", "entry": entry, "tee": tee})["measurement"])


@contextmanager
def listen(folder: Path, *, clock: Clock, public: Path | None = None) -> Iterator["PlatformServer"]:
    """Open the platform's socket.

    Args:
        folder: Its state; with a public folder it may be read-only.
        clock: The time.
        public: As in `serve`.

    Yields:
        The server, ready for `serve_forever`.

    Raises:
        ConfigurationError: The folder is not a platform's.
    """
    place, mode = (folder, 0o700) if public is None else (public, 0o755)
    place.mkdir(mode=mode, parents=True, exist_ok=True)
    place.chmod(mode)
    with _only_one(place), short_address(socket_of(place)) as address:
        hardware = _load_or_create(folder, now=clock.now())
        socket_of(place).unlink(missing_ok=True)
        with PlatformServer(address, hardware=hardware, endorsements=endorsements_of(place), clock=clock) as server:
            if public is not None:
                socket_of(place).chmod(0o666)
            yield server


def prepare(folder: Path, *, clock: Clock) -> str:
    """Make a platform's state, if it is not there, without running it.

    Args:
        folder: Its state; mode 700.
        clock: The time.

    Returns:
        Its vendors' roots, PEM.

    Raises:
        ConfigurationError: The folder is not a platform's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return _load_or_create(folder, now=clock.now()).roots_pem


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the simulated machine is made of: an Intel platform and an AMD chip at once."""

    intel: SimulatedPlatform
    amd: SimulatedAmd

    @property
    def roots_pem(self) -> str:
        """The vendors' roots, PEM."""
        return "".join(map(x509.to_pem, (self.intel.root_der, self.amd.root_der)))


def _load_or_create(folder: Path, *, now: datetime) -> Hardware:
    if (folder / "platform.json").exists():
        intel = SimulatedPlatform.load(folder)
    else:
        intel = SimulatedPlatform.create(now=now)
        intel.save(folder)
    chip = folder / "amd"
    if (chip / "chip.json").exists():
        return Hardware(intel=intel, amd=SimulatedAmd.load(chip))
    amd = SimulatedAmd.create(_PRODUCT, now=now, rsa_bits=_RSA_BITS)
    amd.save(chip)
    return Hardware(intel=intel, amd=amd)


class PlatformServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers launch, quote and measure.

    Args:
        address: Where to listen.
        hardware: What quotes.
        endorsements: Where its vendors' documents are written, at start and once a day.
        clock: The time.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, *, hardware: Hardware, endorsements: Path, clock: Clock) -> None:
        self._hardware = hardware
        self._folder = endorsements
        self._clock = clock
        self._measurer = Measurer()
        self._containers = ContainerMeasurer()
        self._launches = Launches(self._measurer, self._containers)
        self._issued = self._write_endorsements()
        super().__init__(address, _Handler)

    @override
    def service_actions(self) -> None:
        """Issue the vendor's documents again before they run out."""
        if self._clock.now() - self._issued > _REFRESH:
            try:
                self._issued = self._write_endorsements()
            except OSError:
                _log.exception("the endorsements could not be renewed; they still hold for some days")

    def answer(self, process: Process, request: dict[str, Any]) -> dict[str, str | None]:
        """Answer one request of a process.

        Raises:
            StrongroomError: The request is malformed or refused.
        """
        match request:
            case {"op": "launch", "tee": str(tee), "value": str(value), **rest} if not rest and tee in TEE_KINDS:
                fixed = from_hex(value, size_bytes=len(launch_value(tee, bytes(CONFIG_ID_BYTES))))
                launched = self._launches.launch(process, fixed, tee=tee)
                _log.info("launched process %d as %s %s", process.pid, tee, launched.measurement.hex())
                return {}
            case {"op": "quote", "report_data": str(report_data), **rest} if not rest:
                return self._quote(process, from_hex(report_data, size_bytes=REPORT_DATA_BYTES))
            case {"op": "measure", "entry": str(entry), "tee": str(tee), **rest} if not rest and tee in TEE_KINDS:
                return {"measurement": self._measure(entry, tee)}
            case _:
                raise FormatError("the simulated platform knows launch, quote and measure")

    def _quote(self, process: Process, report_data: bytes) -> dict[str, str | None]:
        launched = self._launches.find(process)
        amd = self._hardware.amd
        if launched.tee == "snp":
            quote, chain = amd.sign(_snp_report(amd, launched, report_data)), amd.certificate_chain("VCEK")
        else:
            quote, chain = self._dcap_quote(launched, report_data), None
        return {"quote_b64": base64.b64encode(quote).decode("ascii"), "certificate_chain": chain}

    def _dcap_quote(self, launched: Launched, report_data: bytes) -> bytes:
        intel = self._hardware.intel
        if launched.tee == "tdx":
            return intel.quote(
                intel.td_report(mrtd=launched.measurement, mrconfigid=launched.value, report_data=report_data)
            )
        return intel.quote(
            intel.report(
                mrenclave=launched.measurement,
                isv_prod_id=launched.isv_prod_id,
                config_id=launched.value,
                report_data=report_data,
            )
        )

    def _measure(self, entry: str, tee: TeeKind) -> str:
        if entry not in ENTRIES:
            raise NotFoundError("there is no such entry", action=f"Ask for one of {', '.join(ENTRIES)}.")
        container = container_at(Path("/"))
        if container is None:
            environment = Environment.of_python(Path(sys.executable))
            return tee_measurement(self._measurer.measure(environment), entry, tee=tee)
        if entry not in container.mark.entries:
            raise NotFoundError(
                "the platform's own image is not made for this entry",
                action="Measure the entry's image: strongroom image measure ARCHIVE.",
            )
        return tee_measurement(self._containers.measure(container), entry, tee=tee)

    def _write_endorsements(self) -> datetime:
        now = self._clock.now()
        self._folder.mkdir(exist_ok=True)
        intel, amd = self._hardware.intel, self._hardware.amd
        family = intel.fmspc.hex()
        _replace(self._folder / f"{family}.json", intel.endorsements(now=now).to_json())
        _replace(self._folder / f"{family}-tdx.json", intel.endorsements(now=now, tee="TDX").to_json())
        _replace(self._folder / f"{x509.spki_sha256(amd.root_der)}.crl", from_hex(amd.endorsements(now=now).crl))
        _replace(self._folder / "roots.pem", self._hardware.roots_pem.encode("ascii"))
        return now


class _Handler(socketserver.StreamRequestHandler):
    """One connection."""

    server: PlatformServer

    @override
    def handle(self) -> None:
        process: Process | None = None
        while line := self.rfile.readline(_REQUEST_BYTES):
            reply: dict[str, Any]
            try:
                process = process or peer_of(self.connection)
                reply = self.server.answer(process, parse_json_object(line))
            except StrongroomError as error:
                reply = {"error": {"code": error.code, "message": error.message, "action": error.action}}
            try:
                self.wfile.write(json.dumps(reply).encode() + b"\n")
            except OSError:
                return


def _snp_report(amd: SimulatedAmd, launched: Launched, report_data: bytes) -> SnpReport:
    report = amd.report(report_data=report_data)
    return replace(report, measurement=launched.measurement, host_data=launched.value)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock file while this process serves it."""
    with (folder / "platform.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                "another process serves this simulated platform", action="Stop it first (`strongroom down`)."
            ) from error
        yield


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    draft = path.with_suffix(".new")
    draft.write_bytes(content)
    draft.replace(path)
