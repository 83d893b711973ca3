"""Promise 6 in Spark: whatever the host does to the files of a dataset is a clear error, never garbage rows.

The attacks keep the length of the file that they replace, so that not the length alone gives them away.
"""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.engine import Cluster, SparkRefusalError, running_cluster
from tests.support.key_socket_server import Dataset

pytestmark = pytest.mark.xdist_group("spark")

READ = """
rows = spark.read.schema("id BIGINT, fare DOUBLE").parquet("strongroom://trips")
result = [list(row) for row in rows.orderBy("id").collect()]
"""
ROWS = [[i, 10.0 + i] for i in range(1000)]
ALGORITHM_GCM, ALGORITHM_CTR = b"\x1c\x1c", b"\x1c\x2c"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("storage")) as cluster:
        cluster.run(
            """
            for name, value in (("compression", "none"), ("parquet.enable.dictionary", "false")):
                names = globals().setdefault("options", {})
                names[name] = value
            made = spark.range(1000, numPartitions=2).selectExpr("id", "10D + id AS fare")
            """
        )
        yield cluster


@pytest.fixture(scope="module")
def written(cluster: Cluster) -> tuple[Dataset, dict[str, bytes]]:
    trips, other = cluster.add_dataset("trips"), cluster.add_dataset("other")
    cluster.run('made.write.options(**options).parquet("strongroom://other")')
    cluster.run('made.write.options(**options).parquet("strongroom://trips")')
    older = {path: trips.location(path).read_bytes() for path in trips.view}
    trips.new_write()
    cluster.run('made.write.mode("overwrite").options(**options).parquet("strongroom://trips")')
    trips.new_write()
    assert other.view
    return trips, older


@pytest.fixture
def trips(written: tuple[Dataset, dict[str, bytes]], tmp_path: Path) -> Iterator[Dataset]:
    dataset, _ = written
    shutil.copytree(dataset.folder, tmp_path / "backup")
    yield dataset
    shutil.rmtree(dataset.folder)
    shutil.copytree(tmp_path / "backup", dataset.folder)


@pytest.fixture
def files(trips: Dataset) -> tuple[Path, Path]:
    first, second = (trips.location(path) for path in sorted(trips.view))
    assert first.stat().st_size == second.stat().st_size
    return first, second


def footer_start(content: bytes) -> int:
    return len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def first_page_body(content: bytes) -> slice:
    """The second module of a file: after a page's header comes its body, each with its length before it."""
    (header_bytes,) = struct.unpack("<I", content[4:8])
    start = 8 + header_bytes
    (body_bytes,) = struct.unpack("<I", content[start : start + 4])
    return slice(start + 4, start + 4 + body_bytes)


def test_untouched_files_are_read(cluster: Cluster, trips: Dataset) -> None:
    assert trips.view
    assert cluster.run(READ) == ROWS


def test_a_plaintext_file_in_the_place_of_an_encrypted_one_is_refused(
    cluster: Cluster, files: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pa.table({"id": pa.array([0], pa.int64()), "fare": pa.array([6.66])})
    pq.write_table(table, tmp_path / "plain.parquet", store_schema=False)
    plain, length = (tmp_path / "plain.parquet").read_bytes(), files[0].stat().st_size
    end = footer_start(plain)
    forged = plain[:end] + bytes(length - len(plain)) + plain[end:]
    assert pq.read_table(pa.BufferReader(forged)).num_rows == 1
    files[0].write_bytes(forged)
    with pytest.raises(SparkRefusalError, match="is refused: it is not a Parquet file with encrypted footer"):
        cluster.run(READ)


def test_a_downgrade_to_a_malleable_algorithm_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    content = bytearray(files[0].read_bytes())
    metadata = footer_start(content)
    assert content[metadata : metadata + 2] == ALGORITHM_GCM
    content[metadata : metadata + 2] = ALGORITHM_CTR
    # GCM counts blocks from 2, Parquet's CTR from 1: moved by one block the page decrypts again, now without a tag.
    body = first_page_body(content)
    nonce, ciphertext = content[body][:12], bytearray(content[body][12:-16])
    ciphertext[64] ^= 0xFF
    content[body] = nonce + bytes(16) + ciphertext
    files[0].write_bytes(content)
    with pytest.raises(SparkRefusalError, match="is refused: it is not encrypted under AES_GCM_V1"):
        cluster.run(READ)


def test_a_flipped_byte_in_a_page_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    flip(files[0], first_page_body(files[0].read_bytes()).start + 100)
    with pytest.raises(SparkRefusalError, match="Tag mismatch"):
        cluster.run(READ)


def test_a_flipped_byte_in_the_footer_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    flip(files[0], files[0].stat().st_size - 50)
    with pytest.raises(SparkRefusalError, match="Tag mismatch"):
        cluster.run(READ)


def test_a_truncated_file_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    files[0].write_bytes(files[0].read_bytes()[:-1])
    with pytest.raises(SparkRefusalError, match=r"is refused: it has \d+ bytes instead of \d+"):
        cluster.run(READ)


def test_a_truncated_file_of_this_runs_own_write_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    own = cluster.add_dataset("own")
    cluster.run('made.coalesce(1).write.parquet("strongroom://own")')
    file = own.location(min(own.view))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SparkRefusalError, match="is refused: it is not a Parquet file with encrypted footer"):
        cluster.run(READ.replace("trips", "own"))


