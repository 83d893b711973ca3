"""Columns with keys of their own: pyarrow opens what the owner encrypted with exactly the keys that it has."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption
from typing_extensions import override

from strongroom.base.errors import FormatError, IntegrityError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_id, random_secret
from strongroom.datasets.column_encryption import open_file
from strongroom.datasets.file_keys import FileKeys, column_of, key_id, read_material
from strongroom.datasets.identity import ColumnKey, DatasetWrite
from strongroom.datasets.manifest import Manifest
from strongroom.datasets.parquet import decrypt_parquet, encrypt_parquet, read_table
from strongroom.datasets.storage import Storage
from strongroom.wire.manifest import ManifestHeader

CANARY = "very-distinctive-value"
TABLE = pa.table(
    {
        "id": pa.array(range(1000), pa.int64()),
        "iban": [f"{CANARY}-{n}" for n in range(1000)],
        "ssn": pa.array([n * 7 for n in range(1000)], pa.int64()),
        "address": [{"street": f"s{n}", "tags": [str(n), CANARY]} for n in range(1000)],
    }
)


def new_write(*columns: str) -> DatasetWrite:
    keys = {column: ColumnKey(key=random_secret(), wrapped="AAAA") for column in columns}
    return DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None, columns=keys)


class Stored:
    """A dataset of one write on storage."""

    def __init__(self, folder: Path, write: DatasetWrite, table: pa.Table = TABLE, **options: Any) -> None:
        self.location, self.write = folder.as_uri(), write
        files = encrypt_parquet([table], location=self.location, dataset="people", write=write, **options)
        header = ManifestHeader(
            dataset="people",
            key_service="5e" * 32,
            number=1,
            previous=None,
            write_keys={write.write_id: write.wrapped},
            sealed_by=write.write_id,
            column_keys={column: {write.write_id: each.wrapped} for column, each in write.columns.items()},
        )
        self.manifest = Manifest(header=header, digest="00" * 32, files=files)

    def path(self, number: int = 0) -> Path:
        entry = self.manifest.files[number]
        return Storage(self.location).path(f"{entry.write_id}/{entry.path}")

    def keys(self, *columns: str, number: int = 0) -> FileKeys:
        keys = self.write.file_keys(self.manifest.files[number].file_id, dataset="people")
        return replace(keys, column_keys={column: keys.column_keys[column] for column in columns})

    def read(self, *columns: str) -> pa.Table:
        opened = {column: {self.write.write_id: self.write.columns[column].key} for column in columns}
        write_keys = {self.write.write_id: self.write.key}
        return read_table(self.manifest, location=self.location, write_keys=write_keys, column_keys=opened)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "storage", new_write("iban", "ssn"))


def test_the_owner_reads_everything_back(stored: Stored, tmp_path: Path) -> None:
    found = stored.read("iban", "ssn")
    assert found.to_pylist() == TABLE.to_pylist()
    column_keys = {column: {stored.write.write_id: each.key} for column, each in stored.write.columns.items()}
    (plain,) = decrypt_parquet(
        stored.manifest,
        location=stored.location,
        write_keys={stored.write.write_id: stored.write.key},
        column_keys=column_keys,
        output=tmp_path / "plain",
    )
    assert pq.read_table(plain, partitioning=None)["ssn"].to_pylist() == TABLE["ssn"].to_pylist()


def test_a_column_without_its_key_is_refused_by_name_and_the_others_are_read(stored: Stored) -> None:
    data = stored.path().read_bytes()
    found = open_file(stored.keys("ssn"), data, columns=["id", "ssn", "address"])
    assert found["ssn"].to_pylist() == TABLE["ssn"].to_pylist()
    with pytest.raises(RefusedError, match="column iban of dataset people has a key of its own"):
        open_file(stored.keys("ssn"), data, columns=["iban"])
    with pytest.raises(RefusedError, match="column iban of dataset people"):
        stored.read("ssn")


def test_nothing_stands_in_the_clear(stored: Stored) -> None:
    data = stored.path().read_bytes()
    assert data[:4] == b"PARE" == data[-4:]
    assert CANARY.encode() not in data
    with pytest.raises(OSError, match=r"(?i)decrypt"):
        pq.read_table(pa.BufferReader(data))


@pytest.mark.parametrize("column", ["iban", "ssn"])
def test_a_columns_key_is_no_other_columns_key(stored: Stored, column: str) -> None:
    other = {"iban": "ssn", "ssn": "iban"}[column]
    swapped = replace(
        stored.keys(), column_keys={column: stored.write.columns[other].key, other: stored.write.columns[column].key}
    )
    with pytest.raises(IntegrityError):
        open_file(swapped, stored.path().read_bytes(), columns=[column])
    mistaken = replace(stored.keys(), column_keys={column: stored.write.key})
    with pytest.raises(IntegrityError):
        open_file(mistaken, stored.path().read_bytes(), columns=[column])


@pytest.mark.parametrize(
    "changed",
    [{"dataset": "other"}, {"write_id": "0" * 32}, {"file_id": "0" * 32}, {"write_key": SecretBytes(bytes(32))}],
)
def test_parquet_keys_open_in_their_dataset_write_and_file_only(stored: Stored, changed: dict[str, Any]) -> None:
    keys = replace(stored.keys("iban", "ssn"), **changed)
    with pytest.raises(IntegrityError):
        open_file(keys, stored.path().read_bytes())


def test_two_files_of_a_write_that_were_swapped_are_refused(tmp_path: Path) -> None:
    stored = Stored(tmp_path / "storage", new_write("iban"), TABLE, rows_per_file=500)
    first, second = (stored.path(number) for number in (0, 1))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    lengths = (len(other), len(one))  # so that not the length gives it away
    files = tuple(
        entry.model_copy(update={"length_bytes": length})
        for entry, length in zip(stored.manifest.files, lengths, strict=True)
    )
    stored.manifest = replace(stored.manifest, files=files)
    with pytest.raises(IntegrityError, match="is refused"):
        stored.read("iban")
    with pytest.raises(IntegrityError):
        open_file(stored.keys("iban"), other)


def test_the_keys_in_a_file_have_256_bits_and_are_its_own(stored: Stored) -> None:
    data, keys = stored.path().read_bytes(), stored.keys("iban", "ssn")
    opened: dict[str | None, bytes] = {}

    class Kms(encryption.KmsClient):  # type: ignore[misc]  # pyarrow has no types
        @override
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
            raise NotImplementedError

        @override
        def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
            column = column_of(master_key_identifier)
            opened[column] = keys.unwrap(wrapped_key, column).reveal()
            return opened[column]

    factory = encryption.CryptoFactory(lambda _connection: Kms())
    properties = factory.file_decryption_properties(encryption.KmsConnectionConfig())
    with pq.ParquetFile(pa.BufferReader(data), decryption_properties=properties) as file:
        file.read()
    assert set(opened) == {None, "iban", "ssn"}
    assert {len(key) for key in opened.values()} == {32}
    assert len(set(opened.values())) == 3


def test_key_metadata_is_what_parquets_key_tools_read_and_nothing_else() -> None:
    keys = new_write("iban").file_keys("3" * 32, dataset="people")
    for column in (None, "iban"):
        made = keys.new_key(column)
        assert json.loads(made.metadata)["keyMaterialType"] == "PKMT1"
        found, wrapped = read_material(made.metadata)
        assert (found, keys.unwrap(wrapped, column)) == (column, made.key)
        with pytest.raises((IntegrityError, RefusedError)):
            keys.unwrap(wrapped, "iban" if column is None else None)
    good = json.loads(keys.new_key("iban").metadata)
    for change in ({"keyMaterialType": "PKMT2"}, {"doubleWrapping": True}, {"masterKeyID": "other"}, {"wrappedDEK": 1}):
        with pytest.raises((FormatError, IntegrityError)):
            read_material(json.dumps({**good, **change}).encode())
    for text in ("", "!", "AAAA", good["wrappedDEK"][:-4] + "AAAA"):
        with pytest.raises(IntegrityError):
            keys.unwrap(text, "iban")
    assert column_of(key_id("footer")) == "footer"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.drop_columns(["iban"]), "is missing from the data"),
        (lambda table: table.rename_columns(["id", "IBAN", "ssn", "address"]), "is called IBAN in the data"),
        (
            lambda table: table.rename_columns(["i,d", "iban", "ssn", "address"]),
            "cannot stand beside columns with keys",
        ),
        (lambda table: table.rename_columns(["a.b", "iban", "ssn", "address"]), "holds a dot"),
    ],
)
def test_refuses_data_in_which_a_column_would_get_another_key(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], says: str
) -> None:
    with pytest.raises(FormatError, match=says):
        Stored(tmp_path / "storage", new_write("iban"), change(TABLE))
    assert not [path for path in (tmp_path / "storage").rglob("*") if path.is_file()]


def test_a_nested_column_has_its_key_in_all_of_its_parts(tmp_path: Path) -> None:
    stored = Stored(tmp_path / "storage", new_write("address"))
    data = stored.path().read_bytes()
    assert stored.read("address")["address"].to_pylist() == TABLE["address"].to_pylist()
    assert open_file(stored.keys(), data, columns=["iban"]).num_rows == 1000
    for part in ("address.street", "address.tags.list.element"):
        with pytest.raises(RefusedError, match="column address of dataset people"):
            open_file(stored.keys(), data, columns=[part])
