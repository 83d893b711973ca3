"""What a run lives through: lost, evicted and starved executors, an API server that is away, a submitter that dies."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
from tests.support.installation import Submission
from tests.support.kubernetes.cluster import LocalCluster
from tests.support.kubernetes.runs import SIZES, Team, counts_of

from strongroom.base.workflow import Step

pytestmark = pytest.mark.timeout(1200, func_only=True)

PARTITIONS, ROWS = 24, 20_000

# One task writes more to scratch than its pod has memory, the first time it is tried. Nothing is shuffled: the whole
# stage would be tried again.
HUNGRY = """
import sys, tempfile
from pyspark import TaskContext
from pyspark.sql import SparkSession

def counted(rows):
    context = TaskContext.get()
    if context.partitionId() == context.attemptNumber() == 0:
        with tempfile.TemporaryFile() as file:
            for _ in range(4096):
                file.write(b"x" * (1 << 20))
    yield (sum(1 for _ in rows),)

spark = SparkSession.builder.getOrCreate()
trips = spark.read.parquet(sys.argv[1]).select("pickup_location_id").rdd
trips.mapPartitions(counted).toDF("trips int").write.mode("overwrite").parquet(sys.argv[2])
"""
# First work for many, then for one, then for many again; so executors come and go.
WAVES = """
import sys, time
from pyspark.sql import SparkSession

def slowly(rows):
    time.sleep(2)
    yield (sum(1 for _ in rows),)

spark = SparkSession.builder.getOrCreate()
trips = spark.read.parquet(sys.argv[1]).select("pickup_location_id").rdd
total = 0
for partitions in (6, 1, 6):
    total += sum(n for (n,) in trips.repartition(partitions).mapPartitions(slowly).collect())
    if partitions == 1:
        time.sleep(12)
