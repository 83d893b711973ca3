"""Who gives the driver its executors: Spark's standalone master on one machine, or Kubernetes."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from strongroom.base.errors import FormatError
from strongroom.base.workflow import Step
from strongroom.engine.node import Node, ProtectedNode, secret_text
from strongroom.engine.pod_settings import check_pod_settings
from strongroom.engine.settings import STANDALONE, Scheduling

API_SERVER: Final = "https://kubernetes.default.svc"
"""The API server, as every pod can name it. The driver asks it for pods; what it answers is the host's word."""
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"
"""The container that Spark works on in the executors' pod template."""
_API_CERTIFICATE: Final = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
_DRIVER_PORT: Final = "7078"
_BLOCK_MANAGER_PORT: Final = "7079"
_OVERHEAD: Final = "0.4"
"""Memory of a pod beside its JVM's heap, as Spark counts for Python applications in cluster mode."""
_GRACE: Final = "2s"
"""How long Spark, when it ends, waits for the threads that follow the executors' pods. When executors keep failing one
of these ends Spark itself: the wait is in vain then, and by Spark's default it takes 20 seconds."""
_SECRET_ENV: Final = "_SPARK_AUTH_SECRET"  # noqa: S105 - a name
# PySpark reads all settings over its TCP connection to the JVM. Spark wants the secret to be set, and prefers the one
# in the environment, where it puts it for executors itself.
_SECRET_IN_ENVIRONMENT: Final = {"spark.authenticate.secret": "(in the environment)"}
_MASTER_URL: Final = re.compile(r"spark://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}")
_DRIVER_URL: Final = re.compile(r"spark://CoarseGrainedScheduler@(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]{1,253}):[0-9]{1,5}")
_APPLICATION_ID: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_POD_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_MEMORY: Final = re.compile(r"[0-9]{1,8}m")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


