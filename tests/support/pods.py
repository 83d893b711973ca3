"""What an agent finds in a pod, without Kubernetes and without Spark: folders, words, and a program in Java's place."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.tee import Runner

from strongroom.application.parts import package_parts
from strongroom.crypto.random import random_id
from strongroom.wire.descriptor import DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.events import Delivered, DriverReady, Event, Failed, delivered_file, parse_event
from strongroom.wire.pod import DESCRIPTOR_NAME, DRIVER_KEY_ENV, POD_NAME_ENV, PodDescriptor, package_part_name

AGENT = Path(__file__).with_name("pod_agent.py")
LIBRARY_OS = Path(__file__).with_name("library_os.py")
ROOT = Path(__file__).parents[2]
TEMPLATE = {
    "apiVersion": "v1",
    "kind": "Pod",
    "spec": {
        "containers": [
            {"name": "sidecar", "env": [{"name": "A", "value": "1"}]},
            {
                "name": "spark-kubernetes-executor",
                "command": ["/usr/local/bin/strongroom-agent", "--pod"],
                "env": [{"name": "B", "value": "2"}],
            },
        ]
    },
}
# Tells how it was started, then does what the test says. `$0` is PREFIX/share/strongroom/java/bin/java.
JAVA = """#!/bin/sh
seen="$(dirname "$0")/../../../../seen"
mkdir "$seen"
env > "$seen/environment"
for word do printf '%s\\n' "$word"; done > "$seen/arguments"
cp -r "$STRONGROOM_SCRATCH/conf" "$seen/conf"
ls -la "$STRONGROOM_SCRATCH/conf" > "$seen/modes"
touch "$seen/whole"
{what}
"""
TIMEOUT_S = 120


@dataclass(kw_only=True)
class Ended:
    """A pod whose agent has ended: its exit status, its log, its last words."""

    status: int
    log: str
    errors: str
    last_words: str
    seen: Path

    @property
    def events(self) -> list[Event]:
        return [parse_event(line) for line in self.log.splitlines()]

    @property
    def failed(self) -> Failed:
        found = [event for event in self.events if isinstance(event, Failed)]
        assert len(found) == 1, self.log + self.errors
        return found[0]

    @property
    def got_keys(self) -> bool:
        """Whether a key service let this TEE in."""
        return any(getattr(event, "step", None) == "release" for event in self.events if not isinstance(event, Failed))

    def file(self, ending: str) -> bytes:
        parts = [each for each in self.events if isinstance(each, Delivered) and each.name.endswith(ending)]
        return delivered_file(parts)

    @property
    def arguments(self) -> list[str]:
        return (self.seen / "arguments").read_text().splitlines()

    @property
    def environment(self) -> dict[str, str]:
        lines = (self.seen / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@dataclass(kw_only=True)
class Pod:
    """A pod before its agent starts: every file and word is one edit away from an attack.

    Its agent can be given a library operating system's calls alone (`library_os`), by its name.
    """

    folder: Path
    words: list[str]
    environment: dict[str, str]
    library_os: str | None = None
    memory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.memory = self.folder / "memory"

    @property
    def descriptor(self) -> Path:
        return self.folder / "run" / DESCRIPTOR_NAME

    def describe(self, **changed: Any) -> None:
        """Change fields of the descriptor."""
        said = json.loads(self.descriptor.read_bytes())
        self.descriptor.write_text(json.dumps(said | changed))

    def part(self, number: int) -> Path:
        return self.folder / "package" / package_part_name(number)

    def lay_memory_on(self, disk: Path) -> None:
        """Put a folder of a disk in the place of the memory volume, as a host could."""
        self.memory.unlink()
        disk.mkdir()
        self.memory.symlink_to(disk)
        self.memory = disk

    def start(self) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            agent_command(self.folder, *self.words, library_os=self.library_os),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | self.environment,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str], *, log: str = "") -> Ended:
        """Wait for an agent's end; `log` is what was read of it already."""
        output, errors = process.communicate(timeout=TIMEOUT_S)
        words = self.folder / "termination-log"
        return Ended(
            status=process.returncode,
            log=log + output,
            errors=errors,
            last_words=words.read_text() if words.exists() else "",
            seen=self.seen,
        )

    def run(self) -> Ended:
        return self.ended(self.start())

    @property
    def seen(self) -> Path:
        """What the program in Java's place saw."""
        return self.folder / "prefix" / "seen"


