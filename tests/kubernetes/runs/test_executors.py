"""Executors that are lost, evicted or starved, and that come and go with the work."""

import json
import re
import time
from pathlib import Path

import pytest
from tests.support.installation import Submission
from tests.support.kubernetes.runs import QUICKLY_COMPILED, ROWS, SIZES, SLOW_PARTITIONS, Team, counts_of

pytestmark = pytest.mark.timeout(1200, func_only=True)

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
# First work for many, then for one, until executors have gone.
WAVES = """
import sys, time
from pyspark.sql import SparkSession

def slowly(rows):
    time.sleep(2)
    yield (sum(1 for _ in rows),)

spark = SparkSession.builder.getOrCreate()
trips = spark.read.parquet(sys.argv[1]).select("pickup_location_id").rdd
total = 0
for partitions in (6, 1):
    total += sum(n for (n,) in trips.repartition(partitions).mapPartitions(slowly).collect())
storages = spark.sparkContext._jsc.sc().getExecutorMemoryStatus  # the driver's and each executor's
deadline = time.monotonic() + 60
while storages().size() > 2 and time.monotonic() < deadline:
    time.sleep(0.5)
print("counted", total)
print("executors left:", storages().size() - 1)
"""


def approved(team: Team, folder: Path, script: str, *arguments: str, writes: tuple[str, ...] = ()) -> Submission:
    path = folder / "application.py"
    path.write_text(script)
    submission = Submission(
        script=path,
        arguments=("strongroom://trips", *arguments),
        writes=writes,
        options=QUICKLY_COMPILED,
        sizes=SIZES,
    )
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
    assert (len(counts), sum(counts)) == (SLOW_PARTITIONS, ROWS)
    verified = team.done("receipt", "verify", str(team.receipt(ended)))
    assert len(re.findall(r"TEE \d +executor", verified)) == 4, "the receipt names every executor that joined"


def test_an_executor_without_enough_memory_says_so_and_is_replaced(team: Team, tmp_path: Path) -> None:
    hungry = approved(team, tmp_path, HUNGRY, "strongroom://report/hungry", writes=("report",))
    ended = team.run_well(hungry, "--num-executors", "1")

    assert "used more memory than its limit" in ended.stdout
    counts = counts_of(team, "hungry", tmp_path)
    assert sum(counts) == ROWS


def test_executors_come_and_go_with_the_work(team: Team, tmp_path: Path) -> None:
    waves = approved(team, tmp_path, WAVES)
    settings = {
        "spark_dynamicAllocation_enabled": "true",
        "spark_dynamicAllocation_minExecutors": "1",
        "spark_dynamicAllocation_maxExecutors": "3",
        "spark_dynamicAllocation_executorIdleTimeout": "3s",
        "spark_dynamicAllocation_schedulerBacklogTimeout": "1s",
        "spark_dynamicAllocation_shuffleTracking_timeout": "3s",  # what they shuffled is not needed again
    }
    most = 0
    with team.under_way(waves, **settings) as run:
        while run.process.poll() is None:
            most = max(most, len(team.running(run.run)))
            time.sleep(0.5)
        ended = run.ended()

    assert ended.status == 0, ended.text + team.what_happened()
    assert "executors that were lost" not in ended.stdout
    printed = team.output_of(ended)
    assert f"counted {2 * ROWS}" in printed
    assert most >= 2
    assert "executors left: 1" in printed, "none was let go, or all of them were"
