"""The Kata agent's policy, asked by an engine for Rego as Kata's agent asks its own."""

from typing import Any

import pytest
from tests.support.kata import (
    CONTAINER,
    EPHEMERAL,
    IMAGE,
    IMAGE_DIGEST,
    IMAGE_PATH,
    SHARED,
    Edit,
    adding,
    agent_container,
    memory,
    mount,
    pause_container,
    removing,
    renaming,
    rootfs,
    sandbox,
    setting,
    shared_memory,
    variable,
)
from tests.support.rego import Policy

from strongroom.cluster.agent_policy import agent_policy

OTHER_DIGEST = "sha256:" + "2e" * 32
FILE = f"{SHARED}/{CONTAINER}-0123456789abcdef-run"


@pytest.fixture(scope="module")
def policy() -> Policy:
    text = agent_policy(IMAGE, environment=[IMAGE_PATH], storage=["/data"], user=0)
    return Policy(text, package="agent_policy")


def edits(*each: Edit) -> tuple[Edit, ...]:
    return each


STARTS_THE_AGENT: dict[str, tuple[Edit, ...]] = {
    "as it is": (),
    "from a mirror, by the same digest": edits(setting("storages", 0, "source", to=f"mirror.example/s@{IMAGE_DIGEST}")),
    "with a dataset's storage": edits(mount("/data", f"{SHARED}/{CONTAINER}-0123456789abcdef-data")),
    "without capabilities at all": edits(setting("OCI", "Process", "Capabilities", to=None)),
    "with older Kata's fields": edits(removing("devices"), removing("shared_mounts"), removing("sandbox_pidns")),
    "with further words of Spark's": edits(
        setting("OCI", "Process", "Args", to=["/usr/local/bin/strongroom-agent", "--pod", "executor", "x", "y"])
    ),
    "with a Java option of Spark's": edits(variable("SPARK_JAVA_OPT_0=-Dspark.driver.port=7078")),
}

