import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
)
from strongroom.base.secret import SecretBytes
from strongroom.datasets import parquet
from strongroom.datasets.identity import DatasetWrite, aad_prefix, file_id_of
from strongroom.datasets.manifest import Manifest, build_manifest, open_manifest
from strongroom.datasets.parquet import decrypt_parquet, encrypt_parquet, read_table, read_tables
from strongroom.datasets.plain_files import read_files
from strongroom.datasets.storage import Storage
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.key_service import DatasetVersion

CANARY = "very-distinctive-value"


@dataclass(frozen=True)
class Encrypted:
    """A dataset of two files on storage."""

    location: str
    manifest: Manifest
    keys: dict[str, SecretBytes]
    plain: pa.Table

    def file(self, number: int) -> Path:
        entry = self.manifest.files[number]
        return Storage(self.location).path(f"{entry.write_id}/{entry.path}")

    def read(self, path: str = "") -> pa.Table:
        return read_table(self.manifest, location=self.location, write_keys=self.keys, path=path)


def table(start: int, stop: int) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(start, stop), pa.int64()),
            "fare": [n * 1.25 for n in range(start, stop)],
            "name": [f"{CANARY}-{n % 7}" if n % 5 else None for n in range(start, stop)],
        }
    )


@pytest.fixture
def encrypted(
    location: str, make_write: Callable[[], DatasetWrite], countersign: Callable[..., DatasetVersion]
) -> Encrypted:
    write = make_write()
    tables = [table(0, 700), table(700, 1500)]
    entries = encrypt_parquet(tables, location=location, dataset="trips", write=write, rows_per_file=1000)
    data, digest = build_manifest(dataset="trips", key_service="5e" * 32, base=None, write=write, files=entries)
    keys = {write.write_id: write.key}
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys=keys)
    return Encrypted(location=location, manifest=manifest, keys=keys, plain=pa.concat_tables(tables))


def test_reads_back_what_was_encrypted(encrypted: Encrypted) -> None:
    assert encrypted.read() == encrypted.plain
    assert [file.rows for file in encrypted.manifest.files] == [1000, 500]


def test_files_carry_their_identity_and_length(encrypted: Encrypted) -> None:
    for number, entry in enumerate(encrypted.manifest.files):
        assert entry.path == f"part-{number:05}-{entry.file_id}.snappy.parquet"
        assert file_id_of(entry.path) == entry.file_id
        assert encrypted.file(number).stat().st_size == entry.length_bytes
    names = Storage(encrypted.location).names()
    assert names == [f"{entry.write_id}/{entry.path}" for entry in encrypted.manifest.files]


def test_storage_holds_no_value_and_no_column_name(encrypted: Encrypted) -> None:
    for number in range(2):
        data = encrypted.file(number).read_bytes()
        assert data.startswith(b"PARE")
        assert data.endswith(b"PARE")
        for word in (CANARY.encode(), b"fare", b"name"):
            assert word not in data


def test_reads_only_what_stands_below_a_place(encrypted: Encrypted) -> None:
    first = encrypted.manifest.files[0].path
    assert encrypted.read(first) == encrypted.plain.slice(0, 1000)
    with pytest.raises(NotFoundError, match="no file"):
        encrypted.read("part")


def test_folders_of_partitions_become_columns(encrypted: Encrypted) -> None:
    paths = ("zone=a%20b/hour=3", "zone=__HIVE_DEFAULT_PARTITION__/hour=4")
    moved = []
    for folder, entry in zip(paths, encrypted.manifest.files, strict=True):
        target = Storage(encrypted.location).path(f"{entry.write_id}/{folder}/{entry.path}")
        target.parent.mkdir(parents=True)
        shutil.move(Storage(encrypted.location).path(f"{entry.write_id}/{entry.path}"), target)
        moved.append(entry.model_copy(update={"path": f"{folder}/{entry.path}"}))
    found = replace(encrypted, manifest=replace(encrypted.manifest, files=tuple(moved))).read()
    assert found.column_names == ["id", "fare", "name", "zone", "hour"]
    assert set(zip(found["zone"].to_pylist(), found["hour"].to_pylist(), strict=True)) == {("a b", "3"), (None, "4")}


def test_decrypts_into_plain_files_of_the_same_names(encrypted: Encrypted, tmp_path: Path) -> None:
    told: list[int] = []
    output = tmp_path / "plain"
    written = decrypt_parquet(
        encrypted.manifest, location=encrypted.location, write_keys=encrypted.keys, output=output, progress=told.append
    )
    assert written == tuple(output / entry.path for entry in encrypted.manifest.files)
    assert pa.concat_tables(pq.read_table(path) for path in written) == encrypted.plain
    assert told == [1000, 500]


