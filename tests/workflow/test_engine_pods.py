"""Step 7: Spark's executor for pods, started as an executor's agent starts it, beside a real driver.

The driver here is a standalone cluster's: to Spark, an executor that registers with it is one like any other.
"""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import Cluster, running_cluster

from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret
from strongroom.engine.cluster import PodExecutor
from strongroom.engine.node import Child, ProtectedNode
from strongroom.engine.settings import STANDALONE
from strongroom.engine.spark import start_pod_executor

pytestmark = pytest.mark.xdist_group("spark")

REGISTERED = "Successfully registered with driver"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("storage")) as cluster:
        cluster.add_dataset("trips")
        cluster.run('spark.range(1000).write.parquet("strongroom://trips")')
        yield cluster


class PodNode:
    """The TEE of an executor's pod."""

    def __init__(self, cluster: Cluster, *, secret: SecretBytes | None = None) -> None:
        assert isinstance(cluster.worker_node, ProtectedNode)
        self.scratch = Path(tempfile.mkdtemp(prefix="sr-", dir="/dev/shm"))
        node = dataclasses.replace(
            cluster.worker_node, scratch=self.scratch, secret=secret or cluster.worker_node.secret
        )
        port = cluster.run('result = spark.sparkContext.getConf().get("spark.driver.port")')
        executor = PodExecutor(
            driver_url=f"spark://CoarseGrainedScheduler@127.0.0.1:{port}",
            executor_id="100",
            cores="2",
            memory="800m",
            application_id=cluster.run("result = spark.sparkContext.applicationId"),
            resource_profile_id="0",
            pod_ip="127.0.0.1",
            pod_name="report-exec-100",
        )
        self.child: Child = start_pod_executor(node, executor, scheduling=STANDALONE, settings={})

    @property
    def log(self) -> str:
        files = [self.scratch / "log" / name for name in ("executor.log", "executor.out")]
        return "\n".join(file.read_text() for file in files if file.is_file())

    def end(self) -> None:
        self.child.kill()
        shutil.rmtree(self.scratch)


def test_an_executor_of_a_pod_computes_on_the_runs_data(cluster: Cluster) -> None:
    pod = PodNode(cluster)
    try:
        cluster.worker.kill()  # whatever is computed from here on, the pod's executor computes
        query = 'spark.read.parquet("strongroom://trips").repartition(3).selectExpr("sum(id)").first()[0]'
        assert cluster.run(f"result = {query}") == 499500, pod.log
        assert cluster.run("result = spark.sparkContext.parallelize(range(9), 3).map(lambda x: x * x).sum()") == 204
        assert REGISTERED in pod.log
    finally:
        pod.end()


def test_an_executor_without_the_secret_is_not_let_in(cluster: Cluster) -> None:
    pod = PodNode(cluster, secret=random_secret())
    try:
        assert pod.child.wait(120) != 0
        # Why is not always said: a client is interrupted where the driver closes its connection first.
        assert "AuthClientBootstrap.doBootstrap" in pod.log, "it failed somewhere else"
        assert "Exception while bootstrapping client" in pod.log
        assert REGISTERED not in pod.log
    finally:
        pod.end()
