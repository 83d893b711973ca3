"""Running Spark's processes under the agent, and ending with them (step 7).

While Spark computes, the agent sleeps: its processor time would be the application's.
"""

import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from strongroom.agent.stop import Stop, reap_orphans
from strongroom.application.description import ApplicationDescription
from strongroom.application.package import MeasuredApplication
from strongroom.base.errors import EngineError
from strongroom.base.workflow import Step
from strongroom.engine.node import Child
from strongroom.engine.spark import Application, Resources
from strongroom.wire.descriptor import Sizes

_POLL_S: Final = 0.05
_GRACE_S: Final = 10.0
_MASTER_TIMEOUT_S: Final = 60.0


def wait_for(child: Child, *, others: Sequence[Child], stop: Stop) -> int:
    """Wait until a child ends, another one dies, or the agent is asked to end; reap what others leave behind.

    Args:
        child: Whose end is waited for.
        others: All other processes that this one started.
        stop: Installed: wakes this process, and says whether it is asked to end.

    Returns:
        The child's exit status; negative for a signal.

    Raises:
        EngineError: Another child died first.
    """
    own = {each.pid for each in (child, *others)}
    while (status := child.poll()) is None:
        if stop.asked:
            end(child)
            return -(stop.signal_number or signal.SIGTERM)
        for other in others:
            if other.poll() is not None:
                end(child)
                raise EngineError(f"Spark's {other.name} ended while the {child.name} ran", step=Step.COMPUTE)
        reap_orphans(own=own)
        stop.wait()
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


def application_of(measured: MeasuredApplication) -> Application:
    """Return the engine's view of the measured application."""
    description: ApplicationDescription = measured.description
    folder = measured.folder
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
    )