def agent_command(folder: Path, *words: str, library_os: str | None = None) -> list[str]:
    """The command of an agent in a pod."""
    filtered = [] if library_os is None else [sys.executable, "-P", str(LIBRARY_OS), library_os]
    return [*filtered, sys.executable, "-P", str(AGENT), str(folder), *words]


def _waiting(gate: Path) -> str:
    return f'echo hello; echo auditor; until [ -e "{gate}" ]; do sleep 0.05; done; exit 0'


class Pods:
    """The pods of runs of one approved application.

    `java` is what a shell does in Java's place, or a whole program; with None a pod's Spark is this installation's.
    """

    def __init__(self, runner: Runner, folder: Path, memory: Path, *, library_os: str | None = None) -> None:
        self.runner, self.folder, self._memory, self.library_os = runner, folder, memory, library_os
        self.archive = folder / "archive"
        runner.services.platform.platform.save(folder / "platform")

    def descriptor(self, ticket: str, **changed: Any) -> PodDescriptor:
        keys, attestation = self.runner.services.keys, self.runner.services.attestation
        fields: dict[str, Any] = {
            "application": self.runner.description.digest,
            "ticket": ticket,
            "device": DeviceSetting(kind="simulated-sgx", socket="/strongroom/platform/platform.sock"),
            "attestation_service": ServiceAddress(url=attestation.url, certificate_pem=attestation.certificate_pem),
            "key_services": {keys.identity: ServiceAddress(url=keys.url, certificate_pem=keys.certificate_pem)},
            "storage": self.runner.storage,
            "sizes": Sizes(driver_memory_mb=512, executor_memory_mb=512, executor_cores=1, executors=2),
            "settings": {"spark.kubernetes.container.image": "registry.example/spark@sha256:" + "0" * 64},
            "executor_template": json.dumps(TEMPLATE),
            "namespace": "team-a",
            "archive": self.archive.as_uri(),
            **changed,
        }
        return PodDescriptor(**fields)

    def _pod(
        self, descriptor: PodDescriptor, *, words: list[str], environment: dict[str, str], java: str | None
    ) -> Pod:
        folder = self.folder / f"pod-{random_id()[:8]}"
        for name in ("run", "package", "token"):
            (folder / name).mkdir(parents=True)
        (folder / "platform").symlink_to(self.folder / "platform")
        memory = Path(tempfile.mkdtemp(prefix="m-", dir=self._memory))
        (folder / "memory").symlink_to(memory)
        _as_kubernetes(folder / "run", {DESCRIPTOR_NAME: descriptor.to_json()})
        parts = package_parts(self.runner.folder / "package")
        _as_kubernetes(folder / "package", {package_part_name(number): part for number, part in enumerate(parts)})
        if java is not None:
            _make_runtime(folder / "prefix" / "share" / "strongroom", java)
        return Pod(folder=folder, words=words, environment=environment, library_os=self.library_os)

    def driver(self, ticket: str, *, java: str | None = "exit 0", **changed: Any) -> Pod:
        """The driver's pod, as Spark makes it in cluster mode."""
        words = ["driver", "--properties-file", "/opt/spark/conf/spark.properties", "--class", "x", "local:///x.py"]
        environment = {
            "SPARK_USER": "spark",
            "SPARK_APPLICATION_ID": "spark-0123456789abcdef",
            "SPARK_DRIVER_BIND_ADDRESS": "127.0.0.1",
            "SPARK_CONF_DIR": "/opt/spark/conf",
            "SPARK_LOCAL_DIRS": "/strongroom/memory",
            POD_NAME_ENV: "report-driver",
        }
        return self._pod(self.descriptor(ticket, **changed), words=words, environment=environment, java=java)

    def executor(self, ticket: str, *, driver_key: str, java: str | None = "exit 0", **changed: Any) -> Pod:
        """An executor's pod, as Spark in the driver makes it."""
        environment = {
            "SPARK_USER": "spark",
            "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@127.0.0.1:7078",
            "SPARK_EXECUTOR_ID": "1",
            "SPARK_EXECUTOR_CORES": "1",
            "SPARK_EXECUTOR_MEMORY": "512m",
            "SPARK_APPLICATION_ID": "spark-0123456789abcdef",
            "SPARK_RESOURCE_PROFILE_ID": "0",
            "SPARK_EXECUTOR_POD_IP": "127.0.0.1",
            "SPARK_EXECUTOR_POD_NAME": "report-exec-1",
            "SPARK_CONF_DIR": "/opt/spark/conf",
            "SPARK_JAVA_OPT_0": "-Dspark.driver.port=7078",
            "SPARK_CLASSPATH": "/opt/strongroom.jar",
            DRIVER_KEY_ENV: driver_key,
        }
        return self._pod(self.descriptor(ticket, **changed), words=["executor"], environment=environment, java=java)

    @contextmanager
    def open_run(self, ticket: str, *, java: Callable[[Path], str] = _waiting, **changed: Any) -> Iterator["OpenRun"]:
        """A driver's pod whose application computes until the block ends, or `OpenRun.release` is called.

        `java` makes the program in Java's place: it ends when a file is there.
        """
        gate = self.folder / f"gate-{random_id()[:8]}"
        pod = self.driver(ticket, java=java(gate), **changed)
        with ExitStack() as running:
            process = running.enter_context(pod.start())
            running.callback(process.kill)
            run = OpenRun(pod=pod, process=process, gate=gate)
            run.wait_until_ready()
            yield run


