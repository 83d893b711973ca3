"""The processes of this machine, as the simulated hardware sees them. Source: proc(5), unix(7)."""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError, RefusedError, StrongroomError

_CREDENTIALS: Final = struct.Struct("3i")
_PROC: Final = Path("/proc")
_PARENT_FIELD: Final = 1
_START_TIME_FIELD: Final = 19
_GONE: Final = "the calling process has ended"


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its number and its start time, which tell it from a later one with the same number.

    Where the platform has no right to look at it, the error is a ConfigurationError.
    """

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
            raise _cannot_look(error) from error

    def root(self) -> Path:
        """Return where the root of the files that it sees is seen from here."""
        return _PROC / str(self.pid) / "root"

    def has_root(self, folder: Path) -> bool:
        """Return whether a folder is the root of the files that it sees.

        Raises:
            RefusedError: The process has ended.
        """
        return self._is(self.root(), folder)

    def executes(self, file: Path) -> bool:
        """Return whether a file, as it is seen from here, is the one that it executes.

        Raises:
            RefusedError: The process has ended, or there is no such file.
        """
        return self._is(_PROC / str(self.pid) / "exe", file)

    def _is(self, own: Path, other: Path) -> bool:
        try:
            return own.samefile(other)
        except OSError as error:
            raise _cannot_look(error) from error

    def _read(self, name: str) -> bytes:
        try:
            return (_PROC / str(self.pid) / name).read_bytes()
        except OSError as error:
            raise _cannot_look(error) from error


def peer_of(connection: socket.socket) -> Process:
    """Return the process that made a connection to a Unix socket.

    Raises:
        RefusedError: It has ended, or this process does not see it.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, _, _ = _CREDENTIALS.unpack(credentials)
    if pid == 0:
        raise RefusedError(
            "the caller is in a process namespace that the simulated platform does not see",
            action="Run the platform among the processes of the node (hostPID).",
        )
    found = _process(pid)
    if found is None:
        raise RefusedError(_GONE)
    return found


def no_right_to_look() -> ConfigurationError:
    """Return what is wrong where the platform may not look at a caller."""
    return ConfigurationError(
        "the simulated platform may not look at the caller's process and files",
        action="Run it among the node's processes (hostPID), as the callers' user "
        "or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.",
    )


def _cannot_look(error: OSError) -> StrongroomError:
    return no_right_to_look() if isinstance(error, PermissionError) else RefusedError(_GONE)


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
