"""Processes by id and start time."""

import os
import subprocess
import sys
import time

from tests.support.kubernetes.processes import ProcessId, bound, children_of, identify, is_running, kill


def test_a_process_is_told_from_a_later_one_with_its_id() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert is_running(me)
    assert not is_running(ProcessId(pid=me.pid, start=me.start + 1))


def test_what_is_only_waited_for_is_not_there() -> None:
    with subprocess.Popen(["true"]) as process:
        assert process.pid in children_of(os.getpid())
        deadline = time.monotonic() + 20
        while identify(process.pid) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_later_process_with_the_same_id_is_not_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        found = identify(process.pid)
        assert found is not None
        kill(ProcessId(pid=found.pid, start=found.start - 1))
        assert is_running(found)
        kill(found)
        assert not is_running(found)


def test_a_bound_process_ends_with_the_one_that_started_it() -> None:
    code = (
        "import subprocess, sys; from tests.support.kubernetes.processes import bound; "
        "print(subprocess.Popen(bound(['sleep', '60'])).pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = identify(int(process.stdout.readline()))
        assert child is not None
        process.kill()
        deadline = time.monotonic() + 20
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert bound(["a"])[-1] == "a"
