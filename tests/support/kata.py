"""What the host asks a Kata agent, as its policy sees it: JSON in the form of Kata's protocol (agent.proto).

The good requests are those of a run's pod, as Kubernetes, containerd and Kata's runtime would make them of the
submitter's template. Source of the form: Kata Containers, `agent.proto`, and its own tests of policies.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

IMAGE_DIGEST = "sha256:" + "1f" * 32
IMAGE = f"registry.example/strongroom/spark@{IMAGE_DIGEST}"
CONTAINER = "5c" * 32
SHARED = "/run/kata-containers/shared/containers"
EPHEMERAL = "/run/kata-containers/sandbox/ephemeral/spark-local-dir-1"
TSM = "/sys/kernel/config/tsm/report"
IMAGE_PATH = "PATH=/usr/local/bin:/usr/bin:/bin"

Request = dict[str, Any]
Edit = Callable[[Request], None]


def agent_container(*edits: Edit, role: str = "driver") -> Request:
    """Return the request that starts Strongroom's agent, edited."""
    return _edited(
        {
            "container_id": CONTAINER,
            "exec_id": CONTAINER,
            "string_user": None,
            "devices": [],
            "shared_mounts": [],
            "sandbox_pidns": False,
            "storages": [rootfs(IMAGE), memory()],
            "OCI": {
                "Version": "1.1.0",
                "Hooks": None,
                "Hostname": "",
                "Solaris": None,
                "Windows": None,
                "Root": {"Path": f"/run/kata-containers/{CONTAINER}/rootfs", "Readonly": True},
                "Annotations": {
                    "io.katacontainers.pkg.oci.container_type": "pod_container",
                    "io.kubernetes.cri.container-name": "spark-kubernetes-driver",
                    "io.kubernetes.cri.container-type": "container",
                    "io.kubernetes.cri.image-name": IMAGE,
                },
                "Process": {
                    "Args": ["/usr/local/bin/strongroom-agent", "--pod", role, "--class", "org.apache.spark.deploy"],
                    "Capabilities": _capabilities(),
                    "Cwd": "/",
                    "Env": [
                        IMAGE_PATH,
                        "HOSTNAME=strongroom-0123456789ab-driver",
                        "SPARK_DRIVER_BIND_ADDRESS=10.244.0.7",
                        "SPARK_APPLICATION_ID=spark-b5c4d3",
                        "STRONGROOM_POD_NAME=strongroom-0123456789ab-driver",
                        "KUBERNETES_SERVICE_HOST=10.96.0.1",
                        "KUBERNETES_SERVICE_PORT=443",
                        "KUBERNETES_SERVICE_PORT_HTTPS=443",
                        "KUBERNETES_PORT=tcp://10.96.0.1:443",
                        "KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443",
                        "KUBERNETES_PORT_443_TCP_PROTO=tcp",
                        "KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
                    ],
                    "NoNewPrivileges": True,
                    "Terminal": False,
                    "User": {"UID": 0, "GID": 1000, "AdditionalGids": [1000], "Username": ""},
                },
                "Mounts": [
                    *_kernel_mounts(),
                    _bind("/dev/shm", "/run/kata-containers/sandbox/shm"),
                    _shared("/etc/hosts", "hosts"),
                    _shared("/etc/hostname", "hostname"),
                    _shared("/etc/resolv.conf", "resolv.conf"),
                    _shared("/dev/termination-log", "termination-log"),
                    _shared("/var/run/secrets/kubernetes.io/serviceaccount", "serviceaccount"),
                    _shared("/strongroom/run", "run"),
                    _shared("/strongroom/package", "package"),
                    _shared("/strongroom/token", "token"),
                    _bind("/strongroom/memory", EPHEMERAL),
                    _bind(TSM, TSM),
                ],
                "Linux": {"Devices": [], "Namespaces": [{"Path": "", "Type": "mount"}], "Sysctl": {}, "Seccomp": None},
            },
        },
        edits,
    )


def container_of(pod: Mapping[str, Any], *, image_variables: Sequence[str]) -> Request:
    """Return the request that starts the one container of a pod, as kubelet, containerd and Kata's runtime make it.

    Args:
        pod: The pod, as the API server has it.
        image_variables: What the image itself sets.
    """
    (container,) = pod["spec"]["containers"]
    rights = {**pod["spec"]["securityContext"], **container["securityContext"]}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    request = agent_container()
    request["storages"] = [rootfs(container["image"])]
    oci = request["OCI"]
    oci["Annotations"]["io.kubernetes.cri.image-name"] = container["image"]
    oci["Root"]["Readonly"] = rights["readOnlyRootFilesystem"]
    oci["Process"] |= {
        "Args": [*container["command"], *container["args"]],
        "NoNewPrivileges": not rights["allowPrivilegeEscalation"],
        "User": {"UID": rights["runAsUser"], "GID": 1000, "AdditionalGids": [1000], "Username": ""},
        "Env": [
            *image_variables,
            f"HOSTNAME={pod['metadata']['name']}",
            *(f"{each['name']}={each.get('value', '10.244.0.7')}" for each in container["env"]),
            *(each for each in oci["Process"]["Env"] if each.startswith("KUBERNETES_")),
        ],
    }
    if rights["capabilities"]["drop"] != ["ALL"]:
        oci["Process"]["Capabilities"]["Bounding"] = ["CAP_CHOWN"]
    mounts = [each for each in oci["Mounts"] if each["destination"].startswith(("/proc", "/dev", "/sys", "/etc"))]
    oci["Mounts"] = [each for each in mounts if each["destination"] != TSM]
    for each in container["volumeMounts"]:
        volume, place = volumes[each["name"]], each["mountPath"]
        if volume.get("emptyDir", {}).get("medium") == "Memory":
            in_guest = f"{EPHEMERAL.rpartition('/')[0]}/{each['name']}"
            request["storages"].append(memory(mount_point=in_guest))
            oci["Mounts"].append(_bind(place, in_guest))
        elif volume.get("hostPath", {}).get("path", "").startswith("/sys/"):
            oci["Mounts"].append(_bind(place, volume["hostPath"]["path"]))
        else:
            oci["Mounts"].append(_shared(place, each["name"]))
    if pod["spec"]["automountServiceAccountToken"]:
        oci["Mounts"].append(_shared("/var/run/secrets/kubernetes.io/serviceaccount", "serviceaccount"))
    return request


