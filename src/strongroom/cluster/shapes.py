"""Shapes: where a run's TEEs are on a cluster, and what a pod needs for it.

A shape is rendered as an overlay, a few fragments of a pod that the submitter merges into its templates. All of it is
the host's word: whoever leaves an overlay out, or edits it, gets other evidence, or none. Whom each shape trusts is in
`docs/reference/shapes.md`.
"""

import base64
import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeAlias, assert_never

from pydantic import Field, StringConstraints

from strongroom.attestation.evidence.fields import CONFIG_ID_BYTES
from strongroom.attestation.evidence.initdata import POLICY_ENTRY, InitdataAlgorithm, launch_value_of, render_initdata
from strongroom.base.encoding import Json, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cluster.agent_policy import IMAGE_VARIABLES, TSM_FOLDER, agent_policy
from strongroom.wire.descriptor import DeviceKind, DeviceSetting
from strongroom.wire.model import Hex32, Message, TeeKind, VirtualTeeKind
from strongroom.wire.pod import PLATFORM_SOCKET
from strongroom.wire.runtime_data import Role

SHAPE_LABEL: Final = "strongroom.shape"
PLATFORM_FOLDER: Final = "/run/strongroom/platform"
"""On the nodes: the simulated platform's folder, served by the chart's DaemonSet."""
ENCLAVE_FOLDER: Final = "/strongroom/enclave"
"""In enclave images: the signed enclaves (`deploy/enclaves`)."""
AESM_FOLDER: Final = "/var/run/aesmd"

AKS_CONFIDENTIAL_NODES: Final = MappingProxyType({"kubernetes.azure.com/security-type": "ConfidentialVM"})
AZURE_EPC: Final = "kubernetes.azure.com/sgx_epc_mem_in_MiB"
INTEL_SGX_NODES: Final = MappingProxyType({"intel.feature.node.kubernetes.io/sgx": "true"})
AKS_POLICY_ANNOTATION: Final = "io.katacontainers.config.agent.policy"
INITDATA_ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
ACI_POLICY_ANNOTATION: Final = "microsoft.containerinstance.virtualnode.ccepolicy"

ShapeName: TypeAlias = Literal["simulated", "confidential-node", "pod", "sgx"]
Runtime: TypeAlias = Literal["kata-qemu-snp", "kata-qemu-tdx", "kata-remote", "kata-cc-isolation", "aci"]
_QualifiedName = Annotated[
    str,
    StringConstraints(
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z"
    ),
]
_LabelValue = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?\Z")]
_Folder = Annotated[str, StringConstraints(pattern=r"^(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)+\Z")]
_Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x1f\x7f]*\Z")]


class SimulatedShape(Message):
    """Any node; the chart's DaemonSet signs evidence as hardware would. Protects nothing.

    Attributes:
        tee: As what the agents are launched.
    """

    name: Literal["simulated"] = "simulated"
    tee: TeeKind = "sgx"


class ConfidentialNodeShape(Message):
    """The node is a confidential virtual machine: **the weaker shape**, with the cluster's administrator in the TEE.

    Attributes:
        tee: The node's hardware.
        device: What quotes the node.
        node_labels: What such nodes are labelled with; AKS' label unless told otherwise.
        tolerated: Keys of taints that keep others from such nodes.
        resource: How the device plugin calls the device (`azure-vtpm`, `sev-guest`).
        group: The device's group on the nodes, where only its group may use it.
    """

    name: Literal["confidential-node"] = "confidential-node"
    tee: VirtualTeeKind
    device: Literal["azure-vtpm", "sev-guest", "tsm"] = "azure-vtpm"
    node_labels: dict[_QualifiedName, _LabelValue] = Field(default=dict(AKS_CONFIDENTIAL_NODES), min_length=1)
    tolerated: tuple[_QualifiedName, ...] = ()
    resource: _QualifiedName | None = None
    group: int | None = Field(default=None, ge=1, le=65535)


