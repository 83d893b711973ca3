"""The control plane as attacker: it may write every object and read all of them. No key leaves, or the run refuses.

What is edited here is edited as the API server or its administrator would: in the rendered objects, after the submitter
signed and before a kubelet sees them; in objects that are there; or by pods of its own.
"""

import base64
import copy
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from tests.support.installation import Ended, Submission
from tests.support.kubernetes.cluster import CommandError, LocalCluster
from tests.support.kubernetes.edits import (
    Attacked,
    Edit,
    assert_refused,
    attacked,
    container_of,
    descriptor,
    executors,
    opened_runs,
    send,
    signed,
    template,
    wrapped,
)
from tests.support.kubernetes.pods import pod, pod_spec
from tests.support.kubernetes.runs import SIZES, Team, counts_of
from tests.support.leaks import LeakSearch, summary
from tests.support.needles import needles_of
from tests.support.watched_runs import mark

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import StrongroomError
from strongroom.clients.pinned import PinnedHttp
from strongroom.cluster.kubernetes.render import Rendered
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.key_service import JOIN_TYP, JoinRequest
from strongroom.wire.receipt import Receipt

pytestmark = pytest.mark.timeout(1200, func_only=True)

ROWS = 20_000


# --- what runs -------------------------------------------------------------------------------------------------------


def test_an_edited_command_gets_no_key(team: Team, count: Submission) -> None:
    """Code of the attacker's that runs the agent inside itself, to read its memory."""

    def change(pod: dict[str, Any]) -> None:
        container_of(pod)["command"] = wrapped("driver")

    assert_refused(team, attacked(team, count, template(change)), "refused", "configuration", "verification")


