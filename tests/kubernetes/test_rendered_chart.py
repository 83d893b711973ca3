"""What Helm makes of the chart: golden files, and what services and the API server make of those."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.charts import (
    CHART,
    FOLDER,
    NAMESPACE,
    SETS,
    configurations,
    documents,
    files_of,
    pod_templates,
    rendered,
    write_values,
)
from tests.support.kubernetes.cluster import Cluster, CommandError

from strongroom.base.clock import SystemClock
from strongroom.cli.chart import read_plan, trust_on_kubernetes
from strongroom.cli.state import State
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.services.collateral_service import CollateralServiceConfig
from strongroom.services.key_service import KeyServiceSettings, configuration_of
from strongroom.services.master_key import demand_fitting
from strongroom.wire.model import Message

MODELS: dict[str, type[Message]] = {
    "attestation-service": AttestationServiceConfig,
    "key-service": KeyServiceSettings,
    "collateral-service": CollateralServiceConfig,
}
DIGEST = f"registry.example/x@sha256:{'0' * 64}"
CLUSTER_SCOPED = {"PersistentVolume"}


def covers(whole: Any, part: Any) -> bool:
    """Whether everything that a document says is said by another one, which may say more."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(name in whole and covers(whole[name], part[name]) for name in part)
    if isinstance(part, list):
        return len(whole) == len(part) and all(map(covers, whole, part))
    return bool(whole == part)


