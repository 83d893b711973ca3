import base64
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from strongroom.base.errors import FormatError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.engine import spark
from strongroom.engine.cluster import Cluster, KubernetesCluster, PodExecutor, StandaloneCluster, pod_scheduling
from strongroom.engine.node import InsecurePlainNode, ProtectedNode
from strongroom.engine.runtime import SparkRuntime, runtime_of_this_installation
from strongroom.engine.settings import Scheduling, enforced_settings, guarded_settings

SECRET = SecretBytes(bytes(range(32)))
TEXT = base64.b64encode(SECRET.reveal()).decode()
DYNAMIC = Scheduling(manager="kubernetes", dynamic_allocation=True)
JAVA = """#!/bin/sh
env > "$STRONGROOM_SCRATCH/log/environment"
for word do echo "$word"; done > "$STRONGROOM_SCRATCH/log/arguments"
"""


def kubernetes(**changed: Any) -> KubernetesCluster:
    fields: dict[str, Any] = {
        "namespace": "team-a",
        "driver_pod": "report-driver",
        "application_id": "spark-1",
        "executors": 3,
        "chosen": {"spark.kubernetes.container.image": "spark"},
        "executor_template": '{"kind": "Pod"}',
        **changed,
    }
    return KubernetesCluster(**fields)


def executor(**changed: Any) -> PodExecutor:
    fields: dict[str, Any] = {
        "driver_url": "spark://CoarseGrainedScheduler@10.1.2.3:7078",
        "executor_id": "12",
        "cores": "2",
        "memory": "1024m",
        "application_id": "spark-1",
        "resource_profile_id": "0",
        "pod_ip": "10.1.2.4",
        "pod_name": "report-exec-12",
        **changed,
    }
    return PodExecutor(**fields)


@pytest.fixture
def runtime(tmp_path: Path) -> SparkRuntime:
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(JAVA)
    java.chmod(0o755)
    return dataclasses.replace(runtime_of_this_installation(), java_home=tmp_path / "java")


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory, runtime: SparkRuntime) -> ProtectedNode:
    scratch = tmp_path_factory.mktemp("s")
    return ProtectedNode(runtime=runtime, scratch=scratch, host="10.1.2.4", secret=SECRET, key_socket=scratch / "keys")


