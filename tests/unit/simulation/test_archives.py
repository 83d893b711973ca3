import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from deploy.images.oci import Entry, ImageConfig, entries_of, write_archive
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, IntegrityError, NotFoundError, StrongroomError
from strongroom.simulation.archives import MeasuredImage, measure_archive
from strongroom.simulation.containers import MARK, ContainerMeasurer, ImageMark, container_at

IMAGE_MARK = ImageMark(python="/usr/bin/python3", entries=("strongroom.agent",))
BASE = (
    Entry(path="usr/bin/python3", content=b"interpreter"),
    Entry(path="usr/lib/old", mode=0o644, content=b"old"),
    Entry(path="usr/lib/folder/one", mode=0o644, content=b"one"),
    Entry(path="bin", target="usr/bin"),
    Entry(path=MARK, mode=0o644, content=IMAGE_MARK.to_json()),
)


def archive_of(folder: Path, *layers: tuple[Entry, ...]) -> Path:
    path = folder / "image.oci.tar"
    write_archive(path, name="localhost/example:1", layers=layers, config=ImageConfig(entrypoint=("/usr/bin/python3",)))
    return path


def measured_when_run(folder: Path, *layers: tuple[Entry, ...]) -> str:
    """Lay the files out as a container has them, and measure that."""
    root = folder / "root"
    for layer in layers:
        for entry in sorted(layer, key=lambda each: each.path):
            path = root / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.target is not None:
                path.symlink_to(entry.target)
            elif isinstance(entry.content, bytes):
                path.write_bytes(entry.content)
            else:
                path.mkdir(exist_ok=True)
    container = container_at(root)
    assert container is not None
    return ContainerMeasurer().measure(container)


def handmade(folder: Path, *layers: bytes, **changed: Any) -> Path:
    """Make an archive out of packed layers; `changed` has parts of the index to put in another one's place."""
    blobs = [*layers, b"{}"]
    digests = [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs]
    manifest = {"config": {"digest": digests[-1]}, "layers": [{"digest": each} for each in digests[:-1]]}
    blobs.append(json.dumps(manifest).encode())
    index = {"manifests": [{"digest": f"sha256:{hashlib.sha256(blobs[-1]).hexdigest()}"}], **changed}
    path = folder / "handmade.tar"
    files = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs}
    path.write_bytes(packed({"index.json": json.dumps(index).encode(), **files}))
    return path


