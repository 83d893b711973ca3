import copy
from dataclasses import replace
from typing import Any

import pytest
from tests.support.kubernetes.rendering import KEY_SERVICE, OWN_TEMPLATE

from strongroom.base.errors import ConfigurationError, RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE
from strongroom.cluster.kubernetes.template import PodNeeds, pod_template

NEEDS = PodNeeds(
    role="driver",
    labels={"strongroom.run": "0123"},
    annotations={"strongroom.run-id": "01234567"},
    config_map="strongroom-0123",
    package_config_maps=("strongroom-0123-package-000", "strongroom-0123-package-001"),
    key_services=(KEY_SERVICE,),
    service_account="strongroom-driver",
    gated=True,
)
EXECUTOR = replace(NEEDS, role="executor", service_account="strongroom-executor", gated=False)


def own(**container: Any) -> dict[str, Any]:
    """A person's template with these members of Spark's container."""
    template = copy.deepcopy(dict(OWN_TEMPLATE))
    template["spec"]["containers"][0] |= container
    return template


def own_spec(**spec: Any) -> dict[str, Any]:
    template = copy.deepcopy(dict(OWN_TEMPLATE))
    template["spec"] |= spec
    return template


def container_of(template: dict[str, Any]) -> dict[str, Any]:
    (container,) = template["spec"]["containers"]
    return container


@pytest.mark.parametrize("needs", [NEEDS, EXECUTOR])
def test_the_agent_is_what_starts_without_rights_or_secrets(needs: PodNeeds) -> None:
    spec, container = pod_template(needs)["spec"], container_of(pod_template(needs))

    assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]
    assert "args" not in container
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["restartPolicy"] == "Never"
    assert not any("secret" in volume for volume in spec["volumes"])
    assert all("valueFrom" in each and "fieldRef" in each["valueFrom"] for each in container.get("env", []))


def test_only_the_driver_may_speak_to_the_cluster_and_waits_for_its_submitter() -> None:
    driver, executor = pod_template(NEEDS)["spec"], pod_template(EXECUTOR)["spec"]

    assert (driver["serviceAccountName"], driver["automountServiceAccountToken"]) == ("strongroom-driver", True)
    assert (executor["serviceAccountName"], executor["automountServiceAccountToken"]) == ("strongroom-executor", False)
    assert driver["schedulingGates"] == [{"name": SUBMITTED_GATE}]
    assert "schedulingGates" not in executor
    assert "schedulingGates" not in pod_template(replace(NEEDS, gated=False))["spec"]


def test_each_key_service_gets_a_token_of_its_own() -> None:
    volumes = {volume["name"]: volume for volume in pod_template(NEEDS)["spec"]["volumes"]}

    (source,) = volumes["strongroom-token"]["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "audience": f"strongroom:{KEY_SERVICE}",
        "expirationSeconds": 600,
        "path": KEY_SERVICE,
    }
    without = pod_template(replace(NEEDS, key_services=()))["spec"]["volumes"]
    assert "strongroom-token" not in {volume["name"] for volume in without}


def test_the_packages_parts_stand_in_their_order() -> None:
    volumes = {volume["name"]: volume for volume in pod_template(NEEDS)["spec"]["volumes"]}

    sources = volumes["strongroom-package"]["projected"]["sources"]
    assert [(each["configMap"]["name"], each["configMap"]["items"][0]["path"]) for each in sources] == [
        ("strongroom-0123-package-000", "part-000"),
        ("strongroom-0123-package-001", "part-001"),
    ]


def test_a_persons_template_places_pods_and_gives_them_storage_and_devices() -> None:
    template = pod_template(NEEDS, own=dict(OWN_TEMPLATE))
    spec, container = template["spec"], container_of(template)

    assert template["metadata"]["labels"] == {
        "strongroom.run": "0123",
        "app.kubernetes.io/component": "driver",
        "team": "taxis",
    }
    assert template["metadata"]["annotations"] == {"strongroom.run-id": "01234567", "note": "nightly"}
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["runtimeClassName"] == "kata-cc"
    assert spec["tolerations"] == [{"key": "tee", "operator": "Exists"}]
    assert spec["securityContext"]["supplementalGroups"] == [2000]
    assert spec["securityContext"]["runAsUser"] == 1000
    assert [volume["name"] for volume in spec["volumes"]][-1] == "data"
    assert container["name"] == "spark"
    assert container["resources"] == {"limits": {"sgx.intel.com/epc": "64Mi"}}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} > {"/data", "/strongroom/memory"}
    assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]


def test_a_template_that_agrees_is_taken() -> None:
    template = own(command=["/usr/local/bin/strongroom-agent", "--pod"], securityContext={"privileged": False})
    template["spec"] |= {"restartPolicy": "Never", "serviceAccountName": "strongroom-driver"}

    assert container_of(pod_template(NEEDS, own=template))["name"] == "spark"


