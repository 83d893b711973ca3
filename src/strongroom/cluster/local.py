"""Driver and executors as processes of this machine, each in its own (simulated) TEE (step 3).

The supervisor belongs to the untrusted host: it starts agents, replaces lost executors, and cleans up. What it
could do wrong costs availability, nothing else.
"""

import ctypes
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.errors import EngineError, FormatError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.cluster.failures import error_of, is_refusal
from strongroom.datasets.storage import write_file
from strongroom.wire.descriptor import Descriptor, DriverAddress
from strongroom.wire.events import DriverReady, Event, Failed, Finished, parse_event

_POLL_S: Final = 0.05
_FOLLOW_S: Final = 0.25
"""How often reports are read while Spark computes: on a busy machine, each look takes time from it."""
_GRACE_S: Final = 20.0
_SCRATCH_ID: Final = 5
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended, as its driver's agent told."""

    finished: Finished
    replaced_executors: int


@dataclass(slots=True, kw_only=True)
class _Tee:
    """One agent process and what the host knows of it."""

    name: str
    process: subprocess.Popen[bytes]
    scratch: Path
    report: Path
    read_bytes: int = 0
    failure: Failed | None = None

    def events(self) -> Iterator[Event]:
        """Return the events since the last call."""
        with suppress(FileNotFoundError), self.report.open("rb") as file:
            file.seek(self.read_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read_bytes += len(line)
                with suppress(FormatError):
                    yield parse_event(line.decode(errors="replace"))


class LocalCluster:
    """One run on this machine.

    Args:
        folder: The run's folder, readable by the host: descriptors, reports, agents' own messages.
        memory: A folder on a memory file system in which each TEE gets its scratch.
        on_event: Called with the TEE's name and each event.
        max_executors: How many executors may be started in all, replacements included.
    """

    def __init__(
        self, *, folder: Path, memory: Path, on_event: Callable[[str, Event], None], max_executors: int
    ) -> None:
        self._folder = folder
        self._memory = memory
        self._on_event = on_event
        self._max_executors = max_executors
        self._tees: list[_Tee] = []
        self._started_executors = 0
        self._foreign_children: set[int] = set()

    def run(self, driver: Descriptor, *, executors: int) -> Outcome:
        """Run the driver and its executors to the end; nothing of them is left when this returns.

        Args:
            driver: The driver's descriptor; scratch and report are filled in here.
            executors: How many executors to keep.

        Raises:
            StrongroomError: What the driver's agent, or too many executors' agents, gave up with.
            KeyboardInterrupt: As it came; everything is stopped first.
        """
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._foreign_children = _children()
        try:
            return self._follow(driver, executors)
        finally:
            self._stop()

    def _follow(self, descriptor: Descriptor, executors: int) -> Outcome:
        driver = self._start("driver", descriptor)
        ready: DriverReady | None = None
        finished: Finished | None = None
        replaced = 0
        while True:
            ended = driver.process.poll() is not None  # before reading, so that its last words are read
            for event in self._relay(driver):
                match event:
                    case DriverReady() if ready is None:
                        ready = event
                        for _ in range(executors):
                            self._start_executor(descriptor, ready)
                    case Finished():
                        finished = event
                    case _:
                        pass
            if ended:
                break
            if ready is not None:
                replaced += self._replace_lost(descriptor, ready)
            self._pause(driver, _POLL_S if ready is None else _FOLLOW_S)
        if finished is None:
            raise _error(driver)
        return Outcome(finished=finished, replaced_executors=replaced)

    def _pause(self, driver: _Tee, seconds: float) -> None:
        """Wait a while, but no longer than the driver's agent runs."""
        ended = os.pidfd_open(driver.process.pid)
        try:
            select.select([ended], [], [], seconds)
        finally:
            os.close(ended)

    def _relay(self, driver: _Tee) -> list[Event]:
        """Pass every new event on; return the driver's."""
        told: list[Event] = []
        for tee in self._tees:
            for event in tee.events():
                self._on_event(tee.name, event)
                if isinstance(event, Failed):
                    tee.failure = event
                if tee is driver:
                    told.append(event)
        return told

    def _replace_lost(self, descriptor: Descriptor, ready: DriverReady) -> int:
        lost = [tee for tee in self._tees if tee.name != "driver" and tee.process.poll() is not None]
        for tee in lost:
            self._tees.remove(tee)
            self._clean(tee)
            if tee.failure is not None and is_refusal(tee.failure):
                raise _error(tee)
            if self._started_executors >= self._max_executors:
                raise _error(tee)
            self._start_executor(descriptor, ready)
        return len(lost)

    def _start_executor(self, driver: Descriptor, ready: DriverReady) -> None:
        self._started_executors += 1
        address = DriverAddress(master_url=ready.master_url, driver_key=ready.driver_key)
        self._start(
            f"executor-{self._started_executors}",
            driver.model_copy(update={"role": "executor", "driver": address}),
        )

    def _start(self, name: str, descriptor: Descriptor) -> _Tee:
        scratch = self._memory / ("sr-" + "".join(secrets.choice(_ALPHABET) for _ in range(_SCRATCH_ID)))
        report = self._folder / f"{name}.events.jsonl"
        own = descriptor.model_copy(update={"scratch": str(scratch), "report": str(report), "lifeline": True})
        path = self._folder / f"{name}.descriptor.json"
        write_file(path, own.to_json())
        with (self._folder / f"{name}.agent.log").open("wb") as messages:
            process = subprocess.Popen(  # noqa: S603 - our own module under our own interpreter
                [*entry_command(sys.executable, "strongroom.agent"), str(path)],
                stdin=subprocess.PIPE,  # the lifeline: closes when this process ends, however it ends
                stdout=messages,
                stderr=messages,
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            )
        tee = _Tee(name=name, process=process, scratch=scratch, report=report)
        self._tees.append(tee)
        return tee

    def _stop(self) -> None:
        for tee in self._tees:
            if tee.process.poll() is None:
                tee.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for tee in self._tees:
            with suppress(subprocess.TimeoutExpired):
                tee.process.wait(max(0.0, deadline - time.monotonic()))
        for tee in self._tees:
            self._clean(tee)
        self._tees.clear()

    def _clean(self, tee: _Tee) -> None:
        """Remove what an agent left, however it ended: its descendants are now children of this process (subreaper)."""
        if tee.process.poll() is None:
            tee.process.kill()
            tee.process.wait()
        if tee.process.stdin is not None:
            tee.process.stdin.close()
        agents = {other.process.pid for other in self._tees}
        _end_children(spare=self._foreign_children | agents)
        shutil.rmtree(tee.scratch, ignore_errors=True)


def _end_children(*, spare: set[int]) -> None:
    """End this process's children, and theirs, which become its own when their parents are gone."""
    while pids := _children() - spare:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    """Return this process's children."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, _, fields = stat.read_text().rpartition(")")
            if int(fields.split()[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def _error(tee: _Tee) -> StrongroomError:
    failure = tee.failure
    if failure is None:
        return EngineError(
            f"the {tee.name}'s TEE ended without a word (status {tee.process.returncode})",
            action=f"look at {tee.name}.agent.log in the run's folder",
            step=Step.COMPUTE,
        )
    return error_of(failure, source=tee.name)
