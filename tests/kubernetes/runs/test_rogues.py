"""The control plane as attacker beside a run: who else joins, and what it reads. See `test_control_plane.py`."""

import copy
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from tests.support.installation import Ended, Submission
from tests.support.kubernetes.cluster import CommandError
from tests.support.kubernetes.edits import container_of, opened_runs
from tests.support.kubernetes.runs import QUICKLY_COMPILED, ROWS, SIZES, Team
from tests.support.leaks import LeakSearch, summary
from tests.support.needles import Value, needles_of
from tests.support.watched_runs import mark

from strongroom.base.errors import StrongroomError
from strongroom.clients.pinned import PinnedHttp
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.key_service import JOIN_TYP, JoinRequest
from strongroom.wire.receipt import Receipt

pytestmark = pytest.mark.timeout(1200, func_only=True)

REFUSED = "New auth protocol failed"
ACCEPTED = "Successfully registered with driver"
"""What Spark's executor logs of the driver's answer."""

# Everything of the data is printed and written. One task waits until the attacker's executor was heard, and others are
# there for whoever joins.
SHOW = """
import os, sys, time
from pyspark.sql import SparkSession

def wait(rows):
    for _ in range(240):
        if os.path.exists("/data/heard"):
            return rows
        time.sleep(0.5)
    raise TimeoutError("nobody was heard")

spark = SparkSession.builder.getOrCreate()
trips = spark.read.parquet(sys.argv[1])
trips.rdd.repartition(3).mapPartitions(wait).count()
trips.orderBy("total_amount").show(100_000, truncate=False)
trips.write.mode("overwrite").parquet(sys.argv[2])
"""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A run, what the API showed meanwhile, and a pod of the attacker's that tried to join.

    Attributes:
        ended: How it ended.
        rogue: What the attacker's executor told.
        canaries: Values in the data, by what they are.
        printed: What the application printed.
        seen: Every object and log that the API showed, by its place.
    """

    ended: Ended
    rogue: str
    canaries: dict[str, Value]
    printed: str
    seen: dict[str, str]


@pytest.fixture(scope="module")
def beside(team: Team, plain_trips: Path, tmp_path_factory: pytest.TempPathFactory) -> Beside:
    """A run over data with canaries, beside a pod with Spark's own executor and everything that the API shows."""
    folder = tmp_path_factory.mktemp("marked")
    table, canaries = mark(parquet.read_table(plain_trips))
    (folder / "plain").mkdir()
    parquet.write_table(table, folder / "plain" / "trips.parquet")
    team.done("dataset", "create", "marked")
    team.done("dataset", "encrypt", "marked", str(folder / "plain"))
    team.publish("marked")
    script = folder / "show.py"
    script.write_text(SHOW)
    submission = Submission(
        script=script,
        arguments=("strongroom://marked", "strongroom://report/marked"),
        reads=("marked",),
        writes=("report",),
        options=QUICKLY_COMPILED,
        sizes=SIZES,
    )
    team.approve(submission)
    with Watcher(team=team).watching() as watcher, team.under_way(submission, "--num-executors", "1") as run:
        run.wait_for_step("executors")
        (real,) = team.pods(run.run, role="executor")
        rogue = _rogue(real, team.driver_of(run.run))
        team.cluster.create(rogue)
        team.cluster.wait_until(lambda: _heard(team, rogue), "what the attacker's executor tells", 120)
        team.in_loader("touch /data/heard")
        ended = run.ended()
        told = _log_or_nothing(team, team.runs, rogue["metadata"]["name"])
    assert ended.status == 0, ended.text + team.what_happened()
    printed = team.output_of(ended)
    return Beside(ended=ended, rogue=told, canaries=canaries, printed=printed, seen=watcher.seen)


# --- who joins, and when ---------------------------------------------------------------------------------------------


def test_a_rogue_executor_with_the_drivers_labels_gets_no_task(team: Team, beside: Beside, tmp_path: Path) -> None:
    (record,) = Receipt.from_json(team.receipt(beside.ended).read_bytes()).body.records.values()
    assert [member.role for member in record.members] == ["driver", "executor"]
    assert REFUSED in beside.rogue, "it never spoke to the driver"
    assert ACCEPTED not in beside.rogue
    assert len(team.decrypted("report", ["marked"], tmp_path)["marked"]) == ROWS


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


def _heard(team: Team, rogue: dict[str, Any]) -> bool:
    """Whether the driver took the attacker's executor, or that gave up."""
    name = rogue["metadata"]["name"]
    ended = team.cluster.get("pod", name, team.runs)["status"].get("phase") in ("Succeeded", "Failed")
    return ended or ACCEPTED in _log_or_nothing(team, team.runs, name)


def _log_or_nothing(team: Team, namespace: str, name: str, *, container: str = "") -> str:
    try:
        return team.cluster.log(name, namespace, container=container)
    except CommandError:
        return ""


def test_a_pods_evidence_that_is_replayed_gets_no_key(team: Team, beside: Beside) -> None:
    """What the attacker read of a run's evidence, with a key of his own, and with the TEE's words as they were."""
    body = Receipt.from_json(team.receipt(beside.ended).read_bytes()).body
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
    (now,) = [run for run in team.owner().runs()["runs"] if run["run_id"] == beside.ended.run_id]
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

    KINDS = (
        *("pods", "configmaps", "secrets", "services", "networkpolicies", "events", "serviceaccounts"),
        "persistentvolumeclaims",
    )

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
            for kind in self.KINDS:
                for each in self._found(kind, namespace):
                    name, version = each["metadata"]["name"], each["metadata"]["resourceVersion"]
                    self.seen[f"{namespace}/{each['kind']}/{name}@{version}"] = json.dumps(each)
                    if each["kind"] == "Pod":
                        for container in each["spec"]["containers"]:
                            if log := _log_or_nothing(self.team, namespace, name, container=container["name"]):
                                self.seen[f"log of {namespace}/{name}/{container['name']}"] = log

    def _found(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        try:
            return self.team.cluster.find(kind, namespace)
        except CommandError:
            return []


def test_nothing_that_the_api_shows_holds_a_value_or_a_secret(beside: Beside) -> None:
    """Canaries in the data, printed by the application, too; every object and log of the whole run is searched."""
    assert str(beside.canaries["store_and_fwd_flag 0"]) in beside.printed, "the canaries were not even there"
    search = LeakSearch(needle for name, value in beside.canaries.items() for needle in needles_of(name, value))
    assert any("ConfigMap" in place for place in beside.seen)
    assert any(place.startswith("log of") and text for place, text in beside.seen.items())
    leaks = [leak for place, text in beside.seen.items() for leak in search.search(text.encode(), place=place)]
    assert not leaks, summary(leaks)
    for text in beside.seen.values():
        assert "_SPARK_AUTH_SECRET" not in text
        assert "PRIVATE KEY" not in text or "identity" in text  # the owner's services are the owner's own
