"""Steps 6 to 8 in Spark itself: datasets are read, computed on and written through the key socket."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support.engine import Cluster, SparkRefusalError, running_cluster
from tests.support.key_socket_server import Dataset

from strongroom.engine.build import compile_jar
from strongroom.engine.runtime import find_runtime

PLAIN_FACTORY = """
package plain;

public class PlainFactory implements org.apache.parquet.crypto.EncryptionPropertiesFactory {
  public org.apache.parquet.crypto.FileEncryptionProperties getFileEncryptionProperties(
      org.apache.hadoop.conf.Configuration conf, org.apache.hadoop.fs.Path path,
      org.apache.parquet.hadoop.api.WriteSupport.WriteContext context) {
    new strongroom.CryptoFactory().getFileEncryptionProperties(conf, path, context);
    return null;
  }
}
"""

pytestmark = pytest.mark.xdist_group("spark")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("storage")) as cluster:
        cluster.run(
            """
            numbers = spark.range(1000, numPartitions=2)
            rows = numbers.selectExpr("id", "id * 1.5D AS fare", "CAST(id % 4 AS STRING) AS zone")
            """
        )
        yield cluster


@pytest.fixture
def dataset(cluster: Cluster, request: pytest.FixtureRequest) -> Dataset:
    return cluster.add_dataset("d" + str(abs(hash(request.node.name)) % 10**6))


def files_of(dataset: Dataset) -> list[Path]:
    return [dataset.location(path) for path in sorted(dataset.view)]


def test_what_is_written_is_read_back_and_computed_on(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    result = cluster.run(
        f"""
        double = F.udf(lambda fare: fare * 2, "double")
        read = spark.read.parquet("strongroom://{dataset.name}")
        grouped = read.groupBy("zone").agg(F.count("*"), F.sum(double("fare"))).orderBy("zone")
        result = [list(row) for row in grouped.collect()]
        """
    )
    expected = [[str(zone), 250, sum(3.0 * i for i in range(zone, 1000, 4))] for zone in range(4)]
    assert result == expected


def test_storage_holds_encrypted_parquet_only(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    stored = [path for path in dataset.folder.rglob("*") if path.is_file()]
    assert sorted(stored) == files_of(dataset)
    assert all(path.read_bytes()[:4] == b"PARE" == path.read_bytes()[-4:] for path in stored)


def test_lengths_and_names_come_from_the_tasks(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    assert len(dataset.view) == 2
    for path, record in dataset.view.items():
        assert record.length_bytes == dataset.location(path).stat().st_size
        assert record.file_id in path


def test_an_owners_tool_reads_what_spark_wrote(cluster: Cluster, dataset: Dataset) -> None:
    import pyarrow.parquet.encryption as pe  # noqa: PLC0415 - only here

    cluster.run(f'rows.coalesce(1).write.parquet("strongroom://{dataset.name}")')
    ((path, record),) = dataset.view.items()
    properties = pe.create_decryption_properties(footer_key=record.key(), aad_prefix=record.aad_prefix())
    table = pq.read_table(dataset.location(path), decryption_properties=properties, partitioning=None)
    assert table["id"].to_pylist() == list(range(1000))


def test_append_keeps_what_was_there(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    cluster.run(f'rows.write.mode("append").parquet("strongroom://{dataset.name}/")')
    assert cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}").count()') == 2000


def test_overwriting_a_whole_dataset_replaces_it(cluster: Cluster, dataset: Dataset) -> None:
    for limit in (1000, 10):
        cluster.run(f'rows.limit({limit}).write.mode("overwrite").parquet("strongroom://{dataset.name}")')
    assert cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}").count()') == 10


def test_overwriting_a_folder_leaves_the_others(cluster: Cluster, dataset: Dataset) -> None:
    for folder, limit in (("a", 1000), ("b", 20), ("a", 10)):
        cluster.run(f'rows.limit({limit}).write.mode("overwrite").parquet("strongroom://{dataset.name}/{folder}")')
    counted = [
        cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}/{folder}").count()') for folder in "ab"
    ]
    assert counted == [10, 20]


def test_a_dataset_that_has_rows_is_not_written_again_by_default(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    with pytest.raises(SparkRefusalError, match="already exists"):
        cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')


def test_a_failed_overwrite_leaves_the_dataset_as_it_was(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}/t")')
    with pytest.raises(SparkRefusalError, match="zone seven"):
        cluster.run(
            f"""
            bad = rows.withColumn("zone", F.expr("IF(id = 777, raise_error('zone seven'), zone)"))
            bad.write.mode("overwrite").parquet("strongroom://{dataset.name}/t")
            """
        )
    assert cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}/t").count()') == 1000


def test_partitions_are_pruned_and_replaced_one_by_one(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.partitionBy("zone").parquet("strongroom://{dataset.name}")')
    cluster.run(
        f"""
        few = rows.where("zone = '1'").limit(7)
        dynamic = few.write.mode("overwrite").option("partitionOverwriteMode", "dynamic").partitionBy("zone")
        dynamic.parquet("strongroom://{dataset.name}")
        """
    )
    result = cluster.run(
        f"""
        read = spark.read.parquet("strongroom://{dataset.name}")
        result = [list(row) for row in read.groupBy("zone").count().orderBy("zone").collect()]
        """
    )
    assert result == [[0, 250], [1, 7], [2, 250], [3, 250]]


def test_many_partitions_are_listed_by_the_driver(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(
        f"""
        many = spark.range(200).selectExpr("id", "concat('z/%', id % 50) AS zone").coalesce(1)
        many.write.partitionBy("zone").parquet("strongroom://{dataset.name}")
        """
    )
    assert len(dataset.view) == 50
    result = cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}").where("zone = \'z/%7\'").count()')
    assert result == 4


@pytest.mark.parametrize(
    "source",
    [
        'spark.read.text("{url}").count()',
        'spark.read.csv("{url}").count()',
        'spark.read.orc("{url}").count()',
        'spark.read.format("binaryFile").load("{url}").select("content").collect()',
        'spark.sparkContext.textFile("{url}").count()',
    ],
)
def test_other_formats_are_not_read_from_a_protected_dataset(cluster: Cluster, dataset: Dataset, source: str) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    with pytest.raises(SparkRefusalError, match="can only be read as Parquet"):
        cluster.run(source.format(url=f"strongroom://{dataset.name}"))


@pytest.mark.parametrize(
    "source",
    [
        'rows.write.csv("{url}")',
        'rows.write.orc("{url}")',
        'rows.selectExpr("zone").write.text("{url}")',
        'rows.rdd.map(str).saveAsTextFile("{url}")',
    ],
)
def test_other_formats_are_not_written_to_a_protected_dataset(cluster: Cluster, dataset: Dataset, source: str) -> None:
    with pytest.raises(SparkRefusalError, match="can only be written as Parquet"):
        cluster.run(source.format(url=f"strongroom://{dataset.name}/out"))
    assert dataset.view == {}
    assert not any(path.is_file() for path in dataset.folder.rglob("*"))


def test_a_write_that_asks_for_no_key_is_refused(cluster: Cluster, dataset: Dataset) -> None:
    factory = "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory"
    with pytest.raises(SparkRefusalError, match="cannot be written this way"):
        cluster.run(
            f'rows.write.option("parquet.crypto.factory.class", "{factory}").parquet("strongroom://{dataset.name}")'
        )
    assert dataset.view == {}


def test_a_write_that_asks_for_a_key_and_does_not_use_it_is_refused(
    cluster: Cluster, dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "PlainFactory.java").write_text(PLAIN_FACTORY)
    compile_jar(tmp_path, tmp_path / "plain.jar", class_path=[find_runtime().jar])
    cluster.run(f'spark._jsc.addJar("file://{tmp_path}/plain.jar")')
    with pytest.raises(SparkRefusalError, match="would be written without encryption"):
        cluster.run(
            f'rows.write.option("parquet.crypto.factory.class", "plain.PlainFactory").parquet("strongroom://{dataset.name}")'
        )
    assert dataset.view == {}


def test_parquet_outside_of_scratch_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(SparkRefusalError, match="outside the protected scratch"):
        cluster.run(f'rows.write.parquet("file://{tmp_path}/plain")')
    assert not any(path.is_file() for path in tmp_path.rglob("*.parquet"))


def test_parquet_inside_of_scratch_is_allowed(cluster: Cluster) -> None:
    path = cluster.driver_node.scratch / "tmp" / "plain"
    result = cluster.run(
        f"""
        local = spark.range(5).coalesce(1)
        local.toPandas().to_parquet("{path}.parquet")
        result = spark._jvm.org.apache.parquet.hadoop.ParquetFileReader.open(
            spark._jsc.hadoopConfiguration(), spark._jvm.org.apache.hadoop.fs.Path("file://{path}.parquet")
        ).getRecordCount()
        """
    )
    assert result == 5


def test_an_unbound_dataset_is_refused_by_name(cluster: Cluster) -> None:
    with pytest.raises(
        SparkRefusalError, match=r"the dataset nowhere is not bound to this application\. Ask the owner"
    ):
        cluster.run('spark.read.parquet("strongroom://nowhere").count()')


def test_a_dataset_bound_for_reading_is_not_written(cluster: Cluster) -> None:
    cluster.add_dataset("readonly", access="read")
    with pytest.raises(SparkRefusalError, match="bound for reading only"):
        cluster.run('rows.write.parquet("strongroom://readonly")')


def test_executors_never_list_or_commit(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}")')
    cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}").count()')
    assert not {"list", "commit", "remove"} & set(cluster.worker_socket.asked)
    assert not {"create", "encryption"} & set(cluster.driver_socket.asked)


def test_a_process_asks_once_for_each_file(cluster: Cluster, dataset: Dataset) -> None:
    cluster.run(f'rows.repartition(3).write.parquet("strongroom://{dataset.name}")')
    files = len(dataset.view)
    asked = len(cluster.worker_socket.asked)
    for _ in range(3):
        cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}").count()')
    questions = cluster.worker_socket.asked[asked:]
    assert questions.count("open") == questions.count("decryption") == files == 3


def test_a_dataset_is_listed_once_until_this_process_changes_it(cluster: Cluster, dataset: Dataset) -> None:
    def count() -> int:
        found: int = cluster.run(f'result = spark.read.parquet("strongroom://{dataset.name}/*").count()')
        return found

    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}/a")')
    first = count()
    asked = len(cluster.driver_socket.asked)
    assert count() == first
    assert "list" not in cluster.driver_socket.asked[asked:]

    cluster.run(f'rows.write.parquet("strongroom://{dataset.name}/b")')
    assert count() == 2 * first
    cluster.run(f"""
        path = spark._jvm.org.apache.hadoop.fs.Path("strongroom://{dataset.name}/a")
        files = path.getFileSystem(spark._jsc.hadoopConfiguration())
        assert files.exists(path)
        assert files.delete(path, True)
        assert not files.exists(path)
    """)
    assert count() == first