def test_an_edited_environment_changes_nothing_in_the_tee(team: Team, count: Submission) -> None:
    """Variables by which Java, Python, Spark or the loader would take in code: the run is the one that was approved."""
    variables = {
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

    def change(pod: dict[str, Any]) -> None:
        container = container_of(pod)
        container["env"] = [*container.get("env", []), *({"name": n, "value": v} for n, v in variables.items())]

    run = attacked(team, count, lambda rendered: executors(change)(template(change)(rendered)))

    assert run.phase == "Succeeded", run.log[-3000:]
    assert run.run in opened_runs(team)
    fetched = team.runs_command("fetch", run.run)
    assert fetched.status == 0, fetched.text
    assert "Input DataFrame Count: 20000" in team.done("runs", "output", run.run)


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

    run = attacked(team, count, executors(change), spark_executor_maxNumFailures="2")
    assert_nobody_joined(team, run)


def test_executors_that_the_api_server_changes_do_not_join(
    team: Team, count: Submission, local_cluster: LocalCluster
) -> None:
    """The driver's agent writes its key into the executors' pods; the API server's admission writes another one."""
    with mutated(local_cluster, team.runs, variable="STRONGROOM_DRIVER_KEY", value="e" * 64):
        run = attacked(team, count, lambda rendered: rendered, spark_executor_maxNumFailures="2")
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
    create = ("create", "--dry-run=server", "--filename=-", "--output=json")

    def changes() -> bool:
        return value in cluster.kubectl(*create, stdin=json.dumps(probe))

    cluster.apply([policy, binding])
    try:
        cluster.wait_until(changes, "the API server's new admission policy", 60)
        yield
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            cluster.kubectl("delete", kind, "evil")


# --- who joins, and when ---------------------------------------------------------------------------------------------


def test_a_second_driver_for_a_ticket_gets_no_key(team: Team, count: Submission) -> None:
    rendered, client, access = signed(team, count)
    for expected in ("Succeeded", "Failed"):
        send(rendered, client, access)
        name = rendered.names.driver_pod
        assert team.cluster.ended(name, team.runs, timeout_s=300) == expected, team.cluster.log(name, team.runs)
        log = team.cluster.log(name, team.runs)
        team.clear()
    client.close()
    assert '"code":"refused"' in log or '"code":"conflict"' in log
    assert [run["run_id"] for run in team.owner().runs()["runs"]].count(rendered.names.run_id) == 1


def test_a_rogue_executor_with_the_drivers_labels_gets_no_task(team: Team, slow: Submission, tmp_path: Path) -> None:
    """A pod of the attacker's, with Spark's own executor and everything that the API shows of the real ones."""
    with team.under_way(slow, "--num-executors", "1") as run:
        run.wait_for_step("executors")
        (real,) = team.pods(run.run, role="executor")
        rogue = _rogue(real, team.driver_of(run.run))
        team.cluster.create(rogue)
        name = rogue["metadata"]["name"]
        ended = run.ended()
        with_words = _log_or_nothing(team, name)

    assert ended.status == 0, ended.text
    (record,) = Receipt.from_json(team.receipt(ended).read_bytes()).body.records.values()
    assert [member.role for member in record.members] == ["driver", "executor"]
    assert "Successfully registered with driver" not in with_words
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS


def _rogue(real: dict[str, Any], driver: dict[str, Any]) -> dict[str, Any]:
    pod = copy.deepcopy(real)
    container = container_of(pod)
    words = {each["name"]: each.get("value", "") for each in container["env"]}
    container["command"] = ["/bin/bash", "-c"]
    words_of_spark = (
        "exec /opt/strongroom/venv/share/strongroom/java/bin/java -Dspark.authenticate=true"
        " -Dspark.authenticate.secret=guessed -Dspark.network.crypto.enabled=true"
        ' -cp "$(echo /opt/strongroom/venv/lib/python3*/site-packages/pyspark/jars)/*"'
        " org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
        f" --driver-url {words['SPARK_DRIVER_URL']} --executor-id 77 --cores 1"
        f" --app-id {words['SPARK_APPLICATION_ID']} --hostname $SPARK_EXECUTOR_POD_IP --resourceProfileId 0"
        " --podName $SPARK_EXECUTOR_POD_NAME"
    )
    container["args"] = [words_of_spark]
    labels = {**pod["metadata"]["labels"], **driver["metadata"]["labels"], "spark-exec-id": "77"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rogue", "namespace": pod["metadata"]["namespace"], "labels": labels},
        "spec": {key: value for key, value in pod["spec"].items() if key != "nodeName"},
    }


def _log_or_nothing(team: Team, name: str) -> str:
    try:
        return team.cluster.log(name, team.runs)
    except CommandError:
        return ""


def test_a_pods_evidence_that_is_replayed_gets_no_key(team: Team, count: Submission) -> None:
    """What the attacker read of a run's evidence, with a key of his own, and with the TEE's words as they were."""
    ended = team.run_well(count)
    body = Receipt.from_json(team.receipt(ended).read_bytes()).body
    (record,) = body.records.values()
    member = next(each for each in record.members if each.role == "executor")
    service = trusted_service(load_trust(team.state.trust), "key-service")
    http = PinnedHttp(service.url, service.certificate_pem, service.identity)
    request = JoinRequest(ticket=body.ticket, result=member.result, evidence=member.evidence)
    own = SigningKey.generate("ES256")
    replayed = sign_jws(request.to_json(), key=own, header={"typ": JOIN_TYP})
    for path in ("/strongroom/v1/runs", f"/strongroom/v1/runs/{body.run}/members"):
        answer = http.request("POST", path, body=replayed.encode(), content_type="application/jose")
        with pytest.raises(StrongroomError):
            answer.require_success()
    http.close()
    (now,) = [run for run in team.owner().runs()["runs"] if run["run_id"] == ended.run_id]
    assert now["members"] == len(record.members)


def test_a_service_that_is_led_elsewhere_is_noticed(team: Team, count: Submission) -> None:
    """The key service's name in the cluster leads to another service: no TEE speaks to it."""
    service = team.cluster.get("service", "key-service", team.namespace)
    other = team.cluster.get("service", "attestation-service", team.namespace)
    drop = dict.fromkeys(service["spec"]["selector"].keys() - other["spec"]["selector"].keys())
    moved = json.dumps({"spec": {"selector": {**drop, **other["spec"]["selector"]}}})
    back = json.dumps([{"op": "replace", "path": "/spec/selector", "value": service["spec"]["selector"]}])
    before = opened_runs(team)
    team.cluster.kubectl(
        "patch", "service", "key-service", f"--namespace={team.namespace}", "--type=merge", "-p", moved
    )
    try:
        ended = team.run(count)
    finally:
        team.cluster.kubectl(
            "patch", "service", "key-service", f"--namespace={team.namespace}", "--type=json", "-p", back
        )

    assert ended.status == 1, ended.text
    assert "is not the key service that was pinned" in ended.stderr
    assert opened_runs(team) == before


# --- what can be read ------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Watcher:
    """Reads everything that the API shows, again and again, as its administrator."""

    team: Team
    seen: dict[str, str] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    KINDS = "pods,configmaps,secrets,services,networkpolicies,events,serviceaccounts,persistentvolumeclaims"

    @contextmanager
    def watching(self) -> Iterator["Watcher"]:
        """Watch while the block runs."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join(60)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._look()
            self._stop.wait(0.5)
        self._look()

    def _look(self) -> None:
        for namespace in (self.team.runs, self.team.namespace):
            try:
                text = self.team.cluster.kubectl(
                    *("get", self.KINDS, f"--namespace={namespace}", "--output=json", "--show-managed-fields")
                )
            except CommandError:
                continue
            for each in json.loads(text)["items"]:
                place = f"{namespace}/{each['kind']}/{each['metadata']['name']}"
                self.seen[f"{place}@{each['metadata']['resourceVersion']}"] = json.dumps(each)
                if each["kind"] == "Pod":
                    self.seen[f"log of {place}"] = _log_of(self.team, namespace, each["metadata"]["name"])


def _log_of(team: Team, namespace: str, name: str) -> str:
    try:
        return team.cluster.kubectl("logs", name, f"--namespace={namespace}", "--all-containers", "--timestamps")
    except CommandError:
        return ""


def test_nothing_that_the_api_shows_holds_a_value_or_a_secret(
    team: Team, repo_root: Path, plain_trips: Path, tmp_path: Path
) -> None:
    """Canaries in the data, printed by the application, too; every object and log of the whole run is searched."""
    table, values = mark(parquet.read_table(plain_trips))
    folder = tmp_path / "marked"
    folder.mkdir()
    parquet.write_table(table, folder / "trips.parquet")
    team.done("dataset", "create", "marked")
    team.done("dataset", "encrypt", "marked", str(folder))
    team.publish("marked")
    script = tmp_path / "show.py"
    script.write_text(
        "import sys\nfrom pyspark.sql import SparkSession\n"
        "spark = SparkSession.builder.getOrCreate()\n"
        "trips = spark.read.parquet(sys.argv[1]).orderBy('total_amount')\n"
        "trips.show(100_000, truncate=False)\n"
        "trips.write.mode('overwrite').parquet(sys.argv[2])\n"
    )
    submission = Submission(
        script=script,
        arguments=("strongroom://marked", "strongroom://report/marked"),
        reads=("marked",),
        writes=("report",),
        sizes=SIZES,
    )
    team.approve(submission)
    with Watcher(team=team).watching() as watcher:
        ended = team.run_well(submission, "--num-executors", "2")

    printed = team.output_of(ended)
    assert str(values["store_and_fwd_flag 0"]) in printed, "the canaries were not even there"
    search = LeakSearch(needle for name, value in values.items() for needle in needles_of(name, value))
    places = list(watcher.seen)
    assert any("ConfigMap" in place for place in places)
    assert any(place.startswith("log of") and watcher.seen[place] for place in places)
    leaks = [leak for place, text in watcher.seen.items() for leak in search.search(text.encode(), place=place)]
    assert not leaks, summary(leaks)
    for text in watcher.seen.values():
        assert "_SPARK_AUTH_SECRET" not in text
        assert "PRIVATE KEY" not in text or "identity" in text  # the owner's services are the owner's own


def test_a_pod_without_a_token_for_the_cluster_is_what_executors_are(team: Team, slow: Submission) -> None:
    with team.under_way(slow) as run:
        (pod,) = team.pods(run.run, role="executor")
        volumes = json.dumps(pod["spec"]["volumes"])
        ended: Ended = run.ended()

    assert ended.status == 0, ended.text
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "kube-api-access" not in volumes
    assert volumes.count('"audience"') == volumes.count('"strongroom:')