def test_a_longer_file_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    content = files[0].read_bytes()
    files[0].write_bytes(content[:4] + bytes(8) + content[4:])
    with pytest.raises(SparkRefusalError, match=r"is refused: it has \d+ bytes instead of \d+"):
        cluster.run(READ)


def test_swapped_files_are_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    first, second = (path.read_bytes() for path in files)
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    with pytest.raises(SparkRefusalError, match="AAD Prefix in file and in decryption properties is not the same"):
        cluster.run(READ)


def test_a_file_duplicated_under_another_name_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    files[1].write_bytes(files[0].read_bytes())
    with pytest.raises(SparkRefusalError, match="AAD Prefix in file and in decryption properties is not the same"):
        cluster.run(READ)


def test_another_datasets_file_is_refused(cluster: Cluster, files: tuple[Path, Path]) -> None:
    other = cluster.datasets["other"]
    assert isinstance(other, Dataset)
    foreign = other.location(min(other.view)).read_bytes()
    assert len(foreign) == files[0].stat().st_size
    files[0].write_bytes(foreign)
    with pytest.raises(SparkRefusalError, match="AAD Prefix in file and in decryption properties is not the same"):
        cluster.run(READ)


def test_an_older_file_under_the_right_name_is_refused(
    cluster: Cluster, files: tuple[Path, Path], written: tuple[Dataset, dict[str, bytes]]
) -> None:
    _, older = written
    old = older[min(older)]
    assert len(old) == files[0].stat().st_size
    files[0].write_bytes(old)
    with pytest.raises(SparkRefusalError, match="AAD Prefix in file and in decryption properties is not the same"):
        cluster.run(READ)


def test_a_forged_stored_prefix_does_not_help(cluster: Cluster, files: tuple[Path, Path], trips: Dataset) -> None:
    first, second = (trips.view[path].aad_prefix() for path in sorted(trips.view))
    forged = files[1].read_bytes().replace(second, first)
    assert forged != files[1].read_bytes()
    files[0].write_bytes(forged)
    with pytest.raises(SparkRefusalError, match="Tag mismatch"):
        cluster.run(READ)


def test_a_missing_file_is_refused_by_name(cluster: Cluster, files: tuple[Path, Path]) -> None:
    files[0].unlink()
    with pytest.raises(SparkRefusalError, match="is in the owner's manifest but missing in storage"):
        cluster.run(READ)


def test_an_unlisted_file_is_not_read(cluster: Cluster, files: tuple[Path, Path]) -> None:
    shutil.copy(files[0], files[0].with_name("part-99999.snappy.parquet"))
    assert cluster.run(READ) == ROWS


def test_storage_cannot_answer_differently_when_the_footer_is_read_again(
    cluster: Cluster, files: tuple[Path, Path], trips: Dataset
) -> None:
    content = files[0].read_bytes()
    position = footer_start(content) + 1
    cluster.run(
        f"""
        conf = spark._jsc.hadoopConfiguration()
        path = spark._jvm.org.apache.hadoop.fs.Path("strongroom://trips/{min(trips.view)}")
        stream = spark._jvm.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(path, conf).newStream()
        """
    )
    flip(files[0], position)
    flip(files[0], 10)
    result = cluster.run(
        f"""
        result = []
        for position in ({position}, 10):
            stream.seek(position)
            result.append(stream.read())
        stream.close()
        """
    )
    assert result == [content[position], content[10] ^ 1]