def start_driver(node: ProtectedNode, cluster: Cluster, **settings: str) -> dict[str, str]:
    """Start a driver; return its properties."""
    spark.start_driver(
        node,
        cluster=cluster,
        application=spark.Application(name="x", entry_point=Path("/app/x.py"), settings=settings),
        resources=spark.Resources(executor_memory="700m", executor_cores=2),
        stdout=sys.stderr.fileno(),
        stderr=sys.stderr.fileno(),
    ).wait(20)
    lines = (node.scratch / "conf" / "driver.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    return {name: json.loads(f'"{value}"') for name, value in properties.items()}


def test_spark_on_kubernetes_reads_the_secret_from_a_private_file(node: ProtectedNode) -> None:
    properties = start_driver(node, kubernetes())
    for role in ("driver", "executor"):
        path = Path(properties[f"spark.authenticate.secret.{role}.file"])
        assert path.read_bytes() == SECRET.reveal()
        assert path.stat().st_mode & 0o777 == 0o600
    assert "spark.authenticate.secret" not in properties
    for name in ("environment", "arguments"):
        assert TEXT not in (node.scratch / "log" / name).read_text()


def test_spark_on_kubernetes_makes_executors_from_the_agents_template(node: ProtectedNode) -> None:
    properties = start_driver(node, kubernetes())
    template = Path(properties["spark.kubernetes.executor.podTemplateFile"])
    assert template.read_text() == '{"kind": "Pod"}'
    expected = {
        "spark.master": "k8s://https://kubernetes.default.svc",
        "spark.submit.deployMode": "client",
        "spark.kubernetes.namespace": "team-a",
        "spark.kubernetes.driver.pod.name": "report-driver",
        "spark.kubernetes.container.image": "spark",
        "spark.kubernetes.executor.podTemplateContainerName": "spark-kubernetes-executor",
        "spark.kubernetes.executor.disableConfigMap": "true",
        "spark.kubernetes.driver.service.deleteOnTermination": "false",
        "spark.executor.instances": "3",
        "spark.executor.memory": "700m",
        "spark.executor.cores": "2",
        "spark.driver.host": "10.1.2.4",
        "spark.driver.port": "7078",
        "spark.driver.blockManager.port": "7079",
        "spark.blockManager.port": "7079",
    }
    assert {name: properties[name] for name in expected} == expected
    assert "spark.cores.max" not in properties


@pytest.mark.parametrize(
    ("name", "chosen", "value"),
    [
        ("spark.kubernetes.memoryOverheadFactor", None, "0.4"),
        ("spark.kubernetes.memoryOverheadFactor", "0.2", "0.2"),
        ("spark.kubernetes.executorSnapshotsSubscribersShutdownGracePeriod", None, "2s"),
        ("spark.kubernetes.executorSnapshotsSubscribersShutdownGracePeriod", "9s", "9s"),
    ],
)
def test_the_host_may_choose_other_values_than_ours(
    node: ProtectedNode, name: str, chosen: str | None, value: str
) -> None:
    properties = start_driver(node, kubernetes(chosen={} if chosen is None else {name: chosen}))
    assert properties[name] == value


@pytest.mark.parametrize("chosen", [{}, {"spark.dynamicAllocation.enabled": "true"}])
def test_every_enforced_and_guarded_setting_is_in_force(node: ProtectedNode, chosen: dict[str, str]) -> None:
    cluster = kubernetes(chosen=chosen)
    properties = start_driver(node, cluster)
    required = enforced_settings(cluster.scheduling) | guarded_settings(cluster.scheduling)
    assert {name: properties.get(name, "") for name in required} == required
    assert properties["spark.dynamicAllocation.enabled"] == chosen.get("spark.dynamicAllocation.enabled", "false")


def test_an_application_may_not_choose_what_decides_about_pods(node: ProtectedNode) -> None:
    for name in (
        "spark.kubernetes.namespace",
        "spark.kubernetes.executor.pod.featureSteps",
        "spark.executor.instances",
    ):
        with pytest.raises(RefusedError):
            start_driver(node, kubernetes(), **{name: "x"})
    assert not (node.scratch / "conf").exists()


@pytest.mark.parametrize(
    "changed",
    [{"driver_pod": ""}, {"driver_pod": "a_b"}, {"application_id": "-x"}, {"application_id": "a b"}],
)
def test_names_of_another_form_are_format_errors(changed: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        kubernetes(**changed)


def test_the_host_may_not_choose_more_than_how_pods_run() -> None:
    with pytest.raises(RefusedError, match=r"spark\.plugins"):
        kubernetes(chosen={"spark.plugins": "x"})


def test_an_executor_in_a_pod_decides_itself_how_its_channel_is_protected(node: ProtectedNode) -> None:
    spark.start_pod_executor(node, executor(), scheduling=DYNAMIC, settings={}).wait(20)
    options = (node.scratch / "conf" / "java.options").read_text().splitlines()
    for name, value in enforced_settings(DYNAMIC).items():
        assert f'"-D{name}={value}"' in options
    arguments = (node.scratch / "log" / "arguments").read_text().splitlines()
    assert arguments[-15:] == [
        "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
        *("--driver-url", "spark://CoarseGrainedScheduler@10.1.2.3:7078", "--executor-id", "12", "--cores", "2"),
        *("--app-id", "spark-1", "--hostname", "10.1.2.4", "--resourceProfileId", "0", "--podName", "report-exec-12"),
    ]
    assert "-Xmx1024m" in arguments
    assert not [line for line in (*options, *arguments) if TEXT in line]
    assert f"_SPARK_AUTH_SECRET={TEXT}" in (node.scratch / "log" / "environment").read_text().splitlines()


def test_what_an_application_chooses_for_its_executors_java_comes_before_what_protects_them(
    node: ProtectedNode,
) -> None:
    settings = {"spark.executor.extraJavaOptions": "-XX:-DisableAttachMechanism -Xss1m"}
    spark.start_pod_executor(node, executor(), scheduling=DYNAMIC, settings=settings).wait(20)
    options = (node.scratch / "conf" / "java.options").read_text().splitlines()
    assert options[:2] == ['"-XX:-DisableAttachMechanism"', '"-Xss1m"']
    assert '"-XX:+DisableAttachMechanism"' in options[2:]


def test_what_an_application_chooses_for_its_drivers_java_comes_first(node: ProtectedNode) -> None:
    start_driver(node, kubernetes(), **{"spark.driver.extraJavaOptions": "-Xss4m"})
    assert (node.scratch / "conf" / "java.options").read_text().splitlines()[0] == '"-Xss4m"'


@pytest.mark.parametrize(
    "url", ["spark://CoarseGrainedScheduler@[fd00::1]:7078", "spark://CoarseGrainedScheduler@a-b:1"]
)
def test_drivers_may_have_names_and_addresses_of_both_kinds(url: str) -> None:
    assert executor(driver_url=url, pod_ip="fd00::2").arguments()[1] == url


def test_a_standalone_clusters_driver_has_the_secret_in_its_environment(node: ProtectedNode) -> None:
    properties = start_driver(node, StandaloneCluster(url="spark://h:1", cores_max=4))
    assert properties["spark.cores.max"] == "4"
    assert properties["spark.authenticate.secret"] == "(in the environment)"
    assert f"_SPARK_AUTH_SECRET={TEXT}" in (node.scratch / "log" / "environment").read_text().splitlines()
    assert not (node.scratch / "conf" / "secret").exists()


def test_a_plain_node_has_no_secret(node: ProtectedNode) -> None:
    plain = InsecurePlainNode(runtime=node.runtime, scratch=node.scratch, host="h")
    cluster = StandaloneCluster(url="spark://h:1")
    assert cluster.settings(plain) == {"spark.master": "spark://h:1"}
    assert cluster.environment(plain) == {}


def test_executors_come_and_go_where_the_host_says_so() -> None:
    assert pod_scheduling({"spark.dynamicAllocation.enabled": "true"}) == DYNAMIC
    assert pod_scheduling({}) == pod_scheduling({"spark.dynamicAllocation.enabled": "false"})
    assert not pod_scheduling({}).dynamic_allocation