def pause_container(*edits: Edit) -> Request:
    """Return the request that starts the sandbox's pause container, edited."""
    request = agent_container()
    request["storages"] = [rootfs("pause", container_type="sandbox")]
    oci = request["OCI"]
    oci["Annotations"] = {
        "io.katacontainers.pkg.oci.container_type": "pod_sandbox",
        "io.kubernetes.cri.container-type": "sandbox",
    }
    oci["Process"] |= {"Args": ["/pause"], "Env": [], "User": {"UID": 65535, "GID": 65535, "Username": ""}}
    oci["Mounts"] = [
        *_kernel_mounts(),
        _bind("/dev/shm", "/run/kata-containers/sandbox/shm"),
        _shared("/etc/resolv.conf", "resolv.conf"),
    ]
    return _edited(request, edits)


def shared_memory(**changes: Any) -> Request:
    """Return the storage of the sandbox's shared memory, with changes."""
    return {
        "driver": "ephemeral",
        "driver_options": [],
        "source": "shm",
        "fstype": "tmpfs",
        "options": ["noexec", "nosuid", "nodev", "mode=1777", "size=67108864"],
        "mount_point": "/run/kata-containers/sandbox/shm",
        "fs_group": None,
        **changes,
    }


def sandbox(**changes: Any) -> Request:
    """Return the request that starts the sandbox, with changes."""
    return {
        "hostname": "strongroom-0123456789ab-driver",
        "guest_hook_path": "",
        "kernel_modules": [],
        "sandbox_pidns": False,
        "storages": [shared_memory()],
        **changes,
    }


def mount(destination: str, source: str, *, type_: str = "bind") -> Edit:
    """Return an edit that adds a mount."""
    return lambda request: request["OCI"]["Mounts"].append(_bind(destination, source) | {"type_": type_})


def variable(text: str) -> Edit:
    """Return an edit that adds a variable."""
    return lambda request: request["OCI"]["Process"]["Env"].append(text)


def setting(*path: str | int, to: Any) -> Edit:
    """Return an edit that sets a field."""

    def edit(request: Request) -> None:
        place: Any = request
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return edit


def adding(storage: Request) -> Edit:
    """Return an edit that adds a storage."""
    return lambda request: request["storages"].append(storage)


def renaming(container: str) -> Edit:
    """Return an edit that gives the container another id, wherever it stands."""

    def edit(request: Request) -> None:
        renamed = json.loads(json.dumps(request).replace(CONTAINER, container))
        request.clear()
        request.update(renamed)

    return edit


def removing(*path: str | int) -> Edit:
    """Return an edit that removes a field."""

    def edit(request: Request) -> None:
        place: Any = request
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]

    return edit


def _edited(request: Request, edits: tuple[Edit, ...]) -> Request:
    request = copy.deepcopy(request)
    for edit in edits:
        edit(request)
    return request


def rootfs(source: str, *, container_type: str = "container") -> Request:
    """Return the storage by which the guest pulls an image."""
    annotations = f'{{"metadata":{{"io.kubernetes.cri.container-type":"{container_type}"}}}}'
    return {
        "driver": "image_guest_pull",
        "driver_options": [f"image_guest_pull={annotations}"],
        "fs_group": None,
        "fstype": "overlay",
        "mount_point": f"/run/kata-containers/{CONTAINER}/rootfs",
        "options": [],
        "source": source,
    }


def memory(**changes: Any) -> Request:
    """Return the storage of the pod's memory volume, with changes."""
    return {
        "driver": "ephemeral",
        "driver_options": [],
        "fs_group": {"group_id": 1000, "group_change_policy": 0},
        "fstype": "tmpfs",
        "mount_point": EPHEMERAL,
        "options": ["fsgid=1000"],
        "source": "tmpfs",
        **changes,
    }


def _kernel_mounts() -> list[Request]:
    kinds = {
        "/proc": ("proc", "proc"),
        "/dev": ("tmpfs", "tmpfs"),
        "/dev/pts": ("devpts", "devpts"),
        "/dev/mqueue": ("mqueue", "mqueue"),
        "/sys": ("sysfs", "sysfs"),
        "/sys/fs/cgroup": ("cgroup", "cgroup"),
    }
    return [_bind(place, source) | {"type_": kind} for place, (source, kind) in kinds.items()]


def _shared(destination: str, name: str) -> Request:
    return _bind(destination, f"{SHARED}/{CONTAINER}-0123456789abcdef-{name}")


def _bind(destination: str, source: str) -> Request:
    return {"destination": destination, "source": source, "type_": "bind", "options": ["rbind", "rprivate", "ro"]}


def _capabilities() -> Request:
    return {name: [] for name in ("Ambient", "Bounding", "Effective", "Inheritable", "Permitted")}
