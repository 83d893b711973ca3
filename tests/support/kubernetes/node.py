"""The first process of the node: makes its mounts and its network, starts Kubernetes, and starts again what ends.

It listens at a Unix socket for requests of the tests, each a JSON object: `{"do": "stop", "name": NAME}` ends one of
its processes and keeps it from being started again until it is told to `start` it.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.kubernetes.api import Api
from tests.support.kubernetes.configuration import CONTAINERD_SOCKET, Component, components
from tests.support.kubernetes.kubebox import LESS_COLLECTING
from tests.support.kubernetes.remains import write_record
from tests.support.kubernetes.site import NODE, REPOSITORY, Site

CONTROL: Final = "control.sock"
"""The socket's name in the site's folder."""
_HIDDEN: Final = ("/run", "/var/lib", "/var/log")
"""Folders of this machine that the node has its own of."""
_BOUND: Final = {"kubelet": "/var/lib/kubelet", "pod-logs": "/var/log/pods"}
"""What is written there by much lies in the site's folder, not in memory."""
_FORWARD: Final = ("net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables")
_START_TIMEOUT_S: Final = 120.0
_STOP_TIMEOUT_S: Final = 5.0
_AGAIN_AFTER_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.05
_CALM_S: Final = 0.2


def main() -> None:
    """Be the node until the kernel ends it."""
    site, box = Site.from_json(sys.argv[1]), Path(sys.argv[2])
    socket.sethostname(NODE)
    _connect(site)
    _mount(site)
    node = _Node(site, components(site, box=box))
    node.start()
    write_record(site, ready=True)
    node.serve()


def _connect(site: Site) -> None:
    """Set up the one link, and no way further; the supervisor gives it."""
    while "eth0" not in {name for _, name in socket.if_nameindex()}:
        time.sleep(_LOOK_EVERY_S)
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "address", "add", f"{site.node_address}/24", "dev", "eth0")
    _run("ip", "link", "set", "eth0", "up")
    _run("ip", "route", "add", "unreachable", "default")
    for name in _FORWARD:  # of this network namespace
        with contextlib.suppress(FileNotFoundError):
            Path("/proc/sys", *name.split(".")).write_text("1")


def _mount(site: Site) -> None:
    """Give the node its own /run, /var/lib and /var/log, in which what it needs of this machine's can still be seen."""
    needed = {site.state, site.run, REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)}
    for folder in _HIDDEN:
        with _kept_open(path for path in needed if path.is_relative_to(folder)) as inside:
            _run("mount", "-t", "tmpfs", "-o", "mode=755", "strongroom-e2e", folder)
            for path, opened in inside.items():
                path.mkdir(parents=True, exist_ok=True)
                source = f"/proc/self/fd/{opened}"
                subprocess.run(
                    ["mount", "--no-canonicalize", "--bind", source, str(path)], check=True, pass_fds=[opened]
                )
    _run("mount", "-t", "tmpfs", "strongroom-e2e", str(site.run / "etcd"))
    for name, place in _BOUND.items():
        Path(place).mkdir()
        _run("mount", "--bind", str(site.run / name), place)
    for place in ("/run/lock", "/run/containerd", "/var/lib/cni", "/var/log/containers"):
        Path(place).mkdir()
    _run("mount", "--make-rshared", "/")


@contextlib.contextmanager
def _kept_open(folders: Iterator[Path]) -> Iterator[dict[Path, int]]:
    """Keep folders reachable by open files while something is mounted over them."""
    opened = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in sorted(folders)}
    try:
        yield opened
    finally:
        for each in opened.values():
            os.close(each)


class _Node:
    """Kubernetes' processes on this node."""

    def __init__(self, site: Site, parts: tuple[Component, ...]) -> None:
        self._site = site
        self._parts = {part.name: part for part in parts}
        self._pids: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._due: dict[str, float] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Start everything in order."""
        for part in self._parts.values():
            if not part.after_api:
                self._start(part.name)
        self._forget_pods()
        if not self._site.alone:
            self._wait_for_api()
        for part in self._parts.values():
            if part.after_api:
                self._start(part.name)

    def _wait_for_api(self) -> None:
        api = Api(self._site.api, self._site.certificates, "node-services")
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not api.is_ready():
            self._look()
            assert time.monotonic() < deadline, "the API server does not become ready"
            time.sleep(_LOOK_EVERY_S)

    def serve(self) -> None:
        """Answer requests and look after the processes; never ends."""
        os.chdir(self._site.run)  # a socket's path must be short
        self._listener.bind(CONTROL)
        os.chdir(REPOSITORY)
        self._listener.listen()
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                if selector.select(timeout=_CALM_S):
                    self._answer()
                self._look()

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(1.0)
            request = json.loads(connection.recv(1000))
            known = request["name"] in self._parts
            if known:
                {"start": self._start, "stop": self._stop}[request["do"]](request["name"])
            connection.sendall(json.dumps({"known": known}).encode())

    def _start(self, name: str) -> None:
        self._stopped.discard(name)
        self._due.pop(name, None)
        if name in self._pids:
            return
        log = str(self._site.logs / f"{name}.log")
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self._site.run), **LESS_COLLECTING}
        command = self._parts[name].command
        self._pids[name] = os.posix_spawnp(
            command[0], command, environment, file_actions=actions, setsid=True, setsigdef=[signal.SIGPIPE]
        )

    def _stop(self, name: str) -> None:
        self._stopped.add(name)
        self._due.pop(name, None)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        if name in self._pids:
            os.kill(self._pids[name], signal.SIGTERM)
        while name in self._pids:
            if time.monotonic() > deadline:
                os.kill(self._pids[name], signal.SIGKILL)
            time.sleep(_LOOK_EVERY_S)
            self._look()

    def _look(self) -> None:
        """Reap what ended, orphans of the whole node too, and start again what should run."""
        while ended := self._reap():
            pid, status = ended
            for name in [name for name, own in self._pids.items() if own == pid]:
                del self._pids[name]
                _say(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
                if name not in self._stopped:
                    self._due[name] = time.monotonic() + _AGAIN_AFTER_S
        for name in [name for name, due in self._due.items() if due <= time.monotonic()]:
            self._start(name)

    @staticmethod
    def _reap() -> tuple[int, int] | None:
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(-1, os.WNOHANG)
            return (pid, status) if pid else None
        return None

    def _forget_pods(self) -> None:
        """Wait for containerd, and remove the containers of an earlier node: their processes are gone."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (found := _ctr("containers", "list", "--quiet")) is None:
            assert time.monotonic() < deadline, "containerd does not answer"
            time.sleep(_LOOK_EVERY_S)
        if found.split():
            _ctr("containers", "delete", *found.split())


def _ctr(*arguments: str) -> str | None:
    """Run containerd's own client; None when it fails."""
    command = ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