class PodShape(Message):
    """Each pod is a confidential virtual machine of its own.

    Attributes:
        tee: The hardware; the runtime says it, except for `kata-remote`, which starts either.
        runtime: The RuntimeClass, or `aci` for virtual nodes on Azure Container Instances.
        environment: `NAME=VALUE` of the variables that the image itself sets; those of our image unless told otherwise.
        storage: Folders in the container at which datasets' storage is mounted.
        policy: For `aci` and `kata-cc-isolation`: the policy that Microsoft's tool made of the pod.
    """

    name: Literal["pod"] = "pod"
    tee: VirtualTeeKind | None = None
    runtime: Runtime
    environment: tuple[_Variable, ...] = IMAGE_VARIABLES
    storage: tuple[_Folder, ...] = ()
    policy: str | None = Field(default=None, max_length=128 << 10)


class SgxShape(Message):
    """Each pod is an SGX enclave.

    Attributes:
        flavour: The library operating system of the enclave image.
        plugin: Whose device plugin the nodes have.
        epc_mib: Protected memory of a pod, MiB: at least the enclave's size.
        aesm: Whether quotes come from the node's service (AESM) rather than from within the container.
    """

    name: Literal["sgx"] = "sgx"
    flavour: Literal["gramine", "occlum"]
    plugin: Literal["intel", "azure"] = "intel"
    epc_mib: int = Field(default=8192, ge=64, le=1 << 20)
    aesm: bool = True


Shape: TypeAlias = SimulatedShape | ConfidentialNodeShape | PodShape | SgxShape
SHAPES: Final[Mapping[ShapeName, type[Shape]]] = MappingProxyType(
    {"simulated": SimulatedShape, "confidential-node": ConfidentialNodeShape, "pod": PodShape, "sgx": SgxShape}
)


