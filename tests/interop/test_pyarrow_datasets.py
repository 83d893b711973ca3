"""pyarrow reads what the owner encrypted with the file's key and AAD prefix, and not with others or without."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from strongroom.base.errors import IntegrityError
from strongroom.crypto.random import random_bytes, random_id, random_secret
from strongroom.datasets.identity import DatasetWrite, aad_prefix
from strongroom.datasets.manifest import Manifest
from strongroom.datasets.parquet import encrypt_parquet, read_table
from strongroom.datasets.storage import Storage
from strongroom.wire.manifest import FileEntry, ManifestHeader

MOMENT = dt.datetime(2019, 1, 1, 12, 30, 1)  # noqa: DTZ001 - taxi clocks have no zone
TABLE = pa.table(
    {
        "id": pa.array(range(1000), pa.int64()),
        "fare": [n * 0.25 for n in range(1000)],
        "when": pa.array([MOMENT] * 1000, pa.timestamp("s")),
    }
)


@dataclass(frozen=True)
class OneFile:
    path: Path
    key: bytes
    prefix: bytes

    def open(self, *, key: bytes | None = None, prefix: bytes | None = None) -> pq.ParquetFile:
        properties = encryption.create_decryption_properties(key or self.key, aad_prefix=prefix or self.prefix)
        return pq.ParquetFile(self.path, decryption_properties=properties)


@pytest.fixture
def write() -> DatasetWrite:
    return DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None)


@pytest.fixture
def one_file(tmp_path: Path, write: DatasetWrite) -> OneFile:
    location = (tmp_path / "storage").as_uri()
    (entry,) = encrypt_parquet([TABLE], location=location, dataset="trips", write=write)
    return OneFile(
        path=Storage(location).path(f"{entry.write_id}/{entry.path}"),
        key=write.file_key(entry.file_id).reveal(),
        prefix=aad_prefix(dataset="trips", write_id=entry.write_id, file_id=entry.file_id),
    )


def test_pyarrow_reads_with_the_files_key_and_prefix(one_file: OneFile) -> None:
    with one_file.open() as file:
        assert file.read()["fare"].to_pylist() == TABLE["fare"].to_pylist()


def test_a_pyarrow_dataset_reads_with_the_files_key_and_prefix(one_file: OneFile) -> None:
    options = ds.ParquetFragmentScanOptions(
        decryption_properties=encryption.create_decryption_properties(one_file.key, aad_prefix=one_file.prefix)
    )
    found = ds.dataset(one_file.path, format=ds.ParquetFileFormat(default_fragment_scan_options=options)).to_table()
    assert found.num_rows == 1000


def test_columns_have_types_that_spark_reads(one_file: OneFile) -> None:
    with one_file.open() as file:
        assert "timeUnit=microseconds" in str(file.metadata.schema.column(2).logical_type)
        assert {file.metadata.row_group(0).column(number).compression for number in range(3)} == {"SNAPPY"}


def test_the_prefix_stands_in_the_file_for_the_owners_tools(one_file: OneFile) -> None:
    assert one_file.prefix in one_file.path.read_bytes()
    properties = encryption.create_decryption_properties(one_file.key)
    with pq.ParquetFile(one_file.path, decryption_properties=properties) as file:
        assert file.metadata.num_rows == 1000


def test_pyarrow_refuses_another_prefix(one_file: OneFile) -> None:
    with pytest.raises(OSError, match=r"(?i)aad prefix|decrypt"):
        one_file.open(prefix=one_file.prefix[:-1] + b"x")


def test_pyarrow_refuses_another_key(one_file: OneFile) -> None:
    with pytest.raises(OSError, match=r"(?i)decrypt"):
        one_file.open(key=random_bytes(32))


def test_pyarrow_refuses_without_a_key(one_file: OneFile) -> None:
    with pytest.raises(OSError, match="no decryption"):
        pq.read_table(one_file.path)


@pytest.mark.parametrize("algorithm", ["AES_GCM_V1", "AES_GCM_CTR_V1"])
@pytest.mark.parametrize("plaintext_footer", [False, True])
@pytest.mark.parametrize("is_prefix_stored", [False, True])
def test_reads_pyarrows_own_files_only_when_fully_authenticated(
    tmp_path: Path, write: DatasetWrite, algorithm: str, *, plaintext_footer: bool, is_prefix_stored: bool
) -> None:
    """What another writer with the right key makes is read where it is as strong as ours, and refused otherwise."""
    file_id = random_id()
    path = tmp_path / write.write_id / "theirs.parquet"
    path.parent.mkdir()
    properties = encryption.create_encryption_properties(
        write.file_key(file_id).reveal(),
        aad_prefix=aad_prefix(dataset="trips", write_id=write.write_id, file_id=file_id),
        store_aad_prefix=is_prefix_stored,
        encryption_algorithm=algorithm,
        plaintext_footer=plaintext_footer,
    )
    pq.write_table(TABLE, path, encryption_properties=properties)
    entry = FileEntry(
        path="theirs.parquet", write_id=write.write_id, file_id=file_id, length_bytes=path.stat().st_size, rows=1000
    )
    header = ManifestHeader(
        dataset="trips",
        key_service="5e" * 32,
        number=1,
        previous=None,
        write_keys={write.write_id: write.wrapped},
        sealed_by=write.write_id,
    )
    manifest = Manifest(header=header, digest="00" * 32, files=(entry,))

    def read() -> pa.Table:
        return read_table(manifest, location=tmp_path.as_uri(), write_keys={write.write_id: write.key})

    if algorithm == "AES_GCM_V1" and not plaintext_footer:
        assert read().num_rows == 1000
    else:
        with pytest.raises(IntegrityError, match="is refused"):
            read()