REFUSED: dict[str, tuple[Edit, ...]] = {
    # the image
    "another image": edits(setting("storages", 0, "source", to=f"registry.example/strongroom/spark@{OTHER_DIGEST}")),
    "an image by tag": edits(setting("storages", 0, "source", to="registry.example/strongroom/spark:latest")),
    "an image with two digests": edits(setting("storages", 0, "source", to=f"a@{OTHER_DIGEST}@{IMAGE_DIGEST}")),
    "an image with something behind its digest": edits(setting("storages", 0, "source", to=f"a@{IMAGE_DIGEST}@b")),
    "a digest without a name": edits(setting("storages", 0, "source", to=f"@{IMAGE_DIGEST}")),
    "the pause container's image": edits(setting("storages", 0, "source", to="pause")),
    "no image at all": edits(removing("storages", 0)),
    "a second image": edits(lambda request: request["storages"].append(dict(request["storages"][0]))),
    "an image elsewhere": edits(setting("storages", 0, "mount_point", to="/run/kata-containers/other/rootfs")),
    "a sandbox's mark": edits(
        setting("storages", 0, "driver_options", 0, to='image_guest_pull={"metadata":{"a":"sandbox"}}')
    ),
    "a sandbox's mark, escaped": edits(
        setting("storages", 0, "driver_options", 0, to='image_guest_pull={"metadata":{"a":"s\\u0061ndbox"}}')
    ),
    "layers from the host": edits(
        adding({"driver": "blk", "source": "01", "fstype": "erofs", "mount_point": "/run/kata-containers/layer"})
    ),
    "the host's file system over the image": edits(adding(rootfs(IMAGE) | {"driver": "virtio-fs"})),
    "memory of another kind": edits(adding(memory(driver="local"))),
    "memory from a disk": edits(adding(memory(source="/dev/vdb"))),
    "memory elsewhere in the guest": edits(adding(memory(mount_point="/run/kata-containers/sandbox/ephemeral/../x"))),
    # the program
    "a shell": edits(setting("OCI", "Process", "Args", to=["/bin/sh", "-c", "id"])),
    "the agent without its first option": edits(setting("OCI", "Process", "Args", 1, to="--debug")),
    "no role": edits(setting("OCI", "Process", "Args", to=["/usr/local/bin/strongroom-agent", "--pod"])),
    "another role": edits(setting("OCI", "Process", "Args", 2, to="worker")),
    "another root": edits(setting("OCI", "Root", "Path", to="/run/kata-containers/shared/containers/x/rootfs")),
    "a writable root": edits(setting("OCI", "Root", "Readonly", to=False)),
    "a terminal": edits(setting("OCI", "Process", "Terminal", to=True)),
    "hooks": edits(setting("OCI", "Hooks", to={"Prestart": [{"Path": "/bin/sh"}]})),
    # the environment
    "code by the loader": edits(variable("LD_PRELOAD=/strongroom/run/evil.so")),
    "code by Python": edits(variable("PYTHONPATH=/strongroom/run")),
    "code by Java": edits(variable("JAVA_TOOL_OPTIONS=-javaagent:/strongroom/run/evil.jar")),
    "another path": edits(setting("OCI", "Process", "Env", 0, to="PATH=/strongroom/run:/usr/bin")),
    "a variable that only begins like a service": edits(variable("X_SERVICE_HOST=/strongroom/run/x")),
    # the user
    "another user": edits(setting("OCI", "Process", "User", "UID", to=1001)),
    "new privileges": edits(setting("OCI", "Process", "NoNewPrivileges", to=False)),
    "a capability": edits(setting("OCI", "Process", "Capabilities", "Bounding", to=["CAP_SYS_ADMIN"])),
    # what the container sees
    "a mount over the code": edits(mount("/opt/strongroom", f"{SHARED}/{CONTAINER}-0123456789abcdef-x")),
    "a mount over a library": edits(mount("/lib/x86_64-linux-gnu", f"{SHARED}/{CONTAINER}-0123456789abcdef-x")),
    "a mount with another spelling": edits(mount("/strongroom/run/../../opt", FILE)),
    "the guest's root": edits(mount("/strongroom/run", "/")),
    "memory over the code": edits(mount("/opt/strongroom", EPHEMERAL)),
    "shared memory over the code": edits(mount("/opt/strongroom", "/run/kata-containers/sandbox/shm")),
    "the guest's own files": edits(mount("/opt/strongroom", "/opt/strongroom")),
    "shared memory of the guest's": edits(mount("/dev/shm", "/run")),
    "shared memory by another kind of mount": edits(
        mount("/dev/shm", "/run/kata-containers/sandbox/shm", type_="overlay")
    ),
    "memory by another kind of mount": edits(setting("OCI", "Mounts", 15, "type_", to="overlay")),
    "the kernel's folder by another kind of mount": edits(setting("OCI", "Mounts", 16, "type_", to="overlay")),
    "the host's files by another kind of mount": edits(setting("OCI", "Mounts", 12, "type_", to="virtiofs")),
    "a relative source": edits(mount("/strongroom/run", "0123456789abcdef-run")),
    "another container's files": edits(mount("/strongroom/run", f"{SHARED}/{'6d' * 32}-0123456789abcdef-run")),
    "a way out of the shared folder": edits(mount("/strongroom/run", f"{SHARED}/{CONTAINER}-0123456789abcdef-../x")),
    "scratch in the host's files": edits(setting("OCI", "Mounts", 15, "source", to=FILE)),
    "the host's file system for scratch": edits(setting("storages", 1, "fstype", to="virtiofs")),
    "a folder of the kernel's elsewhere": edits(mount("/sys/kernel/config/tsm/report", "/sys/kernel/debug")),
    "a device": edits(setting("devices", to=[{"container_path": "/dev/kmsg"}])),
    "a device of the specification": edits(setting("OCI", "Linux", "Devices", to=[{"Path": "/dev/mem"}])),
    "a shared mount": edits(setting("shared_mounts", to=[{"name": "a", "src_ctr": "b"}])),
    "a shared process namespace": edits(setting("sandbox_pidns", to=True)),
    "an id that is a path": edits(renaming("../../etc")),
    "an id for the policy alone": edits(setting("container_id", to="6d" * 32)),
    # incomplete
    "no annotations": edits(removing("OCI", "Annotations")),
    "no storages": edits(removing("storages")),
    "no mounts": edits(removing("OCI", "Mounts")),
    "no environment": edits(removing("OCI", "Process", "Env")),
    "no user": edits(removing("OCI", "Process", "User")),
}


