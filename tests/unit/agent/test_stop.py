"""What wakes an agent. It reaps what its children leave behind, and never takes a child's exit status away."""

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from strongroom.agent.engine_run import wait_for
from strongroom.agent.stop import Stop, reap_orphans
from strongroom.engine.node import Child


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


def test_a_childs_end_wakes(stop: Stop) -> None:
    with subprocess.Popen(["/bin/sleep", "0.2"]):
        stop.wait()
    assert not stop.asked


def test_a_signal_wakes_whichever_thread_takes_it(stop: Stop) -> None:
    """A library operating system may give a process's signal to any thread: this one sleeps on."""

    def take() -> None:
        time.sleep(0.2)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    thread = threading.Thread(target=take)
    thread.start()
    stop.wait()
    thread.join()
    assert stop.asked
    assert stop.signal_number == signal.SIGTERM


def test_what_came_before_is_not_slept_through_and_wakes_once(stop: Stop) -> None:
    for _ in range(100_000):  # more than a pipe holds
        stop._ring()
    stop.wait()
    rung = threading.Event()

    def ring_again() -> None:
        rung.set()
        stop._ring()

    threading.Timer(0.2, ring_again).start()
    stop.wait()
    assert rung.is_set()


def test_children_inherit_neither_end_of_the_pipe(stop: Stop) -> None:
    assert not os.get_inheritable(stop._news)
    assert not os.get_inheritable(stop._bell)


def test_orphans_are_reaped() -> None:
    pids = [child_that_ends(0), child_that_ends(1)]
    reap_orphans(own=[])
    assert [state(pid) for pid in pids] == ["", ""]


def test_its_own_children_keep_their_exit_status() -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    while state(process.pid) != "Z":
        time.sleep(0.01)
    reap_orphans(own=[process.pid])
    assert process.wait(20) == 3


def test_without_children_there_is_nothing_to_reap() -> None:
    reap_orphans(own=[])


def test_where_the_system_has_no_waitid_nothing_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "waitid", unknown)
    reap_orphans(own=[])


def test_orphans_are_reaped_while_the_agent_waits(stop: Stop) -> None:
    script = 'pid="$1"; for _ in $(seq 200); do [ -e "/proc/$pid" ] || exit 5; sleep 0.05; done; exit 6'
    other = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 0.3"], {"PATH": "/usr/bin:/bin"})
    process = subprocess.Popen(["/bin/sh", "-c", script, "sh", str(other)], start_new_session=True)
    child = Child(process, name="child")
    try:
        assert wait_for(child, others=[], stop=stop) == 5
    finally:
        child.kill()
