import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strongroom.application import package
from strongroom.application.description import DatasetBinding, parse_description
from strongroom.application.package import ApplicationSources, check_datasets, measure_package, pack
from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    LimitError,
    RefusedError,
)
from strongroom.base.limits import Limits

BINDING = DatasetBinding(key_service="5e" * 32, access="read", version=None)


@pytest.fixture
def sources(tmp_path: Path) -> ApplicationSources:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "job.py").write_text("print(1)\n")
    (folder / "lib.zip").write_bytes(b"PK\5\6" + bytes(18))
    (folder / "zones.csv").write_text("1,EWR\n")
    (folder / "env.tar.gz").write_bytes(bytes(3 << 20))
    return ApplicationSources(
        script=str(folder / "job.py"),
        py_files=(str(folder / "lib.zip"),),
        files=(str(folder / "zones.csv"),),
        archives=(str(folder / "env.tar.gz"),),
        arguments=("strongroom://trips/2018", "--out=strongroom://report"),
        environment={"MODE": "full"},
        settings={"spark.sql.ansi.enabled": "true"},
        datasets={"trips": BINDING, "report": BINDING.model_copy(update={"access": "write"})},
    )


@pytest.fixture
def packed(sources: ApplicationSources, tmp_path: Path) -> Path:
    pack(sources, output=tmp_path / "package")
    return tmp_path / "package"


def edit(packed: Path, old: bytes, new: bytes) -> None:
    path = packed / "description.json"
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new))


def test_packs_files_in_the_order_that_spark_receives_them(sources: ApplicationSources, tmp_path: Path) -> None:
    description = pack(sources, output=tmp_path / "package")
    assert [(file.name, file.use) for file in description.files] == [
        ("job.py", "entry-point"),
        ("lib.zip", "py-file"),
        ("zones.csv", "file"),
        ("env.tar.gz", "archive"),
    ]
    assert description.entry_point == description.name == "job.py"
    for file in description.files:
        data = (tmp_path / "package" / file.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size_bytes, file.sha256)
    assert parse_description((tmp_path / "package" / "description.json").read_bytes()) == description


def test_packing_the_same_twice_gives_the_same_digest(sources: ApplicationSources, tmp_path: Path) -> None:
    assert pack(sources, output=tmp_path / "a").digest == pack(sources, output=tmp_path / "b").digest


@pytest.mark.parametrize(
    "remote", ["https://example.org/x.py", "hdfs:///x.py", "s3a://b/x.py", "local:///x.py", "file:///x.py", "ivy:a"]
)
@pytest.mark.parametrize("field", ["script", "py_files", "files", "archives"])
def test_refuses_remote_code(sources: ApplicationSources, tmp_path: Path, field: str, remote: str) -> None:
    value: Any = remote if field == "script" else (remote,)
    with pytest.raises(RefusedError, match="not a file on this machine"):
        pack(replace(sources, **{field: value}), output=tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_refuses_ivy_packages(sources: ApplicationSources, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"spark\.jars\.packages"):
        pack(replace(sources, settings={"spark.jars.packages": "org.example:x:1"}), output=tmp_path / "package")


def test_refuses_to_pack_a_dataset_without_binding(sources: ApplicationSources, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="strongroom://report, which is bound to nothing"):
        pack(replace(sources, datasets={"trips": BINDING}), output=tmp_path / "package")


def test_refuses_environment_variables_that_load_code(sources: ApplicationSources, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="LD_PRELOAD"):
        pack(replace(sources, environment={"LD_PRELOAD": "x.so"}), output=tmp_path / "package")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("script", "missing.py"),
        ("script", "zones.csv"),
        ("py_files", "zones.csv"),
        ("archives", "job.py"),
        ("files", ""),
    ],
)
def test_refuses_files_that_are_missing_or_of_another_kind(
    sources: ApplicationSources, tmp_path: Path, field: str, name: str
) -> None:
    path = str(tmp_path / "source" / name)
    value: Any = path if field == "script" else (path,)
    with pytest.raises(ConfigurationError):
        pack(replace(sources, **{field: value}), output=tmp_path / "package")


@pytest.mark.parametrize("name", ["job.py", "JOB.PY", "description.json"])
def test_refuses_two_files_of_one_name(sources: ApplicationSources, tmp_path: Path, name: str) -> None:
    other = tmp_path / "other" / name
    other.parent.mkdir()
    other.write_text("x")
    with pytest.raises(ConfigurationError, match="two files are called"):
        pack(replace(sources, files=(str(other),)), output=tmp_path / "package")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "source"]


