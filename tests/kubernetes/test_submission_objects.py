"""What a submission makes and asks, given to a real API server: without an image of Spark, so without a run."""

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.kubernetes.go import find_go
from tests.support.kubernetes.golden import EXAMPLES
from tests.support.kubernetes.pods import pod, pod_spec
from tests.support.kubernetes.rendering import RUN_ID, rendered

from strongroom.base.clock import SystemClock
from strongroom.base.errors import ConflictError, RefusedError
from strongroom.cluster.kubernetes.access import open_access
from strongroom.cluster.kubernetes.client import STRATEGIC, KubernetesClient
from strongroom.cluster.kubernetes.diagnosis import why_ended, why_waiting
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE, RunNames
from strongroom.cluster.kubernetes.render import owned_by
from strongroom.cluster.kubernetes.runs import list_runs
from strongroom.cluster.kubernetes.submission import stop_run, sweep_abandoned

KUBEFLOW_OPERATOR = "github.com/kubeflow/spark-operator/v2@v2.3.0"
NAMES = RunNames(run_id=RUN_ID)
LABELS = NAMES.labels()
DRIVER = {**LABELS, "app.kubernetes.io/component": "driver"}


@pytest.fixture
def client(cluster: Cluster, namespace: str) -> Iterator[KubernetesClient]:
    """The test's namespace, as its administrator."""
    context = cluster.kubectl("config", "current-context").strip()
    access = open_access(f"k8s://{context}", {}, environment={"KUBECONFIG": str(cluster.kubeconfig)})
    client = KubernetesClient(access, namespace=namespace)
    yield client
    client.close()


def podbox(cluster: Cluster, namespace: str, *words: str, name: str = NAMES.driver_pod, **spec: Any) -> dict[str, Any]:
    return pod(name, namespace, pod_spec(cluster.pod_image(), *words, **spec), labels=DRIVER)


def gated() -> dict[str, Any]:
    return {"schedulingGates": [{"name": SUBMITTED_GATE}, {"name": "another.example/gate"}]}


