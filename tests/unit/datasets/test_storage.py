import contextlib
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
)
from strongroom.datasets.storage import Storage, storage_errors, write_file, writing_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "location",
    [
        "",
        "/plain/path",
        "file:relative",
        "file://host/path",
        "file:///a?b",
        "file:///a#b",
        "file:///a/../b",
        "file:///a/%2e%2e/b",
        "file:///a%00b",
        "s3://bucket/a",
        "abfss://container@account/a",
        "http://[",
    ],
)
def test_refuses_locations_that_are_no_local_folder(location: str) -> None:
    with pytest.raises(ConfigurationError, match="storage location"):
        Storage(location)


def test_locations_are_uris_both_ways(tmp_path: Path) -> None:
    folder = tmp_path / "a b%c"
    storage = Storage(folder.as_uri())
    assert storage.path("w/p=1%2F2/x") == folder / "w" / "p=1%2F2" / "x"
    assert storage.uri("w/p=1%2F2/x") == (folder / "w/p=1%2F2/x").as_uri()
    assert " " not in storage.uri("x")


def test_reads_what_was_written_as_a_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "folder" / "name", b"content")
    assert Storage(tmp_path.as_uri()).read("new/folder/name", max_bytes=7) == b"content"
    assert names(tmp_path / "new" / "folder") == ["name"]


def test_refuses_a_file_longer_than_allowed(tmp_path: Path) -> None:
    write_file(tmp_path / "name", b"content")
    with pytest.raises(IntegrityError, match="longer than 6 bytes"):
        Storage(tmp_path.as_uri()).read("name", max_bytes=6)


@pytest.mark.parametrize("name", ["missing", "file/below"])
def test_missing_file_is_not_found(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / "file", b"")
    with pytest.raises(NotFoundError):
        Storage(tmp_path.as_uri()).read(name, max_bytes=1)


def test_missing_manifest_is_an_integrity_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="missing from storage"):
        Storage(tmp_path.as_uri()).read_manifest("ab" * 32)


def test_manifest_stands_under_its_digest(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    storage.write_manifest(b"manifest", "ab" * 32)
    assert (tmp_path / "_strongroom" / f"{'ab' * 32}.manifest").read_bytes() == b"manifest"
    assert storage.read_manifest("ab" * 32) == b"manifest"


def test_an_error_while_writing_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "name"
    write_file(path, b"old")
    with contextlib.suppress(KeyboardInterrupt), writing_file(path) as partial:
        partial.write_bytes(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["name"]


def test_a_full_disk_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="storage is full"), storage_errors(tmp_path):
        Path("/dev/full").write_bytes(b"x")


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file sizes stands for the disk: it fails in the middle of a file."""
    script = (
        "import sys; from pathlib import Path; from strongroom.datasets.storage import write_file\n"
        "try: write_file(Path(sys.argv[1]), bytes(1 << 20))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "name")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)),
    )
    assert done.stdout == "UnavailableError\n"
    assert names(tmp_path) == []


def test_a_forbidden_place_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="may not be"), storage_errors(tmp_path):
        raise PermissionError(1, "no")


def test_other_faults_of_storage_are_unavailability(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="Input/output error"), storage_errors(tmp_path):
        raise OSError(5, "no")


def test_names_lists_files_and_follows_no_link(tmp_path: Path) -> None:
    write_file(tmp_path / "b" / "file", b"")
    write_file(tmp_path / "a", b"")
    (tmp_path / "b" / "link").symlink_to("/usr")
    assert Storage(tmp_path.as_uri()).names() == ["a", "b/file"]
    assert Storage(tmp_path.as_uri()).names("b") == ["b/file"]


def test_removes_a_folder_but_not_what_links_in_it_point_to(tmp_path: Path) -> None:
    write_file(tmp_path / "outside" / "kept", b"")
    write_file(tmp_path / "root" / "w" / "deep" / "file", b"")
    (tmp_path / "root" / "w" / "link").symlink_to(tmp_path / "outside")
    storage = Storage((tmp_path / "root").as_uri())
    storage.remove_folder("w")
    storage.remove_folder("never-there")
    assert names(tmp_path / "root") == []
    assert (tmp_path / "outside" / "kept").exists()


def test_a_name_is_created_once_and_whole(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    storage.create("a/b", b"first")
    with pytest.raises(ConflictError):
        storage.create("a/b", b"second")
    assert storage.read("a/b", max_bytes=10) == b"first"
    assert names(tmp_path / "a") == ["b"]


def test_of_many_who_create_a_name_one_succeeds(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())

    def create(number: int) -> bool:
        try:
            storage.create("name", str(number).encode())
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = [number for number, made in enumerate(pool.map(create, range(32))) if made]
    assert [storage.read("name", max_bytes=10)] == [str(number).encode() for number in won]
    assert names(tmp_path) == ["name"]


def test_refuses_to_create_where_it_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StrongroomError):
        Storage(tmp_path.as_uri()).create("file/below", b"")
    assert names(tmp_path) == ["file"]
