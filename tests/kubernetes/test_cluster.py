"""What Strongroom needs of a cluster, and what the cluster of the tests is: real, and shut off from the world."""

import base64
import json
import os
import re
from typing import Any

import pytest
import urllib3
from tests.support.kubernetes import remains
from tests.support.kubernetes.cluster import Cluster, CommandError, LocalCluster
from tests.support.kubernetes.images import pod_archive
from tests.support.kubernetes.pods import PORT, configuration, files_of, pod, pod_spec, server
from tests.support.kubernetes.site import REPOSITORY

from strongroom.base.errors import ConflictError

AUDIENCE = "strongroom:test"


@pytest.fixture(scope="session")
def image(cluster: Cluster) -> str:
    return cluster.pod_image()


def test_a_pod_runs_without_root_and_without_capabilities(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.create(pod("seen", namespace, pod_spec(image, "cat", "/proc/self/status")))

    assert cluster.ended("seen", namespace) == "Succeeded"
    status = dict(line.split(":\t", 1) for line in cluster.log("seen", namespace).splitlines())
    assert status["Uid"].split()[0] == "65532"
    assert (status["CapEff"], status["CapBnd"]) == ("0" * 16, "0" * 16)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_how_a_pod_failed_is_told(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.create(pod("failing", namespace, pod_spec(image, "fail", "70", "it is refused")))

    assert cluster.ended("failing", namespace) == "Failed"
    (container,) = cluster.get("pod", "failing", namespace)["status"]["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 70
    assert cluster.log("failing", namespace) == "it is refused\n"
    assert "Exit Code:" in cluster.describe("pod", "failing", namespace)


def test_an_image_runs_by_its_digest_and_is_brought_once(cluster: Cluster, namespace: str, image: str) -> None:
    archive = pod_archive(cluster.box)
    assert cluster.import_image(archive.path) == image
    assert image.endswith(f"@{archive.digest}")

    cluster.create(pod("digest", namespace, pod_spec(image, "pause")))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/digest", "--namespace", namespace, "--timeout=60s")
    (container,) = cluster.get("pod", "digest", namespace)["status"]["containerStatuses"]
    assert container["imageID"].endswith(archive.digest)


def test_a_token_has_its_own_audience_and_names_its_pod(cluster: Cluster, namespace: str, image: str) -> None:
    token = {"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": 600, "path": "token"}}
    spec = pod_spec(
        image,
        "cat",
        "/strongroom/token",
        mounts={"files": "/strongroom"},
        volumes=[files_of([token])],
        securityContext={"fsGroup": 1000},
    )
    cluster.create(pod("bearer", namespace, spec))
    assert cluster.ended("bearer", namespace) == "Succeeded"
    shown = cluster.log("bearer", namespace)

    claims = json.loads(base64.urlsafe_b64decode(shown.split(".")[1] + "=="))
    assert claims["aud"] == [AUDIENCE]
    assert claims["sub"] == f"system:serviceaccount:{namespace}:default"
    assert claims["kubernetes.io"]["pod"]["name"] == "bearer"
    assert review(cluster, shown, "strongroom:other") == {"authenticated": False}
    assert review(cluster, "e30.e30.AAAA", AUDIENCE) == {"authenticated": False}


def test_a_token_of_a_pod_that_runs_is_accepted_for_its_audience_alone(
    cluster: Cluster, namespace: str, image: str
) -> None:
    cluster.create(pod("holder", namespace, pod_spec(image, "pause")))
    uid = cluster.get("pod", "holder", namespace)["metadata"]["uid"]
    made = ["--bound-object-kind=Pod", "--bound-object-name=holder", f"--bound-object-uid={uid}"]
    token = cluster.kubectl(
        "create", "token", "default", "--namespace", namespace, f"--audience={AUDIENCE}", *made
    ).strip()

    accepted = review(cluster, token, AUDIENCE)
    assert accepted["authenticated"]
    assert accepted["user"]["username"] == f"system:serviceaccount:{namespace}:default"
    assert accepted["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["holder"]
    assert review(cluster, token, "strongroom:other") == {"authenticated": False}

    cluster.delete("pod", "holder", namespace)
    refused = {"authenticated": False}
    cluster.wait_until(lambda: review(cluster, token, AUDIENCE) == refused, "the end of the token")


def review(cluster: Cluster, token: str, audience: str) -> dict[str, Any]:
    """Return what the API server says of a token; of one that it refuses, no more than that."""
    manifest = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    status: dict[str, Any] = cluster.create(manifest)["status"]
    return status if status.get("authenticated") else {"authenticated": False}


def test_services_are_found_by_name(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.apply([*server("Deployment", "keys", namespace, image), *server("StatefulSet", "store", namespace, image)])
    cluster.create(pod("asking", namespace, pod_spec(image, "pause")))
    for workload in ("deployment/keys", "statefulset/store"):
        cluster.kubectl("rollout", "status", workload, "--namespace", namespace, "--timeout=90s")
    cluster.kubectl("wait", "--for=condition=Ready", "pod/asking", "--namespace", namespace, "--timeout=60s")

    def ask(*arguments: str) -> str:
        return cluster.kubectl("exec", "asking", "--namespace", namespace, "--", "/podbox", *arguments)

    for name in ("keys", f"keys.{namespace}", f"keys.{namespace}.svc", f"keys.{namespace}.svc.cluster.local"):
        assert ask("get", f"http://{name}:{PORT}/").startswith("keys keys-"), name
    assert ask("get", f"http://store-0.store:{PORT}/") == "store store-0\n"
    address = cluster.get("pod", "store-0", namespace)["status"]["podIP"]
    assert ask("lookup", "store").split() == [address]
    with pytest.raises(CommandError, match="no such host"):
        ask("lookup", "nobody")


def test_a_service_is_reached_from_this_machine(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.apply(server("Deployment", "keys", namespace, image))
    cluster.kubectl("rollout", "status", "deployment/keys", "--namespace", namespace, "--timeout=90s")

    with cluster.forward("keys", namespace, PORT) as address:
        answer = urllib3.request("GET", f"http://{address}/", retries=False, timeout=10)
    assert answer.data.startswith(b"keys keys-")


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret"])
def test_what_is_immutable_stays_and_is_mounted_read_only(
    cluster: Cluster, namespace: str, image: str, kind: str
) -> None:
    manifest = configuration("settings", namespace, {"key": "bGV0dGVycw=="}, kind=kind, immutable=True)
    cluster.create(manifest)
    changed = {**manifest, "data": {"key": "b3RoZXJz"}}
    with pytest.raises(CommandError, match="immutable"):
        cluster.apply(changed)

    source = "configMap" if kind == "ConfigMap" else "secret"
    volume = files_of([{source: {"name": "settings"}}])
    for name, arguments in {"reading": ("cat", "/in/key"), "writing": ("write", "/in/new", "text")}.items():
        spec = pod_spec(image, *arguments, mounts={"files": "/in"}, volumes=[volume], securityContext={"fsGroup": 1000})
        cluster.create(pod(name, namespace, spec))
    assert cluster.ended("reading", namespace) == "Succeeded"
    assert cluster.log("reading", namespace) == ("bGV0dGVycw==" if kind == "ConfigMap" else "letters")
    assert cluster.ended("writing", namespace) == "Failed"
    assert "read-only file system" in cluster.log("writing", namespace)


def test_a_network_policy_is_accepted(cluster: Cluster, namespace: str) -> None:
    from_runs = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "runs"}}}
    made = cluster.create(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "runs-only", "namespace": namespace},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [from_runs]}]},
        }
    )
    assert made["spec"]["ingress"] == [{"from": [from_runs]}]


