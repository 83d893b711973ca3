"""Eyes on what an operator can see while a run goes on: folders, other processes, packets on loopback."""

import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
from tests.support.leaks import Leak, LeakSearch

_TEE_MARKS: Final = (b"STRONGROOM_SCRATCH=", b"STRONGROOM_SOCKET=")
_AGENT: Final = b"\0strongroom.agent\0"
_SNIFFER: Final = Path(__file__).with_name("sniffer.py")
_ETHERNET_BYTES: Final = 14


class _Poller:
    """Looks again and again in a thread, and once more at the end."""

    def __init__(self, look: Callable[[], None], *, every_s: float) -> None:
        self._look = look
        self._every_s = every_s
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {look}", daemon=True)

    def start(self) -> None:
        self._look()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self._look()

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._every_s):
                self._look()
        except BaseException as failure:  # noqa: BLE001 - raised where the watch ends
            self._failure = failure


class FolderWatch:
    """Keeps a copy of each state of each file that it sees.

    Args:
        folders: What to watch, by the name that findings show.
        vault: A new folder for the copies.
        without: Folders and files to leave out.
        leave_out: Further paths to leave out.
        only_new: Leave out files that are there at the start and do not change.
        every_s: How often to look, in seconds.

    Attributes:
        places: Every file that was seen.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        vault: Path,
        without: Sequence[Path] = (),
        leave_out: Callable[[str], bool] = lambda _: False,
        only_new: bool = False,
        every_s: float = 0.05,
    ) -> None:
        self._folders = folders
        self._vault = vault
        self._without = {str(path) for path in (*without, vault)}
        self._leave_out = leave_out
        self._only_new = only_new
        self._states: dict[str, tuple[int, int, int]] = {}
        self._copies: dict[bytes, tuple[str, Path]] = {}
        self.places: set[str] = set()
        self._poller = _Poller(self._look, every_s=every_s)

    def __enter__(self) -> Self:
        self._vault.mkdir(parents=True)
        if self._only_new:
            self._states = {path: state for _, path, state in self._files()}
        self._poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poller.stop()

    def search(self, search: LeakSearch) -> list[Leak]:
        """Search every copy; file names are searched too."""
        leaks = search.search("\n".join(sorted(self.places)).encode(), place="file names")
        for place, copy in self._copies.values():
            leaks += search.search(copy.read_bytes(), place=place)
        return leaks

    def _look(self) -> None:
        for place, path, state in self._files():
            if self._states.get(path) != state:
                self._states[path] = state
                with suppress(OSError):
                    self._keep(place, Path(path).read_bytes())

    def _keep(self, place: str, content: bytes) -> None:
        self.places.add(place)
        digest = hashlib.blake2b(content).digest()
        if content and digest not in self._copies:
            copy = self._vault / str(len(self._copies))
            copy.write_bytes(content)
            self._copies[digest] = (place, copy)

    def _files(self) -> Iterator[tuple[str, str, tuple[int, int, int]]]:
        for name, folder in self._folders.items():
            for path in self._regular_files(str(folder)):
                with suppress(OSError):
                    status = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - as fast as it goes
                    if stat.S_ISREG(status.st_mode):
                        state = (status.st_ino, status.st_size, status.st_mtime_ns)
                        yield f"{name}/{os.path.relpath(path, folder)}", path, state

    def _regular_files(self, folder: str) -> Iterator[str]:
        if folder in self._without or self._leave_out(folder):
            return
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield from self._regular_files(entry.path)
                elif entry.path not in self._without:
                    yield entry.path


class ProcessWatch:
    """Keeps the command line of every process that is there or comes, and the environment of those outside TEEs.

    A process is inside a TEE when it is an agent, descends from one, or works in a TEE's scratch folder.
    """

    def __init__(self, *, every_s: float = 0.05) -> None:
        self._seen: dict[bytes, str] = {}
        self._inside: set[int] = set()
        self._poller = _Poller(self._look, every_s=every_s)

    def __enter__(self) -> Self:
        self._poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._poller.stop()

    @property
    def command_lines(self) -> list[str]:
        """The command lines that were seen, arguments joined by spaces."""
        lines = [content for content, place in self._seen.items() if place.startswith("command line")]
        return [line.replace(b"\0", b" ").decode(errors="replace") for line in lines]

    def search(self, search: LeakSearch) -> list[Leak]:
        """Search everything that was kept."""
        return [leak for content, place in self._seen.items() for leak in search.search(content, place=place)]

    def _look(self) -> None:
        for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):  # noqa: PTH208 - names only
            with suppress(OSError):
                self._look_at(int(name))

    def _look_at(self, pid: int) -> None:
        folder = Path("/proc", str(pid))
        command_line = (folder / "cmdline").read_bytes()
        if not command_line:
            return  # a thread of the kernel, or a zombie
        program = command_line.split(b"\0", 1)[0].decode(errors="replace")
        self._seen.setdefault(command_line, f"command line of process {pid} ({program})")
        environment = (folder / "environ").read_bytes()
        parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        if _AGENT in command_line or parent in self._inside or any(mark in environment for mark in _TEE_MARKS):
            self._inside.add(pid)
        elif environment:
            self._seen.setdefault(environment, f"environment of process {pid} ({program})")


class PacketWatch:
    """Keeps every packet on the loopback interface.

    Args:
        file: A new file for the packets.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process: subprocess.Popen[str] | None = None
        self.counters: dict[str, Any] = {}

    def __enter__(self) -> Self:
        demand_packet_capture()
        self._process = subprocess.Popen([sys.executable, _SNIFFER, self._file], stdout=subprocess.PIPE, text=True)
        self._tell()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self.counters = self._tell()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def search(self, search: LeakSearch) -> list[Leak]:
        """Search the byte stream of each direction of each connection, and all other packets.

        Raises:
            AssertionError: Packets were lost, so that finding nothing would mean nothing.
        """
        assert self.counters["kept"] > 0
        assert self.counters["dropped"] == 0, f"the sniffer was too slow: {self.counters}"
        return [
            leak
            for place, content in tcp_streams(_packets(self._file.read_bytes())).items()
            for leak in search.search(content, place=f"loopback {place}")
        ]

    def _tell(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


def demand_packet_capture() -> None:
    """Leave the test out where packets cannot be captured; with CI set that is a failure."""
    if os.geteuid() != 0:
        reason = "capturing packets on loopback needs root"
        if "CI" in os.environ:
            pytest.fail(reason + ", and with CI set no test is left out")
        pytest.skip(reason)


def tcp_streams(packets: Iterator[bytes]) -> dict[str, bytes]:
    """Return what each side of each TCP connection sent, in order; under "other packets" the rest as it came."""
    segments: dict[str, dict[int, bytes]] = defaultdict(dict)
    starts: dict[str, int] = {}
    rest: list[bytes] = []
    for packet in packets:
        parsed = _tcp(packet)
        if parsed is None:
            rest.append(packet)
            continue
        connection, sequence, payload = parsed
        if payload:
            position = (sequence - starts.setdefault(connection, sequence)) & 0xFFFF_FFFF
            if position >= 1 << 31:  # before the first segment that was seen
                position -= 1 << 32
            if len(segments[connection].get(position, b"")) < len(payload):
                segments[connection][position] = payload
    streams = {connection: _joined(parts) for connection, parts in segments.items()}
    return {**streams, "other packets": b"".join(rest)}


def _joined(segments: dict[int, bytes]) -> bytes:
    joined = bytearray()
    end = min(segments)
    for position, payload in sorted(segments.items()):
        joined += payload[max(0, end - position) :]
        end = max(end, position + len(payload))
    return bytes(joined)


def _tcp(packet: bytes) -> tuple[str, int, bytes] | None:
    """Return connection, sequence number and payload of a packet that is TCP."""
    kind = packet[12:14]
    body = packet[_ETHERNET_BYTES:]
    if kind == b"\x08\x00" and len(body) >= 20 and body[9] == 6:
        size, addresses = struct.unpack_from(">H", body, 2)[0], body[12:20]
        segment = body[(body[0] & 0x0F) * 4 : size or None]
    elif kind == b"\x86\xdd" and len(body) >= 40 and body[6] == 6:
        addresses = body[8:40]
        segment = body[40:]
    else:
        return None
    source, target, sequence = struct.unpack_from(">HHI", segment)
    half = len(addresses) // 2
    connection = f"{addresses[:half].hex()}:{source} to {addresses[half:].hex()}:{target}"
    return connection, sequence, segment[(segment[12] >> 4) * 4 :]


def _packets(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, position)
        yield data[position + 4 : position + 4 + size]
        position += 4 + size
