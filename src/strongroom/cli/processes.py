"""Processes in the background: started until they say they are ready, found again, ended; never another process.

A process is its number and its start time, which tell it from a later one with the same number.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.errors import ConfigurationError, FormatError, UnavailableError
from strongroom.datasets.storage import write_file
from strongroom.wire.model import Message, Timestamp

_POLL_S: Final = 0.02
_GRACE_S: Final = 15.0
_START_TIME_FIELD: Final = 19
_LOG_TAIL_BYTES: Final = 8 << 10


class ProcessRecord(Message):
    """A process in the background.

    Attributes:
        start_time: Field 22 of /proc/PID/stat.
        url: Where it answers; a socket's path for what has no address.
    """

    name: str
    pid: int
    start_time: int
    url: str
    started_at: Timestamp

    @property
    def is_running(self) -> bool:
        """Whether this very process still runs."""
        return _start_time(self.pid) == self.start_time


class ProcessTable(Message):
    """The processes that `up` started."""

    version: Literal[1] = 1
    processes: tuple[ProcessRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to start in the background.

    Attributes:
        name: How people call it.
        command: Program and arguments.
        url: Where it will answer.
        log: Where its messages go.
        timeout_s: How long it may take until it is ready: one that ended is seen at once, and a busy machine is slow.
    """

    name: str
    command: Sequence[str]
    url: str
    log: Path
    timeout_s: float = 600.0


def read_table(path: Path) -> tuple[ProcessRecord, ...]:
    """Return the processes of a table's file; none where there is no file.

    Raises:
        ConfigurationError: The file is not such a table.
    """
    try:
        return ProcessTable.from_json(path.read_bytes()).processes
    except FileNotFoundError:
        return ()
    except FormatError as error:
        raise ConfigurationError(
            f"{path} is not a list of processes", action="end the services by hand and delete the file"
        ) from error


def write_table(path: Path, processes: Sequence[ProcessRecord]) -> None:
    """Write the table's file; without processes there is none."""
    if processes:
        write_file(path, ProcessTable(processes=tuple(processes)).to_json())
    else:
        path.unlink(missing_ok=True)


def start(program: Program, *, clock: Clock) -> ProcessRecord:
    """Start a program and wait until it prints its first line: it is ready.

    Its standard output goes to a file beside its log; it stays when this process ends, and has no terminal.

    Raises:
        UnavailableError: It ended, or was not ready in time; the last words of its log are in the error.
    """
    output = program.log.with_suffix(".out")
    program.log.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(b"")
    log_start = program.log.stat().st_size if program.log.exists() else 0
    pid = _spawn(program, output)
    try:
        _wait_until_ready(pid, program, output, log_start)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _reap(pid)
        raise
    return ProcessRecord(
        name=program.name,
        pid=pid,
        start_time=_start_time(pid) or 0,
        url=program.url,
        started_at=to_rfc3339(clock.now()),
    )


def stop(record: ProcessRecord) -> bool:
    """End a process: politely, then for sure.

    Returns:
        Whether it ran until now.
    """
    try:
        handle = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        # With the handle held, the number cannot come to mean another process any more.
        if not record.is_running:
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], _GRACE_S)[0]:
                break
        _reap(record.pid)
    finally:
        os.close(handle)
    return True


def _spawn(program: Program, output: Path) -> int:
    # Not subprocess: the process outlives this one on purpose.
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        program.command[0],
        list(program.command),
        {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(program.log), append, 0o600),
        ],
        setsid=True,
    )


def _wait_until_ready(pid: int, program: Program, output: Path, log_start: int) -> None:
    deadline = time.monotonic() + program.timeout_s
    while b"\n" not in output.read_bytes():
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            raise UnavailableError(
                f"{program.name} did not start: {_last_words(program.log, log_start)}", action=f"see {program.log}"
            )
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"{program.name} was not ready after {program.timeout_s:.0f} s", action=f"see {program.log}"
            )
        time.sleep(_POLL_S)


def _last_words(log: Path, log_start: int) -> str:
    with log.open("rb") as file:
        file.seek(log_start)
        lines = file.read()[-_LOG_TAIL_BYTES:].decode("utf-8", errors="replace").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        return "it said nothing"
    try:
        return str(json.loads(words[-1])["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(words[-2:])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None if none of this number runs."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[_START_TIME_FIELD])
