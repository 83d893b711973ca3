"""The control plane as attacker: it may write every object and read all of them. No key leaves, or the run refuses.

What is edited here is edited as the API server or its administrator would: in the rendered objects, after the submitter
signed and before a kubelet sees them; in objects that are there; or by pods of its own.
"""

import base64
import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.support.installation import Ended, Submission
from tests.support.kubernetes.cluster import LocalCluster
from tests.support.kubernetes.edits import (
    Attacked,
    Edit,
    assert_refused,
    attacked,
    container_of,
    descriptor,
    executors,
    opened_runs,
    sent,
    signed,
    template,
    wrapped,
)
from tests.support.kubernetes.pods import pod, pod_spec
from tests.support.kubernetes.runs import Team

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.cluster.kubernetes.render import Rendered
from strongroom.crypto.jose import unverified_payload

pytestmark = pytest.mark.timeout(1200, func_only=True)

VARIABLES = {
    "JAVA_TOOL_OPTIONS": "-javaagent:/nowhere.jar",
    "JDK_JAVA_OPTIONS": "-XX:NoSuchOption",
    "PYTHONPATH": "/data",
    "PYTHONSTARTUP": "/data/evil.py",
    "PYSPARK_PYTHON": "/bin/false",
    "SPARK_CONF_DIR": "/data",
    "SPARK_EXTRA_CLASSPATH": "/data",
    "SPARK_HOME": "/nowhere",
    "SPARK_JAVA_OPT_0": "-javaagent:/nowhere.jar",
}


def test_an_edited_command_gets_no_key(team: Team, count: Submission) -> None:
    """Code of the attacker's that runs the agent inside itself, to read its memory."""

    def change(pod: dict[str, Any]) -> None:
        container_of(pod)["command"] = wrapped("driver")

    assert_refused(team, attacked(team, count, template(change)), "refused", "configuration", "verification")


@dataclass(frozen=True, kw_only=True)
class Twice:
    """A run whose pods have variables of the attacker's, and what came of starting its driver once more.

    Attributes:
        first: The run.
        fetched: How fetching what it left ended.
        printed: What its application printed.
        second: The second driver for its ticket.
    """

    first: Attacked
    fetched: Ended
    printed: str
    second: Attacked


@pytest.fixture(scope="module")
def twice(team: Team, count: Submission) -> Twice:
    def change(pod: dict[str, Any]) -> None:
        container = container_of(pod)
        container["env"] = [*container.get("env", []), *({"name": n, "value": v} for n, v in VARIABLES.items())]

    rendered, client, access = signed(team, count)
    edited = executors(change)(template(change)(rendered))
    first = sent(team, edited, client, access)
    fetched = team.runs_command("fetch", first.run)
    printed = team.strongroom("runs", "output", first.run).stdout
    team.clear()
    second = sent(team, edited, client, access)
    client.close()
    return Twice(first=first, fetched=fetched, printed=printed, second=second)


def test_an_edited_environment_changes_nothing_in_the_tee(team: Team, twice: Twice) -> None:
    """Variables by which Java, Python, Spark or the loader would take in code: the run is the one that was approved."""
    assert twice.first.phase == "Succeeded", twice.first.log[-3000:]
    assert twice.first.run in opened_runs(team)
    assert twice.fetched.status == 0, twice.fetched.text
    assert "Input DataFrame Count: 20000" in twice.printed


def test_a_second_driver_for_a_ticket_gets_no_key(team: Team, twice: Twice) -> None:
    assert twice.second.phase == "Failed", twice.second.log[-2000:]
    assert twice.second.failure()["code"] in {"refused", "conflict"}, twice.second.failure()
    assert [run["run_id"] for run in team.owner().runs()["runs"]].count(twice.first.run) == 1


def test_a_library_that_the_loader_is_told_to_load_gets_no_key(team: Team, count: Submission) -> None:
    """LD_PRELOAD works before any code of ours: what was loaded is measured."""

    def change(pod: dict[str, Any]) -> None:
        libraries = "/data/libc-evil.so"
        container_of(pod)["env"].append({"name": "LD_PRELOAD", "value": libraries})

    team.in_loader("cp /usr/lib/*-linux-gnu/libutil.so.1 /data/libc-evil.so")
    run = attacked(team, count, template(change))

    assert run.phase == "Failed", run.log[-2000:]
    assert run.run not in opened_runs(team)


def test_code_that_is_mounted_over_the_images_gets_no_key(team: Team, count: Submission) -> None:
    """Another volume, over a file of the measured software."""
    place = team.in_loader("echo /opt/strongroom/venv/lib/python3*/site-packages/strongroom/agent/__init__.py").strip()
    evil = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "evil", "namespace": team.runs, "labels": {"strongroom.run": "evil"}},
        "data": {"__init__.py": '"""The first process of a TEE."""\nimport sys\n'},
    }
    team.cluster.apply(evil)

    def change(pod: dict[str, Any]) -> None:
        pod["spec"]["volumes"].append({"name": "evil", "configMap": {"name": "evil"}})
        container_of(pod)["volumeMounts"].append({"name": "evil", "mountPath": place, "subPath": "__init__.py"})

    assert_refused(team, attacked(team, count, template(change)), "refused")


