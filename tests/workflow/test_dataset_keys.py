"""Datasets' keys from the command line: rotated, retired, disabled and destroyed; and two writers of one dataset."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.installation import Ended, Installation, Submission, wait_until

from strongroom.base.errors import ConflictError
from strongroom.cli import owned_datasets
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.key_service import DatasetVersion

pytestmark = pytest.mark.timeout(1800)

PEOPLE = pa.table({"id": pa.array(range(10), pa.int64()), "iban": [f"DE{n}" for n in range(10)]})
APPEND_SLOWLY = """
import sys, time
from pathlib import Path
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = spark.range(100, 105).selectExpr("id", "concat('FR', id) AS iban").coalesce(1)
rows.write.mode(sys.argv[2]).parquet(sys.argv[1])
Path(sys.argv[3]).touch()
while not Path(sys.argv[4]).exists():
    time.sleep(0.1)
"""


def new_dataset(installation: Installation, name: str, *, columns: str = "") -> str:
    """Make a dataset with one version of ten rows."""
    options = ("--column-keys", columns) if columns else ()
    installation.done("dataset", "create", name, *options)
    encrypt(installation, name)
    return name


def encrypt(installation: Installation, name: str, tables: Any = (PEOPLE,), *, append: bool = False) -> DatasetVersion:
    """Import as the owner."""
    return owned_datasets.encrypt(
        installation.owner(),
        tables,
        name=name,
        key_service=trusted_service(load_trust(installation.state.trust), "key-service").identity,
        location=installation.state.storage(name),
        append=append,
        progress=lambda _rows: None,
    )


def rows_of(installation: Installation, name: str, folder: Path) -> list[int]:
    """The ids in a dataset's newest version, as its owner decrypts them."""
    installation.done("dataset", "decrypt", name, "--to", str(folder))
    found: list[int] = sorted(pq.read_table(folder, partitioning=None)["id"].to_pylist())
    return found


def as_json(installation: Installation, *arguments: str) -> Any:
    return json.loads(installation.done(*arguments, "--json"))


def kill_key_service(installation: Installation) -> None:
    """End the key service as a power failure would, and start it again."""
    record = installation.process("key-service")
    os.kill(record.pid, signal.SIGKILL)
    wait_until(lambda: not record.is_running, what="the key service ends")
    installation.done("up")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_rotation_survives_a_killed_key_service_at_every_step(installation: Installation, tmp_path: Path) -> None:
    name = new_dataset(installation, "killed", columns="iban")
    client = installation.owner()

    def demand_readable(step: str) -> None:
        kill_key_service(installation)
        assert rows_of(installation, name, tmp_path / step) == list(range(10))

    old = {key.column: key.version for key in client.keys(name).keys}
    client.rotate_key(name, column=None)
    demand_readable("rotated")
    assert any("unfinished" in record["state"] for record in as_json(installation, "keys", "list", name))
    finished = as_json(installation, "dataset", "rotate", name, "--finish")
    assert [(each["column"], each["number"], each["rewrapped"]) for each in finished] == [(None, 2, 1), ("iban", 1, 0)]
    demand_readable("finished")
    installation.done("dataset", "retire", name, "--version", str(old[None])[:12])
    demand_readable("retired")
    versions = {key.column: key.number for key in client.keys(name).keys}
    assert versions == {None: 2, "iban": 1}


def test_keys_are_listed_rotated_disabled_and_enabled(installation: Installation, tmp_path: Path) -> None:
    name = new_dataset(installation, "people", columns="iban")
    listed = as_json(installation, "keys", "list", name)
    assert [(each["dataset"], each["column"], each["number"]) for each in listed] == [
        (name, None, 1),
        (name, "iban", 1),
    ]
    assert {each["dataset"] for each in as_json(installation, "keys", "list")} >= {name, "trips"}
    rotated = as_json(installation, "keys", "rotate", name, "--column", "iban")
    assert [(each["column"], each["number"]) for each in rotated] == [("iban", 2)]
    shown = installation.done("keys", "show", name)
    assert "(the dataset's)" in shown
    installation.done("keys", "disable", name, "--column", "iban")
    ended = installation.strongroom("dataset", "decrypt", name, "--to", str(tmp_path / "closed"))
    installation.assert_clear_end(ended, step=None, says=["the key of column iban of dataset people is disabled"])
    installation.done("keys", "enable", name)
    assert rows_of(installation, name, tmp_path / "open") == list(range(10))


@pytest.mark.parametrize(
    ("arguments", "says", "status"),
    [
        (("dataset", "rotate", "trips", "--column", "fare"), "column fare of dataset trips has no key of its own", 1),
        (("dataset", "retire", "trips"), "say --version or --unused", 2),
        (("dataset", "retire", "trips", "--version", "0000"), "there is no version of a key 0000", 1),
        (("keys", "show", "nowhere"), "there is no dataset nowhere", 1),
        (("dataset", "create", "x", "--column-keys", "a,,b"), "holds an empty name", 2),
        (("dataset", "create", "x", "--column-keys", "a,A"), "a column is named twice", 1),
        (("dataset", "shred", "trips", "--confirm", "trisp"), "nothing was destroyed", 1),
        (("dataset", "shredding", "trips"), "were not destroyed", 1),
    ],
)
def test_what_cannot_be_done_to_keys_is_refused_with_its_cause(
    installation: Installation, arguments: tuple[str, ...], says: str, status: int
) -> None:
    ended = installation.strongroom(*arguments)
    installation.assert_clear_end(ended, step=None, says=[says], status=status)


