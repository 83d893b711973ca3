"""The simulated platform as a process: a Unix socket that launches and quotes, and a folder of endorsements.

One JSON object a line, one reply line each:

    {"op": "launch", "config_id": hex}  → {}                    once a process
    {"op": "quote", "report_data": hex} → {"quote_b64": text}   a launched process only
    {"op": "measure", "entry": name}    → {"mrenclave": hex}    anybody: the reference value of an entry here
    a refusal                           → {"error": {"code", "message", "action"}}
"""

import base64
import fcntl
import json
import logging
import socketserver
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from strongroom.attestation.attester.device import CONFIG_ID_BYTES, REPORT_DATA_BYTES
from strongroom.attestation.attester.simulated_sgx import ask_platform, short_address
from strongroom.attestation.evidence.simulated import ENTRIES
from strongroom.base.clock import Clock, SystemClock
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, StrongroomError
from strongroom.crypto import x509
from strongroom.simulation.launch import Launches
from strongroom.simulation.measure import Environment, Measurer, enclave_measurement
from strongroom.simulation.platform import SimulatedPlatform
from strongroom.simulation.processes import Process, peer_of

_log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 4096
_REFRESH: Final = timedelta(days=1)


def socket_of(folder: Path) -> Path:
    """Return the platform's socket."""
    return folder / "platform.sock"


def endorsements_of(folder: Path) -> Path:
    """Return the folder of `<fmspc>.json` and `roots.pem`."""
    return folder / "endorsements"


def serve(folder: Path, *, ready: Callable[[], None], clock: Clock | None = None) -> None:
    """Run the platform until the process ends or `KeyboardInterrupt`.

    Args:
        folder: Its state, made if it is not there; mode 700.
        ready: Called once the endorsements are written and the socket accepts connections.
        clock: The time; the machine's unless told otherwise.

    Raises:
        ConfigurationError: The folder is not a platform's, or another process serves it.
    """
    with listen(folder, clock=clock or SystemClock()) as server:
        ready()
        server.serve_forever()


def expected_measurement(socket_path: Path, *, entry: str) -> str:
    """Return the MRENCLAVE that an entry has when it is started from the platform's own environment.

    Args:
        socket_path: The platform's socket.
        entry: A name in `ENTRIES`.

    Returns:
        64 hexadecimal digits, for an owner to register as a reference value.

    Raises:
        NotFoundError: No such entry.
        UnavailableError: The platform does not answer.
    """
    return str(ask_platform(socket_path, {"op": "measure", "entry": entry})["mrenclave"])


@contextmanager
def listen(folder: Path, *, clock: Clock) -> Iterator["PlatformServer"]:
    """Open the platform's socket.

    Args:
        folder: Its state.
        clock: The time.

    Yields:
        The server, ready for `serve_forever`.

    Raises:
        ConfigurationError: The folder is not a platform's.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    with _only_one(folder), short_address(socket_of(folder)) as address:
        platform = _load_or_create(folder, now=clock.now())
        socket_of(folder).unlink(missing_ok=True)
        with PlatformServer(address, platform=platform, endorsements=endorsements_of(folder), clock=clock) as server:
            yield server


def _load_or_create(folder: Path, *, now: datetime) -> SimulatedPlatform:
    if (folder / "platform.json").exists():
        return SimulatedPlatform.load(folder)
    platform = SimulatedPlatform.create(now=now)
    platform.save(folder)
    return platform


class PlatformServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers launch, quote and measure.

    Args:
        address: Where to listen.
        platform: The platform.
        endorsements: Where its vendor's documents are written, at start and once a day.
        clock: The time.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, *, platform: SimulatedPlatform, endorsements: Path, clock: Clock) -> None:
        self._platform = platform
        self._folder = endorsements
        self._clock = clock
        self._measurer = Measurer()
        self._launches = Launches(self._measurer)
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

    def answer(self, process: Process, request: dict[str, Any]) -> dict[str, str]:
        """Answer one request of a process.

        Raises:
            StrongroomError: The request is malformed or refused.
        """
        match request:
            case {"op": "launch", "config_id": str(config_id), **rest} if not rest:
                enclave = self._launches.launch(process, from_hex(config_id, size_bytes=CONFIG_ID_BYTES))
                _log.info("launched process %d as %s", process.pid, enclave.mrenclave.hex())
                return {}
            case {"op": "quote", "report_data": str(report_data), **rest} if not rest:
                return {"quote_b64": self._quote(process, from_hex(report_data, size_bytes=REPORT_DATA_BYTES))}
            case {"op": "measure", "entry": str(entry), **rest} if not rest:
                return {"mrenclave": self._measure(entry)}
            case _:
                raise FormatError("the simulated platform knows launch, quote and measure")

    def _quote(self, process: Process, report_data: bytes) -> str:
        enclave = self._launches.find(process)
        report = self._platform.report(
            mrenclave=enclave.mrenclave,
            isv_prod_id=enclave.isv_prod_id,
            config_id=enclave.config_id,
            report_data=report_data,
        )
        return base64.b64encode(self._platform.quote(report)).decode("ascii")

    def _measure(self, entry: str) -> str:
        if entry not in ENTRIES:
            raise NotFoundError("there is no such entry", action=f"Ask for one of {', '.join(ENTRIES)}.")
        environment = Environment.of_python(Path(sys.executable))
        return enclave_measurement(self._measurer.measure(environment), entry)

    def _write_endorsements(self) -> datetime:
        now = self._clock.now()
        self._folder.mkdir(exist_ok=True)
        endorsements = self._platform.endorsements(now=now).to_json()
        _replace(self._folder / f"{self._platform.fmspc.hex()}.json", endorsements)
        _replace(self._folder / "roots.pem", x509.to_pem(self._platform.root_der).encode("ascii"))
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