@pytest.mark.parametrize("case", STARTS_THE_AGENT)
def test_starts_the_agent(policy: Policy, case: str) -> None:
    assert policy.allows("CreateContainerRequest", agent_container(*STARTS_THE_AGENT[case]))


@pytest.mark.parametrize("case", REFUSED)
def test_starts_nothing_else(policy: Policy, case: str) -> None:
    assert not policy.allows("CreateContainerRequest", agent_container(*REFUSED[case]))


def test_the_mount_that_is_edited_above_is_the_scratch_folder() -> None:
    assert agent_container()["OCI"]["Mounts"][15]["destination"] == "/strongroom/memory"
    assert agent_container()["OCI"]["Mounts"][15]["source"] == EPHEMERAL


def test_starts_the_guests_own_pause_container(policy: Policy) -> None:
    assert policy.allows("CreateContainerRequest", pause_container())


NO_PAUSE: dict[str, Edit] = {
    "another program": setting("OCI", "Process", "Args", to=["/bin/sh"]),
    "an image of a registry": setting("storages", 0, "source", to=IMAGE),
    "no image": setting("storages", to=[]),
    "a mount over the program": mount("/pause", f"{SHARED}/{CONTAINER}-0123456789abcdef-pause"),
    "the agent's files": mount("/strongroom/run", FILE),
    "as what it is not": setting("OCI", "Annotations", "io.katacontainers.pkg.oci.container_type", to="pod_container"),
    "hooks": setting("OCI", "Hooks", to={"Prestart": [{"Path": "/bin/sh"}]}),
    "memory in the image's place": setting("storages", to=[memory()]),
    "a second image": adding(rootfs(IMAGE)),
    "files of the guest's": setting("OCI", "Mounts", 7, "source", to="/etc/shadow"),
}


@pytest.mark.parametrize("case", NO_PAUSE)
def test_starts_no_other_pause_container(policy: Policy, case: str) -> None:
    assert not policy.allows("CreateContainerRequest", pause_container(NO_PAUSE[case]))


def test_starts_the_sandbox(policy: Policy) -> None:
    assert policy.allows("CreateSandboxRequest", sandbox())


@pytest.mark.parametrize(
    "change",
    [
        {"guest_hook_path": "/run/kata-containers/shared/hooks"},
        {"kernel_modules": [{"name": "evil"}]},
        {"sandbox_pidns": True},
        {"storages": [{"driver": "virtio-fs", "source": "kataShared", "fstype": "virtiofs", "mount_point": "/etc"}]},
        {"storages": [shared_memory(driver="virtio-fs")]},
        {"storages": [shared_memory(source="/dev/vdb")]},
        {"storages": [shared_memory(fstype="virtiofs")]},
        {"storages": [shared_memory(mount_point="/etc")]},
    ],
)
def test_starts_no_other_sandbox(policy: Policy, change: dict[str, Any]) -> None:
    assert not policy.allows("CreateSandboxRequest", sandbox(**change))


@pytest.mark.parametrize(
    "request_",
    [
        {"path": FILE, "file_type": "Directory", "symlink_target": None},
        {"path": f"{FILE}/..2026_11_27/descriptor.json", "file_type": "Regular", "symlink_target": None},
        {"path": f"{FILE}/..data", "file_type": "Symlink", "symlink_target": "..2026_11_27"},
        {"path": f"{FILE}/descriptor.json", "file_type": "Symlink", "symlink_target": "..data/descriptor.json"},
        {"path": f"{FILE}/descriptor.json", "symlink_src": ""},
        {"path": f"{FILE}/descriptor.json", "symlink_src": "..data/descriptor.json"},
    ],
)
def test_takes_files_that_the_host_hands_in(policy: Policy, request_: dict[str, Any]) -> None:
    assert policy.allows("CopyFileRequest", request_)