def test_what_an_object_owns_goes_with_it(cluster: Cluster, namespace: str, image: str) -> None:
    driver = cluster.create(pod("driver", namespace, pod_spec(image, "pause")))["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "driver", "uid": driver["uid"]}
    cluster.create(pod("executor", namespace, pod_spec(image, "pause"), ownerReferences=[owner]))
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "run", "namespace": namespace, "ownerReferences": [owner]},
        }
    )
    cluster.create(configuration("another", namespace, {}))

    cluster.delete("pod", "driver", namespace)
    for kind, name in (("pod", "executor"), ("configmap", "run")):
        cluster.wait_until(lambda kind=kind, name=name: not cluster.exists(kind, name, namespace), f"the end of {name}")
    assert cluster.exists("configmap", "another", namespace)


def test_nobody_may_do_what_no_role_allows(cluster: Cluster, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:default"
    listed = ["get", "secrets", "--namespace", namespace]
    with pytest.raises(CommandError, match="forbidden"):
        cluster.kubectl(*listed, f"--as={account}")

    cluster.kubectl("create", "role", "reader", "--verb=list", "--resource=secrets", "--namespace", namespace)
    bound = ["--role=reader", f"--serviceaccount={namespace}:default", "--namespace", namespace]
    cluster.kubectl("create", "rolebinding", "reader", *bound)
    cluster.wait_until(lambda: cluster.kubectl(*listed, f"--as={account}", "--output=name") == "", "the new right")


def test_a_restricted_namespace_refuses_what_is_not(cluster: Cluster, image: str) -> None:
    namespace = cluster.new_namespace("restricted", labels={"pod-security.kubernetes.io/enforce": "restricted"})
    spec = pod_spec(image, "pause")
    cluster.create(pod("modest", namespace, spec))

    (container,) = spec["containers"]
    container["securityContext"] = {"privileged": True}
    with pytest.raises(CommandError, match="violates PodSecurity"):
        cluster.create(pod("bold", namespace, spec))


def test_a_claim_gets_a_volume_that_outlives_pods(cluster: Cluster, namespace: str, image: str) -> None:
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "state", "namespace": namespace},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}},
        }
    )
    volume = {"name": "state", "persistentVolumeClaim": {"claimName": "state"}}
    for name, arguments in {"writing": ("write", "/state/a", "kept"), "reading": ("cat", "/state/a")}.items():
        spec = pod_spec(
            image, *arguments, mounts={"state": "/state"}, volumes=[volume], securityContext={"fsGroup": 1000}
        )
        cluster.create(pod(name, namespace, spec))
        assert cluster.ended(name, namespace) == "Succeeded", cluster.log(name, namespace)
    assert cluster.log("reading", namespace) == "kept"

    volume_name = cluster.get("persistentvolumeclaim", "state", namespace)["spec"]["volumeName"]
    cluster.kubectl("delete", "pods", "--all", "--namespace", namespace)
    cluster.delete("persistentvolumeclaim", "state", namespace)
    cluster.wait_until(lambda: not cluster.exists("persistentvolume", volume_name), "the end of the volume")


