"""Several replicas of both services on PostgreSQL: each is one service, whichever of them answers."""

import json
from collections.abc import Iterator

import pytest
from tests.support.installed_chart import InstalledChart, prepared_chart, service_image
from tests.support.kubernetes.cluster import LocalCluster
from tests.support.kubernetes.kubebox import Say
from tests.support.postgres import NetworkServer

pytestmark = [pytest.mark.needs_postgres, pytest.mark.timeout(1200)]

PODS = ("key-service-0", "key-service-1")


@pytest.fixture(scope="module")
def database(local_cluster: LocalCluster) -> Iterator[NetworkServer]:
    """A server at the one address of this machine that pods reach."""
    server = NetworkServer(local_cluster.site.host_address)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="module")
def chart(
    local_cluster: LocalCluster, database: NetworkServer, say: Say, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledChart]:
    root = tmp_path_factory.mktemp("replicas")
    (root / "pgpass").write_text(database.password_file)
    (root / "root.crt").write_text(database.authority_pem)
    places = "&passfile=/strongroom/private/pgpass&sslrootcert=/strongroom/private/root.crt"
    options = ["--replicas", "2"]
    for prefix in ("--", "--attestation-"):
        options += [f"{prefix}database", database.new_network_database() + places]
        options += [f"{prefix}file", "pgpass=pgpass", f"{prefix}file", "root.crt=root.crt"]
    with prepared_chart(root, local_cluster, service_image(local_cluster, say=say), options=tuple(options)) as made:
        made.helm("install")
        yield made


def test_replicas_are_one_service(chart: InstalledChart) -> None:
    for number, pod in enumerate(PODS):
        with chart.reached(pods={"key-service": pod}):
            chart.done("dataset", "create", f"made-{number}")
    listed = []
    for pod in PODS:
        with chart.reached(pods={"key-service": pod}):
            listed.append(chart.keys())
    assert listed[0] == listed[1]
    assert {each["dataset"] for each in listed[0]} >= {"made-0", "made-1"}


def test_another_replica_goes_on_when_one_is_gone(chart: InstalledChart) -> None:
    with chart.reached(pods={"key-service": PODS[1]}):
        before = chart.keys()
        chart.cluster.kubectl("delete", "pod", PODS[0], f"--namespace={chart.namespace}", "--grace-period=0", "--force")
        assert chart.keys() == before
        chart.done("dataset", "create", "made-by-one")
    chart.wait_ready("key-service")
    with chart.reached(pods={"key-service": PODS[0]}):
        assert len(chart.keys()) == len(before) + 1


def test_an_upgrade_goes_from_replica_to_replica_and_keeps_the_keys(chart: InstalledChart) -> None:
    with chart.reached():
        before = chart.keys()
    uids = {pod: chart.cluster.get("pod", pod, chart.namespace)["metadata"]["uid"] for pod in PODS}

    chart.helm("upgrade", "--set=keyService.purgeProtection=true")

    for pod in PODS:
        assert chart.cluster.get("pod", pod, chart.namespace)["metadata"]["uid"] != uids[pod]
        with chart.reached(pods={"key-service": pod}):
            assert chart.keys() == before


def test_the_attestation_services_replicas_have_one_policy(chart: InstalledChart) -> None:
    policy = chart.root / "evidence.policy"
    rule = '[type=="x-ms-sgx-is-debuggable", value==false] => permit();'
    policy.write_text(f"version= 1.0;\nauthorizationrules\n{{\n\t{rule}\n}};\nissuancerules\n{{\n}};\n")
    with chart.reached(pods={"attestation-service": "attestation-service-1"}):
        chart.done("policy", "set", str(policy))
    shown = []
    for pod in ("attestation-service-0", "attestation-service-1"):
        with chart.reached(pods={"attestation-service": pod}):
            shown.append(json.loads(chart.done("policy", "show", "--json")))
    assert shown[0] == shown[1]
    assert shown[0]["hash"]


def test_no_replica_has_a_volume_and_their_keys_lie_in_memory(chart: InstalledChart) -> None:
    claims = {each["metadata"]["name"] for each in chart.cluster.find("persistentvolumeclaim", chart.namespace)}
    assert claims == {"simulated-platform"}
    for pod in PODS:
        volumes = {each["name"]: each for each in chart.cluster.get("pod", pod, chart.namespace)["spec"]["volumes"]}
        assert volumes["state"]["emptyDir"]["medium"] == volumes["private"]["emptyDir"]["medium"] == "Memory"