def packed(files: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            archive.addfile(member)
    return file.getvalue()


def lower_layer() -> bytes:
    return packed({entry.path: entry.content for entry in BASE if isinstance(entry.content, bytes)})


def test_an_archive_measures_what_its_containers_will_measure(tmp_path: Path) -> None:
    added = (Entry(path="opt"), Entry(path="opt/new", content=b"new"), Entry(path="data/part", content=b"data"))

    measured = measure_archive(archive_of(tmp_path, BASE, added))

    assert measured.files == measured_when_run(tmp_path, BASE, added)
    assert measured.mark == IMAGE_MARK


def test_a_tree_and_its_archive_have_one_measurement(tmp_path: Path) -> None:
    expected = measured_when_run(tmp_path, BASE)

    assert measure_archive(archive_of(tmp_path, tuple(entries_of(tmp_path / "root")))).files == expected


def test_the_image_is_named_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "image.oci.tar"
    config = ImageConfig(entrypoint=("/usr/bin/python3",))
    digest = write_archive(path, name="localhost/example:1", layers=[BASE], config=config)

    assert measure_archive(path).digest == digest


def test_each_entry_has_reference_values_for_each_kind_of_tee(tmp_path: Path) -> None:
    values = measure_archive(archive_of(tmp_path, BASE)).reference_values()

    assert values.keys() == {"strongroom.agent"}
    assert {name: len(value) for name, value in values["strongroom.agent"].items()} == {
        "mrenclave": 64,
        "mrtd": 96,
        "launch_digest": 96,
    }


def test_layers_add_replace_and_remove(tmp_path: Path) -> None:
    upper = packed({"usr/lib/.wh.old": b"", "usr/lib/folder/.wh..wh..opq": b"", "usr/lib/folder/two": b"two"})
    plain = packed(
        {
            "usr/bin/python3": b"interpreter",
            MARK: IMAGE_MARK.to_json(),
            "usr/lib/folder/two": b"two",
        }
    )

    assert measure_archive(handmade(tmp_path, lower_layer(), upper)).files == measured(tmp_path, plain).files


def measured(folder: Path, *layers: bytes) -> MeasuredImage:
    return measure_archive(handmade(folder, *layers))


def test_a_removed_folder_takes_its_files_along(tmp_path: Path) -> None:
    plain = packed({"usr/bin/python3": b"interpreter", MARK: IMAGE_MARK.to_json()})

    assert measured(tmp_path, lower_layer(), packed({"usr/.wh.lib": b""})).files == measured(tmp_path, plain).files


def test_a_file_in_a_folders_place_takes_its_files_along(tmp_path: Path) -> None:
    plain = packed({"usr/bin/python3": b"interpreter", MARK: IMAGE_MARK.to_json(), "usr/lib": b"file"})

    assert measured(tmp_path, lower_layer(), packed({"./usr/lib": b"file"})).files == measured(tmp_path, plain).files


def test_a_hard_link_is_the_file_that_it_is(tmp_path: Path) -> None:
    plain = packed({"usr/bin/same": b"interpreter"})
    linked = packed({}, links={"usr/bin/same": "usr/bin/python3"})

    expected = measured(tmp_path, lower_layer(), plain).files
    assert measured(tmp_path, lower_layer(), linked).files == expected
    with pytest.raises(FormatError, match="hard link"):
        measured(tmp_path, lower_layer(), packed({}, links={"usr/bin/same": "usr/bin/missing"}))


def test_layers_may_be_compressed(tmp_path: Path) -> None:
    compressed = gzip.compress(lower_layer(), mtime=0)

    assert measured(tmp_path, compressed).files == measured(tmp_path, lower_layer()).files


def test_a_part_that_is_not_what_its_digest_says_is_an_integrity_error(tmp_path: Path) -> None:
    path = archive_of(tmp_path, BASE)
    content = path.read_bytes()
    for part in (b"interpreter", b'"User":"1000:1000"'):
        assert content.count(part) == 1
        path.write_bytes(content.replace(part, part.swapcase()))
        with pytest.raises(IntegrityError):
            measure_archive(path)


def test_a_missing_part_is_not_found(tmp_path: Path) -> None:
    missing = [{"digest": "sha256:" + "0" * 64}]
    with pytest.raises(NotFoundError):
        measure_archive(handmade(tmp_path, lower_layer(), manifests=missing))


@pytest.mark.parametrize(
    "manifests", [[], [{"digest": "sha256:" + "0" * 64}] * 2, [{"digest": "md5:0"}], [{}], None], ids=str
)
def test_an_archive_holds_exactly_one_image(tmp_path: Path, manifests: Any) -> None:
    with pytest.raises(FormatError):
        measure_archive(handmade(tmp_path, lower_layer(), manifests=manifests))


@pytest.mark.parametrize(
    "layer",
    [
        packed({"usr/../etc/x": b""}),
        packed({"usr/bin/python3/x": b""}),
        packed({MARK: IMAGE_MARK.to_json() + b" " * 5000}),
        packed({"etc/.wh.strongroom-image": b""}),
        packed({}, links={MARK: "usr/bin/python3"}),
        b"no tar at all",
    ],
    ids=["dots", "through a file", "long mark", "mark removed", "mark replaced", "no tar"],
)
def test_a_malformed_layer_is_a_format_error(tmp_path: Path, layer: bytes) -> None:
    with pytest.raises(FormatError):
        measured(tmp_path, lower_layer(), layer)


@given(content=st.binary(max_size=2048))
def test_any_bytes_are_measured_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("archive") / "any"
    path.write_bytes(content)
    with pytest.raises(StrongroomError):
        measure_archive(path)
