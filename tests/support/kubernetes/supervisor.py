"""Keeps one cluster for as long as the process that started it lives, and takes it down however that ends.

It makes the namespaces and the link, and waits at its standard input, whose other end its starter holds. Should it be
killed, the kernel kills the node with it, and the process of `remains`, which it started first, removes what is left.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.kubernetes import cgroups, configuration
from tests.support.kubernetes.certificates import make_certificates
from tests.support.kubernetes.machine import demand_free, plugin_folder, search_path
from tests.support.kubernetes.processes import ProcessId, bound, children_of, identify
from tests.support.kubernetes.remains import remove, take_lock, write_record
from tests.support.kubernetes.site import REPOSITORY, Site

from strongroom.base.errors import ConflictError, StrongroomError, UnavailableError

ANOTHER_HAS_IT: Final = 3
"""The exit status when another session has the cluster."""
_LINK_IN_NODE: Final = "eth0"
_NAMESPACES: Final = ("--net", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child=KILL")
_START_TIMEOUT_S: Final = 10.0
_LOOK_EVERY_S: Final = 0.2


def main() -> int:
    """Keep a cluster; return when it is no longer wanted (0) or ended by itself (1)."""
    site, box = Site.from_json(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        lock = take_lock(site, holder=f"process {os.getppid()}, in {REPOSITORY}")
    except ConflictError as error:
        _tell(error)
        return ANOTHER_HAS_IT
    sweeper = _Sweeper(site, lock)
    try:
        remove(site)
        _prepare(site)
        node = _start_node(site, box)
        _connect(site, node)
        return _keep(node, sweeper)
    except StrongroomError as error:
        _tell(error)
        return 1
    finally:
        sweeper.sweep()


def _tell(error: StrongroomError) -> None:
    sys.stderr.write(f"{error.message}; {error.action}\n")


class _Sweeper:
    """The process that removes everything when this one wants it or has ended; it has the lock for as long."""

    def __init__(self, site: Site, lock: int) -> None:
        self._site, self._lock = site, lock
        self._process = self._start()

    def revive(self) -> None:
        """Start it again if somebody has ended it."""
        if self._process.poll() is not None:
            self._process = self._start()

    def sweep(self) -> None:
        """Have it remove everything, and wait; if somebody ends it meanwhile, another does the same."""
        while True:
            assert self._process.stdin is not None
            self._process.stdin.close()
            if self._process.wait() >= 0:
                return
            self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.kubernetes.remains", self._site.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._lock],
            cwd=REPOSITORY,
            start_new_session=True,
        )


def _prepare(site: Site) -> None:
    demand_free([site.link_network, site.pod_network], json.loads(_ip("-json", "route") or "[]"))
    controllers = cgroups.missing_controllers()
    write_record(site, supervisor=identify(os.getpid()), controllers=controllers)
    for name in ("log", "cni", "etcd", "kubelet", "pod-logs", "volumes", site.pod_files.name):
        (site.run / name).mkdir()
    for name, content in configuration.files(site, plugins=plugin_folder()).items():
        (site.run / name).write_text(content)
    make_certificates(site)
    cgroups.make(site.name, controllers)


def _start_node(site: Site, box: Path) -> subprocess.Popen[bytes]:
    """Start the first process of the node in its namespaces."""
    node = [sys.executable, "-m", "tests.support.kubernetes.node", site.to_json(), str(box)]
    with (site.logs / "node.log").open("wb") as log:
        return subprocess.Popen(
            bound(["unshare", *_NAMESPACES, *node]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env={**os.environ, "PATH": search_path()},
            start_new_session=True,
        )


def _connect(site: Site, node: subprocess.Popen[bytes]) -> None:
    """Write down the node's first process, and give the node its one link."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not (first := _first_process(node)):
        if node.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(
                f"the node's namespaces were not made: {(site.logs / 'node.log').read_text()}",
                action="see whether this machine allows them",
            )
        time.sleep(0.01)
    write_record(site, node=first)
    _ip("link", "add", site.link, "type", "veth", "peer", "name", _LINK_IN_NODE, "netns", str(node.pid))
    _ip("address", "add", f"{site.host_address}/24", "dev", site.link)
    _ip("link", "set", site.link, "up")
    _ip("route", "add", site.pod_network, "via", site.node_address)


def _first_process(node: subprocess.Popen[bytes]) -> ProcessId | None:
    """Return the process that was started in the new namespaces; they are there when it is."""
    return next(filter(None, map(identify, children_of(node.pid))), None)


def _keep(node: subprocess.Popen[bytes], sweeper: _Sweeper) -> int:
    while node.poll() is None:
        readable, _, _ = select.select([0], [], [], _LOOK_EVERY_S)
        if readable and not os.read(0, 100):
            return 0
        sweeper.revive()
    raise UnavailableError(f"the node ended with {node.returncode}", action="see its log")


def _ip(*arguments: str) -> str:
    command: Sequence[str] = ["ip", *arguments]
    environment: dict[str, Any] = {**os.environ, "PATH": search_path()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(
            f"{' '.join(command)}: {done.stderr.strip()}", action="see whether this machine allows it"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