def test_the_api_server_takes_every_object_of_a_run(cluster: Cluster, namespace: str) -> None:
    run = rendered()
    for account in ("strongroom-driver", "strongroom-executor"):
        cluster.kubectl("create", "serviceaccount", account, f"--namespace={namespace}")
    templates = (run.driver_template, json.loads(run.descriptor.executor_template))
    for each in (*run.config_maps, *templates):
        made = json.loads(json.dumps(each))
        made["metadata"] |= {"namespace": namespace, "name": made["metadata"].get("name", "from-a-template")}
        for container in made.get("spec", {}).get("containers", []):
            container["image"] = "registry.example/x"  # Spark names it
        seen = cluster.would_create(made)
        if seen["kind"] == "Pod":
            assert seen["spec"]["containers"][0]["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]


def test_a_gated_pod_is_placed_nowhere_until_its_gate_is_taken_away(
    cluster: Cluster, namespace: str, client: KubernetesClient
) -> None:
    only_ours = {"schedulingGates": [{"name": SUBMITTED_GATE}]}
    made = client.create("pods", podbox(cluster, namespace, "cat", "/proc/self/status", **only_ours))
    config_map, *_ = rendered().config_maps
    client.create("configmaps", owned_by({**config_map, "metadata": {"name": "owned", "labels": LABELS}}, made))
    assert list_runs(client)[0].state == "abandoned"
    assert sweep_abandoned(client, clock=SystemClock()) == 0, "it is younger than ten minutes"

    ungated = {"spec": {"schedulingGates": [{"name": SUBMITTED_GATE, "$patch": "delete"}]}}
    client.patch("pods", NAMES.driver_pod, ungated, how=STRATEGIC)
    assert cluster.ended(NAMES.driver_pod, namespace) == "Succeeded"
    assert list_runs(client)[0].state == "succeeded"

    assert stop_run(client, NAMES, grace_s=0)
    cluster.wait_until(lambda: not cluster.exists("configmap", "owned", namespace), "the end of what the pod owned")


def test_only_ones_own_gate_is_taken_away(cluster: Cluster, namespace: str, client: KubernetesClient) -> None:
    client.create("pods", podbox(cluster, namespace, "pause", **gated()))
    ungated = {"spec": {"schedulingGates": [{"name": SUBMITTED_GATE, "$patch": "delete"}]}}

    changed = client.patch("pods", NAMES.driver_pod, ungated, how=STRATEGIC)
    assert changed["spec"]["schedulingGates"] == [{"name": "another.example/gate"}]


def test_an_immutable_config_map_is_what_it_was(cluster: Cluster, namespace: str, client: KubernetesClient) -> None:
    config_map, *_ = rendered().config_maps
    mine = {**config_map, "metadata": {"name": "one", "labels": LABELS}}
    client.create("configmaps", mine)

    with pytest.raises(ConflictError, match="already exists"):
        client.create("configmaps", mine)
    with pytest.raises(CommandError, match="immutable"):
        cluster.kubectl(
            "patch", "configmap", "one", f"--namespace={namespace}", "-p", '{"data": {"descriptor.json": ""}}'
        )


def test_follows_pods_and_their_logs(cluster: Cluster, namespace: str, client: KubernetesClient) -> None:
    _, version = client.find_at("pods", labels=LABELS)
    watch = client.watch("pods", labels=LABELS, since=version)
    seen: list[tuple[str, str]] = []

    def look() -> None:
        for change in watch:
            seen.append((change.kind, change.object["status"].get("phase", "")))
            if change.kind == "DELETED":
                return

    thread = threading.Thread(target=look)
    thread.start()
    client.create("pods", podbox(cluster, namespace, "cat", "/etc/hosts", "/proc/self/status"))
    cluster.ended(NAMES.driver_pod, namespace)
    log = client.log(NAMES.driver_pod, container="podbox", follow=True)
    lines = list(log)
    again = list(client.log(NAMES.driver_pod, container="podbox", follow=False, since=lines[-1].time))
    client.delete("pods", NAMES.driver_pod, grace_s=0)
    thread.join(60)
    watch.stream.release()
    log.stream.release()

    assert "CapEff" in " ".join(line.text for line in lines)
    assert [line.time for line in lines] == sorted(line.time for line in lines)
    assert again[-1] == lines[-1], "since is a second, and the last line is in it"
    assert seen[0][0] == "ADDED"
    assert ("MODIFIED", "Running") in seen or ("MODIFIED", "Succeeded") in seen
    assert seen[-1][0] == "DELETED"


def test_says_why_a_pod_waits_and_why_it_ended(cluster: Cluster, namespace: str, client: KubernetesClient) -> None:
    huge = podbox(cluster, namespace, "pause", name="huge")
    huge["spec"]["containers"][0]["resources"] = {"requests": {"memory": "900Gi"}}
    client.create("pods", huge)
    nowhere = podbox(cluster, namespace, "pause", name="nowhere")
    nowhere["spec"]["containers"][0] |= {"image": "localhost/none@sha256:" + "0" * 64, "imagePullPolicy": "Never"}
    client.create("pods", nowhere)
    wrong = podbox(cluster, namespace, "pause", name="wrong")
    wrong["spec"]["containers"][0]["command"] = ["/no/such/program"]
    client.create("pods", wrong)

    def cause(name: str) -> str:
        found = client.get("pods", name) or {}
        fault = why_ended(found) or why_waiting(found)
        return "" if fault is None else fault.cause

    for name, words in (("huge", "Insufficient memory"), ("nowhere", "not on the node"), ("wrong", "/no/such/program")):
        cluster.wait_until(lambda name=name, words=words: words in cause(name), f"what is wrong with {name}")


def test_who_has_no_right_is_told_in_the_apis_words(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(cluster.kubectl("create", "token", "default", f"--namespace={namespace}"))
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
    place = config["clusters"][0]["cluster"]
    authority.write_bytes(base64.b64decode(place["certificate-authority-data"]))
    prefix = "spark.kubernetes.authenticate.submission."
    settings = {f"{prefix}oauthTokenFile": str(token), f"{prefix}caCertFile": str(authority)}
    access = open_access(f"k8s://{place['server']}", settings, environment={})
    client = KubernetesClient(access, namespace=namespace)

    with pytest.raises(RefusedError, match=rf"serviceaccount:{namespace}:default.* cannot list resource"):
        client.find("pods")
    client.close()


@pytest.fixture(scope="session")
def kubeflow_definitions() -> list[Path]:
    """The definition of `SparkApplication` by Kubeflow's Spark operator, as the operator's Go module has it."""
    go = find_go()
    command = [go.program, "mod", "download", "-json", KUBEFLOW_OPERATOR]
    environment = {**os.environ, "GOTOOLCHAIN": go.toolchain}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = Path(json.loads(done.stdout)["Dir"]) / "config" / "crd" / "bases"
    return sorted(folder.glob("*_sparkapplications.yaml"))


def test_kubeflows_operator_would_take_a_prepared_run(
    cluster: Cluster, namespace: str, kubeflow_definitions: list[Path]
) -> None:
    """The API server checks it against the operator's own definition, without an operator."""
    assert kubeflow_definitions
    text = (EXAMPLES / "kubeflow.yaml").read_text().replace("namespace: analysts", f"namespace: {namespace}")
    create = ("create", "--dry-run=server", "--validate=strict", "--output=json", "--filename=-")
    for definition in kubeflow_definitions:
        cluster.kubectl("apply", "--server-side", f"--filename={definition}")
    try:
        made = cluster.wait_until(lambda: cluster.kubectl(*create, stdin=text), "the API server to know its kind")
        (container,) = json.loads(made)["spec"]["driver"]["template"]["spec"]["containers"]
        assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"], "the definition drops it"
        with pytest.raises(CommandError, match="somewhere"):
            cluster.kubectl(*create, stdin=text.replace("mode: cluster", "mode: somewhere"))
    finally:
        for definition in kubeflow_definitions:
            cluster.kubectl("delete", "--ignore-not-found", "--wait=false", f"--filename={definition}")
