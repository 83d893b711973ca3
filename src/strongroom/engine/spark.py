"""Spark's processes as children of the agent.

Java is started directly, without Spark's scripts. A child's environment is made from nothing, its folders lie in
scratch, and it dies with the agent. The run's secret stands in a mode-600 properties file there (master, worker) or in
the environment of a process inside the TEE (driver; executors, where Spark puts it itself); never in an argument.

The kernel ties a child to the thread that started it: start children from a thread that lives as long as the agent.
"""

import base64
import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, TypeAlias

from strongroom.base.errors import ConfigurationError, EngineError, FormatError, Mismatch, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.settings import (
    argument_file_text,
    check_application_settings,
    enforced_settings,
    jvm_options,
    properties_text,
)

_MASTER_CLASS = "org.apache.spark.deploy.master.Master"
_WORKER_CLASS = "org.apache.spark.deploy.worker.Worker"
_SUBMIT_CLASS = "org.apache.spark.deploy.SparkSubmit"
_DAEMON_HEAP = "512m"
# PySpark reads all settings over its TCP connection to the JVM. Spark wants the secret to be set, and prefers the one
# in the environment, where it puts it for executors itself.
_SECRET_IN_ENVIRONMENT = {"spark.authenticate.secret": "(in the environment)"}
_MASTER_TIMEOUT_S = 120.0
_POLL_S = 0.02
_SCRATCH_FOLDERS = ("conf", "home", "local", "log", "run", "tmp", "work")
_UNIX_SOCKET_PATH_BYTES = 108
_LONGEST_SOCKET_NAME = Path("tmp") / ".00000000-0000-0000-0000-000000000000.sock"
_MASTER_URL = re.compile(r"spark://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class InsecurePlainNode:
    """A node without any protection: the measure for benchmarks and tests.

    Attributes:
        runtime: The Spark and Java to run.
        scratch: Folder on a memory file system; Spark's processes write nowhere else.
        host: Address to bind and to be reached at.
    """

    runtime: SparkRuntime
    scratch: Path
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedNode:
    """One TEE, the driver's or an executor's, as Spark sees it.

    Attributes:
        runtime: The Spark and Java to run.
        scratch: Mode-700 folder on the TEE's memory file system; Spark's processes write nowhere else.
        host: Address to bind and to be reached at.
        secret: The run's RPC secret; its base64 text is Spark's authentication secret.
        key_socket: The agent's Unix socket.
    """

    runtime: SparkRuntime
    scratch: Path
    host: str
    secret: SecretBytes
    key_socket: Path


Node: TypeAlias = ProtectedNode | InsecurePlainNode


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What the driver runs, as `spark-submit` names it.

    Attributes:
        name: The application's name.
        entry_point: The Python script, inside the TEE.
        arguments: The script's arguments.
        py_files: Python modules and archives for the script and its workers.
        files: Files for the working folder of each executor.
        archives: Archives unpacked there.
        settings: Spark settings that the application chooses.
        environment: Environment variables of the script that the application chooses.
    """

    name: str
    entry_point: Path
    arguments: tuple[str, ...] = ()
    py_files: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()
    archives: tuple[Path, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """How much the driver and its executors get; memory as Spark writes it (`1g`, `600m`).

    Attributes:
        driver_memory: Heap of the driver's JVM.
        executor_memory: Heap of each executor's JVM.
        executor_cores: Tasks that an executor runs at once.
        cores_max: Cores of all executors together, or None for all that the workers have.
    """

    driver_memory: str = "1g"
    executor_memory: str = "1g"
    executor_cores: int = 1
    cores_max: int | None = None


class Child:
    """A process that this one started, with the process group it leads."""

    def __init__(self, process: subprocess.Popen[bytes], *, name: str) -> None:
        self._process: Final = process
        self.name: Final = name

    @property
    def pid(self) -> int:
        """Its process id, which is also its process group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return the exit status, negative for a signal.

        Raises:
            TimeoutError: It still runs.
        """
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the {self.name} still runs after {timeout_s} s") from error

    def terminate(self) -> None:
        """Ask its process group to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its process group at once, and reap it."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)


def start_master(node: Node) -> tuple[Child, str]:
    """Start a standalone master and wait until its port is open.

    Returns:
        The master, and the URL for workers and driver.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
        EngineError: The master ended or did not open its port.
    """
    port = _free_port(node.host)
    arguments = ("--host", node.host, "--port", str(port), "--webui-port", "0")
    child = _start_daemon(node, "master", _MASTER_CLASS, arguments)
    deadline = time.monotonic() + _MASTER_TIMEOUT_S
    while not _is_open(node.host, port):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            raise EngineError(
                f"Spark's master did not start: {_last_log_line(node, 'master')}",
                action="look at memory and free ports of this machine, then run again",
                step=Step.EXECUTORS,
            )
        time.sleep(_POLL_S)
    return child, f"spark://{node.host}:{port}"


def start_worker(node: Node, *, master_url: str, cores: int, memory: str) -> Child:
    """Start a standalone worker, which starts executors as the master asks.

    Args:
        node: The executor's TEE.
        master_url: As the driver's side tells it; untrusted, checked for form.
        cores: Cores to offer.
        memory: Memory to offer to executors, as Spark writes it.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
        FormatError: The URL is not a standalone master's.
    """
    _check_master_url(master_url)
    arguments = (
        *("--host", node.host, "--port", "0", "--webui-port", "0"),
        *("--cores", str(cores), "--memory", memory, "--work-dir", str(node.scratch / "work")),
        master_url,
    )
    return _start_daemon(node, "worker", _WORKER_CLASS, arguments)


def start_driver(
    node: Node,
    *,
    master_url: str,
    application: Application,
    resources: Resources,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Child:
    """Start the driver, as `spark-submit` in client mode does.

    Args:
        node: The driver's TEE.
        master_url: Where the master listens.
        application: What to run.
        resources: Memory and cores.
        stdout: Where the script's output goes; as with spark-submit, its standard error goes there too.
        stderr: Where Java's own messages go.

    Returns:
        The driver; its exit status is the script's.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
        FormatError: The URL is not a standalone master's.
        RefusedError: The application chooses settings or variables that are not its to choose.
    """
    _check_master_url(master_url)
    check_application_settings(application.settings)
    _prepare(node)
    launch = {
        "spark.master": master_url,
        "spark.app.name": application.name,
        "spark.driver.host": node.host,
        "spark.driver.bindAddress": node.host,
        "spark.driver.memory": resources.driver_memory,
        "spark.executor.memory": resources.executor_memory,
        "spark.executor.cores": str(resources.executor_cores),
        "spark.executor.extraClassPath": str(node.runtime.jar),
        "spark.pyspark.python": str(node.runtime.python),
        "spark.submit.deployMode": "client",
    }
    if resources.cores_max is not None:
        launch["spark.cores.max"] = str(resources.cores_max)
    _refuse_taken(launch, application.settings, kind="setting")
    environment = _environment(node)
    _refuse_taken(environment, application.environment, kind="environment variable")
    properties = _write_private(
        node.scratch / "conf" / "driver.properties",
        properties_text(
            {**application.settings, **_protection(node), **(_SECRET_IN_ENVIRONMENT if _secret(node) else {}), **launch}
        ),
    )
    command = (
        *_java(node, role="driver", heap=resources.driver_memory),
        _SUBMIT_CLASS,
        *("--properties-file", str(properties)),
        *_listed("--py-files", application.py_files),
        *_listed("--files", application.files),
        *_listed("--archives", application.archives),
        str(application.entry_point),
        *application.arguments,
    )
    process = _start(
        node, command, {**application.environment, **environment, **_secret(node)}, stdout=stdout, stderr=stderr
    )
    return Child(process, name="driver")


def start_training(node: Node, *, script: Path, aot_cache: Path, output: IO[bytes]) -> Child:
    """Start the run in which Java records its ahead-of-time cache.

    Args:
        node: A node in a scratch folder of its own.
        script: The PySpark script to run; its argument is a folder in scratch.
        aot_cache: Where the cache lies when the process has ended well.
        output: Where everything goes that it says.

    Returns:
        The process.
    """
    _prepare(node, with_cache=False)
    settings = {**_protection(node), "spark.executor.extraClassPath": str(node.runtime.jar)}
    properties = _write_private(node.scratch / "conf" / "training.properties", properties_text(settings))
    java, *options = _java(node, role="training", heap=Resources().driver_memory)
    command = (
        *(java, f"-XX:AOTCacheOutput={aot_cache}", *options, _SUBMIT_CLASS),
        *("--properties-file", str(properties), str(script), str(node.scratch / "run")),
    )
    environment = {**_environment(node), "PYSPARK_PYTHON": str(node.runtime.python)}
    return Child(_start(node, command, environment, stdout=output, stderr=output), name="training run")


def _start_daemon(node: Node, role: str, main_class: str, arguments: Sequence[str]) -> Child:
    _prepare(node)
    properties = _write_private(node.scratch / "conf" / f"{role}.properties", properties_text(_protection(node)))
    command = (
        *_java(node, role=role, heap=_DAEMON_HEAP),
        main_class,
        *("--properties-file", str(properties)),
        *arguments,
    )
    with (node.scratch / "log" / f"{role}.out").open("ab") as output:
        return Child(_start(node, command, _environment(node), stdout=output, stderr=output), name=role)


def _start(
    node: Node,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def tie_to_parent() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return subprocess.Popen(  # noqa: S603 - the command is made here, of checked parts
        command,
        cwd=node.scratch / "run",
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - two system calls and no lock, between fork and exec
    )


def _prepare(node: Node, *, with_cache: bool = True) -> None:
    """Make the folders of a node, once for all its processes."""
    if len(os.fsencode(node.scratch / _LONGEST_SOCKET_NAME)) >= _UNIX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the path of the scratch folder is too long for Unix sockets: {node.scratch}",
            action="choose a scratch folder with a shorter path",
            step=Step.EXECUTORS,
        )
    for name in _SCRATCH_FOLDERS:
        (node.scratch / name).mkdir(mode=0o700, exist_ok=True)
    cache = node.runtime.aot_cache if with_cache and node.runtime.aot_cache.is_file() else None
    options = jvm_options(scratch=node.scratch, log_settings=node.runtime.log_settings, aot_cache=cache)
    _write_private(_options_file(node), argument_file_text(options))


def _environment(node: Node) -> dict[str, str]:
    """Return everything that stands in a child's environment."""
    scratch = str(node.scratch)
    environment = {
        "HOME": f"{scratch}/home",
        "JAVA_HOME": str(node.runtime.java_home),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "SPARK_CONF_DIR": f"{scratch}/conf/none",
        "SPARK_HOME": str(node.runtime.spark_home),
        "SPARK_LOCAL_DIRS": f"{scratch}/local",
        "SPARK_LOCAL_IP": node.host,
        "SPARK_SCALA_VERSION": "2.13",  # otherwise the worker looks for Spark's build folders
        "STRONGROOM_JAVA_OPTIONS": str(_options_file(node)),
        "TMPDIR": str(node.scratch / "tmp"),
        "TZ": "UTC",
    }
    if isinstance(node, ProtectedNode):
        environment |= {"STRONGROOM_SCRATCH": scratch, "STRONGROOM_SOCKET": str(node.key_socket)}
    return environment


def _secret(node: Node) -> dict[str, str]:
    if isinstance(node, InsecurePlainNode):
        return {}
    return {"_SPARK_AUTH_SECRET": base64.b64encode(node.secret.reveal()).decode("ascii")}


def _protection(node: Node) -> dict[str, str]:
    if isinstance(node, InsecurePlainNode):
        return {"spark.ui.enabled": "false", "spark.master.rest.enabled": "false"}
    secret = base64.b64encode(node.secret.reveal()).decode("ascii")
    return {**enforced_settings(), "spark.authenticate.secret": secret}


def _java(node: Node, *, role: str, heap: str) -> tuple[str, ...]:
    runtime = node.runtime
    # The order in which Spark's launcher builds an executor's class path: the ahead-of-time cache depends on it.
    (logging_jar,) = runtime.spark_home.glob("jars/slf4j-api-*.jar")
    class_path = (runtime.jar, node.scratch / "conf" / "none", logging_jar, runtime.spark_home / "jars" / "*")
    return (
        str(runtime.java),
        f"-Xmx{heap}",
        f"-Dstrongroom.role={role}",
        "-cp",
        os.pathsep.join(map(str, class_path)),
    )


def _options_file(node: Node) -> Path:
    return node.scratch / "conf" / "java.options"


def _write_private(path: Path, text: str) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    return path


def _listed(option: str, paths: Sequence[Path]) -> tuple[str, ...]:
    return (option, ",".join(map(str, paths))) if paths else ()


def _refuse_taken(taken: Mapping[str, str], chosen: Mapping[str, str], *, kind: str) -> None:
    mismatches = tuple(
        Mismatch(name=name, expected="left to Strongroom", actual=chosen[name])
        for name in sorted(taken.keys() & chosen)
    )
    if mismatches:
        raise RefusedError(
            f"the application chooses a {kind} that is not its to choose: {mismatches[0].name}",
            action=f"remove this {kind} from the application and approve it again",
            step=Step.COMPUTE,
            mismatches=mismatches,
        )


def _check_master_url(url: str) -> None:
    if not _MASTER_URL.fullmatch(url):
        raise FormatError("not the URL of a standalone master", action="give spark://HOST:PORT", step=Step.EXECUTORS)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=_family(host)) as server:
        return int(server.getsockname()[1])


def _is_open(host: str, port: int) -> bool:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _last_log_line(node: Node, role: str) -> str:
    """Return the last line that a master or worker said; they never see data."""
    for name in (f"{role}.out", f"{role}.log"):
        path = node.scratch / "log" / name
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
        said = [line.strip() for line in lines if line.strip()]
        if said:
            return said[-1][:300]
    return "it said nothing"
