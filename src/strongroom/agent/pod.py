"""An agent in a pod, as its first process: Spark on Kubernetes.

Spark makes the pods and gives them arguments and an environment; the submitter gives them files. All of it is the
host's word. Of the arguments the first counts, as the role; of the environment the few names below, each checked for
form; of the files those of `wire.pod`. What Spark wanted to start, this agent starts itself, from what it measured.
"""

import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from strongroom.agent.report import Report
from strongroom.agent.start import OpenCluster, Start
from strongroom.agent.stop import Stop
from strongroom.application.parts import join_package
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, LimitError, StrongroomError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.jose import unverified_payload
from strongroom.datasets.storage import Storage, write_file
from strongroom.engine.cluster import (
    EXECUTOR_CONTAINER,
    KubernetesCluster,
    PodExecutor,
    check_pod_ip,
    pod_scheduling,
)
from strongroom.engine.node import Child, Node, ProtectedNode
from strongroom.engine.pod_settings import check_pod_settings
from strongroom.engine.spark import start_pod_executor
from strongroom.wire import pod
from strongroom.wire.events import delivered_parts
from strongroom.wire.key_service import WorkloadToken
from strongroom.wire.pod import PodDescriptor
from strongroom.wire.runtime_data import Role
from strongroom.wire.ticket import RunTicket

_ROLES: Final[Mapping[str, Role]] = {"driver": "driver", "executor": "executor"}
_HEX32: Final = re.compile(r"[0-9a-f]{64}")
_DESCRIPTOR_BYTES: Final = 1 << 20
_WORKLOAD_TOKEN: Final = TypeAdapter[str](WorkloadToken, config=ConfigDict(regex_engine="python-re"))
_SEE: Final = "See docs/reference/pods.md for what a pod must have."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFolders:
    """Where the host's files stand in a pod, and where the agent writes. The same in every pod; other ones in tests."""

    run: Path = Path(pod.RUN_FOLDER)
    package: Path = Path(pod.PACKAGE_FOLDER)
    memory: Path = Path(pod.MEMORY_FOLDER)
    token: Path = Path(pod.TOKEN_FOLDER)
    last_words: Path = Path(pod.TERMINATION_LOG)

    @property
    def scratch(self) -> Path:
        """The TEE's own folder in the pod's memory; there is one agent in a pod, and it starts once."""
        return self.memory / "tee"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodPlace:
    """A pod (see `start.Place`).

    Args:
        start: What the host said.
        spark: In the driver's pod how Spark asks for executors, in an executor's what Spark says to it.
        run_id: The run's id.
        archive: A location that gets a copy of what the run leaves behind, or None.
        tokens: Folder of the workload's tokens.
        report: The pod's log.
    """

    start: Start
    spark: KubernetesCluster | PodExecutor
    run_id: str
    archive: str | None
    tokens: Path
    report: Report

    def workload_token(self, key_service: str) -> str | None:
        """Return the token that the kubelet keeps fresh in the pod (see `Place`)."""
        path = self.tokens / key_service
        if not path.exists():
            return None
        try:
            return _WORKLOAD_TOKEN.validate_python(_read(path, max_bytes=LIMITS.token_bytes).decode("ascii").strip())
        except (ValidationError, UnicodeDecodeError) as error:
            raise FormatError(f"the workload's token for key service {key_service[:12]}… is none") from error

    @contextmanager
    def cluster(self, node: Node, *, driver_key: str) -> Iterator[OpenCluster]:
        """Have Spark in the driver make the executors' pods (see `Place`)."""
        del node
        if not isinstance(self.spark, KubernetesCluster):
            raise ConfigurationError("an executor's pod has no executors of its own")
        template = with_driver_key(self.spark.executor_template, driver_key)
        yield OpenCluster(cluster=replace(self.spark, executor_template=template))

    def start_executor(self, node: ProtectedNode, *, settings: Mapping[str, str], stop: Stop) -> Child:
        """Start Spark's executor (see `Place`)."""
        del stop
        if not isinstance(self.spark, PodExecutor):
            raise ConfigurationError("a driver's pod is no executor's")
        with self.report.step(Step.EXECUTORS, "Spark executor started"):
            return start_pod_executor(node, self.spark, scheduling=self.start.scheduling, settings=settings)

    def keep(self, name: str, content: bytes) -> None:
        """Put a file into the pod's log, part by part, and a copy into the archive, if there is one (see `Place`)."""
        if self.archive is not None:
            try:
                write_file(Storage(self.archive).path(f"{self.run_id}/{name}"), content)
            except StrongroomError as error:
                _log.warning("%s is not in the archive: %s", name, error.message)
        for part in delivered_parts(name, content):
            self.report.tell(part)