def test_another_image_gets_no_key(team: Team, count: Submission) -> None:
    """The services' image has Strongroom's code too, and another measurement; it has no agent's entry."""

    def edit(rendered: Rendered) -> Rendered:
        settings = {**rendered.submission, "spark.kubernetes.container.image": team.image.reference}
        return replace(rendered, submission=settings)

    run = attacked(team, count, edit)

    assert run.phase == "Failed"
    assert run.run not in opened_runs(team)


@pytest.mark.parametrize("part", ["package", "application", "ticket", "locations", "key service"])
def test_an_edited_config_map_gets_no_key_or_no_row(team: Team, count: Submission, part: str) -> None:
    def package(rendered: Rendered) -> Rendered:
        first, package_map, *others = copy.deepcopy(rendered.config_maps)
        (name,) = package_map["binaryData"]
        content = base64.b64decode(package_map["binaryData"][name])
        changed = content.replace(b"Count the rows", b"Steal the rows")
        assert changed != content
        package_map["binaryData"][name] = base64.b64encode(changed).decode()
        return replace(rendered, config_maps=(first, package_map, *others))

    def another_ticket(document: dict[str, Any]) -> None:
        header, payload, signature = document["ticket"].split(".")
        ticket = json.loads(from_b64url(payload))
        ticket["max_executors"] = 9_999
        document["ticket"] = f"{header}.{to_b64url(json.dumps(ticket).encode())}.{signature}"

    def another_service(document: dict[str, Any]) -> None:
        (identity,) = document["key_services"]
        document["key_services"][identity]["url"] = document["attestation_service"]["url"]

    edits: dict[str, Edit] = {
        "package": package,
        "application": descriptor(lambda document: document.update(application="f" * 64)),
        "ticket": descriptor(another_ticket),
        "locations": descriptor(lambda document: document["storage"].update(trips="file:///data/report")),
        "key service": descriptor(another_service),
    }
    run = attacked(team, count, edits[part])

    assert run.phase == "Failed", run.log[-2000:]
    failure = run.failure()
    if part == "locations":  # the run is opened, and finds nothing that it may read
        assert failure["code"] in {"integrity", "not-found", "configuration"}, failure
    else:
        assert run.run not in opened_runs(team), failure
    assert "20000" not in run.log


def test_settings_that_would_let_code_into_the_drivers_tee_are_refused_there(team: Team, count: Submission) -> None:
    def change(document: dict[str, Any]) -> None:
        document["settings"]["spark.kubernetes.executor.pod.featureSteps"] = "evil.Step"

    run = attacked(team, count, descriptor(change))
    assert_refused(team, run, "refused")
    assert "spark.kubernetes.executor.pod.featureSteps" in str(run.failure())


def test_executors_whose_template_was_edited_do_not_join(team: Team, count: Submission) -> None:
    """The driver's own TEE is sound; what starts in the executors' pods is not."""

    def change(pod: dict[str, Any]) -> None:
        container_of(pod)["command"] = wrapped("executor")

    run = attacked(team, count, executors(change), spark_executor_maxNumFailures="1")
    assert_nobody_joined(team, run)


def test_executors_that_the_api_server_changes_do_not_join(
    team: Team, count: Submission, local_cluster: LocalCluster
) -> None:
    """The driver's agent writes its key into the executors' pods; the API server's admission writes another one."""
    with mutated(local_cluster, team.runs, variable="STRONGROOM_DRIVER_KEY", value="e" * 64):
        run = attacked(team, count, lambda rendered: rendered, spark_executor_maxNumFailures="1")
    assert_nobody_joined(team, run)


def assert_nobody_joined(team: Team, run: Attacked) -> None:
    """Check that the run was opened, by its driver, and failed without ever having an executor."""
    assert run.phase == "Failed", run.log[-2000:]
    record = team.owner().run(hashlib.sha256(unverified_payload(run.rendered.descriptor.ticket)).hexdigest())
    assert record["members"] == 1, "an executor joined"


@contextmanager
def mutated(cluster: LocalCluster, namespace: str, *, variable: str, value: str) -> Iterator[None]:
    """Have the API server change a variable in every executor's pod that is made while the block runs."""
    named = f"object.spec.containers[0].env.map(each, each.name).indexOf('{variable}')"
    patch = (
        f"[JSONPatch{{op: 'replace', path: '/spec/containers/0/env/' + string({named}) + '/value', value: '{value}'}}]"
    )
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": "evil"},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": {"matchLabels": {"app.kubernetes.io/component": "executor"}},
                "resourceRules": [pods],
            },
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": "evil"},
        "spec": {"policyName": "evil"},
    }
    probe = pod("probe", namespace, pod_spec("image", "pause"), labels={"app.kubernetes.io/component": "executor"})
    container_of(probe)["env"] = [{"name": variable, "value": ""}]

    def changes() -> bool:
        return value in json.dumps(cluster.would_create(probe))

    cluster.apply([policy, binding])
    try:
        cluster.wait_until(changes, "the API server's new admission policy", 60)
        yield
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            cluster.kubectl("delete", kind, "evil")
