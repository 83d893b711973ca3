"""Driver and executor pod templates: what the agent needs, merged with what a person's own template says.

A person's template may place pods and give them storage and devices. It may not say what runs in them: command,
environment, further containers, and whatever else would change what the agent finds. Where the two contradict each
other, the agent's needs do not give way; the contradiction is refused by its path in the template, all of them at once.
"""

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Literal, TypeAlias

from strongroom.base.errors import ConfigurationError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import COMPONENT_LABEL, DRIVER_CONTAINER, EXECUTOR_CONTAINER, SUBMITTED_GATE
from strongroom.wire.pod import (
    DESCRIPTOR_NAME,
    MEMORY_FOLDER,
    MEMORY_VOLUME,
    PACKAGE_FOLDER,
    POD_NAME_ENV,
    RUN_FOLDER,
    TERMINATION_LOG,
    TOKEN_FOLDER,
    TOKEN_LIFETIME_S,
    package_part_name,
    token_audience,
)

Manifest: TypeAlias = dict[str, Any]
"""An object of Kubernetes' API, as JSON has it."""
Role: TypeAlias = Literal["driver", "executor"]

COMMAND: Final = ("/usr/local/bin/strongroom-agent", "--pod")
"""What a container of a run starts with; of the `args` that Spark sets the agent takes the first word, as its role."""
USER_ID: Final = 1000
_READ_BY_GROUP: Final = 0o440
_OUR_FOLDER: Final = "/strongroom"
_OUR_VOLUMES: Final = ("strongroom-", "spark-local-dir-", "spark-conf-volume", "pod-template-")
"""Beginnings of volumes' names that the agent's and Spark's own have."""

_POD_FIELDS: Final = frozenset(
    {
        *("activeDeadlineSeconds", "affinity", "dnsConfig", "dnsPolicy", "hostAliases", "imagePullSecrets"),
        *("nodeSelector", "overhead", "preemptionPolicy", "priority", "priorityClassName"),
        *("resourceClaims", "resources", "runtimeClassName", "schedulerName", "schedulingGates"),
        *("terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints", "volumes"),
    }
)
"""What a person's template may say of a pod, beside what is merged with the agent's needs."""
_CONTAINER_FIELDS: Final = frozenset({"imagePullPolicy", "name", "ports", "resources", "volumeDevices", "volumeMounts"})
_METADATA_FIELDS: Final = frozenset({"annotations", "finalizers", "labels"})
_REASONS: Final[Mapping[str, str]] = {
    "spec.initContainers": "what else ran in the pod would be in its TEE, and nobody measured it",
    "spec.ephemeralContainers": "what else ran in the pod would be in its TEE, and nobody measured it",
    "spec.containers": "what else ran in the pod would be in its TEE, and nobody measured it",
    "spec.hostNetwork": "the run's pods have a network of their own",
    "spec.nodeName": "no pod is placed before its submitter is done: use nodeSelector or affinity",
    "spec.hostPID": "the TEE's processes are not the node's to see",
    "spec.hostIPC": "the TEE's memory is not the node's to see",
    "spec.shareProcessNamespace": "the agent is the first process of its container",
    "spec.containers.command": "the agent is what starts",
    "spec.containers.args": "Spark says there whether this is the driver or an executor",
    "spec.containers.env": "an application's environment is approved with it, and the agent takes nothing else",
    "spec.containers.envFrom": "an application's environment is approved with it, and the agent takes nothing else",
    "spec.containers.lifecycle": "it starts other code in the agent's container",
    "spec.containers.livenessProbe": "it may start other code in the agent's container; Kubernetes sees the agent end",
    "spec.containers.readinessProbe": "it may start other code in the agent's container; nothing waits for it",
    "spec.containers.startupProbe": "it may start other code in the agent's container; nothing waits for it",
    "spec.containers.image": "name it with --conf spark.kubernetes.container.image",
}
_UNKNOWN: Final = "it is not among what a template of a run may say"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodNeeds:
    """What the agent needs in a pod of one run.

    Attributes:
        role: The driver's pod or an executor's.
        labels, annotations: The run's.
        config_map: Name of the ConfigMap with the descriptor.
        package_config_maps: Names of those with the package's parts, in their order.
        key_services: Identities of the key services that get a token of the pod's service account.
        service_account: The pod's service account.
        gated: Whether the pod waits until its submitter has made everything else.
    """

    role: Role
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    config_map: str
    package_config_maps: Sequence[str]
    key_services: Sequence[str]
    service_account: str
    gated: bool


