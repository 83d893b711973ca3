"""Image archives: the same bytes for the same image, and read as what they are."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from tests.support.kubernetes.oci import read_archive, write_archive

from strongroom.base.errors import FormatError


def made(path: Path, program: bytes = b"a program") -> Path:
    write_archive(
        path, name="localhost:5000/a/box:e2e", programs={"/box": program}, entrypoint=["/box"], command=[], user="1:1"
    )
    return path


def test_the_same_image_has_the_same_bytes(tmp_path: Path) -> None:
    assert made(tmp_path / "a").read_bytes() == made(tmp_path / "b").read_bytes()
    assert read_archive(tmp_path / "a").digest != read_archive(made(tmp_path / "c", b"another")).digest


def test_an_archive_is_read_as_what_was_written(tmp_path: Path) -> None:
    archive = read_archive(made(tmp_path / "box.oci.tar"))

    assert archive.repository == "localhost:5000/a/box"
    assert archive.reference == f"localhost:5000/a/box@{archive.digest}"


def test_every_blob_is_named_by_its_digest(tmp_path: Path) -> None:
    with tarfile.open(made(tmp_path / "a")) as archive:
        blobs = {name: archive.extractfile(name) for name in archive.getnames() if name.startswith("blobs/")}
        contents = {name: file.read() for name, file in blobs.items() if file is not None}
    assert len(contents) == 3
    for name, content in contents.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize("manifests", [[], [{"digest": "sha256:0"}, {"digest": "sha256:1"}], "text", [5]])
def test_what_is_not_one_image_is_refused(tmp_path: Path, manifests: object) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"manifests": manifests}))
    with tarfile.open(tmp_path / "a", "w") as archive:
        archive.add(tmp_path / "index.json", "index.json")

    with pytest.raises(FormatError, match="is not an OCI archive of one image"):
        read_archive(tmp_path / "a")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("words")
    with pytest.raises(FormatError):
        read_archive(tmp_path / "a")
