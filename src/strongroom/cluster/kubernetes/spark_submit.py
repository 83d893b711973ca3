"""Spark's own submission client, in cluster mode, as a child: it makes the driver's pod and what Spark needs beside it.

It is not measured and sees no secret of a run: what it makes is the host's word. Settings and template go to it in a
private folder; arguments name files only. It runs for seconds, half of which Java would need to load classes: set-up
records them.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import EngineError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.render import APPLICATION_FILE, Rendered
from strongroom.cluster.kubernetes.settings import DRIVER_TEMPLATE, IMAGE, WAIT
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.settings import properties_text

_SUBMIT_CLASS: Final = "org.apache.spark.deploy.SparkSubmit"
_TIMEOUT_S: Final = 300.0
_GRACE_S: Final = 5.0
_JAVA_OPTIONS: Final = (
    "-Xmx512m",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # it runs for seconds
    "-XX:-UsePerfData",
)
_PR_SET_PDEATHSIG: Final = 1
_LOG_SETTINGS: Final = """\
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %c{1}: %m%n%ex
"""
_SAID: Final = re.compile(r"Message: (.+?)\.? Received status: Status\(|Message: (.+?)\.?$", re.MULTILINE)
"""How the client inside Spark quotes the API's refusal."""
_CAUSED: Final = re.compile(r"^Caused by: [\w.$]+: (.+)$", re.MULTILINE)
_FIRST: Final = re.compile(r"^(?:Exception in thread \"main\" )?[\w.$]+(?:Exception|Error): (.+)$", re.MULTILINE)
_LONGEST: Final = 500


def run_spark_submit(rendered: Rendered, access: Access, *, runtime: SparkRuntime) -> None:
    """Have Spark make the driver's pod, and return when it has.

    The child ends with this process, however that ends.

    Args:
        rendered: The run.
        access: The cluster.
        runtime: The Spark and Java to run.

    Raises:
        EngineError: It did not; with the API's words, or Java's.
        KeyboardInterrupt: As it came; the child has ended before.
    """
    with _private_folder() as folder:
        template = _private(folder / "driver.json", canonical_json(rendered.driver_template))
        settings = {**rendered.submission, **access.spark, DRIVER_TEMPLATE: template.as_uri()}
        cache = runtime.submission_cache
        status, said = _run(
            folder,
            settings,
            options=(f"-XX:AOTCache={cache}",) if cache.is_file() else (),
            server=access.server,
            runtime=runtime,
            environment=access.environment,
        )
    if status != 0:
        raise _error(said, status=status)


def build_submission_cache(runtime: SparkRuntime, *, progress: Callable[[str], None]) -> None:
    """Have Java record what the client loads, if that is not done yet: it asks an API here that does not answer.

    Args:
        runtime: The Spark and Java to run, which `engine.build` made.
        progress: Told in a few words what is being done.

    Raises:
        EngineError: Java could not be started, or recorded nothing.
    """
    from strongroom.engine.build import cache_to_make  # noqa: PLC0415 - py4j, which submitting does without

    cache, settings = runtime.submission_cache, {IMAGE: "image", WAIT: "false"}
    with cache_to_make(runtime, cache, said=f"{_JAVA_OPTIONS}{settings}") as outdated:
        if not outdated:
            return
        progress("training Java's cache for submissions to Kubernetes (about 10 s)")
        made = cache.with_suffix(".new")
        with _private_folder() as folder, _unanswered_address() as server:
            status, said = _run(
                folder,
                settings,
                options=(f"-XX:AOTCacheOutput={made}",),
                server=server,
                runtime=runtime,
                environment={"HOME": str(folder), "PATH": os.defpath},
            )
        if not made.is_file():
            raise EngineError(
                f"the training run of Java's cache for submissions ended with status {status} and made none",
                action=f"free some memory and run it again; it said: {said[-500:]}",
            )
        made.replace(cache)


@contextmanager
def _private_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="strongroom-submit-") as name:
        yield Path(name)  # mode 700


@contextmanager
def _unanswered_address() -> Iterator[str]:
    """An address of this machine that nobody answers at while the block runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        yield f"https://127.0.0.1:{taken.getsockname()[1]}"


def _run(
    folder: Path,
    settings: Mapping[str, str],
    *,
    options: tuple[str, ...],
    server: str,
    runtime: SparkRuntime,
    environment: Mapping[str, str],
) -> tuple[int, str]:
    """Run the client to its end; return its exit status and what it said."""
    properties = _private(folder / "spark.properties", properties_text(settings).encode("ascii"))
    log_settings = _private(folder / "log4j2.properties", _LOG_SETTINGS.encode("ascii"))
    output = folder / "output"
    command = (
        str(runtime.java),
        *(*_JAVA_OPTIONS, *options),
        f"-Dlog4j2.configurationFile={log_settings}",
        f"-Djava.io.tmpdir={folder}",
        *("-cp", str(runtime.spark_home / "jars" / "*")),
        _SUBMIT_CLASS,
        *("--master", f"k8s://{server}", "--deploy-mode", "cluster"),
        *("--properties-file", str(properties)),
        APPLICATION_FILE,
    )
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def tie_to_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    with output.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - the command is made here
            command,
            cwd=folder,
            env={"LANG": "C.UTF-8", **environment, "SPARK_CONF_DIR": str(folder / "no-conf")},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - two system calls and no lock, between fork and exec
        )
    try:
        status = process.wait(_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise EngineError(
            f"Spark's submission client did not end within {_TIMEOUT_S:.0f} s",
            action="check the way to the cluster's API: kubectl cluster-info",
            step=Step.EXECUTORS,
        ) from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(_GRACE_S)
    return status, output.read_text("utf-8", "replace")


def _error(said: str, *, status: int) -> EngineError:
    """Return what went wrong: the API's words if they are there, else the last cause in Java's."""
    quoted = _SAID.search(said)
    causes = _CAUSED.findall(said) or _FIRST.findall(said)
    words = next((each for each in (quoted.groups() if quoted else ()) if each), None) or (
        causes[-1] if causes else (said.strip().splitlines() or [f"it ended with status {status} and said nothing"])[-1]
    )
    return EngineError(
        f"Spark's submission client could not make the driver's pod: {' '.join(words.split())[:_LONGEST]}",
        action="what the cluster refused is its administrator's to allow; docs/how-to/submit-to-kubernetes.md lists the"
        " rights of a submitter",
        step=Step.EXECUTORS,
    )


def _private(path: Path, content: bytes) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path