class Launch(Message):
    """What the TEEs of a run are launched with.

    Attributes:
        application: The application's digest.
        image: The image's reference, by digest (`NAME@sha256:…`).
    """

    application: Hex32
    image: str = Field(min_length=1, max_length=512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """What a shape adds to a pod.

    Attributes:
        device: What quotes the TEE, for the run's descriptor. None where evidence names no application, so that no key
            service gives a key, and nothing is to be started.
        pod: Fragment of the Pod: metadata and spec, without containers.
        container: Fragment of the container that runs Strongroom's agent.
        launched_with: What stands in the evidence's field that is fixed at launch, hexadecimal; None where the platform
            or the enclave's loader has none, or fixes it by itself.
    """

    device: DeviceSetting | None
    pod: Mapping[str, Json]
    container: Mapping[str, Json]
    launched_with: str | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the overlay as a document for people and for other programs."""
        return {
            "device": None if self.device is None else self.device.model_dump(mode="json"),
            "launchedWith": self.launched_with,
            "pod": self.pod,
            "container": self.container,
        }


def parse_shape(name: str, options: Mapping[str, str]) -> Shape:
    """Read a shape as the command line names it.

    Args:
        name: The shape.
        options: Its options, as text: `epc-mib` = `4096`; lists with commas, pairs as `KEY=VALUE`.

    Raises:
        FormatError: There is no such shape or option, or a value is not of the option's form.
    """
    match name:
        case "simulated" | "confidential-node" | "pod" | "sgx":
            shape = SHAPES[name]
        case _:
            raise FormatError(f"there is no shape {name}", action=f"choose one of: {', '.join(SHAPES)}")
    if "name" in options:
        raise FormatError("a shape has no option name", action="name the shape itself in the place of the option")
    values: dict[str, Any] = {}
    for option, text in options.items():
        values[option.replace("-", "_")] = _READ.get(option, str)(text)
    return shape.from_object({**values, "name": name})


def render_overlay(shape: Shape, launch: Launch, *, role: Role) -> Overlay:
    """Return what a shape adds to a pod of a run.

    Args:
        shape: Where the TEEs are.
        launch: What they are launched with.
        role: Whose pod it is.

    Raises:
        ConfigurationError: The shape's options contradict each other, or one is missing.
        FormatError: A pod's TEE needs an image that is named by its digest.
    """
    match shape:
        case SimulatedShape():
            return _simulated(shape)
        case ConfidentialNodeShape():
            return _confidential_node(shape)
        case PodShape(runtime="aci" | "kata-cc-isolation"):
            return _microsoft_pod(shape)
        case PodShape():
            return _kata_pod(shape, launch)
        case SgxShape():
            return _sgx(shape, launch, role)
        case _:
            assert_never(shape)


def apply_overlay(template: Mapping[str, Json], overlay: Overlay, *, container: str) -> dict[str, Json]:
    """Merge an overlay into a pod template.

    Objects are merged, and so are lists of named things (containers, volumes, mounts, variables), by name. Of anything
    that both have the overlay's value counts, as the shape is what the submitter asked for.

    Args:
        template: A Pod, or a fragment of one.
        overlay: What the shape adds.
        container: Name of the container that runs Strongroom's agent.

    Raises:
        ConfigurationError: The template has no such container.
    """
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    listed = containers if isinstance(containers, list | tuple) else []
    names = [each.get("name") for each in listed if isinstance(each, Mapping)]
    if names.count(container) != 1:
        raise ConfigurationError(
            f"the pod template has no container {container}", action=f"name a container of it {container}"
        )
    added: dict[str, Json] = {"name": container, **overlay.container}
    pod = _merged(overlay.pod, {"spec": {"containers": [added]}}, "")
    merged = _merged(template, pod, "")
    assert isinstance(merged, dict)
    return merged


# --- the shapes ------------------------------------------------------------------------------------------------------


def _simulated(shape: SimulatedShape) -> Overlay:
    volume, mount = _host_folder("strongroom-platform", PLATFORM_FOLDER, PLATFORM_SOCKET.rpartition("/")[0])
    return Overlay(
        device=DeviceSetting(kind=_SIMULATED[shape.tee], socket=PLATFORM_SOCKET),
        pod=_pod(shape, {"volumes": [{**volume, "hostPath": {"path": PLATFORM_FOLDER, "type": "Directory"}}]}),
        container={"volumeMounts": [{**mount, "readOnly": True}]},
    )


def _confidential_node(shape: ConfidentialNodeShape) -> Overlay:
    if shape.device == "sev-guest" and shape.tee != "snp":
        raise ConfigurationError(
            "the device sev-guest is SEV-SNP's", action="choose device=tsm or device=azure-vtpm for TDX"
        )
    spec: dict[str, Json] = {"nodeSelector": dict(shape.node_labels)}
    if shape.tolerated:
        spec["tolerations"] = [_toleration(key) for key in shape.tolerated]
    if shape.group is not None:
        spec["securityContext"] = {"supplementalGroups": [shape.group]}
    device = DeviceSetting(kind=shape.device, shape="confidential-node")
    if shape.device == "tsm":
        if shape.resource is not None:
            raise ConfigurationError(
                "the device tsm is a folder, which no device plugin hands out", action="leave the option resource out"
            )
        pod, container = _with_tsm(spec)
        return Overlay(device=device, pod=_pod(shape, pod), container=container)
    if shape.resource is None:
        raise ConfigurationError(
            f"how the device plugin calls the device {shape.device} is not known",
            action="say it: resource=NAME (docs/reference/shapes.md has a plugin's configuration)",
        )
    return Overlay(
        device=device,
        pod=_pod(shape, spec),
        container={"resources": _limits({shape.resource: "1"})},
    )


def _kata_pod(shape: PodShape, launch: Launch) -> Overlay:
    tee = _tee_of(shape)
    if shape.policy is not None:
        raise ConfigurationError(
            "Kata's policy is rendered here, not given", action="leave the option policy out, or choose runtime=aci"
        )
    policy = agent_policy(launch.image, environment=shape.environment, storage=shape.storage, user=_TSM_USER)
    document = render_initdata({POLICY_ENTRY: policy}, application=launch.application, algorithm=_ALGORITHM)
    pod, container = _with_tsm({"runtimeClassName": shape.runtime})
    annotation = base64.b64encode(gzip.compress(document, mtime=0)).decode("ascii")
    return Overlay(
        device=DeviceSetting(kind="tsm", shape="pod", initdata=to_b64url(document)),
        pod=_pod(shape, pod, annotations={INITDATA_ANNOTATION: annotation}),
        container=container,
        launched_with=launch_value_of(document, kind=tee, algorithm=_ALGORITHM).hex(),
    )


def _microsoft_pod(shape: PodShape) -> Overlay:
    """Return the overlay of a platform that hashes the policy itself into HOST_DATA, with no initdata around it."""
    _tee_of(shape)
    if shape.policy is None:
        raise ConfigurationError(
            f"{shape.runtime} needs the policy that Microsoft's tool makes of the pod",
            action="make it (az confcom acipolicygen or katapolicygen) and give it: policy=FILE",
        )
    policy = shape.policy.encode()
    encoded = base64.b64encode(policy).decode("ascii")
    if shape.runtime == "aci":
        spec: dict[str, Json] = {
            "nodeSelector": {"virtualization": "virtualnode2"},
            "tolerations": [_toleration("virtual-kubelet.io/provider")],
        }
        pod = _pod(shape, spec, annotations={ACI_POLICY_ANNOTATION: encoded})
    else:
        pod = _pod(shape, {"runtimeClassName": shape.runtime}, annotations={AKS_POLICY_ANNOTATION: encoded})
    return Overlay(device=None, pod=pod, container={}, launched_with=hashlib.sha256(policy).hexdigest())


def _sgx(shape: SgxShape, launch: Launch, role: Role) -> Overlay:
    container: dict[str, Json] = {}
    spec: dict[str, Json] = {}
    match shape.plugin:
        case "intel":
            spec["nodeSelector"] = dict(INTEL_SGX_NODES)
            container["resources"] = _limits(
                {
                    "sgx.intel.com/epc": f"{shape.epc_mib}Mi",
                    "sgx.intel.com/enclave": "1",
                    "sgx.intel.com/provision": "1",
                }
            )
        case "azure":
            spec["tolerations"] = [_toleration(AZURE_EPC)]
            container["resources"] = _limits({AZURE_EPC: str(shape.epc_mib)})
    if shape.aesm:
        volume, mount = _host_folder("aesmd", AESM_FOLDER, AESM_FOLDER)
        spec["volumes"] = [{**volume, "hostPath": {"path": AESM_FOLDER, "type": "Directory"}}]
        container["volumeMounts"] = [mount]
    if shape.flavour == "gramine":
        # The manifest fixes the arguments: Spark's are not read. Each role is an enclave of its own.
        container["command"] = ["gramine-sgx", f"{ENCLAVE_FOLDER}/{role}"]
        return Overlay(device=DeviceSetting(kind="gramine"), pod=_pod(shape, spec), container=container)
    config_id = bytes.fromhex(launch.application).ljust(CONFIG_ID_BYTES, b"\0")
    variables: list[Json] = [
        {"name": "OCCLUM_CONF_ID_BASE64", "value": base64.b64encode(config_id).decode("ascii")},
    ]
    if shape.aesm:
        variables.append({"name": "SGX_AESM_ADDR", "value": "1"})
    container |= {
        "command": ["occlum", "run", "/bin/strongroom-agent", "--pod"],
        "workingDir": ENCLAVE_FOLDER,
        "env": variables,
    }
    return Overlay(
        device=DeviceSetting(kind="occlum"),
        pod=_pod(shape, spec),
        container=container,
        launched_with=config_id.hex(),
    )


_SIMULATED: Final[Mapping[TeeKind, DeviceKind]] = {
    "sgx": "simulated-sgx",
    "tdx": "simulated-tdx",
    "snp": "simulated-snp",
}
_RUNTIME_TEES: Final[Mapping[str, VirtualTeeKind]] = {
    "kata-qemu-snp": "snp",
    "kata-qemu-tdx": "tdx",
    "kata-cc-isolation": "snp",
    "aci": "snp",
}
_ALGORITHM: Final[InitdataAlgorithm] = "sha256"
"""The one that agents read: every kind of TEE has room for it."""
_TSM_USER: Final = 0
"""The kernel's folder for quotes belongs to root."""


def _tee_of(shape: PodShape) -> VirtualTeeKind:
    known = _RUNTIME_TEES.get(shape.runtime)
    if known is None and shape.tee is None:
        raise ConfigurationError(
            f"{shape.runtime} starts TEEs of more than one kind", action="say which: tee=snp or tee=tdx"
        )
    if known is not None and shape.tee not in (None, known):
        raise ConfigurationError(f"{shape.runtime} starts {known}, not {shape.tee}", action=f"choose tee={known}")
    tee = known or shape.tee
    assert tee is not None
    return tee


# --- fragments of pods -----------------------------------------------------------------------------------------------


def _pod(shape: Shape, spec: Mapping[str, Json], *, annotations: Mapping[str, Json] | None = None) -> dict[str, Json]:
    metadata: dict[str, Json] = {"labels": {SHAPE_LABEL: shape.name}}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": spec}


def _with_tsm(spec: Mapping[str, Json]) -> tuple[dict[str, Json], dict[str, Json]]:
    """Return spec and container with the guest's own folder for quotes, which its kernel gives to root only."""
    volume, mount = _host_folder("strongroom-tsm", TSM_FOLDER, TSM_FOLDER)
    container: dict[str, Json] = {
        "volumeMounts": [mount],
        "securityContext": {"runAsNonRoot": False, "runAsUser": _TSM_USER},
    }
    return {**spec, "volumes": [volume]}, container


def _host_folder(name: str, on_node: str, in_container: str) -> tuple[dict[str, Json], dict[str, Json]]:
    return {"name": name, "hostPath": {"path": on_node}}, {"name": name, "mountPath": in_container}


def _toleration(key: str) -> dict[str, Json]:
    return {"key": key, "operator": "Exists", "effect": "NoSchedule"}


def _limits(resources: Mapping[str, Json]) -> dict[str, Json]:
    """Return limits and the same requests: of what device plugins hand out, both must be equal."""
    return {"limits": resources, "requests": resources}


# --- merging ---------------------------------------------------------------------------------------------------------

_LIST_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "env": "name",
    "initContainers": "name",
    "tolerations": "key",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""By what the members of a list are the same thing, as in Kubernetes' own merges."""
_MERGED_MEMBERS: Final = frozenset({"containers", "initContainers"})
"""Of which both sides' fields count. Anything else is one thing: a volume has one source, a variable one value."""


def _merged(base: Json, added: Json, name: str) -> Json:
    match base, added:
        case Mapping(), Mapping():
            result = dict(base)
            for key, value in added.items():
                result[key] = _merged(result[key], value, key) if key in result else value
            return result
        case (list() | tuple(), list() | tuple()) if name in _LIST_KEYS:
            return _merged_lists(base, added, name)
        case (list() | tuple(), list() | tuple()) if name == "supplementalGroups":
            return [*base, *(each for each in added if each not in base)]
        case _:
            return added


def _merged_lists(base: list[Json] | tuple[Json, ...], added: list[Json] | tuple[Json, ...], name: str) -> list[Json]:
    result = list(base)
    for each in added:
        for index, other in enumerate(result):
            if _are_the_same(other, each, _LIST_KEYS[name]):
                result[index] = _merged(other, each, "") if name in _MERGED_MEMBERS else each
                break
        else:
            result.append(each)
    return result


def _are_the_same(first: Json, second: Json, key: str) -> bool:
    """Whether two members of a list are named alike; a template may hold anything in the place of a name."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    return first.get(key) is not None and first.get(key) == second.get(key)


# --- options ---------------------------------------------------------------------------------------------------------


_MOST_DIGITS: Final = 10


def _number(text: str) -> Any:  # noqa: ANN401 - a model refuses what is no number
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else text


def _truth(text: str) -> Any:  # noqa: ANN401 - a model refuses what is neither
    return {"true": True, "false": False}.get(text, text)


def _listed(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def _pairs(text: str) -> dict[str, str]:
    pairs = [each.partition("=") for each in _listed(text)]
    return {name: value for name, _, value in pairs}


_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "aesm": _truth,
    "environment": _listed,
    "epc-mib": _number,
    "group": _number,
    "node-labels": _pairs,
    "storage": _listed,
    "tolerated": _listed,
}
