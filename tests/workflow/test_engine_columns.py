"""Columns with keys of their own in Spark: what it writes pyarrow reads and the reverse, and only what was released."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest
from tests.support.engine import Cluster, SparkRefusalError, running_cluster

from strongroom.agent.key_socket import BoundDataset
from strongroom.crypto.random import random_id, random_secret
from strongroom.datasets.column_encryption import open_file
from strongroom.datasets.identity import ColumnKey, DatasetWrite
from strongroom.datasets.manifest import Manifest
from strongroom.datasets.parquet import encrypt_parquet, read_table
from strongroom.datasets.storage import Storage
from strongroom.datasets.view import DatasetView
from strongroom.wire.manifest import FileEntry, ManifestHeader

pytestmark = pytest.mark.xdist_group("spark")

CANARY = "very-distinctive-value"
ROWS = 1000
COLUMNS = ["ssn", "iban", "id", "address"]
PLAIN = pa.table(
    {
        "id": pa.array(range(ROWS), pa.int64()),
        "iban": [f"{CANARY}-{n}" for n in range(ROWS)],
        "ssn": pa.array([n * 7 for n in range(ROWS)], pa.int64()),
        "address": [{"street": f"s{n}", "tags": [str(n)]} for n in range(ROWS)],
    }
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("storage")) as cluster:
        cluster.run(
            f"""
            people = spark.range({ROWS}, numPartitions=2).selectExpr(
                "id", "concat('{CANARY}-', id) AS IBAN", "id * 7 AS ssn",
                "named_struct('street', concat('s', id), 'tags', array(CAST(id AS STRING))) AS address")
            """
        )
        yield cluster


def new_write(*columns: str) -> DatasetWrite:
    keys = {column: ColumnKey(key=random_secret(), wrapped="AAAA") for column in columns}
    return DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None, columns=keys)


def manifest_of(name: str, write: DatasetWrite, files: tuple[FileEntry, ...]) -> Manifest:
    header = ManifestHeader(
        dataset=name,
        key_service="5e" * 32,
        number=1,
        previous=None,
        write_keys={write.write_id: write.wrapped},
        sealed_by=write.write_id,
        column_keys={column: {write.write_id: each.wrapped} for column, each in write.columns.items()},
    )
    return Manifest(header=header, digest="00" * 32, files=files)


def bind(
    cluster: Cluster,
    name: str,
    write: DatasetWrite,
    *,
    access: Literal["read", "write"],
    manifest: Manifest | None = None,
    released: tuple[str, ...] = (),
) -> BoundDataset:
    bound = BoundDataset(
        name=name,
        access=access,
        location=(cluster.storage / name).as_uri(),
        view=DatasetView(manifest, write_id=write.write_id if access == "write" else None),
        write_keys={write.write_id: write.key} if manifest else {},
        write=write if access == "write" else None,
        column_keys={column: {write.write_id: write.columns[column].key} for column in released},
    )
    cluster.datasets[name] = bound
    return bound


def encrypted_by_the_owner(cluster: Cluster, name: str, *released: str) -> DatasetWrite:
    """Encrypt with pyarrow; the application may read, with the keys of some columns."""
    write = new_write("iban", "ssn", "address")
    location = (cluster.storage / name).as_uri()
    table = PLAIN.select(COLUMNS)  # the first column is one that has a key: readers look at it for other reasons too
    files = encrypt_parquet([table], location=location, dataset=name, write=write, rows_per_file=ROWS // 2)
    bind(cluster, name, write, access="read", manifest=manifest_of(name, write, files), released=released)
    return write


def test_pyarrow_reads_what_spark_wrote(cluster: Cluster) -> None:
    write = new_write("iban", "ssn", "address")
    bound = bind(cluster, "written", write, access="write")
    cluster.run('people.write.parquet("strongroom://written")')
    manifest = manifest_of("written", write, bound.view.next_files())
    assert len(manifest.files) == 2
    opened = {column: {write.write_id: each.key} for column, each in write.columns.items()}
    found = read_table(manifest, location=bound.location, write_keys={write.write_id: write.key}, column_keys=opened)
    rows = sorted(found.rename_columns(["id", "iban", "ssn", "address"]).to_pylist(), key=lambda row: row["id"])
    assert rows == PLAIN.to_pylist()
    for entry in manifest.files:
        data = Storage(bound.location).path(f"{entry.write_id}/{entry.path}").read_bytes()
        assert data[:4] == b"PARE" == data[-4:]
        assert CANARY.encode() not in data
        keys = write.file_keys(entry.file_id, dataset="written")
        assert open_file(keys, data, columns=["IBAN"]).num_rows == ROWS // 2


def test_a_run_reads_what_it_wrote_itself(cluster: Cluster) -> None:
    bind(cluster, "own", new_write("iban"), access="write")
    cluster.run('people.write.parquet("strongroom://own")')
    assert cluster.run('result = spark.read.parquet("strongroom://own").where("iban LIKE \'%-7\'").count()') == 1


def test_spark_reads_what_pyarrow_wrote_as_far_as_columns_were_released(cluster: Cluster) -> None:
    encrypted_by_the_owner(cluster, "clients", "iban")
    found = cluster.run(
        """
        rows = spark.read.parquet("strongroom://clients")
        result = [list(row) for row in rows.select("id", "iban").where("iban IS NOT NULL").orderBy("id").collect()]
        """
    )
    assert found == [[n, f"{CANARY}-{n}"] for n in range(ROWS)]
    assert cluster.run("result = rows.count()") == ROWS
    assert cluster.run("result = rows.columns") == COLUMNS
    for column, wanted in (("ssn", "ssn"), ("address", "address.street"), ("ssn", "*")):
        with pytest.raises(SparkRefusalError, match=f"column {column} of dataset clients has a key of its own"):
            cluster.run(f'rows.select("{wanted}").collect()')
    with pytest.raises(SparkRefusalError, match="column ssn of dataset clients has a key of its own"):
        cluster.run('rows.where("ssn > 7").select("id").collect()')


def test_without_any_column_released_the_others_are_read(cluster: Cluster) -> None:
    encrypted_by_the_owner(cluster, "closed")
    total = 'result = spark.read.parquet("strongroom://closed").agg(F.sum("id")).collect()[0][0]'
    assert cluster.run(total) == sum(range(ROWS))
    with pytest.raises(SparkRefusalError, match="column iban of dataset closed has a key of its own"):
        cluster.run('spark.read.parquet("strongroom://closed").select("iban").collect()')


def test_swapped_files_with_column_keys_are_refused(cluster: Cluster) -> None:
    write = encrypted_by_the_owner(cluster, "swapped", "iban", "ssn", "address")
    first, second = sorted((cluster.storage / "swapped" / write.write_id).glob("*.parquet"))
    one, other = first.read_bytes(), second.read_bytes()
    bound = cluster.datasets["swapped"]
    assert isinstance(bound, BoundDataset)
    assert bound.view.base is not None
    lengths = {first.name: len(other), second.name: len(one)}  # so that not the length gives it away
    files = tuple(
        entry.model_copy(update={"length_bytes": lengths[Path(entry.path).name]}) for entry in bound.view.base.files
    )
    bind(
        cluster,
        "swapped",
        write,
        access="read",
        manifest=manifest_of("swapped", write, files),
        released=("iban", "ssn", "address"),
    )
    first.write_bytes(other)
    second.write_bytes(one)
    with pytest.raises(SparkRefusalError, match="its keys are not those that were written there"):
        cluster.run('spark.read.schema("id BIGINT").parquet("strongroom://swapped").collect()')


def test_files_are_not_partitioned_by_a_column_with_a_key(cluster: Cluster) -> None:
    bound = bind(cluster, "parted", new_write("ssn"), access="write")
    with pytest.raises(SparkRefusalError, match="column ssn has a key of its own: files cannot be partitioned by it"):
        cluster.run('people.limit(3).write.partitionBy("ssn").parquet("strongroom://parted")')
    assert not bound.view.changed
