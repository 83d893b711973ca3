"""A TEE as Spark's processes see it, and how a JVM of Spark starts there.

Java is started directly, without Spark's scripts. A child's environment is made from nothing, its folders lie in
scratch, and outside of enclaves it dies with the agent.

The kernel ties a child to the thread that started it: start children from a thread that lives as long as the agent.

In an enclave nothing ties it: neither library operating system can. An agent ends its children before it ends; one that
is killed leaves them in their enclave without a key socket, until the pod ends.
"""

import base64
import ctypes
import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias

from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.engine.enclave import enclave_jvm_options
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.settings import argument_file_text, jvm_options

_SCRATCH_FOLDERS: Final = ("conf", "home", "local", "log", "run", "tmp", "work")
_UNIX_SOCKET_PATH_BYTES: Final = 108
_LONGEST_SOCKET_NAME: Final = Path("tmp") / ".00000000-0000-0000-0000-000000000000.sock"
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_SHELL: Final = "/bin/sh"
_STANDARD_INPUT, _STANDARD_OUTPUT, _STANDARD_ERROR = range(3)
_POLL_S: Final = 0.02


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
        enclave_cores: In an SGX enclave the processors that Java may count with; None outside of one.
    """

    runtime: SparkRuntime
    scratch: Path
    host: str
    secret: SecretBytes
    key_socket: Path
    enclave_cores: int | None = None


Node: TypeAlias = ProtectedNode | InsecurePlainNode


class Process(Protocol):
    """A child process; `subprocess.Popen` is one, `_Spawned` the other."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """


class _Spawned:
    """A process that `posix_spawn` started."""

    def __init__(self, pid: int) -> None:
        self.pid: Final = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self._reap(0 if deadline is None else os.WNOHANG)) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(_POLL_S)
        return status

    def _reap(self, options: int) -> int | None:
        if self._status is None:
            pid, status = os.waitpid(self.pid, options)
            if pid == self.pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


class Child:
    """A process that this one started, with the process group it leads."""

    def __init__(self, process: Process, *, name: str) -> None:
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
        if self._process.poll() is not None:
            return
        try:
            os.killpg(self.pid, number)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            os.kill(self.pid, number)  # Gramine has no process groups; the host ends with the pod what is left


def prepare(node: Node, *, with_cache: bool = True, chosen: Sequence[str] = (), options: Sequence[str] = ()) -> None:
    """Make the folders of a node and the options of its JVMs, once for all its processes.

    Args:
        node: The node.
        with_cache: Start Java with the ahead-of-time cache, if there is one.
        chosen: Options that an application chooses for its JVM; all others have the last word.
        options: Further options of every JVM.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
    """
    if len(os.fsencode(node.scratch / _LONGEST_SOCKET_NAME)) >= _UNIX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the path of the scratch folder is too long for Unix sockets: {node.scratch}",
            action="choose a scratch folder with a shorter path",
            step=Step.EXECUTORS,
        )
    for name in _SCRATCH_FOLDERS:
        (node.scratch / name).mkdir(mode=0o700, exist_ok=True)
    cores = _enclave_cores(node)
    # The cache was made with other options than an enclave's.
    with_cache = with_cache and cores is None and node.runtime.aot_cache.is_file()
    common = jvm_options(
        scratch=node.scratch,
        log_settings=node.runtime.log_settings,
        aot_cache=node.runtime.aot_cache if with_cache else None,
    )
    of_enclave = () if cores is None else enclave_jvm_options(cores=cores)
    write_private(_options_file(node), argument_file_text((*chosen, *common, *of_enclave, *options)))


def java_command(node: Node, *, role: str, heap: str) -> tuple[str, ...]:
    """Return the start of a command line: Java with heap and class path; a main class follows."""
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


def environment_of(node: Node) -> dict[str, str]:
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


def start_child(
    node: Node,
    command: Sequence[str],
    *,
    name: str,
    environment: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Child:
    """Start a process of a prepared node: tied to this one, or in an enclave as a library operating system can."""
    start = _fork if _enclave_cores(node) is None else _spawn
    process = start(command, folder=node.scratch / "run", environment=environment, stdout=stdout, stderr=stderr)
    return Child(process, name=name)


def _fork(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Process:
    """Start a process that the kernel kills when this one ends, however it ends."""
    parent = os.getpid()

    def tie_to_parent() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return subprocess.Popen(  # noqa: S603 - the command is made here, of checked parts
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - two system calls and no lock, between fork and exec
    )


def _spawn(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Process:
    """Start a process by `posix_spawn` alone, which both library operating systems have.

    It knows no folder to start in, so that a shell goes there first; a group in the place of a session, of which Occlum
    has none; and closes what is open in this process only where it is marked to be closed.
    """
    for descriptor in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
        if descriptor > _STANDARD_ERROR:
            with suppress(OSError):  # the listing's own is closed by now
                os.set_inheritable(descriptor, False)  # noqa: FBT003 - the only argument
    pid = os.posix_spawn(
        _SHELL,
        [_SHELL, "-c", 'cd "$0" && unset OLDPWD && exec "$@"', str(folder), *command],
        dict(environment),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, _STANDARD_INPUT, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, _number_of(stdout), _STANDARD_OUTPUT),
            (os.POSIX_SPAWN_DUP2, _number_of(stderr), _STANDARD_ERROR),
        ],
        setpgroup=0,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )
    return _Spawned(pid)


def _number_of(file: int | IO[bytes]) -> int:
    return file if isinstance(file, int) else file.fileno()


def secret_text(node: ProtectedNode) -> str:
    """Return Spark's authentication secret."""
    return base64.b64encode(node.secret.reveal()).decode("ascii")


def write_private(path: Path, content: str | bytes) -> Path:
    """Write a file that nobody else may read, and return its path; text is ASCII."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode("ascii") if isinstance(content, str) else content)
    return path


def _enclave_cores(node: Node) -> int | None:
    return node.enclave_cores if isinstance(node, ProtectedNode) else None


def _options_file(node: Node) -> Path:
    return node.scratch / "conf" / "java.options"
