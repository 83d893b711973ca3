"""A cluster leaves nothing on this machine, however its session ends: by itself, or by kill -9 of any of its processes.

These clusters have names and addresses of their own, so that the session's cluster is not disturbed.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.support.kubernetes import cgroups, remains
from tests.support.kubernetes.kubebox import Box
from tests.support.kubernetes.site import REPOSITORY, Site, second_site

FORWARDS = Path("/proc/sys/net/ipv4/ip_forward")
_SHARED = ("mnt", "pid", "uts")
"""Kinds of namespaces that every process of a node is in, its pods' processes aside, which end with them.

Its network is left out: what holds it holds the link, which is to go with it.
"""


@dataclass(kw_only=True)
class Killable:
    """A session with a node of its own.

    Attributes:
        site: The cluster's.
        process: The session's process.
        node: The first process of its node.
        namespaces: Those namespaces of the node, as the kernel numbers them.
    """

    site: Site
    process: "subprocess.Popen[str]"
    node: int
    namespaces: set[str]

    @property
    def supervisor(self) -> int:
        found = remains.read_record(self.site).supervisor
        assert found is not None
        return found.pid

    @property
    def sweepers(self) -> set[int]:
        """The processes that remove what is left: one."""
        marks = (b"tests.support.kubernetes.remains", self.site.to_json().encode())
        return {pid for pid, command in _commands() if all(mark in command for mark in marks)}


@contextmanager
def session_with(site: Site, box: Box) -> Iterator[Killable]:
    """A session that has made its node; nothing of it is left after the block, or the test fails."""
    forwards = FORWARDS.read_text()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.kubernetes.session", site.to_json(), str(box.program.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    node = remains.read_record(site).node
    assert node is not None
    everything = ("net", *_SHARED)
    assert _namespaces_of(node.pid, everything).isdisjoint(_namespaces_of(os.getpid(), everything))
    namespaces = _namespaces_of(node.pid)
    # As long as they are open here, the kernel gives their numbers to no others.
    held = [os.open(f"/proc/{node.pid}/ns/{kind}", os.O_RDONLY) for kind in _SHARED]
    started = Killable(site=site, process=process, node=node.pid, namespaces=namespaces)
    there = left_of(site, namespaces)
    assert {found.split()[0] for found in there} == {"process", "link", "route", "cgroup", "file"}, there
    try:
        yield started
    finally:
        with process:
            process.kill()
    wait_until_nothing_is_left(started)
    for each in held:
        os.close(each)
    assert FORWARDS.read_text() == forwards, "whether the machine forwards packets is as before"


@pytest.fixture
def killable(box: Box) -> Iterator[Killable]:
    """A session with a node that runs a pod: processes, mounts, cgroups and a link, and no API server."""
    with session_with(replace(second_site(), alone=True), box) as started:
        yield started


@pytest.fixture
def whole(box: Box) -> Iterator[Killable]:
    """A session with a whole cluster, whose state lies below a folder that the node has its own of."""
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="strongroom-e2e-") as name:
        folder = Path(name)
        site = replace(second_site(), state=folder, run=folder / "run", store=folder / "run" / "containerd")
        with session_with(site, box) as started:
            assert str(folder) not in Path("/proc/self/mountinfo").read_text()
            assert "kubelet" in [path.name for path in Path(f"/proc/{started.node}/root/var/lib").iterdir()]
            yield started


def test_a_session_that_ends_leaves_nothing(killable: Killable) -> None:
    assert killable.process.stdin is not None
    killable.process.stdin.write("end\n")
    killable.process.stdin.flush()

    assert killable.process.wait(60) == 0
    assert left_of(killable.site, killable.namespaces) == []


def test_a_killed_session_leaves_nothing(whole: Killable) -> None:
    whole.process.kill()

    wait_until_nothing_is_left(whole)


def test_a_killed_supervisor_leaves_nothing(killable: Killable) -> None:
    os.kill(killable.supervisor, signal.SIGKILL)

    wait_until_nothing_is_left(killable)


def test_session_and_supervisor_killed_together_leave_nothing(killable: Killable) -> None:
    supervisor = killable.supervisor
    os.kill(supervisor, signal.SIGSTOP)
    killable.process.kill()
    os.kill(supervisor, signal.SIGKILL)

    wait_until_nothing_is_left(killable)


def test_who_would_clean_up_is_replaced(killable: Killable) -> None:
    (first,) = killable.sweepers
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(killable.sweepers - {first}) == 1)
    killable.process.kill()

    wait_until_nothing_is_left(killable)


def test_session_and_who_would_clean_up_killed_together_leave_nothing(killable: Killable) -> None:
    for pid in (*killable.sweepers, killable.process.pid):
        os.kill(pid, signal.SIGKILL)

    wait_until_nothing_is_left(killable)


def test_when_all_are_killed_the_next_session_removes_what_no_process_is_part_of(killable: Killable) -> None:
    everybody = [killable.supervisor, *killable.sweepers, killable.process.pid]
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in everybody:
            os.kill(pid, number)

    wait_until(
        lambda: {found.split()[0] for found in left_of(killable.site, killable.namespaces)} == {"cgroup", "file"}
    )
    lock = remains.take_lock(killable.site, holder="a test")
    remains.remove(killable.site)
    remains.give_up_lock(killable.site)
    os.close(lock)
    assert left_of(killable.site, killable.namespaces) == []


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_until_nothing_is_left(killable: Killable) -> None:
    deadline = time.monotonic() + 40
    while left := left_of(killable.site, killable.namespaces):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def left_of(site: Site, namespaces: set[str]) -> list[str]:
    """Return everything on this machine that belongs to a site's cluster, each with its kind first."""
    mark = site.to_json().encode()
    processes = [pid for pid, command in _commands() if mark in command or _namespaces_of(pid) & namespaces]
    links = {link["ifname"] for link in _ip("link")} & {site.link}
    ours = (site.host_address, site.node_address)
    routes = [route["dst"] for route in _ip("route") if {route.get("gateway"), route.get("prefsrc")} & set(ours)]
    groups = [each.path / site.name for each in cgroups.hierarchies() if (each.path / site.name).exists()]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(site.run) in line]
    files = [path for path in (site.run, site.lock) if path.exists()]
    found = {"process": processes, "link": links, "route": routes, "cgroup": groups, "mount": mounts, "file": files}
    return [f"{kind} {each}" for kind, all_of_it in found.items() for each in all_of_it]


def _commands() -> Iterator[tuple[int, bytes]]:
    """Return the processes of this machine, but no session's, with their command lines."""
    for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208 - names only
        try:
            command = Path("/proc", name, "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if command and b"tests.support.kubernetes.session" not in command:
            yield int(name), command


def _namespaces_of(pid: int, kinds: Sequence[str] = _SHARED) -> set[str]:
    try:
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in kinds}
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or one that even root may not look at
        return set()


def _ip(what: str) -> list[dict[str, str]]:
    done = subprocess.run(["ip", "-json", what], capture_output=True, text=True, check=True)
    found: list[dict[str, str]] = json.loads(done.stdout or "[]")
    return found
