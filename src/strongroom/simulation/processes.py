"""The processes of this machine, as the simulated hardware sees them. Source: proc(5), unix(7)."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import RefusedError

_CREDENTIALS: Final = struct.Struct("3i")
_PROC: Final = Path("/proc")
_PARENT_FIELD: Final = 1
_START_TIME_FIELD: Final = 19
_GONE: Final = "the calling process has ended"


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its number and its start time, which tell it from a later one with the same number."""

    pid: int
    start_time: int

    def exists(self) -> bool:
        """Whether this very process still runs."""
        fields = _status(self.pid)
        return fields is not None and int(fields[_START_TIME_FIELD]) == self.start_time

    def ancestors(self) -> Iterator["Process"]:
        """Yield parent, grandparent and so on."""
        current: Process | None = self
        while current is not None:
            fields = _status(current.pid)
            current = None if fields is None else _process(int(fields[_PARENT_FIELD]))
            if current is not None:
                yield current

    def command_line(self) -> list[str]:
        """Return program name and arguments.

        Raises:
            RefusedError: The process has ended.
        """
        return [part.decode("utf-8", "surrogateescape") for part in self._read("cmdline").split(b"\x00")[:-1]]

    def environment_names(self) -> list[str]:
        """Return the names of the environment variables it was started with.

        Raises:
            RefusedError: The process has ended.
        """
        variables = self._read("environ").split(b"\x00")
        return [part.partition(b"=")[0].decode("utf-8", "surrogateescape") for part in variables if part]

    def executable(self) -> Path:
        """Return the file it executes.

        Raises:
            RefusedError: The process has ended.
        """
        try:
            return (_PROC / str(self.pid) / "exe").readlink()
        except OSError as error:
            raise RefusedError(_GONE) from error

    def _read(self, name: str) -> bytes:
        try:
            return (_PROC / str(self.pid) / name).read_bytes()
        except OSError as error:
            raise RefusedError(_GONE) from error


def peer_of(connection: socket.socket) -> Process:
    """Return the process that made a connection to a Unix socket.

    Raises:
        RefusedError: It has ended.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    found = _process(pid)
    if found is None:
        raise RefusedError(_GONE)
    return found


def _process(pid: int) -> Process | None:
    fields = _status(pid)
    return None if fields is None else Process(pid, int(fields[_START_TIME_FIELD]))


def _status(pid: int) -> list[bytes] | None:
    """Return the fields of /proc/PID/stat behind the command's name; None if there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    return text.rpartition(b")")[2].split()