def golden(name: str) -> list[dict[str, Any]]:
    return documents((FOLDER / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", SETS)
def test_helm_finds_nothing_to_complain_about(cluster: Cluster, name: str) -> None:
    values = [f"--values={file}" for file in files_of(name)]
    linted = cluster.helm("lint", str(CHART), "--strict", f"--namespace={NAMESPACE}", *values)
    assert "0 chart(s) failed" in linted


@pytest.mark.parametrize("name", SETS)
def test_renders_what_it_rendered(cluster: Cluster, name: str) -> None:
    assert rendered(cluster.helm, *files_of(name)) == (FOLDER / f"{name}.yaml").read_text()


def test_no_rendering_is_left_over() -> None:
    assert {path.name.partition(".")[0] for path in FOLDER.glob("*.yaml")} == set(SETS)


# --- services ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_every_service_reads_its_configuration(name: str) -> None:
    found = dict(configurations(golden(name)))
    for service, text in found.items():
        config = MODELS[service].from_json(text)
        assert covers(json.loads(config.to_json()), json.loads(text))
        if isinstance(config, KeyServiceSettings):
            demand_fitting(config.master_key, mode=config.mode, has_platform=config.platform is not None)
    assert (set(found) == set()) == (name == "runs-only")


@pytest.mark.parametrize("name", SETS)
def test_no_configuration_holds_a_secret(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "PRIVATE KEY" not in text
    assert "kind: Secret" not in text
    assert "password=" not in text
    for config in dict(configurations(golden(name))).values():
        for jwk in json.loads(config).get("owners", []):
            assert set(jwk) == {"kty", "crv", "x", "y"}


@pytest.mark.parametrize("options", [(), ("--collateral",), ("--shape", "sgx", "--root", "root.pem"), SETS["postgres"]])
def test_what_is_rendered_is_what_clients_pin(cluster: Cluster, tmp_path: Path, options: tuple[str, ...]) -> None:
    values = write_values(tmp_path, "state", options)
    objects = documents(rendered(cluster.helm, values, sets=(f"images.service={DIGEST}",)))
    found = dict(configurations(objects))
    state = State(root=tmp_path / "state")

    trust = trust_on_kubernetes(read_plan(state), state=state, before=None, addresses={}, clock=SystemClock())

    pinned = {each.service: each for each in trust.services}
    attestation = AttestationServiceConfig.from_json(found["attestation-service"])
    keys = KeyServiceSettings.from_json(found["key-service"])
    assert attestation.digest() == pinned["attestation-service"].configuration
    assert attestation.url == pinned["attestation-service"].url
    assert configuration_of(keys) == pinned["key-service"].configuration
    assert keys.url == pinned["key-service"].url
    (believed,) = keys.attestation_services
    assert believed.url == attestation.url


# --- pods -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> Iterator[str]:
    """A namespace whose pods must fit the pod security standard "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = cluster.new_namespace("restricted", labels=labels)
    yield name
    cluster.delete("namespace", name, wait=False)


@pytest.mark.parametrize("name", SETS)
def test_every_pod_but_the_simulated_platforms_is_restricted(cluster: Cluster, restricted: str, name: str) -> None:
    for workload, template in pod_templates(golden(name)):
        spec = {**template["spec"], "serviceAccountName": "default"}
        spec.pop("priorityClassName", None)
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": workload, "namespace": restricted}, "spec": spec}
        if workload == "simulated-platform":
            with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
                cluster.would_create(pod)
        else:
            cluster.would_create(pod)


@pytest.mark.parametrize("name", SETS)
def test_pods_of_services_have_no_token_no_shell_and_limits(name: str) -> None:
    for _, template in pod_templates(golden(name)):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["command"][0] == "strongroom"
            assert container["image"].partition("@sha256:")[1], container["image"]
            assert container["resources"]["limits"]["memory"]
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert "env" not in container


@pytest.mark.parametrize("name", SETS)
def test_pods_of_services_have_no_rights_on_their_node(name: str) -> None:
    for workload, template in pod_templates(golden(name)):
        if workload == "simulated-platform":
            continue  # it looks at other pods' processes
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
        assert not any("hostPath" in each for each in spec["volumes"])
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("name", SETS)
def test_secrets_are_mounted_where_they_are_copied_from_alone(name: str) -> None:
    for workload, template in pod_templates(golden(name)):
        secrets = {each["name"] for each in template["spec"]["volumes"] if "secret" in each}
        if workload == "simulated-platform":
            continue
        for container in template["spec"]["containers"]:
            assert secrets.isdisjoint(each["name"] for each in container["volumeMounts"]), workload


# --- the API server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Namespaces in the place of those in the golden files."""
    made = {name: cluster.new_namespace(name) for name in ("strongroom", "strongroom-platform", "team-a", "team-b")}
    yield made
    for name in made.values():
        cluster.delete("namespace", name, wait=False)


@pytest.mark.parametrize("name", SETS)
def test_the_api_server_accepts_every_object(cluster: Cluster, namespaces: dict[str, str], name: str) -> None:
    for each in golden(name):
        if each["apiVersion"].startswith("monitoring.coreos.com"):
            continue  # whose definition is the Prometheus operator's
        if each["kind"] not in CLUSTER_SCOPED:
            each["metadata"]["namespace"] = namespaces[each["metadata"].get("namespace", NAMESPACE)]
        cluster.would_create(each)


def test_the_service_monitor_selects_the_attestation_service_and_pins_it() -> None:
    objects = {(each["kind"], each["metadata"]["name"]): each for each in golden("postgres")}
    monitor = objects["ServiceMonitor", "attestation-service"]
    service = objects["Service", "attestation-service"]
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    assert endpoint["scheme"] == "https"
    config = AttestationServiceConfig.from_json(dict(configurations(list(objects.values())))["attestation-service"])
    assert endpoint["tlsConfig"]["serverName"] in config.names
    ca = endpoint["tlsConfig"]["ca"]["configMap"]
    pem = objects["ConfigMap", ca["name"]]["data"][ca["key"]]
    keys = json.loads(dict(configurations(list(objects.values())))["key-service"])
    assert pem == keys["attestation_services"][0]["certificate_pem"]


# --- what holds for all -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_what_they_are_for(name: str) -> None:
    objects = golden(name)
    pods = {workload: template["metadata"]["labels"] for workload, template in pod_templates(objects)}
    for each in objects:
        spec = each.get("spec", {})
        match each["kind"]:
            case "Service":
                selected = spec["selector"]
            case "PodDisruptionBudget" | "StatefulSet" | "DaemonSet":
                selected = spec["selector"]["matchLabels"]
            case "NetworkPolicy" if each["metadata"]["name"] != "strongroom-runs":
                selected = spec["podSelector"]["matchLabels"]
            case _:
                continue
        found = {workload for workload, labels in pods.items() if selected.items() <= labels.items()}
        assert found == {each["metadata"]["name"]}, each["kind"]


@pytest.mark.parametrize("name", SETS)
def test_a_volume_with_keys_is_never_deleted(name: str) -> None:
    for each in golden(name):
        if each["kind"] == "PersistentVolumeClaim" and each["metadata"]["name"] != "simulated-platform":
            assert each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert each["kind"] != "StatefulSet" or "volumeClaimTemplates" not in each["spec"]


@pytest.mark.parametrize("name", sorted(SETS.keys() - {"sgx"}))  # which has no network policies
def test_services_and_runs_are_reached_by_those_who_are_named(name: str) -> None:
    """In Kubernetes a rule without peers, and a peer with an empty selector of namespaces, is everybody."""
    objects = golden(name)
    services = {workload for workload, _ in pod_templates(objects)} - {"simulated-platform"}
    policies = {
        (each["metadata"].get("namespace", NAMESPACE), each["metadata"]["name"]): each["spec"]
        for each in objects
        if each["kind"] == "NetworkPolicy"
    }
    run_namespaces = {each["metadata"]["namespace"] for each in objects if each["kind"] == "Role"}
    for namespace in run_namespaces:
        own = {"matchLabels": {"app.kubernetes.io/part-of": "strongroom"}}
        assert policies[namespace, "strongroom-runs"] == {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": own}]}],
        }
    for service in services:
        spec = policies[NAMESPACE, service]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        for rule in spec["ingress"]:
            assert rule["ports"] == [{"port": "https"}]
            assert rule["from"]
            for peer in rule["from"]:
                assert peer
                assert all(peer.values()), peer
        for rule in spec["egress"]:
            assert rule["ports"]


def test_roles_are_lists_without_stars() -> None:
    roles = [each for each in golden("simulated") if each["kind"] in {"Role", "ClusterRole"}]
    assert {each["metadata"]["name"] for each in roles} == {"strongroom-submitter", "strongroom-driver"}
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in {*rule["verbs"], *rule["resources"], *rule["apiGroups"]}
            assert not {"secrets", "serviceaccounts", "serviceaccounts/token", "pods/exec"} & {*rule["resources"]}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("images.service=",), "images.service"),
        (("images.service=registry.example/x:latest",), "/images/service"),
        (("shape=other",), "/shape"),
        (("unknown=1",), "unknown"),
        (("keyService.unknown=1",), "unknown"),
        (("keyService.replicas=2",), "share a PostgreSQL database"),
        (("keyService.databaseUrl=postgresql://keys:word@db/keys",), "/keyService/databaseUrl"),
        (("keyService.databaseUrl=postgresql://db/keys?password=word",), "/keyService/databaseUrl"),
        (("keyService.mode=attested", "keyService.masterKey=file:///strongroom/private/m"), "in a file"),
        (("keyService.masterKey=file:///strongroom/private/master.key",), "filesSecret"),
        (("owners[0].kty=EC",), "/owners/0"),
        (("owners[0]=nonsense",), "/owners/0"),
        (("people=nonsense",), "/people"),
        (("roots=null",), "no hardware vendor is trusted"),
        (("roots[0].simulated=false",), "says simulated"),
        (("shape=sgx",), "says simulated"),
        (("attestationService.identity=",), "the key service pins them"),
        (("attestationService.enabled=false",), "believes nobody"),
        (("simulatedPlatform.namespace=strongroom",), "a namespace of its own"),
        (("runs.namespaces={strongroom}",), "namespaces of their own"),
        (("runs.namespaces={strongroom-platform}",), "namespaces of their own"),
        (("runs.submitters.team-z[0].kind=User", "runs.submitters.team-z[0].name=eve"), "none of runs.namespaces"),
        (("runs.namespaces={Team}",), "/runs/namespaces"),
    ],
    ids=lambda each: ",".join(each) if isinstance(each, tuple) else "",
)
def test_values_that_cannot_work_are_refused(cluster: Cluster, sets: tuple[str, ...], says: str) -> None:
    with pytest.raises(CommandError) as refused:
        rendered(cluster.helm, *files_of("simulated"), sets=sets)
    assert re.search(re.escape(says), refused.value.stderr, re.IGNORECASE), refused.value.stderr


@pytest.mark.parametrize("name", SETS)
def test_only_accounts_of_runs_have_roles(name: str) -> None:
    bound = [
        (subject["kind"], subject.get("namespace"), subject["name"])
        for each in golden(name)
        if each["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        for subject in each["subjects"]
    ]
    for kind, namespace, subject in bound:
        if subject.startswith("strongroom-"):
            assert (kind, namespace) in {("ServiceAccount", "team-a"), ("ServiceAccount", "team-b")}
        else:
            assert subject in {"ann@example.org", "scheduler"}
