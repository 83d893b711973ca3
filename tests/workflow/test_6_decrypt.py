"""Step 6, decrypt: whatever was done to the files of a dataset ends a run, and is named."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from tests.support.installation import Installation, Submission

from strongroom.base.workflow import Step
from strongroom.cli.owned_datasets import open_version
from strongroom.datasets.identity import DatasetWrite, storage_name
from strongroom.datasets.manifest import build_manifest
from strongroom.datasets.parquet import encrypt_parquet
from strongroom.datasets.storage import Storage as LocalStorage
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.key_service import Commit
from strongroom.wire.manifest import FileEntry

pytestmark = pytest.mark.timeout(1800)

# Reads each file of a dataset for itself, every column of it, and prints which ones can be read.
PROBE = """
import json, sys
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

spark = SparkSession.builder.getOrCreate()
found = {}
for path in sys.argv[2:]:
    try:
        rows = spark.read.parquet(f"{sys.argv[1]}/{path}")
        found[path] = rows.agg(F.count("*"), F.bit_xor(F.xxhash64(*rows.columns))).first()[0]
    except Exception as error:
        found[path] = str(error)
print("FOUND", json.dumps(found))
"""
ROWS = 500
REFUSALS = re.compile("strongroom: |Tag mismatch|AAD Prefix in file")
READ_ALL = """
import sys
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

rows = SparkSession.builder.getOrCreate().read.parquet(sys.argv[1])
print(rows.agg(F.bit_xor(F.xxhash64(*rows.columns))).first()[0])
"""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The storage of a dataset with two versions of the same files, and what its host does to file number n.

    Attributes:
        folder: Where it lies.
        current: The files of the newest version, by number.
        older: The files of the version before, by number.
        plain: A plain Parquet file of the same columns.
    """

    folder: Path
    current: tuple[FileEntry, ...]
    older: tuple[FileEntry, ...]
    plain: Path

    @property
    def paths(self) -> tuple[str, ...]:
        """The newest version's files as the dataset names them."""
        return tuple(entry.path for entry in self.current)

    def file(self, number: int) -> Path:
        return self._place(self.current[number])

    def _place(self, entry: FileEntry) -> Path:
        return self.folder / storage_name(write_id=entry.write_id, path=entry.path)

    def leave(self, number: int) -> None:
        assert self.file(number).is_file()

    def flip_in_page(self, number: int) -> None:
        _flip(self.file(number), 2_000)

    def flip_in_footer(self, number: int) -> None:
        _flip(self.file(number), -200)

    def truncate(self, number: int) -> None:
        self.file(number).write_bytes(self.file(number).read_bytes()[:-100])

    def remove(self, number: int) -> None:
        self.file(number).unlink()

    def duplicate_another(self, number: int) -> None:
        shutil.copy(self.file(0), self.file(number))

    def roll_back(self, number: int) -> None:
        shutil.copy(self._place(self.older[number]), self.file(number))

    def smuggle_plaintext(self, number: int) -> None:
        shutil.copy(self.plain, self.file(number))

    def swap_with_next(self, number: int) -> None:
        one, other = self.file(number), self.file(number + 1)
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)


FAULTS: dict[str, Callable[[Storage, int], None]] = {
    "untouched": Storage.leave,
    "a flipped byte in a page": Storage.flip_in_page,
    "a flipped byte in the footer": Storage.flip_in_footer,
    "truncated": Storage.truncate,
    "missing": Storage.remove,
    "a duplicate of another": Storage.duplicate_another,
    "older": Storage.roll_back,
    "plaintext": Storage.smuggle_plaintext,
    "swapped": Storage.swap_with_next,
    "swapped with it": Storage.leave,
}


def _flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x01
    file.write_bytes(data)


