"""The cluster of the end-to-end tests: one that is made here for the test session, or any other by its kubeconfig."""

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from tests.support.kubernetes import remains
from tests.support.kubernetes.api import Api, path_of
from tests.support.kubernetes.configuration import API_SERVER, CONTAINERD_SOCKET, PAUSE_IMAGE
from tests.support.kubernetes.images import pod_archive
from tests.support.kubernetes.kubebox import LESS_COLLECTING, Box, Say, built_box
from tests.support.kubernetes.machine import missing, search_path
from tests.support.kubernetes.node import CONTROL
from tests.support.kubernetes.oci import read_archive
from tests.support.kubernetes.processes import bound
from tests.support.kubernetes.site import NODE, REPOSITORY, Site, default_site, state_folder
from tests.support.kubernetes.supervisor import ANOTHER_HAS_IT

from strongroom.attestation.attester.simulated import short_address
from strongroom.base.errors import ConfigurationError, NotFoundError, UnavailableError

_T = TypeVar("_T")
_COMMAND_TIMEOUT_S: Final = 180.0
_START_TIMEOUT_S: Final = 180.0
_END_TIMEOUT_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.2
_KEPT_IMAGES: Final = 8


class CommandError(Exception):
    """A command for the cluster failed; what it printed is in the message."""

    def __init__(self, command: Sequence[str], done: "subprocess.CompletedProcess[str]") -> None:
        super().__init__(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
        self.status = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr


@dataclass(kw_only=True)
class Cluster:
    """A cluster.

    Attributes:
        kubeconfig: The file with which clients find it, as its administrator.
        box: kubectl and helm, and what pods of the cluster's own tests run.
        folder: Where clients keep what they want to remember; it goes with the cluster.
        registry: Where images are pushed to; a cluster that is made here needs none.
    """

    kubeconfig: Path
    box: Box
    folder: Path
    registry: str = ""
    _namespaces: list[str] = field(default_factory=list)

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = _COMMAND_TIMEOUT_S) -> str:
        """Run kubectl; return what it prints.

        Raises:
            CommandError: It failed.
        """
        return self._run("kubectl", arguments, stdin=stdin, timeout_s=timeout_s)

    def helm(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """Run helm; return what it prints.

        Raises:
            CommandError: It failed.
        """
        return self._run("helm", arguments, stdin=None, timeout_s=timeout_s)

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return an object as the API server has it.

        Raises:
            CommandError: It does not exist.
        """
        found: dict[str, Any] = json.loads(self.kubectl("get", kind, name, *_in(namespace), "--output=json"))
        return found

    def find(self, kind: str, namespace: str = "", *, selector: str = "") -> list[dict[str, Any]]:
        """Return all objects of a kind in a namespace; `selector` narrows them by their labels."""
        narrowed = [f"--selector={selector}"] if selector else []
        answer = json.loads(
            self.kubectl("get", kind, *_in(namespace), *narrowed, "--output=json", "--show-managed-fields")
        )
        return list(answer["items"])

    def exists(self, kind: str, name: str, namespace: str = "") -> bool:
        return bool(self.kubectl("get", kind, name, *_in(namespace), "--ignore-not-found", "--output=name").strip())

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object; return it as the API server made it.

        Raises:
            CommandError: It was refused, or exists already.
        """
        made = self.kubectl("create", "--filename=-", "--output=json", stdin=json.dumps(manifest))
        created: dict[str, Any] = json.loads(made)
        return created

    def would_create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Have the API server check an object as if it were created; return what it would make of it.

        Raises:
            CommandError: It would be refused.
        """
        checked = ("create", "--dry-run=server", "--validate=strict", "--filename=-", "--output=json")
        would_be: dict[str, Any] = json.loads(self.kubectl(*checked, stdin=json.dumps(manifest)))
        return would_be

    def apply(self, manifests: str | Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> str:
        """Create or change objects: one, several, or a text of YAML documents.

        Raises:
            CommandError: One was refused.
        """
        if isinstance(manifests, Mapping):
            manifests = [manifests]
        text = manifests if isinstance(manifests, str) else "\n---\n".join(map(json.dumps, manifests))
        return self.kubectl("apply", "--filename=-", stdin=text)

    def delete(self, kind: str, name: str, namespace: str = "", *, wait: bool = True) -> None:
        """Delete an object if it is there, and wait until it is gone."""
        self.kubectl("delete", kind, name, *_in(namespace), "--ignore-not-found", f"--wait={str(wait).lower()}")

    def delete_all(self, kind: str, namespace: str, *, selector: str) -> None:
        """Have all objects of a kind in a namespace deleted that have these labels; do not wait."""
        self.kubectl("delete", kind, *_in(namespace), f"--selector={selector}", "--wait=false")

    def describe(self, kind: str, name: str, namespace: str = "") -> str:
        """Return what `kubectl describe` tells a person of an object."""
        return self.kubectl("describe", kind, name, *_in(namespace))

    def log(self, pod: str, namespace: str, *, container: str = "") -> str:
        """Return what a pod printed so far."""
        return self.kubectl("logs", pod, *_in(namespace), *([f"--container={container}"] if container else []))

    def phase(self, pod: str, namespace: str) -> str:
        """Return where a pod is in its life, as in "Succeeded"."""
        return str(self.get("pod", pod, namespace)["status"].get("phase", "Pending"))

    def ended(self, pod: str, namespace: str, *, timeout_s: float = 120.0) -> str:
        """Wait until a pod has ended; return how, "Succeeded" or "Failed".

        Raises:
            TimeoutError: It has not; the message says what is known of it.
        """
        try:
            phases = self.wait_until(
                lambda: {self.phase(pod, namespace)} & {"Succeeded", "Failed"}, f"the end of pod {pod}", timeout_s
            )
        except TimeoutError as error:
            raise TimeoutError(f"{error}:\n{self.describe('pod', pod, namespace)}") from None
        return phases.pop()

    def wait_until(self, condition: Callable[[], _T], what: str, timeout_s: float = 60.0) -> _T:
        """Call until the answer is true; return it.

        Args:
            condition: What is asked; a command that fails counts as no.
            what: What is waited for, for the message.
            timeout_s: For how long, in seconds.

        Raises:
            TimeoutError: It was not so in time.
        """
        deadline = time.monotonic() + timeout_s
        failure = ""
        while True:
            try:
                answer = condition()
            except CommandError as error:
                failure = f" ({error})"
            else:
                failure = ""
                if answer:
                    return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {timeout_s:.0f} s in vain for {what}{failure}")
            time.sleep(_LOOK_EVERY_S)

    def new_namespace(self, prefix: str, *, labels: Mapping[str, str] | None = None) -> str:
        """Make a namespace with a new name; it is deleted with the cluster, or by `delete`."""
        name = f"{prefix}-{secrets.token_hex(3)}"
        metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "strongroom-e2e", **(labels or {})}}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._namespaces.append(name)
        self.wait_until(lambda: self.exists("serviceaccount", "default", name), f"the service account of {name}")
        return name

    @contextmanager
    def forward(self, service: str, namespace: str, port: int) -> Iterator[str]:
        """Make a service's port reachable on this machine.

        Args:
            service: A service by its name, or anything else as kubectl writes it: "pod/NAME".
            namespace: Its namespace.
            port: The port of it.

        Yields:
            Host and port on this machine, as in "127.0.0.1:40123".
        """
        target = service if "/" in service else f"service/{service}"
        first: queue.SimpleQueue[str] = queue.SimpleQueue()
        stop = threading.Event()
        running: list[subprocess.Popen[str]] = []

        def keep() -> None:
            """Forward again whenever kubectl ended: it does when the API server restarts."""
            here = ""
            while not stop.is_set():
                arguments = ["port-forward", "--address=127.0.0.1", *_in(namespace), target, f"{here}:{port}"]
                with subprocess.Popen(
                    bound(self._command("kubectl", arguments)),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=self._environment(),
                ) as process:
                    running[:] = [process]
                    assert process.stdout is not None
                    line = process.stdout.readline()  # Forwarding from 127.0.0.1:40123 -> 8000
                    if not here:
                        first.put(line)
                        here = line.split()[2].rpartition(":")[2] if line.startswith("Forwarding from ") else ""
                        stop.wait(0 if here else None)
                    for _ in process.stdout:
                        pass
                stop.wait(0.5)

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        try:
            line = first.get(timeout=60)
            if not line.startswith("Forwarding from "):
                raise UnavailableError(f"{target} is not reachable: {line}", action="describe it")
            yield line.split()[2]
        finally:
            stop.set()
            running[0].kill()
            keeper.join(10)

    def issuer(self) -> str:
        """The issuer of the cluster's service accounts' tokens."""
        return str(json.loads(self.kubectl("get", "--raw=/.well-known/openid-configuration"))["issuer"])

    def import_image(self, archive: Path) -> str:
        """Make an image known to the cluster, if it is not; return its reference by digest, for pods.

        Raises:
            ConfigurationError: There is no registry to push it to.
        """
        image = read_archive(archive)
        if not self.registry:
            raise ConfigurationError(
                "images cannot be brought to this cluster",
                action="name a registry that it pulls from, after `docker login` or `helm registry login`: "
                "STRONGROOM_E2E_REGISTRY=registry.example/path",
            )
        repository = f"{self.registry}/{image.repository.rpartition('/')[2]}"
        self._run("push", [str(archive), image.descriptor, f"{repository}:e2e"], stdin=None, timeout_s=1800)
        return f"{repository}@{image.digest}"

    def pod_image(self) -> str:
        """Return the image of podbox by its digest, for pods."""
        return self.import_image(pod_archive(self.box).path)

    def close(self) -> None:
        """Delete the namespaces that were made, and what clients remembered."""
        if self._namespaces:
            self.kubectl("delete", "namespace", *self._namespaces, "--ignore-not-found", timeout_s=600)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, arguments: Sequence[str], *, stdin: str | None, timeout_s: float) -> str:
        command = self._command(program, arguments)
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=self._environment(), **given
        )
        if done.returncode:
            raise CommandError([program, *arguments], done)
        return done.stdout

    def _command(self, program: str, arguments: Sequence[str]) -> list[str]:
        config = ["--kubeconfig", str(self.kubeconfig)] if program in ("kubectl", "helm") else []
        return [str(self.box.program), program, *config, *arguments]

    def _environment(self) -> dict[str, str]:
        """Return an environment in which clients keep nothing in the user's home; what is kept there is read."""
        places = ("KUBECACHEDIR", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        mine = {name: str(self.folder / name.lower()) for name in places}
        kept = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        return {**LESS_COLLECTING, **kept, **mine}


@dataclass(kw_only=True)
class LocalCluster(Cluster):
    """A cluster that was made here, in namespaces of this machine.

    Most objects are read without kubectl: a test looks often, and each kubectl is a process of its own.

    Attributes:
        site: Its names, addresses and folders.
    """

    site: Site
    _supervisor: "subprocess.Popen[bytes]"
    _say: Say

    @classmethod
    def start(cls, site: Site, box: Box, *, say: Say) -> "LocalCluster":
        """Start a cluster, and remove first what an earlier session left that was killed.

        Args:
            site: What it is called and where it lies.
            box: Its programs.
            say: Shows a line of progress.

        Raises:
            UnavailableError: It could not be started; the message has the reason.
        """
        began = time.monotonic()
        site.state.mkdir(parents=True, exist_ok=True)
        log = site.state / f"{site.run.name}-supervisor.log"
        command = [sys.executable, "-m", "tests.support.kubernetes.supervisor", site.to_json(), str(box.program)]
        with log.open("wb") as file:
            supervisor = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        cluster = cls(
            kubeconfig=site.certificates / "admin.kubeconfig",
            box=box,
            folder=site.run / "clients",
            site=site,
            _supervisor=supervisor,
            _say=say,
        )
        try:
            cluster._wait_until_started(log)
            say(f"cluster: processes started, {time.monotonic() - began:.1f} s")
            cluster._prepare()
        except BaseException:
            cluster.close()
            raise
        say(f"cluster: node ready, {time.monotonic() - began:.1f} s")
        return cluster

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        """Return an object (see `Cluster`)."""
        path = path_of(kind, namespace, name)
        if path is None:
            return super().get(kind, name, namespace)
        found: dict[str, Any] = json.loads(self._read(path))
        return found

    def find(self, kind: str, namespace: str = "", *, selector: str = "") -> list[dict[str, Any]]:
        """Return all objects of a kind in a namespace (see `Cluster`)."""
        path = path_of(kind, namespace)
        if path is None:
            return super().find(kind, namespace, selector=selector)
        answer = json.loads(self._read(path, labelSelector=selector))
        common = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [{**common, **item} for item in answer["items"]]

    def exists(self, kind: str, name: str, namespace: str = "") -> bool:
        path = path_of(kind, namespace, name)
        if path is None:
            return super().exists(kind, name, namespace)
        try:
            self._read(path)
        except CommandError as error:
            if isinstance(error.__cause__, NotFoundError):
                return False
            raise
        return True

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object (see `Cluster`)."""
        path = self._place_for(manifest)
        return super().create(manifest) if path is None else self._post(path, manifest)

    def would_create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Have the API server check an object (see `Cluster`)."""
        path = self._place_for(manifest)
        return super().would_create(manifest) if path is None else self._post(path, manifest, dryRun="All")

    def delete(self, kind: str, name: str, namespace: str = "", *, wait: bool = True) -> None:
        """Delete an object if it is there (see `Cluster`)."""
        path = path_of(kind, namespace, name)
        if path is None:
            super().delete(kind, name, namespace, wait=wait)
            return
        try:
            deleted = self.get(kind, name, namespace)["metadata"]["uid"]
            self._asked(lambda: self._api.call("DELETE", path), path)
        except CommandError as error:
            if not isinstance(error.__cause__, NotFoundError):
                raise
            return

        def is_gone() -> bool:
            # There may be another one already, which has its name.
            return deleted not in {each["metadata"]["uid"] for each in self.find(kind, namespace)}

        if wait:
            self.wait_until(is_gone, f"the end of {kind} {name}", 120)

    def delete_all(self, kind: str, namespace: str, *, selector: str) -> None:
        """Have objects deleted (see `Cluster`)."""
        path = path_of(kind, namespace)
        if path is None:
            super().delete_all(kind, namespace, selector=selector)
            return
        self._asked(lambda: self._api.call("DELETE", f"{path}?{urlencode({'labelSelector': selector})}"), path)

    def log(self, pod: str, namespace: str, *, container: str = "") -> str:
        """Return what a pod printed so far (see `Cluster`)."""
        path = path_of("pod", namespace, pod, "log")
        assert path is not None
        return self._read(path, container=container)

    @cached_property
    def _api(self) -> Api:
        return Api(self.site.api, self.site.certificates, "admin")

    @staticmethod
    def _place_for(manifest: Mapping[str, Any]) -> str | None:
        """Return the path at which an object is created; None for a kind that kubectl creates."""
        return path_of(manifest["kind"].lower(), manifest.get("metadata", {}).get("namespace", ""))

    def _post(self, path: str, manifest: Mapping[str, Any], **query: str) -> dict[str, Any]:
        asked = f"{path}?{urlencode({'fieldValidation': 'Strict', **query})}"
        return self._asked(lambda: self._api.call("POST", asked, dict(manifest)), path)

    def _read(self, path: str, **query: str) -> str:
        """Return what the API server has at a path; queries that are empty are none.

        Raises:
            CommandError: It is not there, not allowed, or nobody answers.
        """
        given = urlencode({name: value for name, value in query.items() if value})
        return self._asked(lambda: self._api.read(f"{path}?{given}" if given else path), path)

    @staticmethod
    def _asked(call: Callable[[], _T], path: str) -> _T:
        try:
            return call()
        except (NotFoundError, UnavailableError) as error:
            failed = subprocess.CompletedProcess([], 1, stdout="", stderr=error.message)
            raise CommandError(["api", path], failed) from error

    def import_image(self, archive: Path) -> str:
        """Make an image known to the node, if it is not; return its reference by digest, for pods."""
        image = read_archive(archive)
        if image.reference not in self._ctr("images", "list", "--quiet").split():
            self._say(f"cluster: importing {image.repository}, {archive.stat().st_size >> 20} MB")
            self._ctr("images", "import", "--digests", f"--base-name={image.repository}", str(archive))
        imported = self._imported()
        imported.write_text(
            "\n".join([*(line for line in self._imports() if line != image.reference), image.reference])
        )
        return image.reference

    def start_alone(self, pod: Mapping[str, Any]) -> None:
        """Have a kubelet without a cluster start a pod of one container; return when it runs."""
        draft = self.site.run / "pod.json"
        draft.write_text(json.dumps(pod))
        draft.rename(self.site.pod_files / draft.name)

        def runs() -> bool:
            states = [line.split()[-1] for line in self._ctr("tasks", "list").splitlines()[1:]]
            return states == ["RUNNING"] * 2  # the one that keeps the pod's network, and its container

        self.wait_until(runs, "the pod")

    def in_node(self, *command: str, timeout_s: float = _COMMAND_TIMEOUT_S) -> str:
        """Run a command of this machine in the node's namespaces; return what it prints.

        Raises:
            CommandError: It failed.
        """
        node = remains.read_record(self.site).node
        assert node is not None
        # Not `ip netns exec`: that mounts a new /sys, without the cgroups.
        entered = ["nsenter", f"--target={node.pid}", "--mount", "--pid", "--net", "--uts", "--", *command]
        done = subprocess.run(
            entered,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "PATH": search_path()},
        )
        if done.returncode:
            raise CommandError(command, done)
        return done.stdout

    def restart(self, component: str) -> None:
        """Stop one of the node's processes and start it again; return when the API server answers.

        Args:
            component: As in "kube-apiserver", "kubelet" or "containerd".
        """
        with self.stopped(component):
            pass

    @contextmanager
    def stopped(self, component: str) -> Iterator[None]:
        """Keep one of the node's processes stopped while the block runs."""
        self._control("stop", component)
        try:
            yield
        finally:
            self._control("start", component)
            if component in (API_SERVER, "etcd"):
                self.wait_until(lambda: self.kubectl("get", "--raw=/readyz") == "ok", "the API server", 120)

    def kill(self, pod: str, namespace: str) -> None:
        """Kill every process in a pod's containers, as the machine's root does; not the one that keeps its network."""
        mark = f"pod{self.get('pod', pod, namespace)['metadata']['uid']}"
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                is_sandbox = b"podbox\0pause" in (folder / "cmdline").read_bytes()
                if mark in (folder / "cgroup").read_text() and not is_sandbox:
                    os.kill(int(folder.name), signal.SIGKILL)

    def close(self) -> None:
        """Take the cluster down; return when nothing is left of it."""
        with contextlib.suppress(BrokenPipeError):
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.close()
        if self._supervisor.wait(_END_TIMEOUT_S) == ANOTHER_HAS_IT:
            return
        deadline = time.monotonic() + _END_TIMEOUT_S
        while remains.is_locked(self.site):
            assert time.monotonic() < deadline, f"{self.site.lock} is still locked"
            time.sleep(_LOOK_EVERY_S)
        if self.site.run.exists():  # whoever should have removed it was killed
            lock = remains.take_lock(self.site, holder=f"process {os.getpid()}")
            remains.remove(self.site)
            remains.give_up_lock(self.site)
            os.close(lock)

    def _wait_until_started(self, log: Path) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._has_started():
            if self._supervisor.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"the cluster did not start: {log.read_text().strip()}", action=self._where())
            time.sleep(_LOOK_EVERY_S)

    def _has_started(self) -> bool:
        """Return whether this cluster has; what is written down may be of an earlier one that was killed."""
        record = remains.read_record(self.site)
        return record.ready and record.supervisor is not None and record.supervisor.pid == self._supervisor.pid

    def _prepare(self) -> None:
        """Bring the image that holds pods' namespaces, forget old ones, and wait until pods can be made."""
        for old in self._imports()[:-_KEPT_IMAGES]:
            with contextlib.suppress(CommandError):
                self._ctr("images", "remove", old)
        image = self.pod_image()
        self._ctr("images", "tag", "--force", image, PAUSE_IMAGE)
        if self.site.alone:
            return
        self.wait_until(lambda: self.exists("node", NODE), "the node")
        self.kubectl("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=90s")
        self.wait_until(lambda: self.exists("serviceaccount", "default", "default"), "the first service account")

    def _imported(self) -> Path:
        """Return the file with the images in the store, the one used last at the end."""
        return self.site.store / "imported"

    def _imports(self) -> list[str]:
        return self._imported().read_text().splitlines() if self._imported().exists() else []

    def _ctr(self, *arguments: str) -> str:
        return self.in_node("ctr", f"--address={CONTAINERD_SOCKET}", "--namespace=k8s.io", *arguments, timeout_s=900)

    def _control(self, do: str, component: str) -> None:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
            short_address(self.site.run / CONTROL) as address,
        ):
            client.settimeout(60)
            client.connect(address)
            client.sendall(json.dumps({"do": do, "name": component}).encode())
            assert json.loads(client.recv(1000)) == {"known": True}, f"no component {component}"

    def _where(self) -> str:
        return f"see {self.site.logs} or, once it is down, {self.site.last_logs}"