def test_refuses_too_much(sources: ApplicationSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMITS", Limits(package_bytes=1 << 20))
    with pytest.raises(LimitError, match="larger than allowed"):
        pack(sources, output=tmp_path / "package")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_refuses_an_existing_folder(sources: ApplicationSources, packed: Path) -> None:
    with pytest.raises(ConflictError):
        pack(sources, output=packed)


@pytest.mark.parametrize(
    ("arguments", "bound", "fault"),
    [
        (["strongroom://trips"], ["trips", "unused"], "strongroom://unused, but no argument"),
        (["strongroom://trips", "x=strongroom://fares/a"], ["trips"], "strongroom://fares, which is bound to nothing"),
        (["strongroom:///a"], [], "bound to nothing"),
        (["strongroom://TRIPS"], ["trips"], "strongroom://TRIPS, which is bound to nothing"),
    ],
)
def test_refuses_datasets_that_are_named_but_not_bound_or_the_reverse(
    arguments: list[str], bound: list[str], fault: str
) -> None:
    with pytest.raises(RefusedError, match=fault):
        check_datasets(arguments, bound=dict.fromkeys(bound, BINDING))


def test_finds_several_datasets_in_one_argument() -> None:
    check_datasets(["strongroom://a/x,strongroom://b?y", "z strongroom://c"], bound=dict.fromkeys("abc", BINDING))


def test_measures_what_was_packed(sources: ApplicationSources, packed: Path, tmp_path: Path) -> None:
    measured = measure_package(packed, tmp_path / "copy")
    assert measured.digest == pack(sources, output=tmp_path / "again").digest
    assert measured.digest == hashlib.sha256((packed / "description.json").read_bytes()).hexdigest()
    assert measured.folder == tmp_path / "copy"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700
    for name in ("job.py", "lib.zip", "zones.csv", "env.tar.gz"):
        assert (measured.folder / name).read_bytes() == (packed / name).read_bytes()


def test_what_is_executed_is_the_copy(packed: Path, tmp_path: Path) -> None:
    measured = measure_package(packed, tmp_path / "copy")
    (packed / "job.py").write_text("print('evil')\n")
    assert (measured.folder / "job.py").read_text() == "print(1)\n"


@pytest.mark.parametrize(
    ("attack", "fault"),
    [
        (lambda path: (path / "job.py").write_text("print(2)\n"), r"job\.py: expected SHA-256"),
        (lambda path: (path / "job.py").write_text("print(1)"), r"job\.py: expected 9 bytes, found 8 bytes"),
        (lambda path: (path / "job.py").write_text("print(1)\n#"), r"job\.py: expected 9 bytes, found more"),
        (lambda path: (path / "job.py").unlink(), r"job\.py: expected a regular file, found .* is missing"),
        (lambda path: (path / "extra.py").write_text("x"), r"extra\.py: expected no such file"),
        (lambda path: (path / "folder").mkdir(), "folder: expected no such file"),
    ],
    ids=["changed", "truncated", "lengthened", "missing", "extra", "folder"],
)
def test_refuses_a_package_that_is_not_what_it_says(
    packed: Path, tmp_path: Path, attack: Callable[[Path], object], fault: str
) -> None:
    attack(packed)
    with pytest.raises(IntegrityError, match=fault) as refusal:
        measure_package(packed, tmp_path / "copy")
    assert refusal.value.action


def test_names_every_file_that_differs(packed: Path, tmp_path: Path) -> None:
    for name in ("job.py", "zones.csv"):
        (packed / name).write_bytes((packed / name).read_bytes().swapcase())
    with pytest.raises(IntegrityError) as refusal:
        measure_package(packed, tmp_path / "copy")
    assert [mismatch.name for mismatch in refusal.value.mismatches] == ["job.py", "zones.csv"]


@pytest.mark.parametrize("name", ["job.py", "description.json"])
def test_follows_no_link(packed: Path, tmp_path: Path, name: str) -> None:
    (packed / name).rename(tmp_path / "elsewhere")
    (packed / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is a link"):
        measure_package(packed, tmp_path / "copy")


@pytest.mark.parametrize("name", ["job.py", "description.json"])
def test_waits_for_no_pipe(packed: Path, tmp_path: Path, name: str) -> None:
    (packed / name).unlink()
    os.mkfifo(packed / name)
    with pytest.raises(IntegrityError, match="not a regular file"):
        measure_package(packed, tmp_path / "copy")


def test_refuses_a_description_in_another_spelling(packed: Path, tmp_path: Path) -> None:
    edit(packed, b'"version":1}', b'"version":1 }')
    with pytest.raises(FormatError, match="canonical"):
        measure_package(packed, tmp_path / "copy")


def test_refuses_a_huge_description(packed: Path, tmp_path: Path) -> None:
    (packed / "description.json").write_bytes(b" " * ((4 << 20) + 1))
    with pytest.raises(LimitError):
        measure_package(packed, tmp_path / "copy")


def test_refuses_a_described_package_that_is_too_large(packed: Path, tmp_path: Path) -> None:
    edit(packed, b'"size_bytes":9,', b'"size_bytes":%d,' % (1 << 30))
    with pytest.raises(LimitError, match="the package has more than"):
        measure_package(packed, tmp_path / "copy")


@pytest.mark.parametrize(
    ("field", "value"),
    [("settings", {"spark.plugins": "com.evil.Plugin"}), ("environment", {"LD_PRELOAD": "/evil.so"})],
)
def test_refuses_hand_made_descriptions_with_forbidden_choices(
    packed: Path, tmp_path: Path, field: str, value: dict[str, str]
) -> None:
    path = packed / "description.json"
    path.write_bytes(canonical_json({**parse_json_object(path.read_bytes()), field: value}))
    with pytest.raises(RefusedError, match=next(iter(value))):
        measure_package(packed, tmp_path / "copy")


def test_refuses_a_package_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        measure_package(tmp_path / "missing", tmp_path / "copy")


def test_never_copies_into_an_existing_folder(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(ConfigurationError):
        measure_package(packed, tmp_path / "copy")