def test_decrypts_into_no_existing_folder(encrypted: Encrypted, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        decrypt_parquet(encrypted.manifest, location=encrypted.location, write_keys=encrypted.keys, output=tmp_path)


def test_leaves_no_plain_file_when_one_is_refused(encrypted: Encrypted, tmp_path: Path) -> None:
    encrypted.file(1).unlink()
    output = tmp_path / "plain"
    with pytest.raises(IntegrityError):
        decrypt_parquet(encrypted.manifest, location=encrypted.location, write_keys=encrypted.keys, output=output)
    assert not output.exists()


def test_refuses_times_that_would_lose_digits(location: str, make_write: Callable[[], DatasetWrite]) -> None:
    with pytest.raises(FormatError, match="cannot be written as Parquet"):
        encrypt_parquet(
            [pa.table({"t": pa.array([1], pa.timestamp("ns"))})], location=location, dataset="trips", write=make_write()
        )
    assert Storage(location).names() == []


def test_encrypts_a_table_without_rows(location: str, make_write: Callable[[], DatasetWrite]) -> None:
    (entry,) = encrypt_parquet([table(0, 0)], location=location, dataset="trips", write=make_write())
    assert entry.rows == 0


def test_refuses_to_encrypt_nothing(location: str, make_write: Callable[[], DatasetWrite]) -> None:
    with pytest.raises(ConfigurationError, match="nothing to encrypt"):
        encrypt_parquet([], location=location, dataset="trips", write=make_write())


def test_a_wide_table_gets_small_row_groups(
    location: str, make_write: Callable[[], DatasetWrite], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", 100_000)
    told: list[int] = []
    wide = pa.table({"text": ["x" * 1000] * 250})
    entries = encrypt_parquet([wide], location=location, dataset="trips", write=make_write(), progress=told.append)
    assert [entry.rows for entry in entries] == [250]
    assert sum(told) == 250
    assert len(told) == 3


def test_removes_what_it_wrote_when_the_source_fails(location: str, make_write: Callable[[], DatasetWrite]) -> None:
    def failing() -> Iterator[pa.Table]:
        yield table(0, 100)
        yield table(100, 150)
        raise OSError(5, "the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        encrypt_parquet(failing(), location=location, dataset="trips", write=make_write(), rows_per_file=50)
    assert Storage(location).names() == []


def test_a_full_disk_ends_clearly_and_leaves_nothing(tmp_path: Path) -> None:
    script = """if True:
        import sys, pyarrow as pa
        from strongroom.crypto.random import random_bytes, random_id, random_secret
        from strongroom.datasets.identity import DatasetWrite
        from strongroom.datasets.parquet import encrypt_parquet
        write = DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None)
        table = pa.table({"x": [random_bytes(1 << 16) for _ in range(64)]})
        try: encrypt_parquet([table], location=sys.argv[1], dataset="trips", write=write, rows_per_file=16)
        except Exception as error: print(type(error).__name__, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path.as_uri()],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19)),
    )
    assert done.stdout.startswith("UnavailableError storage is full")
    assert list(tmp_path.iterdir()) == []


def downgrade(path: Path) -> None:
    """Say AES_GCM_CTR_V1 in the unauthenticated part of the footer: pages then decrypt without any check."""
    data = bytearray(path.read_bytes())
    footer_at = len(data) - 8 - struct.unpack("<I", data[-8:-4])[0]
    assert data[footer_at : footer_at + 2] == b"\x1c\x1c"
    data[footer_at + 1] = 0x2C
    path.write_bytes(data)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def plaintext(path: Path) -> None:
    size = path.stat().st_size
    pq.write_table(table(0, 10), path)
    filler = size - path.stat().st_size
    assert filler > 0
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(filler) + data[4:])


def footer_before_the_file(path: Path) -> None:
    """Give the footer a length that, counted from the end, leads to the right first bytes."""
    size = path.stat().st_size
    path.write_bytes(bytes(size - 10) + b"\x1c\x1c" + struct.pack("<I", size - 8 + 10) + b"PARE")


def swap(one: Path, other: Path) -> None:
    """The lengths differ by chance only, so that what is noticed is the identity."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(b""), "0 bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "longer than"),
        (plaintext, "not a Parquet file with encrypted footer"),
        (downgrade, "not encrypted under AES_GCM_V1"),
        (lambda path: flip(path, -1), "not a Parquet file with encrypted footer"),
        (lambda path: flip(path, -5), "not encrypted under AES_GCM_V1|does not decrypt"),
        (lambda path: flip(path, -100), "does not decrypt"),
        (lambda path: flip(path, 100), "does not decrypt"),
        (footer_before_the_file, "AES_GCM_V1"),
    ],
    ids=[
        "deleted",
        "emptied",
        "truncated",
        "lengthened",
        "plaintext in its place",
        "weaker algorithm",
        "flipped magic",
        "flipped footer length",
        "flipped footer",
        "flipped page",
        "impossible footer length",
    ],
)
def test_refuses_a_file_that_was_tampered_with(
    encrypted: Encrypted, attack: Callable[[Path], object], reason: str
) -> None:
    path = encrypted.file(0)
    attack(path)
    with pytest.raises(IntegrityError, match=reason) as refusal:
        encrypted.read()
    assert str(path) in refusal.value.message
    assert refusal.value.action == "restore the file from the owner's copy"


