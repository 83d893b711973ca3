"""Running Spark's processes under the agent, and ending with them (step 7).

While Spark computes, the agent sleeps: its processor time would be the application's.
"""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Final
from urllib.parse import urlsplit

from strongroom.agent.member import Membership
from strongroom.application.description import ApplicationDescription
from strongroom.base.errors import EngineError
from strongroom.base.workflow import Step
from strongroom.engine.spark import Application, Child, Resources
from strongroom.wire.descriptor import Sizes

_POLL_S: Final = 0.05
_GRACE_S: Final = 10.0
_MASTER_TIMEOUT_S: Final = 60.0


class Stop:
    """Says whether somebody asked this agent to end: a signal, or the lifeline's end."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.signal_number: int | None = None

    def fileno(self) -> int:
        """Return a file descriptor that becomes readable when somebody asks."""
        return self._bell

    def install(self) -> None:
        """Take SIGTERM and SIGINT; call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def watch_lifeline(self, descriptor: int) -> None:
        """Ask for the end when the file descriptor closes at its other side."""

        def watch() -> None:
            with suppress(OSError), open(descriptor, "rb", buffering=0, closefd=False) as lifeline:
                while lifeline.read(1):
                    pass
            self._ask()

        threading.Thread(target=watch, name="lifeline", daemon=True).start()

    @property
    def asked(self) -> bool:
        """Whether the agent should end."""
        return self._asked.is_set()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.signal_number = number
        self._ask()

    def _ask(self) -> None:
        self._asked.set()
        os.eventfd_write(self._bell, 1)


def wait_for(child: Child, *, others: Sequence[Child], stop: Stop) -> int:
    """Wait until a child ends, another one dies, or the agent is asked to end.

    Returns:
        The child's exit status; negative for a signal.

    Raises:
        EngineError: Another child died first.
    """
    poller = select.poll()
    poller.register(stop, select.POLLIN)
    with ExitStack() as opened:
        for each in (child, *others):
            if each.poll() is None:
                ended = os.pidfd_open(each.pid)
                opened.callback(os.close, ended)
                poller.register(ended, select.POLLIN)
        while (status := child.poll()) is None:
            if stop.asked:
                end(child)
                return -(stop.signal_number or signal.SIGTERM)
            for other in others:
                if other.poll() is not None:
                    end(child)
                    raise EngineError(f"Spark's {other.name} ended while the {child.name} ran", step=Step.COMPUTE)
            poller.poll()
    return status


def end(child: Child) -> None:
    """End a child: politely first, then for sure."""
    child.terminate()
    with suppress(TimeoutError):
        child.wait(_GRACE_S)
    child.kill()


def wait_for_master(url: str, *, stop: Stop) -> None:
    """Wait until the driver's master answers: a worker's own retry is slow.

    Raises:
        EngineError: It does not answer in time.
    """
    address = urlsplit(url)
    deadline = time.monotonic() + _MASTER_TIMEOUT_S
    while time.monotonic() < deadline and not stop.asked:
        with suppress(OSError), socket.create_connection((address.hostname or "", address.port or 0), timeout=1):
            return
        time.sleep(_POLL_S)
    raise EngineError("the driver's Spark master does not answer", action="submit again", step=Step.EXECUTORS)


def application_of(member: Membership) -> Application:
    """Return the engine's view of the measured application."""
    description: ApplicationDescription = member.application.description
    folder = member.application.folder
    by_use = {
        use: tuple(folder / file.name for file in description.files if file.use == use)
        for use in ("entry-point", "py-file", "file", "archive")
    }
    return Application(
        name=description.name,
        entry_point=by_use["entry-point"][0],
        arguments=tuple(description.arguments),
        py_files=by_use["py-file"],
        files=by_use["file"],
        archives=by_use["archive"],
        settings=description.settings,
        environment=description.environment,
    )


def resources_of(sizes: Sizes) -> Resources:
    """Return the engine's view of the host's sizes."""
    return Resources(
        driver_memory=f"{sizes.driver_memory_mb}m",
        executor_memory=f"{sizes.executor_memory_mb}m",
        executor_cores=sizes.executor_cores,
        cores_max=sizes.executor_cores * sizes.executors,
    )
