"""The taxi report on a real cluster: the same rows, the same lines, the same receipt, and nothing that stays."""

import contextlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.installation import Ended, Submission
from tests.support.kubernetes.runs import QUICKLY_COMPILED, SIZES, Team, run_plainly

from strongroom.base.workflow import Step

pytestmark = pytest.mark.timeout(1200, func_only=True)

EXECUTORS = 3
TEMPLATE = """
apiVersion: v1
kind: Pod
metadata: {labels: {team: taxis}}
spec:
  terminationGracePeriodSeconds: 7
  volumes: [{name: extra, emptyDir: {}}]
  containers:
  - name: spark
    volumeMounts: [{name: extra, mountPath: /extra}]
"""


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A run of the taxi report with everything that a person may choose of how and where it runs.

    Attributes:
        ended: How it ended.
        approved: Digest of what was approved; it was packed without a word of the cluster.
        rows: What it wrote, by table.
        plain: What plain Spark wrote on this machine.
        objects: Its objects when it had ended, the executors' pods as well.
        archived: The files in its archive.
        left: Its objects that were still there after its driver's pod was deleted.
        described: What `kubectl describe` told of its driver's pod.
        verified: What verifying its receipt printed.
        printed: What the application printed.
        log: The log of its driver's pod.
    """

    ended: Ended
    approved: str
    rows: dict[str, list[Any]]
    plain: dict[str, list[Any]]
    objects: list[dict[str, Any]]
    archived: list[str]
    left: list[str]
    described: str
    verified: str
    printed: str
    log: str

    def pods(self, role: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == "Pod" and _component(each) == role]


@pytest.fixture(scope="module")
def report(repo_root: Path) -> Submission:
    return Submission(
        script=repo_root / "examples" / "nyctaxi" / "report.py",
        arguments=("strongroom://trips", "strongroom://report"),
        writes=("report",),
        options=(*QUICKLY_COMPILED, "--conf", "spark.sql.shuffle.partitions=4"),
        sizes=SIZES,
    )


@pytest.fixture(scope="module")
def reported(team: Team, report: Submission, plain_trips: Path, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """The report on three executor pods, and by plain Spark on this machine."""
    folder = tmp_path_factory.mktemp("report")
    template = folder / "template.yaml"
    template.write_text(TEMPLATE)
    settings = {f"spark_kubernetes_{role}_podTemplateFile": str(template) for role in ("driver", "executor")} | {
        "spark_executor_memoryOverhead": "900m",
        "spark_kubernetes_executor_deleteOnTermination": "false",
        "spark_kubernetes_executor_terminationGracePeriodSeconds": "7s",  # Spark sets it, whatever the template says
    }
    approved = team.approve(report)
    run_plainly(report.script, str(plain_trips), str(folder / "plain"), options=report.options, scratch=folder)
    tables = sorted(path.name for path in (folder / "plain").iterdir() if path.is_dir())
    ended = team.run_well(report, "--num-executors", str(EXECUTORS), "--archive", "/data/archive", **settings)
    driver = team.driver_of(ended.run_id)["metadata"]["name"]
    kinds = "pods,configmaps,services,networkpolicies"
    found = json.loads(team.cluster.kubectl("get", kinds, *team.in_runs, "--output=json", "--show-managed-fields"))
    described, log = team.cluster.describe("pod", driver, team.runs), team.cluster.log(driver, team.runs)
    team.cluster.delete("pod", driver, team.runs)
    with contextlib.suppress(TimeoutError):
        team.cluster.wait_until(lambda: team.objects_of_runs() == [], "the end of the run's objects", 90)
    return Reported(
        ended=ended,
        approved=approved,
        rows=team.decrypted("report", tables, folder / "protected"),
        plain={name: _read(folder / "plain" / name) for name in tables},
        objects=[each for each in found["items"] if "strongroom.run" in str(each["metadata"])],
        archived=team.files_in(f"archive/{ended.run_id}"),
        left=team.objects_of_runs(),
        described=described,
        verified=team.done("receipt", "verify", str(team.receipt(ended))),
        printed=team.output_of(ended),
        log=log,
    )


def _read(folder: Path) -> list[Any]:
    from pyarrow import parquet  # noqa: PLC0415 - heavy

    rows: list[Any] = parquet.read_table(folder).to_pylist()
    return rows


def _sorted(rows: list[Any]) -> list[str]:
    return sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)


def test_three_executor_pods_give_the_rows_of_plain_spark(reported: Reported) -> None:
    assert len(reported.plain) >= 3
    for name, rows in reported.plain.items():
        assert _sorted(reported.rows[name]) == _sorted(rows), name


def test_shows_the_lines_of_a_run_on_one_machine(reported: Reported) -> None:
    steps = reported.ended.steps()

    assert [step for step, source in steps if source == "client"] == ["submit", "policy", "executors"]
    for step in ("attest", "release", "decrypt", "compute", "write"):
        assert (step, "driver") in steps, step
    for number in range(1, EXECUTORS + 1):
        assert {step for step, source in steps if source == f"executor-{number}"} >= {"attest", "release"}, number


def test_the_receipt_names_every_tee_and_verifies_offline(reported: Reported) -> None:
    assert len(re.findall(r"TEE \d +driver", reported.verified)) == 1
    assert len(re.findall(r"TEE \d +executor", reported.verified)) == EXECUTORS


def test_what_the_application_printed_reaches_its_recipient_alone(reported: Reported) -> None:
    assert "trips" in reported.printed
    for line in filter(None, map(str.strip, reported.printed.splitlines())):
        assert line not in reported.log + reported.described


def test_every_object_belongs_to_the_drivers_pod(reported: Reported) -> None:
    (driver,) = [each for each in reported.objects if each["kind"] == "Pod" and _component(each) == "driver"]
    owned = [each for each in reported.objects if each is not driver]

    assert {each["kind"] for each in owned} >= {"ConfigMap", "Service"}
    for each in owned:
        owners = each["metadata"]["ownerReferences"]
        assert [owner["uid"] for owner in owners] == [driver["metadata"]["uid"]], each["metadata"]["name"]
    assert all(each["immutable"] for each in owned if each["kind"] == "ConfigMap" and "strongroom-" in _name(each)[:11])


def test_kubectl_shows_whose_run_it_is_and_how_far(reported: Reported) -> None:
    run = reported.ended.run_id

    assert run in reported.described
    assert "report.py" in reported.described
    assert f"strongroom.run={run[:12]}" in reported.described
    assert "strongroom.step=write" in reported.described


def test_no_object_holds_a_secret_or_a_token_of_its_own(team: Team, reported: Reported) -> None:
    for each in reported.objects:
        text = json.dumps(each)
        assert "secretKeyRef" not in text
        assert "_SPARK_AUTH_SECRET" not in text
        assert not re.search(r"spark\.authenticate\.secret(?!\.(driver|executor)\.file=/strongroom/memory/)", text)
        assert '"secret":' not in text
    assert team.cluster.find("secrets", team.runs) == []


def test_deleting_the_drivers_pod_deletes_the_run(reported: Reported) -> None:
    assert {each["kind"] for each in reported.objects} >= {"Pod", "ConfigMap"}
    assert reported.left == []


def test_what_a_run_leaves_is_archived_where_that_is_asked_for(reported: Reported) -> None:
    run = reported.ended.run_id
    assert reported.archived == [f"{run}.output.jwe", f"{run}.receipt.json"]


def test_an_application_of_one_machine_runs_here_under_the_same_approval(reported: Reported) -> None:
    """The digest that was approved says nothing of where it runs: `approve` packed it with no word of the cluster."""
    (driver,) = reported.pods("driver")
    assert driver["metadata"]["annotations"]["strongroom.application-digest"] == reported.approved


@pytest.mark.parametrize(("role", "number"), [("driver", 1), ("executor", EXECUTORS)])
def test_pod_templates_of_ones_own_are_merged(reported: Reported, role: str, number: int) -> None:
    pods = reported.pods(role)

    assert len(pods) == number
    for pod in pods:
        assert pod["metadata"]["labels"]["team"] == "taxis"
        assert pod["spec"]["terminationGracePeriodSeconds"] == 7
        (container,) = pod["spec"]["containers"]
        assert "/extra" in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]


def test_executors_have_no_token_for_the_cluster(reported: Reported) -> None:
    executors = reported.pods("executor")

    assert len(executors) == EXECUTORS
    for executor in executors:
        spec = executor["spec"]
        volumes = json.dumps(spec["volumes"])
        assert spec["automountServiceAccountToken"] is False
        assert "kube-api-access" not in volumes
        assert volumes.count('"audience"') == volumes.count('"strongroom:')


def test_a_prepared_run_is_started_by_somebody_else(team: Team, count: Submission, tmp_path: Path) -> None:
    """With kubectl and a plain spark-submit in the place of an operator."""
    prepared = team.run(count, "--prepare-only", str(tmp_path / "run"))
    assert prepared.status == 0, prepared.text
    assert team.objects_of_runs() == []
    run = re.findall(r"run ([0-9a-f]{32}) prepared", prepared.stdout)[0]

    team.cluster.kubectl("apply", f"--filename={tmp_path / 'run' / 'objects.yaml'}")
    _spark_submit(team, tmp_path / "run")
    name = f"strongroom-{run[:12]}-driver"
    assert team.cluster.ended(name, team.runs, timeout_s=300) == "Succeeded", team.what_happened()
    fetched = team.runs_command("fetch", run)
    assert fetched.status == 0, fetched.text
    assert team.runs_command("stop", run).status == 0
    team.assert_nothing_left_there()


def _spark_submit(team: Team, folder: Path) -> None:
    import subprocess  # noqa: PLC0415 - here alone

    from strongroom.engine.runtime import find_runtime  # noqa: PLC0415

    runtime = find_runtime()
    prefix = "spark.kubernetes.authenticate.submission."
    command = [
        str(runtime.spark_home / "bin" / "spark-submit"),
        *("--master", f"k8s://{team.server}", "--deploy-mode", "cluster"),
        *("--properties-file", str(folder / "spark.properties")),
        *("--conf", f"spark.kubernetes.driver.podTemplateFile={folder / 'driver.yaml'}"),
        *("--conf", f"{prefix}oauthTokenFile={team.account / 'token'}"),
        *("--conf", f"{prefix}caCertFile={team.account / 'ca.crt'}"),
        "local:///strongroom/application.py",
    ]
    environment = {"PATH": "/usr/bin:/bin", "JAVA_HOME": str(runtime.java_home), "HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_application_that_is_not_approved_says_why_and_kubectl_shows_it(
    team: Team, repo_root: Path, tmp_path: Path
) -> None:
    script = tmp_path / "count.py"
    script.write_bytes((repo_root / "examples" / "nyctaxi" / "count.py").read_bytes() + b"\n# changed\n")
    ended = team.run(
        Submission(script=script, arguments=("strongroom://trips",), options=QUICKLY_COMPILED, sizes=SIZES)
    )

    team.assert_clear_end(ended, step=Step.RELEASE, says=["approv"])
    (driver,) = team.pods(role="driver")
    described = team.cluster.describe("pod", driver["metadata"]["name"], team.runs)
    assert re.search(r"Exit Code:\s+70", described)
    assert "approv" in described
    (listed,) = json.loads(team.runs_command("list", "--json").stdout)
    assert listed["state"] == "failed"
    assert "approv" in listed["why"]


def test_a_pod_that_no_node_can_take_ends_the_waiting(team: Team, count: Submission) -> None:
    huge = replace(count, sizes=("--driver-memory", "900g"))
    ended = team.run(huge, "--pending-timeout", "3s")

    team.assert_clear_end(ended, step=Step.EXECUTORS, says=["no node can take the driver's pod", "memory"])
    team.assert_nothing_left_there()


def test_an_image_that_is_not_there_ends_the_waiting(team: Team, count: Submission) -> None:
    image = "localhost/strongroom-none@sha256:" + "0" * 64
    settings = {
        "spark_kubernetes_container_image": image,
        "spark_kubernetes_container_image_pullPolicy": "Never",
    }
    ended = team.run(count, **settings)

    team.assert_clear_end(ended, step=Step.EXECUTORS, says=["its image is not on the node"])
    team.assert_nothing_left_there()


def test_who_may_not_submit_is_told_what_is_missing(team: Team, count: Submission) -> None:
    ended = team.run(count, spark_kubernetes_namespace=team.namespace)

    team.assert_clear_end(ended, step=Step.EXECUTORS, says=["forbidden"])
    assert "strongroom-submitter" in ended.stderr
    assert team.cluster.find("pods", team.namespace, selector="strongroom.run") == []


def test_a_setting_or_template_that_lets_the_host_in_is_refused_before_the_cluster_hears_of_it(
    team: Team, count: Submission, tmp_path: Path
) -> None:
    refused = team.run(count, spark_kubernetes_driverEnv_KEY="x")
    team.assert_clear_end(refused, step=Step.SUBMIT, says=["spark.kubernetes.driverEnv.KEY"])

    template = tmp_path / "driver.yaml"
    template.write_text("kind: Pod\nspec: {hostPID: true, containers: [{name: s, command: [sh]}]}\n")
    refused = team.run(count, spark_kubernetes_driver_podTemplateFile=str(template))
    team.assert_clear_end(refused, step=Step.SUBMIT, says=["spec.hostPID", "spec.containers.command"])
    assert team.objects_of_runs() == []


def _component(each: dict[str, Any]) -> str:
    return str(each["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def _name(each: dict[str, Any]) -> str:
    return str(each["metadata"]["name"])
