"""Every shape is a pod that a real API server takes, with all its checks (server-side dry run).

Kubelets and device plugins of these nodes are not here: that the pods would start is not shown.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.shapes import CASES, pod

from strongroom.cluster.shapes import PodShape, parse_shape


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace, and the RuntimeClasses that an installer of Kata would make; admission looks them up."""
    shapes = [parse_shape(case.shape, case.options) for case in CASES.values()]
    names = {shape.runtime for shape in shapes if isinstance(shape, PodShape) and shape.runtime != "aci"}
    made = sorted(name for name in names if not cluster.exists("runtimeclass", name))
    cluster.apply(
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": name},
            "handler": name,
            "overhead": {"podFixed": {"memory": "2048Mi", "cpu": "1"}},
        }
        for name in made
    )
    name = cluster.new_namespace("shapes")
    yield name
    cluster.delete("namespace", name, wait=False)
    for each in made:
        cluster.delete("runtimeclass", each)


def amounts(resources: dict[str, str]) -> dict[str, int]:
    """Return amounts as numbers: the API server writes 8192Mi as 8Gi."""
    units = {"Mi": 1 << 20, "Gi": 1 << 30}
    return {
        name: int(text[:-2]) * units[text[-2:]] if text[-2:] in units else int(text) for name, text in resources.items()
    }


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_the_shape(cluster: Cluster, namespace: str, case: str) -> None:
    wanted = pod(case, namespace=namespace)

    taken = cluster.would_create(wanted)

    assert taken["metadata"]["labels"]["strongroom.shape"] == CASES[case].shape
    assert taken["metadata"].get("annotations", {}).items() >= wanted["metadata"].get("annotations", {}).items()
    assert taken["spec"].get("runtimeClassName") == wanted["spec"].get("runtimeClassName")
    assert taken["spec"].get("nodeSelector", {}) == wanted["spec"].get("nodeSelector", {})
    (container,) = taken["spec"]["containers"]
    (asked,) = wanted["spec"]["containers"]
    assert amounts(container["resources"]["limits"]) == amounts(asked["resources"]["limits"])
    assert {each["mountPath"] for each in container["volumeMounts"]} == {
        each["mountPath"] for each in asked["volumeMounts"]
    }


def test_the_check_can_fail(cluster: Cluster, namespace: str) -> None:
    wanted = pod("sgx-gramine", namespace=namespace)
    wanted["spec"]["containers"][0]["resources"]["requests"]["sgx.intel.com/epc"] = "1Mi"

    with pytest.raises(CommandError, match=r"sgx\.intel\.com/epc"):
        cluster.would_create(wanted)


def test_the_api_server_takes_the_device_plugin(cluster: Cluster, repo_root: Path) -> None:
    manifest = repo_root / "deploy" / "shapes" / "device-plugin.yaml"

    checked = ("create", "--dry-run=server", "--validate=strict", "--output=json")
    taken = json.loads(cluster.kubectl(*checked, f"--filename={manifest}"))

    assert taken["kind"] == "DaemonSet"


def test_hardened_namespaces_take_the_shapes_that_need_no_node(cluster: Cluster) -> None:
    """Pod security `restricted` refuses folders of the node and root: which shapes need them is told here."""
    hardened = cluster.new_namespace("hardened", labels={"pod-security.kubernetes.io/enforce": "restricted"})

    refused = {name for name in CASES if not _is_taken(cluster, _restricted(name, hardened))}

    assert refused == {
        "simulated",
        "simulated-tdx",  # the simulated platform's folder
        "confidential-node-tsm",  # the kernel's folder for quotes, as root
        "pod-kata-qemu-snp",
        "pod-kata-qemu-tdx",
        "pod-kata-remote",  # the same, of the pod's own guest
        "sgx-gramine",
        "sgx-occlum",
        "sgx-occlum-azure",  # the node's AESM
    }


def _restricted(name: str, namespace: str) -> dict[str, Any]:
    manifest = pod(name, namespace=namespace)
    manifest["spec"]["securityContext"]["seccompProfile"] = {"type": "RuntimeDefault"}
    return manifest


def _is_taken(cluster: Cluster, manifest: dict[str, Any]) -> bool:
    try:
        cluster.would_create(manifest)
    except CommandError as error:
        if "violates PodSecurity" not in error.stderr:
            raise
        return False
    return True