@pytest.mark.parametrize(
    ("template", "path"),
    [
        (own(command=["/bin/sh"]), "spec.containers.command"),
        (own(args=["driver"]), "spec.containers.args"),
        (own(env=[{"name": "KEY", "value": "x"}]), "spec.containers.env"),
        (
            own(env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}]),
            "spec.containers.env",
        ),
        (own(envFrom=[{"secretRef": {"name": "a"}}]), "spec.containers.envFrom"),
        (own(image="other"), "spec.containers.image"),
        (own(lifecycle={"postStart": {"exec": {"command": ["sh"]}}}), "spec.containers.lifecycle"),
        (own(livenessProbe={"exec": {"command": ["sh"]}}), "spec.containers.livenessProbe"),
        (own(securityContext={"privileged": True}), "spec.containers.securityContext.privileged"),
        (own(securityContext={"allowPrivilegeEscalation": True}), "spec.containers.securityContext.allowPrivilegeEs"),
        (own(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), "spec.containers.securityContext.capabilities"),
        (own(securityContext={"runAsUser": 0}), "spec.containers.securityContext.runAsUser"),
        (own(securityContext={"runAsNonRoot": False}), "spec.containers.securityContext.runAsNonRoot"),
        (own(securityContext={"seccompProfile": {"type": "Unconfined"}}), "spec.containers.securityContext.seccompPro"),
        (own(volumeMounts=[{"name": "data", "mountPath": "/strongroom/package"}]), "spec.containers.volumeMounts"),
        (own(volumeMounts=[{"name": "data", "mountPath": "/strongroom"}]), "spec.containers.volumeMounts"),
        (own(volumeMounts=[{"name": "data", "mountPath": "//strongroom/run"}]), "spec.containers.volumeMounts"),
        (own(volumeMounts=[{"name": "data", "mountPath": "/data/../strongroom/"}]), "spec.containers.volumeMounts"),
        (own(tty=True), "spec.containers.tty"),
        (own_spec(restartPolicy="OnFailure"), "spec.restartPolicy"),
        (own_spec(serviceAccountName="admin"), "spec.serviceAccountName"),
        (own_spec(automountServiceAccountToken=False), "spec.automountServiceAccountToken"),
        (own_spec(securityContext={"runAsUser": 0}), "spec.securityContext.runAsUser"),
        (own_spec(securityContext={"seccompProfile": {"type": "Unconfined"}}), "spec.securityContext.seccompProfile"),
        (own_spec(hostPID=True), "spec.hostPID"),
        (own_spec(hostNetwork=True), "spec.hostNetwork"),
        (own_spec(shareProcessNamespace=True), "spec.shareProcessNamespace"),
        (own_spec(initContainers=[{"name": "x"}]), "spec.initContainers"),
        (own_spec(nodeName="node-1"), "spec.nodeName"),
        (own_spec(noSuchField=1), "spec.noSuchField"),
        (own_spec(volumes=[{"name": "strongroom-run", "emptyDir": {}}]), "spec.volumes"),
        (own_spec(volumes=[{"name": "spark-local-dir-1", "emptyDir": {}}]), "spec.volumes"),
        (own_spec(containers=[{"name": "spark"}, {"name": "sidecar"}]), "spec.containers"),
        ({**own(), "metadata": {"labels": {"strongroom.run": "other"}}}, "metadata.labels.strongroom.run"),
        ({**own(), "metadata": {"ownerReferences": []}}, "metadata.ownerReferences"),
        ({**own(), "status": {}}, "status"),
    ],
)
def test_refuses_by_its_path_what_a_template_cannot_decide(template: dict[str, Any], path: str) -> None:
    with pytest.raises(RefusedError) as caught:
        pod_template(NEEDS, own=template)

    assert caught.value.step is Step.SUBMIT
    assert [each.name.startswith(path) for each in caught.value.mismatches] == [True]


def test_names_every_contradiction_at_once_and_shows_no_value_of_the_environment() -> None:
    template = own(env=[{"name": "TOKEN", "value": "s3cret"}], command=["sh"])
    template["spec"]["hostIPC"] = True

    with pytest.raises(RefusedError) as caught:
        pod_template(NEEDS, own=template)

    assert {each.name for each in caught.value.mismatches} == {
        "spec.containers.env",
        "spec.containers.command",
        "spec.hostIPC",
    }
    assert "s3cret" not in caught.value.message + str(caught.value.mismatches)


def test_sparks_container_is_the_one_that_is_named() -> None:
    template = own()
    template["spec"]["containers"].insert(0, {"name": "sidecar"})

    with pytest.raises(RefusedError, match="a container sidecar"):
        pod_template(NEEDS, own=template, container_name="spark")
    with pytest.raises(RefusedError, match="a container spark"):
        pod_template(NEEDS, own=template)


@pytest.mark.parametrize(
    "template",
    [
        {"kind": "Deployment"},
        {"apiVersion": "apps/v1", "kind": "Pod"},
        {"spec": None},
        {"spec": {"containers": {}}},
        {"spec": {"containers": ["x"]}},
        {"metadata": []},
    ],
)
def test_refuses_what_is_no_pod(template: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="not a Pod"):
        pod_template(NEEDS, own=template)


@pytest.mark.parametrize("template", [{}, {"spec": {}}, {"kind": "Pod", "spec": {"containers": []}}])
def test_an_empty_template_changes_nothing(template: dict[str, Any]) -> None:
    assert pod_template(NEEDS, own=template) == pod_template(NEEDS)
