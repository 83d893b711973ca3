"""The agent waits for Spark's processes without looking at them all the time, and misses no end."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from strongroom.agent.engine_run import wait_for
from strongroom.agent.stop import Stop
from strongroom.base.errors import EngineError
from strongroom.engine.node import Child

Start = Callable[[str], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def run(script: str) -> Child:
        process = subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True)
        children.append(Child(process, name=f"child {len(children)}"))
        return children[-1]

    yield run
    for child in children:
        child.kill()


def test_returns_the_status_of_a_child_that_ends_or_has_ended(start: Start, stop: Stop) -> None:
    assert wait_for(start("sleep 0.2; exit 3"), others=[start("sleep 60")], stop=stop) == 3
    ended = start("exit 4")
    ended.wait(60)
    assert wait_for(ended, others=[], stop=stop) == 4


@pytest.mark.parametrize("when", ["before", "while"])
def test_another_childs_end_ends_the_wait(start: Start, stop: Stop, when: str) -> None:
    child, other = start("sleep 60"), start("exit 0" if when == "before" else "sleep 0.2")
    if when == "before":
        other.wait(60)
    with pytest.raises(EngineError, match="child 1 ended while the child 0 ran"):
        wait_for(child, others=[other], stop=stop)
    assert child.wait(60) == -signal.SIGTERM


def test_a_closed_lifeline_ends_the_wait(start: Start, stop: Stop) -> None:
    reader, writer = os.pipe()
    stop.watch_lifeline(reader)
    threading.Timer(0.2, os.close, [writer]).start()
    assert wait_for(start("sleep 60"), others=[], stop=stop) == -signal.SIGTERM
    os.close(reader)


def test_a_signal_ends_the_wait(start: Start, stop: Stop) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    assert wait_for(start("sleep 60"), others=[], stop=stop) == -signal.SIGINT