@contextmanager
def opened_cluster(*, say: Say) -> Iterator[Cluster]:
    """A cluster while the block runs: the one that `KUBECONFIG` names, or one that is made here.

    Raises:
        ConfigurationError: None can be made on this machine.
        UnavailableError: None could be made.
    """
    own = os.environ.get("KUBECONFIG")
    if own:
        cluster = _own_cluster(own, built_box(state_folder(), say=say), say=say)
    else:
        cluster = LocalCluster.start(default_site(_worker()), box_for_this_machine(say=say), say=say)
    try:
        yield cluster
    finally:
        cluster.close()
        say("cluster: gone")


def box_for_this_machine(*, say: Say) -> Box:
    """Return what a cluster is made of, built if need be.

    Raises:
        ConfigurationError: None can be made on this machine.
        UnavailableError: It could not be built.
    """
    if missing():
        raise ConfigurationError(missing(), action="or use a cluster of your own: KUBECONFIG=... make test-kubernetes")
    return built_box(state_folder(), say=say)


def _worker() -> int:
    """Return which of several processes of pytest this is; 0 in the only one."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _own_cluster(kubeconfig: str, box: Box, *, say: Say) -> Cluster:
    """Return the cluster that a user's kubeconfig names as the current one."""
    folder = Path(tempfile.mkdtemp(prefix="strongroom-e2e-"))
    command = [str(box.program), "kubectl", "config", "view", "--raw", "--flatten", "--minify", "--output=json"]
    done = subprocess.run(
        command, env={**os.environ, "KUBECONFIG": kubeconfig}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"KUBECONFIG names no cluster: {done.stderr.strip()}", action="choose a context")
    config = json.loads(done.stdout)
    path = folder / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(done.stdout)
    say(f"cluster: {config['current-context']} at {config['clusters'][0]['cluster']['server']}, as KUBECONFIG says")
    registry = os.environ.get("STRONGROOM_E2E_REGISTRY", "").rstrip("/")
    return Cluster(kubeconfig=path, box=box, folder=folder, registry=registry)


def _in(namespace: str) -> list[str]:
    return ["--namespace", namespace] if namespace else []