def test_the_downgrade_is_an_attack_that_pyarrow_alone_does_not_notice(encrypted: Encrypted) -> None:
    """Why the algorithm is checked: this file still opens for pyarrow, which believes the file about its algorithm."""
    entry = encrypted.manifest.files[0]
    downgrade(encrypted.file(0))
    key = derive_file_key(encrypted.keys[entry.write_id], file_id=entry.file_id).reveal()
    prefix = aad_prefix(dataset="trips", write_id=entry.write_id, file_id=entry.file_id)
    properties = encryption.create_decryption_properties(key, aad_prefix=prefix)
    with pq.ParquetFile(encrypted.file(0), decryption_properties=properties) as file:
        assert file.metadata.num_rows == 1000


@pytest.mark.parametrize("same_write", [True, False])
def test_refuses_swapped_files(
    location: str,
    make_write: Callable[[], DatasetWrite],
    countersign: Callable[..., DatasetVersion],
    *,
    same_write: bool,
) -> None:
    """Two files of equal length, of one write or of two: only key and AAD prefix tell them apart."""
    first = make_write()
    second = first if same_write else make_write()
    entries = [
        encrypt_parquet([table(0, 10)], location=location, dataset="trips", write=write)[0] for write in (first, second)
    ]
    wrapped = {write.write_id: write for write in (first, second)}
    data, digest = build_manifest(dataset="trips", key_service="5e" * 32, base=None, write=first, files=entries[:1])
    keys = {write.write_id: write.key for write in wrapped.values()}
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys=keys)
    one, other = (Storage(location).path(f"{entry.write_id}/{entry.path}") for entry in entries)
    assert one.stat().st_size == other.stat().st_size
    swap(one, other)
    with pytest.raises(IntegrityError, match="does not decrypt"):
        read_table(manifest, location=location, write_keys=keys)


def test_refuses_a_file_of_another_dataset_under_the_same_key(
    location: str, make_write: Callable[[], DatasetWrite], countersign: Callable[..., DatasetVersion]
) -> None:
    write = make_write()
    entries = encrypt_parquet([table(0, 10)], location=location, dataset="fares", write=write)
    data, digest = build_manifest(dataset="trips", key_service="5e" * 32, base=None, write=write, files=entries)
    keys = {write.write_id: write.key}
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys=keys)
    with pytest.raises(IntegrityError, match="does not decrypt"):
        read_table(manifest, location=location, write_keys=keys)


def test_an_unlisted_file_on_storage_is_not_read(encrypted: Encrypted) -> None:
    shutil.copy(encrypted.file(0), encrypted.file(0).with_name("part-99999.parquet"))
    assert encrypted.read().num_rows == 1500


def test_real_trips_survive_the_way_there_and_back(
    shared: Path,
    location: str,
    make_write: Callable[[], DatasetWrite],
    countersign: Callable[..., DatasetVersion],
) -> None:
    write = make_write()
    sources = [
        shared / "data" / "nyctaxi" / f"yellow_tripdata_sample_{month}.csv.gz" for month in ("2018-01", "2019-06")
    ]
    entries = encrypt_parquet(read_files(sources), location=location, dataset="trips", write=write)
    data, digest = build_manifest(dataset="trips", key_service="5e" * 32, base=None, write=write, files=entries)
    keys = {write.write_id: write.key}
    manifest = open_manifest(data, statement=countersign(data, digest), write_keys=keys)
    pieces = list(read_tables(manifest, location=location, write_keys=keys))
    found = pa.concat_tables(pieces)
    assert found.num_rows == 20_000
    expected = pa.concat_tables(read_files(sources))
    assert found["total_amount"].to_pylist() == expected["total_amount"].to_pylist()
    assert found["congestion_surcharge"].type == pa.float64()