def test_no_way_leads_off_the_machine(local_cluster: LocalCluster, namespace: str, image: str) -> None:
    routes = json.loads(local_cluster.in_node("ip", "-json", "route", "show", "table", "all", "type", "unicast"))
    assert not [route for route in routes if route["dst"] == "default"]
    (default,) = json.loads(local_cluster.in_node("ip", "-json", "route", "show", "type", "unreachable"))
    assert default["dst"] == "default"
    links = {link["ifname"] for link in json.loads(local_cluster.in_node("ip", "-json", "link"))}
    assert {name for name in links if not name.startswith("veth")} <= {"lo", "eth0", "cni0"}

    local_cluster.create(pod("leaving", namespace, pod_spec(image, "dial", "192.0.2.1:443")))  # RFC 5737: nobody's
    assert local_cluster.ended("leaving", namespace) == "Failed"
    assert re.search("unreachable|no route", local_cluster.log("leaving", namespace))


def test_pods_and_objects_outlive_the_api_server(local_cluster: LocalCluster, namespace: str, image: str) -> None:
    local_cluster.create(pod("before", namespace, pod_spec(image, "pause")))
    local_cluster.kubectl("wait", "--for=condition=Ready", "pod/before", "--namespace", namespace, "--timeout=60s")

    with local_cluster.stopped("kube-apiserver"), pytest.raises(CommandError, match="refused"):
        local_cluster.get("pod", "before", namespace)

    (container,) = local_cluster.get("pod", "before", namespace)["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)
    local_cluster.create(pod("after", namespace, pod_spec(image, "sleep", "0.1")))
    assert local_cluster.ended("after", namespace) == "Succeeded"


@pytest.mark.parametrize("component", ["kubelet", "containerd", "kube-controller-manager", "kube-scheduler"])
def test_each_part_can_be_restarted(local_cluster: LocalCluster, namespace: str, image: str, component: str) -> None:
    local_cluster.restart(component)

    local_cluster.apply(server("Deployment", "keys", namespace, image))
    local_cluster.kubectl("rollout", "status", "deployment/keys", "--namespace", namespace, "--timeout=90s")


def test_a_second_session_is_told_who_has_the_cluster(local_cluster: LocalCluster) -> None:
    with pytest.raises(
        ConflictError, match=f"another session has the cluster .*: process {os.getpid()}, in {REPOSITORY}"
    ):
        remains.take_lock(local_cluster.site, holder="another")