@pytest.mark.parametrize(
    "request_",
    [
        {"path": "/opt/strongroom/venv/bin/python3", "file_type": "Regular", "symlink_target": None},
        {"path": f"/run/kata-containers/{CONTAINER}/rootfs/bin/sh", "file_type": "Regular", "symlink_target": None},
        {"path": f"{FILE}/../../../../etc/passwd", "file_type": "Regular", "symlink_target": None},
        {"path": f"{FILE}/..", "file_type": "Directory", "symlink_target": None},
        {"path": f"{SHARED}/{CONTAINER}/rootfs/bin/sh", "file_type": "Regular", "symlink_target": None},
        {"path": f"{FILE}/link", "file_type": "Symlink", "symlink_target": "/opt/strongroom"},
        {"path": f"{FILE}/link", "file_type": "Symlink", "symlink_target": "../../opt"},
        {"path": f"{FILE}/link", "file_type": "Symlink", "symlink_target": "a/../../../opt"},
        {"path": f"{FILE}/link", "file_type": "Symlink", "symlink_target": None},
        {"path": f"{FILE}/link", "file_type": "Unknown", "symlink_target": None},
        {"path": f"{FILE}/link", "file_type": "Unknown", "symlink_target": "a"},
        {"path": f"{FILE}/link", "file_type": "Unknown", "symlink_src": ""},
        {"path": "/etc/passwd", "file_type": "Symlink", "symlink_target": "a"},
        {"path": "/etc/passwd", "symlink_src": ""},
        {"path": f"{FILE}/link", "symlink_src": "/opt/strongroom"},
        {"path": f"{FILE}/link"},
        {},
    ],
)
def test_takes_no_other_files(policy: Policy, request_: dict[str, Any]) -> None:
    assert not policy.allows("CopyFileRequest", request_)


def interface(**changes: Any) -> dict[str, Any]:
    return {"interface": {"name": "eth0", "device": "eth0", "hwAddr": "66:74:9f:6a:96:01", "raw_flags": 0, **changes}}


def routes(**changes: Any) -> dict[str, Any]:
    good = {"dest": "", "device": "eth0", "gateway": "10.244.0.1", "source": ""}
    return {"routes": {"Routes": [good, {**good, **changes}]}}


def test_lets_the_host_set_up_the_network(policy: Policy) -> None:
    assert policy.allows("UpdateInterfaceRequest", interface())
    assert policy.allows("UpdateRoutesRequest", routes())


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("UpdateInterfaceRequest", interface(name="lo")),
        ("UpdateInterfaceRequest", interface(device="lo")),
        ("UpdateInterfaceRequest", interface(hwAddr="00:00:00:00:00:00")),
        ("UpdateInterfaceRequest", {}),
        ("UpdateRoutesRequest", routes(device="lo")),
        ("UpdateRoutesRequest", routes(source="127.0.0.1")),
        ("UpdateRoutesRequest", routes(source="::1")),
        ("UpdateRoutesRequest", routes(source="0:0::0001")),
        ("UpdateRoutesRequest", {}),
    ],
)
def test_leaves_the_loopback_interface_alone(policy: Policy, kind: str, request_: dict[str, Any]) -> None:
    assert not policy.allows(kind, request_)


@pytest.mark.parametrize(
    "kind",
    [
        "AddARPNeighborsRequest",
        "AddSwapRequest",
        "AllowRequestsFailingPolicy",
        "CloseStdinRequest",
        "ExecProcessRequest",
        "MemHotplugByProbeRequest",
        "PauseContainerRequest",
        "ReseedRandomDevRequest",
        "ResumeContainerRequest",
        "SetGuestDateTimeRequest",
        "SetPolicyRequest",
        "StartTracingRequest",
        "UpdateContainerRequest",
        "UpdateEphemeralMountsRequest",
        "WriteStreamRequest",
        "ARequestOfTomorrow",
    ],
)
def test_refuses_what_a_run_does_not_need(policy: Policy, kind: str) -> None:
    assert not policy.allows(kind, {"process": {"Args": ["/usr/local/bin/strongroom-agent", "--pod", "driver"]}})


@pytest.mark.parametrize("kind", ["ReadStreamRequest", "SignalProcessRequest", "StatsContainerRequest"])
def test_lets_the_host_read_the_log_and_end_the_pod(policy: Policy, kind: str) -> None:
    assert policy.allows(kind, {})


def test_no_line_is_longer_than_older_engines_read(policy: Policy) -> None:
    assert max(map(len, policy.text.splitlines())) < 1024
