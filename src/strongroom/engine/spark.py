"""Spark's processes as children of the agent.

The run's secret stands in a mode-600 file in scratch (master, worker, the driver on Kubernetes) or in the environment
of a process inside the TEE (the driver of a standalone cluster, and executors, where Spark would put it itself);
never in an argument.

The kernel ties a child to the thread that started it: start children from a thread that lives as long as the agent.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from strongroom.base.errors import EngineError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.engine.cluster import Cluster, PodExecutor, check_master_url, secret_in_environment
from strongroom.engine.enclave import ENCLAVE_SETTINGS
from strongroom.engine.node import (
    Child,
    InsecurePlainNode,
    Node,
    ProtectedNode,
    environment_of,
    java_command,
    prepare,
    secret_text,
    start_child,
    write_private,
)
from strongroom.engine.settings import (
    STANDALONE,
    Scheduling,
    application_jvm_options,
    check_application_settings,
    enforced_settings,
    properties_text,
)

_MASTER_CLASS = "org.apache.spark.deploy.master.Master"
_WORKER_CLASS = "org.apache.spark.deploy.worker.Worker"
_SUBMIT_CLASS = "org.apache.spark.deploy.SparkSubmit"
_POD_EXECUTOR_CLASS = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
_DAEMON_HEAP = "512m"
_QUICKLY_COMPILED = "-XX:TieredStopAtLevel=1"
"""For masters and workers, which never do much: what they would compile better takes time from those who start."""
_MASTER_SAYS: Final = re.compile(
    r"Starting Spark master at (\S+)$.*I have been elected leader", re.MULTILINE | re.DOTALL
)
"""Where it listens, and that it takes applications: before, it ignores them without a word."""
_MASTER_TIMEOUT_S = 120.0
_POLL_S = 0.02


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
    """

    driver_memory: str = "1g"
    executor_memory: str = "1g"
    executor_cores: int = 1


def start_master(node: Node) -> tuple[Child, str]:
    """Start a standalone master and wait until it takes applications.

    It chooses its port itself: one that was free a moment before may be somebody else's when Java has started, and
    Spark then takes the next one without telling anybody but its log.

    Returns:
        The master, and the URL for workers and driver.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
        EngineError: The master ended or did not open its port.
    """
    arguments = ("--host", node.host, "--port", "0", "--webui-port", "0")
    log = node.scratch / "log" / "master.log"
    before = len(_text(log))
    child = _start_daemon(node, "master", _MASTER_CLASS, arguments)
    deadline = time.monotonic() + _MASTER_TIMEOUT_S
    while not (said := _MASTER_SAYS.search(_text(log), before)):
        if child.poll() is not None or time.monotonic() > deadline:
            child.kill()
            raise EngineError(
                f"Spark's master did not start: {_last_log_line(node, 'master')}",
                action="look at memory and free ports of this machine, then run again",
                step=Step.EXECUTORS,
            )
        time.sleep(_POLL_S)
    return child, said[1]


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
    check_master_url(master_url)
    arguments = (
        *("--host", node.host, "--port", "0", "--webui-port", "0"),
        *("--cores", str(cores), "--memory", memory, "--work-dir", str(node.scratch / "work")),
        master_url,
    )
    return _start_daemon(node, "worker", _WORKER_CLASS, arguments)


