import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from deploy.images.oci import EPOCH, Entry, ImageConfig, entries_of, write_archive

from strongroom.base.errors import ConfigurationError, RefusedError

CONFIG = ImageConfig(entrypoint=("/usr/bin/program",), environment={"LANG": "C.UTF-8"})
LAYER = (
    Entry(path="usr"),
    Entry(path="usr/bin"),
    Entry(path="usr/bin/program", content=b"program"),
    Entry(path="usr/lib/" + "deep/" * 40 + "library", mode=0o644, content=b"library"),
    Entry(path="bin", target="usr/bin"),
    Entry(path="tmp", mode=0o1777),
)


def write(path: Path, layers: Sequence[Sequence[Entry]] = (LAYER,), **options: Any) -> str:
    return write_archive(path, name="localhost/example:1", layers=layers, config=CONFIG, **options)


def document(archive: tarfile.TarFile, digest: str) -> Any:
    return json.loads(blob(archive, digest))


def blob(archive: tarfile.TarFile, digest: str) -> bytes:
    return part(archive, f"blobs/{digest.replace(':', '/')}")


def part(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_the_same_files_give_the_same_bytes_whatever_their_order(tmp_path: Path) -> None:
    digests = {write(tmp_path / "one"), write(tmp_path / "two", [LAYER[::-1]])}

    assert len(digests) == 1
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_neither_times_nor_owners_of_files_get_into_an_image(tmp_path: Path) -> None:
    archives = []
    for age_s in (0, 1000):
        tree = tmp_path / f"tree-{age_s}"
        (tree / "opt").mkdir(parents=True)
        (tree / "opt/file").write_text("content")
        (tree / "opt/file").chmod(0o644)
        (tree / "link").symlink_to("opt/file")
        os.utime(tree / "opt/file", (age_s, age_s))
        archives.append(tmp_path / f"archive-{age_s}")
        write(archives[-1], [entries_of(tree)])

    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_an_image_is_what_the_format_says(tmp_path: Path) -> None:
    digest = write(tmp_path / "archive")

    with tarfile.open(tmp_path / "archive") as archive:
        index = json.loads(part(archive, "index.json"))
        manifest = document(archive, index["manifests"][0]["digest"])
        config = document(archive, manifest["config"]["digest"])
        (layer,) = manifest["layers"]
        content = blob(archive, layer["digest"])
        for member in archive:
            if member.name.startswith("blobs/"):
                assert hashlib.sha256(blob(archive, f"sha256:{member.name[13:]}")).hexdigest() == member.name[13:]

    assert index["manifests"][0]["digest"] == digest
    assert index["manifests"][0]["annotations"]["io.containerd.image.name"] == "localhost/example:1"
    assert layer["size"] == len(content)
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert config["config"]["User"] == "1000:1000"
    assert config["config"]["Entrypoint"] == ["/usr/bin/program"]
    assert config["config"]["Env"] == ["LANG=C.UTF-8"]
    (tmp_path / "layer").write_bytes(content)
    with tarfile.open(tmp_path / "layer") as files:
        members = files.getmembers()
    assert [member.name for member in members] == sorted(entry.path for entry in LAYER)
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, EPOCH)}
    assert {member.name: member.mode for member in members}["tmp"] == 0o1777
    assert {member.name: member.linkname for member in members if member.issym()} == {"bin": "usr/bin"}


def test_files_of_a_tree_keep_content_permissions_and_links(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/program").write_text("program")
    (tree / "bin/program").chmod(0o755)
    (tree / "nowhere").symlink_to("/missing")

    found = {entry.path: entry for entry in entries_of(tree, without={"bin"})}

    assert found.keys() == {"bin/program", "nowhere"}
    assert (found["bin/program"].mode, found["bin/program"].content) == (0o755, tree / "bin/program")
    assert found["nowhere"].target == "/missing"


def test_what_is_no_file_is_no_part_of_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="pipe"):
        entries_of(tmp_path)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (Entry(path="usr/bin/su", mode=0o4755, content=b""), "set-user-id"),
        (Entry(path="usr/bin/wall", mode=0o2755, content=b""), "set-group-id"),
        (Entry(path="var/mail", mode=0o2775), "set-group-id"),
        (Entry(path="etc/passwd", mode=0o666, content=b""), "writable"),
        (Entry(path="tmp", mode=0o777), "writable"),
        (Entry(path="tmp/file", mode=0o1777, content=b""), "writable"),
        (Entry(path="usr/bin/sh", content=b""), "no shell"),
        (Entry(path="bin/sh", target="/usr/bin/python3"), "no shell"),
        (Entry(path="usr/bin/bash", content=b""), "no shell"),
        (Entry(path="bin/busybox", content=b""), "no shell"),
        (Entry(path="usr/bin/apt-get", content=b""), "no package manager"),
        (Entry(path="opt/strongroom/venv/bin/pip", content=b""), "no package manager"),
    ],
    ids=lambda value: value.path if isinstance(value, Entry) else None,
)
def test_refuses_what_no_image_of_ours_may_have(tmp_path: Path, entry: Entry, expected: str) -> None:
    with pytest.raises(RefusedError) as refused:
        write(tmp_path / "archive", [LAYER, [entry]])

    assert [(each.name, expected in each.expected) for each in refused.value.mismatches] == [(entry.path, True)]
    assert list(tmp_path.iterdir()) == []


def test_refuses_all_of_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(RefusedError) as refused:
        write(tmp_path / "archive", [[Entry(path="bin/sh", mode=0o4777, content=b"")]])

    assert len(refused.value.mismatches) == 3


def test_a_shell_is_allowed_where_that_is_said(tmp_path: Path) -> None:
    assert write(tmp_path / "archive", [[Entry(path="bin/sh", content=b"")]], with_shell=True)


def test_a_folder_called_as_a_shell_is_none(tmp_path: Path) -> None:
    assert write(tmp_path / "archive", [[Entry(path="usr/bin/sh"), Entry(path="opt/sh", content=b"")]])


@pytest.mark.parametrize("path", ["/etc/passwd", "../etc", "etc/../../x", "", ".", "etc//passwd", "etc/"])
def test_a_path_outside_the_root_is_no_entry(path: str) -> None:
    with pytest.raises(ConfigurationError):
        Entry(path=path)


def test_equal_layers_are_in_the_archive_once(tmp_path: Path) -> None:
    write(tmp_path / "archive", [LAYER, LAYER])

    with tarfile.open(tmp_path / "archive") as archive:
        names = archive.getnames()
        index = json.loads(part(archive, "index.json"))
        manifest = document(archive, index["manifests"][0]["digest"])
    assert len(names) == len(set(names))
    assert len(manifest["layers"]) == 2