print("counted", total)
"""


def approved(team: Team, folder: Path, script: str, *arguments: str, writes: tuple[str, ...] = ()) -> Submission:
    path = folder / "application.py"
    path.write_text(script)
    submission = Submission(script=path, arguments=("strongroom://trips", *arguments), writes=writes, sizes=SIZES)
    team.approve(submission)
    return submission


def test_deleted_and_evicted_executors_are_replaced_by_newly_attested_ones(
    team: Team, slow: Submission, tmp_path: Path
) -> None:
    with team.under_way(slow, "--num-executors", "2", executors=2) as run:
        run.wait_for_step("executors", executors=2)
        first, second = team.running(run.run)
        team.cluster.delete("pod", first, team.runs, wait=False)
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": second, "namespace": team.runs},
        }
        team.cluster.kubectl(
            *("create", "--filename=-", f"--raw=/api/v1/namespaces/{team.runs}/pods/{second}/eviction"),
            stdin=json.dumps(eviction),
        )
        ended = run.ended()

    assert ended.status == 0, ended.text + team.what_happened()
    assert "executors that were lost and replaced: 2" in ended.stdout
    assert {source for step, source in ended.steps() if step == "attest"} >= {"executor-3", "executor-4"}
    counts = counts_of(team, "slow", tmp_path)
    assert (len(counts), sum(counts)) == (PARTITIONS, ROWS)
    verified = team.done("receipt", "verify", str(team.receipt(ended)))
    assert len(re.findall(r"TEE \d +executor", verified)) == 4, "the receipt names every executor that joined"


def test_an_executor_without_enough_memory_says_so_and_is_replaced(team: Team, tmp_path: Path) -> None:
    hungry = approved(team, tmp_path, HUNGRY, "strongroom://report/hungry", writes=("report",))
    ended = team.run_well(hungry, "--num-executors", "1")

    assert "used more memory than its limit" in ended.stdout
    counts = counts_of(team, "hungry", tmp_path)
    assert sum(counts) == ROWS


def test_an_api_server_that_restarts_in_the_middle_costs_nothing(
    team: Team, slow: Submission, local_cluster: LocalCluster, tmp_path: Path
) -> None:
    with team.under_way(slow) as run:
        run.wait_for_step("executors")
        local_cluster.restart("kube-apiserver")
        ended = run.ended()

    assert ended.status == 0, ended.text + team.what_happened()
    assert len(ended.steps()) == len(set(ended.steps())) or ended.stdout.count("application ended") == 1
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS


@pytest.mark.parametrize("service", ["key-service", "attestation-service"])
def test_a_service_that_restarts_in_the_middle_costs_nothing(
    team: Team, slow: Submission, service: str, tmp_path: Path
) -> None:
    with team.under_way(slow) as run:
        run.wait_for_step("executors")
        before = team.cluster.get("pod", f"{service}-0", team.namespace)["metadata"]["uid"]
        team.cluster.delete("pod", f"{service}-0", team.namespace)
        ended = run.ended()
    team.wait_ready(service)
    team.cluster.wait_until(team.reaches_services, "the way to the services", 60)

    assert ended.status == 0, ended.text + team.what_happened()
    assert team.cluster.get("pod", f"{service}-0", team.namespace)["metadata"]["uid"] != before
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS


def test_executors_come_and_go_with_the_work(team: Team, tmp_path: Path) -> None:
    waves = approved(team, tmp_path, WAVES)
    settings = {
        "spark_dynamicAllocation_enabled": "true",
        "spark_dynamicAllocation_minExecutors": "1",
        "spark_dynamicAllocation_maxExecutors": "3",
        "spark_dynamicAllocation_executorIdleTimeout": "3s",
        "spark_dynamicAllocation_schedulerBacklogTimeout": "1s",
    }
    seen: list[int] = []
    with team.under_way(waves, **settings) as run:
        while run.process.poll() is None:
            seen.append(len(team.running(run.run)))
            time.sleep(0.5)
        ended = run.ended()

    assert ended.status == 0, ended.text + team.what_happened()
    assert "executors that were lost" not in ended.stdout
    assert f"counted {3 * ROWS}" in team.output_of(ended)
    most = max(seen)
    assert most >= 2, seen
    assert any(later < most for later in seen[seen.index(most) :]), f"none was let go: {seen}"


def test_a_run_goes_on_without_the_command_that_submitted_it(team: Team, slow: Submission, tmp_path: Path) -> None:
    with team.under_way(slow) as run:
        run.wait_for_step("executors")
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
    driver = team.driver_of(run.run)["metadata"]["name"]
    assert team.cluster.ended(driver, team.runs, timeout_s=300) == "Succeeded", team.what_happened()

    fetched = team.runs_command("fetch", run.run)
    assert fetched.status == 0, fetched.text
    assert sum(counts_of(team, "slow", tmp_path)) == ROWS


@pytest.mark.parametrize("how", ["Ctrl-C", "stop", "kubectl"])
def test_a_run_that_is_stopped_leaves_nothing(team: Team, slow: Submission, how: str) -> None:
    with team.no_new_version("report"), team.under_way(slow) as run:
        run.wait_for_step("executors")
        match how:
            case "Ctrl-C":
                run.process.send_signal(signal.SIGINT)
            case "stop":
                stopped = team.runs_command("stop", run.run[:8])
                assert stopped.status == 0, stopped.text
            case _:
                team.cluster.delete("pod", team.driver_of(run.run)["metadata"]["name"], team.runs, wait=False)
        ended = run.ended(120)

    if how == "Ctrl-C":
        assert ended.status == 130, ended.text
        assert "interrupted" in ended.stderr
    else:
        assert "was ended by SIGTERM" in ended.stdout, ended.text
        team.assert_clear_end(ended, step=None, says=[], status=128 + signal.SIGTERM)
    team.assert_nothing_left_there()


def test_a_driver_that_is_killed_ends_the_run_and_says_so(
    team: Team, slow: Submission, local_cluster: LocalCluster
) -> None:
    with team.no_new_version("report"), team.under_way(slow) as run:
        run.wait_for_step("executors")
        driver = team.driver_of(run.run)["metadata"]["name"]
        local_cluster.kill(driver, team.runs)
        ended = run.ended(180)

    team.assert_clear_end(ended, step=Step.COMPUTE, says=["the driver's pod was ended from outside"])
    team.cluster.wait_until(lambda: team.running(run.run) == [], "the end of its executors", 60)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_submitter_that_is_killed_early_starts_nothing(team: Team, count: Submission, when: str) -> None:
    """Before the driver's pod is there, nothing is; after it, a pod that is placed nowhere, until it is swept."""
    with team.started(*team.submit_line(count)) as process:
        if when == "before":
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("step 2"):
                    break
        else:
            team.cluster.wait_until(lambda: team.pods(role="driver"), "the driver's pod", 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(2)

    if when == "before":
        assert team.objects_of_runs() == []
        return
    for pod in team.pods():
        gated = any(gate["name"] == "strongroom.run/submitted" for gate in pod["spec"].get("schedulingGates") or [])
        assert gated or pod["spec"].get("nodeName"), "neither waiting for its submitter nor placed"
        if gated:
            (listed,) = json.loads(team.runs_command("list", "--json").stdout)
            assert listed["state"] == "abandoned"
            assert team.runs_command("stop", listed["run_id"]).status == 0
            team.assert_nothing_left_there()