def start_driver(
    node: Node,
    *,
    cluster: Cluster,
    application: Application,
    resources: Resources,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> Child:
    """Start the driver, as `spark-submit` in client mode does.

    Args:
        node: The driver's TEE.
        cluster: Who gives it executors.
        application: What to run.
        resources: Memory and cores.
        stdout: Where the script's output goes; as with spark-submit, its standard error goes there too.
        stderr: Where Java's own messages go.

    Returns:
        The driver; its exit status is the script's.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
        RefusedError: The application chooses settings or variables that are not its to choose.
    """
    check_application_settings(application.settings, cluster.scheduling)
    launch = {
        **cluster.settings(node),
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
    _refuse_taken(launch, application.settings, kind="setting")
    environment = environment_of(node)
    _refuse_taken(environment, application.environment, kind="environment variable")
    prepare(node, chosen=application_jvm_options(application.settings, role="driver"))
    for path, content in cluster.files(node).items():
        write_private(path, content)
    properties = write_private(
        node.scratch / "conf" / "driver.properties",
        properties_text({**application.settings, **launch, **_protection(node, cluster.scheduling)}),
    )
    command = (
        *java_command(node, role="driver", heap=resources.driver_memory),
        _SUBMIT_CLASS,
        *("--properties-file", str(properties)),
        *_listed("--py-files", application.py_files),
        *_listed("--files", application.files),
        *_listed("--archives", application.archives),
        str(application.entry_point),
        *application.arguments,
    )
    return start_child(
        node,
        command,
        name="driver",
        environment={**application.environment, **environment, **cluster.environment(node)},
        stdout=stdout,
        stderr=stderr,
    )


def start_pod_executor(
    node: ProtectedNode, executor: PodExecutor, *, scheduling: Scheduling, settings: Mapping[str, str]
) -> Child:
    """Start Spark's executor of a pod.

    What the driver's Spark demands of its executors it tells them itself, over the channel that the run's secret
    protects; how that channel is protected this TEE decides before, by its own settings.

    Args:
        node: The executor's TEE.
        executor: What the driver's Spark says to it.
        scheduling: How executors come and go.
        settings: The application's own Spark settings, of which its executors' Java options are in force here.

    Raises:
        ConfigurationError: The scratch folder cannot serve.
    """
    protection = sorted(_protection(node, scheduling).items())
    prepare(
        node,
        chosen=application_jvm_options(settings, role="executor"),
        options=[f"-D{name}={value}" for name, value in protection],
    )
    command = (
        *java_command(node, role="executor", heap=executor.memory),
        _POD_EXECUTOR_CLASS,
        *executor.arguments(),
    )
    environment = {**environment_of(node), **secret_in_environment(node)}
    with (node.scratch / "log" / "executor.out").open("ab") as output:
        return start_child(node, command, name="executor", environment=environment, stdout=output, stderr=output)


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
    prepare(node, with_cache=False)
    settings = {**_protection(node), **_secret(node), "spark.executor.extraClassPath": str(node.runtime.jar)}
    properties = write_private(node.scratch / "conf" / "training.properties", properties_text(settings))
    java, *options = java_command(node, role="training", heap=Resources().driver_memory)
    command = (
        *(java, f"-XX:AOTCacheOutput={aot_cache}", *options, _SUBMIT_CLASS),
        *("--properties-file", str(properties), str(script), str(node.scratch / "run")),
    )
    environment = {**environment_of(node), "PYSPARK_PYTHON": str(node.runtime.python)}
    return start_child(node, command, name="training run", environment=environment, stdout=output, stderr=output)


def _start_daemon(node: Node, role: str, main_class: str, arguments: Sequence[str]) -> Child:
    prepare(node)
    properties = write_private(
        node.scratch / "conf" / f"{role}.properties", properties_text({**_protection(node), **_secret(node)})
    )
    command = (
        *java_command(node, role=role, heap=_DAEMON_HEAP),
        _QUICKLY_COMPILED,
        main_class,
        *("--properties-file", str(properties)),
        *arguments,
    )
    with (node.scratch / "log" / f"{role}.out").open("ab") as output:
        return start_child(node, command, name=role, environment=environment_of(node), stdout=output, stderr=output)


def _protection(node: Node, scheduling: Scheduling = STANDALONE) -> dict[str, str]:
    if isinstance(node, InsecurePlainNode):
        return {"spark.ui.enabled": "false", "spark.master.rest.enabled": "false"}
    of_enclave = {} if node.enclave_cores is None else ENCLAVE_SETTINGS
    return {**enforced_settings(scheduling), **of_enclave}


def _secret(node: Node) -> dict[str, str]:
    return {"spark.authenticate.secret": secret_text(node)} if isinstance(node, ProtectedNode) else {}


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


def _last_log_line(node: Node, role: str) -> str:
    """Return the last line that a master or worker said; they never see data."""
    for name in (f"{role}.out", f"{role}.log"):
        lines = _text(node.scratch / "log" / name).split("\n")
        said = [line.strip() for line in lines if line.strip()]
        if said:
            return said[-1][:300]
    return "it said nothing"


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