def pod_template(needs: PodNeeds, *, own: Manifest | None = None, container_name: str | None = None) -> Manifest:
    """Return the template of a run's pods.

    Args:
        needs: What the agent needs.
        own: The person's template, a Pod; None for none.
        container_name: Which of its containers is Spark's; the first one if None.

    Raises:
        ConfigurationError: The person's template is no pod's.
        RefusedError: It contradicts what the agent needs; every contradiction is named.
    """
    required = _required(needs)
    if own is None:
        return required
    template, faults = _merged(required, _checked(own), container_name=container_name)
    if faults:
        raise RefusedError(
            f"the {needs.role}'s pod template says what it cannot decide: " + "; ".join(map(str, faults)),
            action="remove these from the template; what the application needs belongs to the application",
            step=Step.SUBMIT,
            mismatches=tuple(faults),
        )
    return template


def _required(needs: PodNeeds) -> Manifest:
    mounts: list[Manifest] = [
        {"name": "strongroom-run", "mountPath": RUN_FOLDER, "readOnly": True},
        {"name": "strongroom-package", "mountPath": PACKAGE_FOLDER, "readOnly": True},
        {"name": MEMORY_VOLUME, "mountPath": MEMORY_FOLDER},
    ]
    volumes: list[Manifest] = [
        {
            "name": "strongroom-run",
            "configMap": {
                "name": needs.config_map,
                "items": [{"key": DESCRIPTOR_NAME, "path": DESCRIPTOR_NAME}],
            },
        },
        {"name": "strongroom-package", "projected": {"sources": _package_sources(needs.package_config_maps)}},
        {"name": MEMORY_VOLUME, "emptyDir": {"medium": "Memory"}},
    ]
    if needs.key_services:
        mounts.append({"name": "strongroom-token", "mountPath": TOKEN_FOLDER, "readOnly": True})
        sources = [_token_source(identity) for identity in sorted(needs.key_services)]
        volumes.append({"name": "strongroom-token", "projected": {"defaultMode": _READ_BY_GROUP, "sources": sources}})
    is_driver = needs.role == "driver"
    container: Manifest = {
        "name": DRIVER_CONTAINER if is_driver else EXECUTOR_CONTAINER,
        "command": list(COMMAND),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    if is_driver:
        container["env"] = [{"name": POD_NAME_ENV, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    spec: Manifest = {
        "automountServiceAccountToken": is_driver,
        "containers": [container],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "fsGroup": USER_ID,
            "runAsGroup": USER_ID,
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "serviceAccountName": needs.service_account,
        "volumes": volumes,
    }
    if needs.gated:
        spec["schedulingGates"] = [{"name": SUBMITTED_GATE}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": dict(needs.annotations),
            "labels": {**needs.labels, COMPONENT_LABEL: needs.role},
        },
        "spec": spec,
    }


def _package_sources(config_maps: Iterable[str]) -> list[Manifest]:
    names = [(name, package_part_name(number)) for number, name in enumerate(config_maps)]
    return [{"configMap": {"name": name, "items": [{"key": part, "path": part}]}} for name, part in names]


def _token_source(key_service: str) -> Manifest:
    return {
        "serviceAccountToken": {
            "audience": token_audience(key_service),
            "expirationSeconds": TOKEN_LIFETIME_S,
            "path": key_service,
        }
    }


def _checked(own: Manifest) -> Manifest:
    """Return a person's template, if it has the shape of a pod's."""
    spec = own.get("spec", {})
    is_pod = own.get("apiVersion", "v1") == "v1" and own.get("kind", "Pod") == "Pod"
    containers = spec.get("containers", []) if isinstance(spec, dict) else None
    has_shape = (
        isinstance(own.get("metadata", {}), dict)
        and isinstance(containers, list)
        and all(isinstance(each, dict) for each in containers)
    )
    if not is_pod or not has_shape:
        raise ConfigurationError(
            "the pod template is not a Pod", action="give a file as spark-submit takes it: apiVersion v1, kind Pod"
        )
    return own


def _merged(required: Manifest, own: Manifest, *, container_name: str | None) -> tuple[Manifest, list[Mismatch]]:
    faults: list[Mismatch] = []
    spark, others = _spark_container(own["spec"].get("containers", []) if "spec" in own else [], container_name)
    faults += [_fault("spec.containers", f"a container {each.get('name', 'without a name')}") for each in others]
    faults += _stray({**own, "spec": None, "metadata": None}, {"apiVersion", "kind", "spec", "metadata"}, path="")
    metadata = _merge_metadata(required["metadata"], own.get("metadata", {}), faults)
    own_spec = {name: value for name, value in own.get("spec", {}).items() if name != "containers"}
    container = _merge_container(required["spec"]["containers"][0], spark, faults)
    faults += _overridden(required["spec"]["securityContext"], spark.get("securityContext"))
    needed = {name: value for name, value in required["spec"].items() if name != "containers"}
    spec = _merge_fields(needed, own_spec, path="spec", free=_POD_FIELDS, faults=faults)
    return {**required, "metadata": metadata, "spec": {**spec, "containers": [container]}}, faults


def _merge_metadata(required: Manifest, own: Manifest, faults: list[Mismatch]) -> Manifest:
    named = {name: value for name, value in own.items() if name not in {"name", "generateName", "namespace"}}
    return _merge_fields(required, named, path="metadata", free=_METADATA_FIELDS, faults=faults)


def _merge_container(required: Manifest, own: Manifest, faults: list[Mismatch]) -> Manifest:
    """Merge Spark's container; its name stays the person's, so that their own `kubectl logs -c` finds it."""
    renamed = {**required, "name": own.get("name", required["name"])}
    return _merge_fields(renamed, own, path="spec.containers", free=_CONTAINER_FIELDS, faults=faults)


def _overridden(pods: Manifest, containers: Any) -> Iterator[Mismatch]:  # noqa: ANN401 - JSON
    """Yield what Spark's container says otherwise than its pod: in Kubernetes the container's word counts."""
    for name in sorted(pods.keys() & containers.keys()) if isinstance(containers, dict) else []:
        if containers[name] != pods[name]:
            path = f"spec.containers.securityContext.{name}"
            yield Mismatch(name=path, expected=_shown(pods[name]), actual=_shown(containers[name]))


def _merge_fields(
    required: Manifest, own: Manifest, *, path: str, free: frozenset[str], faults: list[Mismatch]
) -> Manifest:
    """Merge two objects: what only one has stays, lists go together, what both have must agree."""
    merged = dict(required)
    for name, value in own.items():
        where = f"{path}.{name}"
        if where in _REASONS and required.get(name) != value:
            faults.append(_fault(where, "set"))
        elif name in required:
            merged[name] = _merge_value(required[name], value, path=where, faults=faults)
        elif name in free:
            merged[name] = value
        else:
            faults.append(_fault(where, "set"))
        if name == "volumes":
            faults += _taken_volumes(value, path=where)
        if name == "volumeMounts":
            faults += _taken_mounts(value, path=where)
    return merged


def _merge_value(required: Any, own: Any, *, path: str, faults: list[Mismatch]) -> Any:  # noqa: ANN401 - JSON
    match required, own:
        case dict(), dict():
            free = frozenset(own) if _is_open(path) else frozenset[str]()
            return _merge_fields(required, own, path=path, free=free, faults=faults)
        case list(), list() if path in {"spec.volumes", "spec.containers.volumeMounts", "spec.schedulingGates"}:
            return [*required, *own]
        case _ if required == own:
            return required
        case _:
            faults.append(Mismatch(name=path, expected=_shown(required), actual=_shown(own)))
            return required


def _is_open(path: str) -> bool:
    """Return whether an object that the agent's needs are in may have further members."""
    return path in {
        "metadata.labels",
        "metadata.annotations",
        "spec.securityContext",
        "spec.containers.securityContext",
    }


def _spark_container(containers: list[Manifest], name: str | None) -> tuple[Manifest, list[Manifest]]:
    """Return Spark's container and the others, chosen as Spark does."""
    if not containers:
        return {}, []
    chosen = next((each for each in containers if name is not None and each.get("name") == name), containers[0])
    return chosen, [each for each in containers if each is not chosen]


def _taken_volumes(volumes: Any, *, path: str) -> Iterator[Mismatch]:  # noqa: ANN401 - JSON
    for volume in volumes if isinstance(volumes, list) else []:
        name = str(volume.get("name", "")) if isinstance(volume, dict) else ""
        if name.startswith(_OUR_VOLUMES):
            yield Mismatch(name=path, expected="another name than the agent's own volumes have", actual=name)


def _taken_mounts(mounts: Any, *, path: str) -> Iterator[Mismatch]:  # noqa: ANN401 - JSON
    for mount in mounts if isinstance(mounts, list) else []:
        place = str(mount.get("mountPath", "")) if isinstance(mount, dict) else ""
        if PurePosixPath(posixpath.normpath(f"/{place.lstrip('/')}")).is_relative_to(_OUR_FOLDER):
            yield Mismatch(name=path, expected=f"a place outside {_OUR_FOLDER}", actual=place)


def _stray(own: Manifest, known: set[str], *, path: str) -> list[Mismatch]:
    return [_fault(f"{path}{name}", "set") for name in own if name not in known]


def _fault(path: str, actual: str) -> Mismatch:
    return Mismatch(name=path, expected="not set", actual=f"{actual}; {_REASONS.get(path, _UNKNOWN)}")


def _shown(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return what differs, in a few words; never what a template may hold beside names and numbers."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | str():
            return str(value)
        case list():
            return ", ".join(map(_shown, value)) or "none"
        case _:
            return "something else"