def test_the_newest_version_of_a_key_is_not_retired(installation: Installation) -> None:
    version = as_json(installation, "keys", "show", "trips")["keys"][0]["version"]
    ended = installation.strongroom("dataset", "retire", "trips", "--version", version)
    installation.assert_clear_end(ended, step=None, says=["is the newest one", "strongroom dataset rotate trips"])


def test_a_shredded_dataset_is_gone_and_its_proof_is_verified_without_any_service(
    installation: Installation, tmp_path: Path
) -> None:
    name, proof = new_dataset(installation, "gone"), tmp_path / "gone.json"
    shredded = installation.done("dataset", "shred", name, "--confirm", name, "--proof", str(proof))
    assert "every key is destroyed" in shredded
    for arguments in (
        ("dataset", "decrypt", name, "--to", str(tmp_path / "plain")),
        ("dataset", "show", name),
        ("dataset", "rotate", name),
        ("dataset", "shred", name, "--confirm", name, "--proof", str(tmp_path / "again.json")),
    ):
        ended = installation.strongroom(*arguments)
        installation.assert_clear_end(ended, step=None, says=["were destroyed"])
    ended = installation.strongroom("dataset", "shred", name, "--confirm", name, "--proof", str(proof))
    installation.assert_clear_end(ended, step=None, says=["exists already"])
    installation.done("dataset", "shredding", name, "--proof", str(tmp_path / "second.json"))
    assert [each["state"] for each in as_json(installation, "keys", "list", name)] == ["destroyed"]
    with installation.without("key-service"):
        for file in (proof, tmp_path / "second.json"):
            verified = as_json(installation, "dataset", "verify-shredding", str(file))
            assert (verified["dataset"], len(verified["keys"])) == (name, 1)
        content = proof.read_text()
        proof.write_text(content.replace(f'\\"dataset\\":\\"{name}\\"', '\\"dataset\\":\\"kept\\"'))
        assert proof.read_text() != content
        ended = installation.strongroom("dataset", "verify-shredding", str(proof))
    assert (ended.status, "Traceback" in ended.text) == (1, False)


# --- two writers -----------------------------------------------------------------------------------------------------


def between(installation: Installation, name: str) -> Iterator[pa.Table]:
    """A table, and another import that is made while it is encrypted."""
    yield PEOPLE
    encrypt(installation, name, append=True)


def test_an_import_that_adds_goes_on_top_of_one_that_came_in_between(
    installation: Installation, tmp_path: Path
) -> None:
    name = new_dataset(installation, "added")
    assert encrypt(installation, name, between(installation, name), append=True).number == 3
    assert rows_of(installation, name, tmp_path / "plain") == sorted([*range(10)] * 3)


def test_an_import_that_replaces_ends_with_a_conflict_and_leaves_no_file(installation: Installation) -> None:
    name = new_dataset(installation, "replaced")
    with pytest.raises(ConflictError, match="is at version 2, not at 1"):
        encrypt(installation, name, between(installation, name))
    version = owned_datasets.open_version(
        installation.owner(), name=name, location=installation.state.storage(name), number=None
    )
    assert version.statement.number == 2
    folders = {path.name for path in installation.storage(name).iterdir()} - {"_strongroom"}
    assert folders == {file.write_id for file in version.manifest.files}


def run_with_an_import_in_between(
    installation: Installation, tmp_path: Path, *, name: str, mode: str
) -> tuple[Ended, Submission]:
    """Run an application that writes a dataset; when it has written, and before it ends, the owner adds to it."""
    script, written, go_on = (tmp_path / each for each in ("slow.py", "written", "go-on"))
    script.write_text(APPEND_SLOWLY)
    submission = Submission(
        script=script,
        arguments=(f"strongroom://{name}", mode, str(written), str(go_on)),
        reads=(),
        writes=(name,),
    )
    installation.approve(submission)
    with installation.started("submit", *submission.sizes, *submission.command_line()) as process:
        try:
            wait_until(lambda: written.exists() or process.poll() is not None, what="the application has written")
            encrypt(installation, name, append=True)
        finally:
            go_on.touch()
            stdout, stderr = process.communicate(timeout=600)
    return Ended(status=process.returncode, stdout=stdout, stderr=stderr), submission


def test_a_run_that_adds_goes_on_top_of_a_version_that_came_in_between(
    installation: Installation, tmp_path: Path
) -> None:
    name = new_dataset(installation, "shared", columns="iban")
    ended, _ = run_with_an_import_in_between(installation, tmp_path, name=name, mode="append")
    assert ended.status == 0, ended.text
    versions = installation.owner().versions(name)
    assert [version.writer.partition(":")[0] for version in versions] == ["owner", "owner", "run"]
    expected = sorted([*range(10), *range(10), *range(100, 105)])
    assert rows_of(installation, name, tmp_path / "plain") == expected
    installation.done("receipt", "verify", str(installation.receipt(ended)))


def test_a_run_that_replaces_ends_with_a_conflict_when_a_version_came_in_between(
    installation: Installation, tmp_path: Path
) -> None:
    name = new_dataset(installation, "contested")
    ended, _ = run_with_an_import_in_between(installation, tmp_path, name=name, mode="overwrite")
    installation.assert_clear_end(ended, step=None, says=["did not only add to it", "submit again"])
    assert installation.versions(name) == 2
    assert rows_of(installation, name, tmp_path / "plain") == sorted([*range(10)] * 2)