@dataclass(kw_only=True)
class OpenRun:
    """A run whose driver's application computes."""

    pod: Pod
    process: subprocess.Popen[str]
    gate: Path
    log: str = ""
    driver_key: str = ""

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log += line
            event = parse_event(line)
            assert not isinstance(event, Failed), event
            if isinstance(event, DriverReady):
                self.driver_key = event.driver_key
                return
        raise AssertionError(self.process.communicate()[1])

    def wait_until_computing(self) -> None:
        """Wait until the program in Java's place has seen everything."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (self.pod.seen / "whole").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def release(self) -> Ended:
        self.gate.touch()
        return self.pod.ended(self.process, log=self.log)

    def ended(self) -> Ended:
        return self.pod.ended(self.process, log=self.log)


def _as_kubernetes(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files as the kubelet does: links to a folder that is replaced as a whole."""
    data = folder / "..2026_01_01"
    data.mkdir()
    (folder / "..data").symlink_to(data.name)
    for name, content in files.items():
        (data / name).write_bytes(content)
        (folder / name).symlink_to(f"..data/{name}")


def _make_runtime(share: Path, java: str) -> None:
    (share / "java" / "bin").mkdir(parents=True)
    for name in ("strongroom.jar", "spark.aot", "log4j2.properties", "java/module.options"):
        (share / name).touch()
    program = share / "java" / "bin" / "java"
    program.write_text(java if java.startswith("#!") else JAVA.replace("{what}", java))
    program.chmod(0o755)


@contextmanager
def memory_volumes() -> Iterator[Path]:
    """A folder on a memory file system, for the pods' memory volumes."""
    folder = Path(tempfile.mkdtemp(prefix="srp-", dir="/dev/shm"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