@pytest.fixture(scope="module")
def many(installation: Installation, plain_trips: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """The dataset `many`: as many files of the same length as there are faults, in two versions."""
    plain = tmp_path_factory.mktemp("many") / "trips.parquet"
    parquet.write_table(parquet.read_table(plain_trips).slice(0, ROWS), plain)
    installation.done("dataset", "create", "many")
    older, current = (_next_version(installation, plain) for _ in range(2))
    return Storage(folder=installation.storage("many"), older=older, current=current, plain=plain)


def _next_version(installation: Installation, plain: Path) -> tuple[FileEntry, ...]:
    """Do what `dataset encrypt` does, with a few rows in each file."""
    client, location = installation.owner(), installation.state.storage("many")
    write = DatasetWrite.from_message(client.start_write("many"))
    table = pa.concat_tables([parquet.read_table(plain)] * len(FAULTS)).combine_chunks()
    files = encrypt_parquet([table], location=location, dataset="many", write=write, rows_per_file=ROWS)
    before = write.base and open_version(client, name="many", location=location, number=write.base).manifest
    key_service = trusted_service(load_trust(installation.state.trust), "key-service").identity
    manifest, digest = build_manifest(
        dataset="many", key_service=key_service, base=before or None, write=write, files=files
    )
    LocalStorage(location).write_manifest(manifest, digest)
    commit = Commit(dataset="many", base=write.base, manifest_digest=digest, write_ids=(write.write_id,))
    client.commit("many", commit)
    return files


@pytest.fixture
def storage(many: Storage, tmp_path: Path) -> Iterator[Storage]:
    shutil.copytree(many.folder, tmp_path / "backup")
    yield many
    shutil.rmtree(many.folder)
    shutil.copytree(tmp_path / "backup", many.folder)


def test_exactly_the_files_that_nobody_touched_can_be_read(
    installation: Installation, storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "probe.py").write_text(PROBE)
    arguments = ("strongroom://many", *storage.paths)
    probe = Submission(script=tmp_path / "probe.py", arguments=arguments, reads=("many",))
    installation.approve(probe)
    lengths = {storage.file(number).stat().st_size for number in range(len(FAULTS))}
    assert len(lengths) == 1, "the length alone would tell them apart"
    for number, fault in enumerate(FAULTS.values()):
        fault(storage, number)

    output = installation.output_of(installation.submit_well(probe))
    assert "FOUND " in output, output
    found = json.loads(output.partition("FOUND ")[2].splitlines()[0])
    readable = {name: found[path] == ROWS for path, name in zip(storage.paths, FAULTS, strict=True)}
    assert readable == {name: name == "untouched" for name in FAULTS}, found
    for path, name in zip(storage.paths, FAULTS, strict=True):
        if name != "untouched":
            assert REFUSALS.search(found[path]), f"{name}: {found[path]}"


def test_a_run_over_a_changed_file_fails_and_writes_nothing(
    installation: Installation, storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "read_all.py").write_text(READ_ALL)
    submission = Submission(script=tmp_path / "read_all.py", arguments=("strongroom://many",), reads=("many",))
    installation.approve(submission)
    storage.flip_in_page(3)

    ended = installation.submit(submission)

    installation.assert_clear_end(ended, step=None, says=[])
    output = installation.output_of(ended)
    assert REFUSALS.search(output), output


@pytest.mark.parametrize("fault", ["changed", "missing", "older"])
def test_refuses_a_manifest_that_is_not_the_countersigned_one(
    installation: Installation, storage: Storage, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "read_all.py").write_text(READ_ALL)
    submission = Submission(script=tmp_path / "read_all.py", arguments=("strongroom://many",), reads=("many",))
    installation.approve(submission)
    older, current = (_manifest(installation, storage, number) for number in (1, 2))
    match fault:
        case "changed":
            _flip(current, -20)
        case "missing":
            current.unlink()
        case _:
            shutil.copy(older, current)

    ended = installation.submit(submission)

    installation.assert_clear_end(ended, step=Step.DECRYPT, says=["manifest"])


def _manifest(installation: Installation, storage: Storage, number: int) -> Path:
    digest = installation.owner().versions("many")[number - 1].manifest_digest
    (file,) = [path for path in storage.folder.rglob(f"*{digest}*") if path.is_file()]
    return file


def test_the_owner_is_told_which_file_was_changed(installation: Installation, storage: Storage, tmp_path: Path) -> None:
    storage.flip_in_page(5)

    ended = installation.strongroom("dataset", "decrypt", "many", "--to", str(tmp_path / "plain"))

    installation.assert_clear_end(ended, step=None, says=[storage.paths[5]])
    assert not (tmp_path / "plain").exists(), "something is left half-written"