def begin_in_pod(
    words: Sequence[str], *, environment: Mapping[str, str], folders: PodFolders, report: Report
) -> PodPlace:
    """Read what the host says; unpack the package into this TEE's memory.

    Args:
        words: The pod's arguments, which are Spark's; the first one is the role.
        environment: The pod's environment.
        folders: Where the host's files stand; the scratch folder is made already.
        report: The pod's log.

    Raises:
        StrongroomError: Something is missing or not of its form, or is not the host's to choose. No key has left.
    """
    role = _ROLES.get(words[0]) if words else None
    if role is None:
        raise ConfigurationError("the pod's first argument is neither driver nor executor", action=_SEE)
    descriptor = PodDescriptor.from_json(_read(folders.run / pod.DESCRIPTOR_NAME, max_bytes=_DESCRIPTOR_BYTES))
    check_pod_settings(descriptor.settings)
    ticket = RunTicket.from_json(unverified_payload(descriptor.ticket))  # the key service verifies its signature
    spark = _cluster(descriptor, environment) if role == "driver" else _executor(environment)
    package = folders.scratch / "package"
    join_package(_package_parts(folders.package), package)
    return PodPlace(
        start=Start(
            role=role,
            application=descriptor.application,
            ticket=descriptor.ticket,
            device=descriptor.device,
            package=package,
            attestation_service=descriptor.attestation_service,
            key_services=descriptor.key_services,
            vaults=descriptor.vaults,
            storage=descriptor.storage,
            sizes=descriptor.sizes,
            host=_address(environment, "SPARK_DRIVER_BIND_ADDRESS" if role == "driver" else "SPARK_EXECUTOR_POD_IP"),
            driver_key=None if role == "driver" else _driver_key(environment),
            scheduling=pod_scheduling(descriptor.settings),
        ),
        spark=spark,
        run_id=ticket.run_id,
        archive=descriptor.archive,
        tokens=folders.token,
        report=report,
    )


def _cluster(descriptor: PodDescriptor, environment: Mapping[str, str]) -> KubernetesCluster:
    return KubernetesCluster(
        namespace=descriptor.namespace,
        driver_pod=_word(environment, pod.POD_NAME_ENV),
        application_id=_word(environment, "SPARK_APPLICATION_ID"),
        executors=descriptor.sizes.executors,
        chosen=descriptor.settings,
        executor_template=with_driver_key(descriptor.executor_template, ""),  # a bad one is refused before any key
    )


def _executor(environment: Mapping[str, str]) -> PodExecutor:
    return PodExecutor(
        driver_url=_word(environment, "SPARK_DRIVER_URL"),
        executor_id=_word(environment, "SPARK_EXECUTOR_ID"),
        cores=_word(environment, "SPARK_EXECUTOR_CORES"),
        memory=_word(environment, "SPARK_EXECUTOR_MEMORY"),
        application_id=_word(environment, "SPARK_APPLICATION_ID"),
        resource_profile_id=_word(environment, "SPARK_RESOURCE_PROFILE_ID"),
        pod_ip=_word(environment, "SPARK_EXECUTOR_POD_IP"),
        pod_name=_word(environment, "SPARK_EXECUTOR_POD_NAME"),
    )


def _word(environment: Mapping[str, str], name: str) -> str:
    word = environment.get(name)
    if word is None:
        raise ConfigurationError(f"the pod's environment lacks {name}", action=_SEE)
    return word


def _address(environment: Mapping[str, str], name: str) -> str:
    address = _word(environment, name)
    check_pod_ip(address)
    return address


def _driver_key(environment: Mapping[str, str]) -> str:
    key = _word(environment, pod.DRIVER_KEY_ENV)
    if not _HEX32.fullmatch(key):
        raise FormatError(f"{pod.DRIVER_KEY_ENV} in the pod's environment is no key's thumbprint", action=_SEE)
    return key


def with_driver_key(template: str, driver_key: str) -> str:
    """Return the executors' pod template with the driver's key in the environment of Spark's container.

    Args:
        template: A Pod in JSON, as the submitter rendered it.
        driver_key: Thumbprint of the driver's signing key.

    Raises:
        FormatError: Not a Pod with a container.
    """
    document = parse_json_object(template)
    container = _spark_container(document)
    container["name"] = EXECUTOR_CONTAINER
    others = container.get("env", [])
    if not isinstance(others, list) or not all(isinstance(each, dict) for each in others):
        raise _bad_template()
    kept = [each for each in others if each.get("name") != pod.DRIVER_KEY_ENV]
    container["env"] = [*kept, {"name": pod.DRIVER_KEY_ENV, "value": driver_key}]
    return json.dumps(document)


def _spark_container(document: dict[str, Any]) -> dict[str, Any]:
    match document:
        case {"spec": {"containers": [_, *_] as containers}} if all(isinstance(each, dict) for each in containers):
            named = [each for each in containers if each.get("name") == EXECUTOR_CONTAINER]
            found: dict[str, Any] = (named or containers)[0]
            return found
        case _:
            raise _bad_template()


def _bad_template() -> FormatError:
    return FormatError("the executors' pod template is no Pod with a container", action="Submit again.")


def _package_parts(folder: Path) -> list[bytes]:
    try:
        # Kubernetes' own links there begin with dots.
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigurationError(f"the package cannot be read: {error.strerror}", action=_SEE) from error
    if len(names) > pod.PACKAGE_PARTS:
        raise LimitError(f"the package has more than {pod.PACKAGE_PARTS} parts", action=_SEE)
    if names != [pod.package_part_name(number) for number in range(len(names))]:
        raise FormatError("parts of the package are missing, or something else is beside them", action=_SEE)
    return [_read(folder / name, max_bytes=pod.PACKAGE_PART_BYTES) for name in names]


def _read(path: Path, *, max_bytes: int) -> bytes:
    """Read a regular file of the host's; Kubernetes' files are links. A pipe or device is not even waited for."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - of a descriptor
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FormatError(f"{path.name} is not a regular file", action=_SEE)
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error.strerror}", action=_SEE) from error
    if len(content) > max_bytes:
        raise LimitError(f"{path.name} is larger than {max_bytes} bytes", action=_SEE)
    return content
