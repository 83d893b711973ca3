"""An agent is the reaper of what its children leave behind, and never takes a child's exit status away."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from strongroom.agent.engine_run import wait_for
from strongroom.agent.stop import Orphans, Stop
from strongroom.engine.node import Child


@pytest.fixture
def orphans() -> Iterator[Orphans]:
    before = signal.getsignal(signal.SIGCHLD)
    made = Orphans()
    made.install()
    yield made
    signal.signal(signal.SIGCHLD, before)


def child_that_ends(status: int) -> int:
    """Start a process that nobody here knows as its own, and wait until it is a zombie."""
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {status}"], {})
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and state(pid) != "Z":
        time.sleep(0.01)
    return pid


def state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def test_orphans_are_reaped(orphans: Orphans) -> None:
    pids = [child_that_ends(0), child_that_ends(1)]
    orphans.reap(own=[])
    assert [state(pid) for pid in pids] == ["", ""]


def test_its_own_children_keep_their_exit_status(orphans: Orphans) -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    while state(process.pid) != "Z":
        time.sleep(0.01)
    orphans.reap(own=[process.pid])
    assert process.wait(20) == 3


def test_without_children_there_is_nothing_to_reap(orphans: Orphans) -> None:
    orphans.reap(own=[])


def test_orphans_are_reaped_while_the_agent_waits(orphans: Orphans) -> None:
    script = 'pid="$1"; for _ in $(seq 200); do [ -e "/proc/$pid" ] || exit 5; sleep 0.05; done; exit 6'
    other = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 0.3"], {"PATH": "/usr/bin:/bin"})
    process = subprocess.Popen(["/bin/sh", "-c", script, "sh", str(other)], start_new_session=True)
    child = Child(process, name="child")
    try:
        assert wait_for(child, others=[], stop=Stop(), orphans=orphans) == 5
    finally:
        child.kill()
