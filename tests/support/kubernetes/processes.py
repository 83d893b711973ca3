"""Processes by id and start time, which together name one process and never a later one."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from strongroom.base.errors import UnavailableError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """One process of this machine.

    Attributes:
        pid: Its id; the kernel gives it to another one later.
        start: When it began, in the kernel's ticks since boot.
    """

    pid: int
    start: int


def identify(pid: int) -> ProcessId | None:
    """Return the process that has this id now; None when there is none, or it is only waited for."""
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return ProcessId(pid=pid, start=int(fields[19]))


def is_running(process: ProcessId) -> bool:
    return identify(process.pid) == process


def children_of(pid: int) -> list[int]:
    """Return the ids of a process's children."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - names only
        fields = _stat(int(name))
        if fields is not None and int(fields[1]) == pid:
            found.append(int(name))
    return found


def kill(process: ProcessId, *, timeout_s: float = 10.0) -> None:
    """Kill a process if it is there, and wait until it is gone.

    Raises:
        UnavailableError: It is still there after that time.
    """
    deadline = time.monotonic() + timeout_s
    while is_running(process):
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"process {process.pid} does not end although it was killed", action="see what it waits for"
            )
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        time.sleep(0.02)


def bound(command: Sequence[str]) -> list[str]:
    """Return the command such that the kernel kills it when the thread that started it ends, however that ends.

    A starter that ended before the kernel knew of the tie leaves the command another parent: then it does not start.
    """
    alive = 'test "$PPID" = "$0" && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", alive, str(os.getpid()), *command]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process's status from the third one on."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
