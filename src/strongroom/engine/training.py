"""What a Spark process does in its first seconds: run once, while Java records which classes that needs.

Submitted by `build` as an ordinary script; its argument is a folder in scratch. One JVM plays every role (driver,
master, worker and executor), so that one cache serves them all. It also records how often methods run and with what, so
that they are compiled early: messages between processes and Parquet's modules are encrypted from the first one on.
"""

import sys
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody uses

_ROWS = 20_000
_MESSAGES_OF_JOBS = 30
_TASKS = 2_000
_MODULES = 300
_MODULE_BYTES = 16 << 10
_POD = '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "x"}]}}'
_OTHER_ROLES = (
    "org.apache.spark.deploy.worker.ExecutorRunner",
    "org.apache.spark.executor.CoarseGrainedExecutorBackend",
    "org.apache.spark.scheduler.cluster.StandaloneSchedulerBackend",
    "org.apache.spark.deploy.worker.WorkerWatcher",
    "org.apache.spark.scheduler.cluster.k8s.KubernetesClusterManager",
    "org.apache.spark.scheduler.cluster.k8s.KubernetesClusterSchedulerBackend",
    "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
    "org.apache.spark.scheduler.cluster.k8s.ExecutorPodsAllocator",
    "org.apache.parquet.crypto.InternalFileEncryptor",
    "org.apache.parquet.crypto.InternalFileDecryptor",
    "org.apache.parquet.crypto.AesGcmEncryptor",
    "org.apache.parquet.crypto.AesGcmDecryptor",
    "org.apache.parquet.crypto.AesCtrEncryptor",
    "org.apache.parquet.crypto.AesCtrDecryptor",
    "org.apache.parquet.format.FileCryptoMetaData",
    "strongroom.Agent",
    "strongroom.CommitProtocol",
    "strongroom.CryptoFactory",
    "strongroom.Guard",
    "strongroom.KeySocket",
    "strongroom.NewFiles",
    "strongroom.SealedInput",
    "strongroom.SealedOutput",
    "strongroom.StrongroomFileSystem",
)


def train(folder: Path) -> None:
    """Run the operators of a typical first job, in one process and over a small cluster.

    Args:
        folder: Where to write; in scratch.
    """
    session = SparkSession.builder.master("local[2]").getOrCreate()
    _work(session, str(folder / "table"))
    session.stop()
    session = (
        SparkSession.builder.master("local-cluster[1,1,512]").config("spark.executor.memory", "512m").getOrCreate()
    )
    for _ in range(_MESSAGES_OF_JOBS):
        session.read.parquet(str(folder / "table")).groupBy("zone").count().collect()
    _send_messages(session)
    _encrypt_modules(session)
    _load_other_roles(session)
    _use_kubernetes(session)
    session.stop()


def _work(session: SparkSession, path: str) -> None:
    rows = session.range(_ROWS, numPartitions=2).selectExpr("id", "id * 1.5 AS fare", "CAST(id % 5 AS STRING) AS zone")
    rows.write.mode("overwrite").parquet(path)
    rows.write.mode("append").partitionBy("zone").parquet(path + "-by-zone")
    read = session.read.parquet(path)
    read.count()
    names = session.createDataFrame([("0", "north"), ("1", "south")], ["zone", "name"])
    double = F.udf(lambda fare: fare * 2, "double")
    grouped: DataFrame = (
        read.join(names, "zone", "left")
        .groupBy("zone", "name")
        .agg(F.count("*").alias("trips"), F.sum(double("fare")), F.sum(F.col("fare").cast("decimal(20,2)")))
        .orderBy("trips", ascending=False)
    )
    grouped.collect()
    grouped.coalesce(1).write.mode("overwrite").parquet(path + "-report")
    read.repartition(3, "zone").sortWithinPartitions("fare").agg(F.expr("percentile(fare, 0.5)")).collect()
    session.sql("SELECT month(DATE'2019-01-02'), hour(TIMESTAMP'2019-01-02 03:04:05')").collect()
    session.sparkContext.parallelize([1, 2, 3]).map(str).collect()


def _send_messages(session: SparkSession) -> None:
    """Have many messages encrypted: each task is one to an executor, and two back."""
    session.sparkContext.parallelize(range(_TASKS), _TASKS)._jrdd.count()  # noqa: SLF001 - counted in Java, without Python


def _encrypt_modules(session: SparkSession) -> None:
    """Encrypt and decrypt as Parquet does: each page of a column is a module."""
    jvm = session.sparkContext._jvm  # noqa: SLF001 - the way to Java that PySpark has
    assert jvm is not None
    parquet = jvm.org.apache.parquet.crypto
    key, page, context = bytes(range(32)), bytes(_MODULE_BYTES), b"context"
    encryptor = parquet.ModuleCipherFactory.getEncryptor(parquet.AesMode.GCM, key)
    decryptor = parquet.ModuleCipherFactory.getDecryptor(parquet.AesMode.GCM, key)
    for _ in range(_MODULES):
        decryptor.decrypt(encryptor.encrypt(page, context), context)


def _load_other_roles(session: SparkSession) -> None:
    jvm = session.sparkContext._jvm  # noqa: SLF001 - the way to Java that PySpark has
    assert jvm is not None
    for name in _OTHER_ROLES:
        jvm.java.lang.Class.forName(name)


def _use_kubernetes(session: SparkSession) -> None:
    """Do what the driver does before it makes an executor's pod; no cluster is asked for anything."""
    jvm = session.sparkContext._jvm  # noqa: SLF001 - the way to Java that PySpark has
    assert jvm is not None
    kubernetes = jvm.io.fabric8.kubernetes
    client = kubernetes.client.KubernetesClientBuilder().build()
    pod = kubernetes.client.utils.Serialization.unmarshal(_POD)
    kubernetes.client.utils.Serialization.asJson(kubernetes.api.model.PodBuilder(pod).build())
    client.close()


if __name__ == "__main__":
    train(Path(sys.argv[1]))