class Cluster(Protocol):
    """What differs for the driver's Spark."""

    @property
    def scheduling(self) -> Scheduling:
        """Who gives executors."""

    @property
    def master_url(self) -> str:
        """As `spark.master` names it."""

    def settings(self, node: Node) -> dict[str, str]:
        """Return the driver's settings for it; an application may choose none of them."""

    def environment(self, node: Node) -> dict[str, str]:
        """Return what the driver's environment needs for it."""

    def files(self, node: Node) -> dict[Path, bytes]:
        """Return the private files in scratch that the settings name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneCluster:
    """A standalone master.

    Args:
        url: Where it listens; untrusted, checked for form.
        cores_max: Cores of all executors together, or None for all that the workers have.

    Raises:
        FormatError: Not a standalone master's URL.
    """

    url: str
    cores_max: int | None = None
    scheduling: Scheduling = STANDALONE

    def __post_init__(self) -> None:
        check_master_url(self.url)

    @property
    def master_url(self) -> str:
        """See `Cluster`."""
        return self.url

    def settings(self, node: Node) -> dict[str, str]:
        """See `Cluster`."""
        cores = {} if self.cores_max is None else {"spark.cores.max": str(self.cores_max)}
        secret = _SECRET_IN_ENVIRONMENT if isinstance(node, ProtectedNode) else {}
        return {"spark.master": self.url, **cores, **secret}

    def environment(self, node: Node) -> dict[str, str]:
        """See `Cluster`."""
        return secret_in_environment(node) if isinstance(node, ProtectedNode) else {}

    def files(self, node: Node) -> dict[Path, bytes]:
        """See `Cluster`."""
        del node
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesCluster:
    """Kubernetes: Spark in the driver's pod makes the executors' pods itself.

    Spark reads the run's secret from a file: without one for both sides it would put it into the pods' environment.
    (What file executors' Spark would read nobody asks: their agents give it the secret.)

    Args:
        namespace: Where the pods are.
        driver_pod: The driver's own pod, which the executors' pods belong to.
        application_id: What Spark labels the pods of this run with.
        executors: How many there are, or how many at the start where their number changes.
        chosen: The host's settings.
        executor_template: The executors' pod template, a Pod in JSON.

    Raises:
        FormatError: A name is none.
        RefusedError: The host chooses what is not its to choose.
    """

    namespace: str
    driver_pod: str
    application_id: str
    executors: int
    chosen: Mapping[str, str] = field(default_factory=dict)
    executor_template: str

    def __post_init__(self) -> None:
        _demand_form("the driver's pod", self.driver_pod, _POD_NAME)
        _demand_form("the application's id", self.application_id, _APPLICATION_ID)
        check_pod_settings(self.chosen)

    @property
    def scheduling(self) -> Scheduling:
        """See `Cluster`."""
        return pod_scheduling(self.chosen)

    @property
    def master_url(self) -> str:
        """See `Cluster`."""
        return f"k8s://{API_SERVER}"

    def settings(self, node: Node) -> dict[str, str]:
        """See `Cluster`. The token of the driver's service account is found, and read again, by Spark's own client."""
        return {
            "spark.kubernetes.executorSnapshotsSubscribersShutdownGracePeriod": _GRACE,
            "spark.kubernetes.memoryOverheadFactor": _OVERHEAD,
            **self.chosen,
            "spark.master": self.master_url,
            "spark.app.id": self.application_id,
            "spark.executor.instances": str(self.executors),
            "spark.driver.port": _DRIVER_PORT,
            "spark.driver.blockManager.port": _BLOCK_MANAGER_PORT,
            "spark.blockManager.port": _BLOCK_MANAGER_PORT,
            "spark.kubernetes.namespace": self.namespace,
            "spark.kubernetes.driver.pod.name": self.driver_pod,
            "spark.kubernetes.authenticate.caCertFile": _API_CERTIFICATE,
            "spark.kubernetes.executor.podTemplateFile": str(_template_file(node)),
            "spark.kubernetes.executor.podTemplateContainerName": EXECUTOR_CONTAINER,
            "spark.authenticate.secret.driver.file": str(_secret_file(node)),
            "spark.authenticate.secret.executor.file": str(_secret_file(node)),
        }

    def environment(self, node: Node) -> dict[str, str]:
        """See `Cluster`."""
        del node
        return {}

    def files(self, node: Node) -> dict[Path, bytes]:
        """See `Cluster`."""
        secret = {_secret_file(node): node.secret.reveal()} if isinstance(node, ProtectedNode) else {}
        return {_template_file(node): self.executor_template.encode(), **secret}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodExecutor:
    """What Spark in the driver says to the executor in a pod, by the pod's environment: the host's word.

    Args:
        driver_url: Where the driver listens.
        executor_id: Spark's number of the executor.
        cores: Tasks that it runs at once.
        memory: Heap of its JVM, as Spark writes it there (`1024m`).
        application_id: As in `KubernetesCluster`.
        resource_profile_id: Number of the resource profile; 0 where the application made none.
        pod_ip: The pod's address.
        pod_name: The pod.

    Raises:
        FormatError: One of them is not of its form.
    """

    driver_url: str
    executor_id: str
    cores: str
    memory: str
    application_id: str
    resource_profile_id: str
    pod_ip: str
    pod_name: str

    def __post_init__(self) -> None:
        _demand_form("the driver's URL", self.driver_url, _DRIVER_URL)
        _demand_form("the executor's id", self.executor_id, _NUMBER)
        _demand_form("the executor's cores", self.cores, _NUMBER)
        _demand_form("the executor's memory", self.memory, _MEMORY)
        _demand_form("the application's id", self.application_id, _APPLICATION_ID)
        _demand_form("the resource profile's id", self.resource_profile_id, _NUMBER)
        _demand_form("the executor's pod", self.pod_name, _POD_NAME)
        check_pod_ip(self.pod_ip)

    def arguments(self) -> tuple[str, ...]:
        """Return the arguments of Spark's executor for pods."""
        return (
            *("--driver-url", self.driver_url, "--executor-id", self.executor_id, "--cores", self.cores),
            *("--app-id", self.application_id, "--hostname", self.pod_ip),
            *("--resourceProfileId", self.resource_profile_id, "--podName", self.pod_name),
        )


def secret_in_environment(node: ProtectedNode) -> dict[str, str]:
    """Return the variable in which Spark looks for the run's secret first, whatever its settings say."""
    return {_SECRET_ENV: secret_text(node)}


def pod_scheduling(chosen: Mapping[str, str]) -> Scheduling:
    """Return how executors come and go on Kubernetes by the host's settings."""
    changing = chosen.get("spark.dynamicAllocation.enabled") == "true"
    return Scheduling(manager="kubernetes", dynamic_allocation=changing)


def check_master_url(url: str) -> None:
    """Refuse what is not the URL of a standalone master.

    Raises:
        FormatError: It is not.
    """
    if not _MASTER_URL.fullmatch(url):
        raise FormatError("not the URL of a standalone master", action="give spark://HOST:PORT", step=Step.EXECUTORS)


def check_pod_ip(text: str) -> None:
    """Refuse what is not an IP address.

    Raises:
        FormatError: It is not.
    """
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise _malformed("the pod's address") from error
    if "%" in text:
        raise _malformed("the pod's address")


def _secret_file(node: Node) -> Path:
    return node.scratch / "conf" / "secret"


def _template_file(node: Node) -> Path:
    return node.scratch / "conf" / "executor.json"


def _demand_form(what: str, text: str, form: re.Pattern[str]) -> None:
    if not form.fullmatch(text):
        raise _malformed(what)


def _malformed(what: str) -> FormatError:
    return FormatError(
        f"{what} in this pod's environment is not of its form",
        action="Let Spark start the pod; see docs/reference/pods.md.",
        step=Step.EXECUTORS,
    )
