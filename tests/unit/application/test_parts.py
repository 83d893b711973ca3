import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.application import parts
from strongroom.application.parts import join_package, package_parts
from strongroom.base.errors import ConfigurationError, FormatError, LimitError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "description.json").write_bytes(b"{}")
    (folder / "application.py").write_bytes(b"print(1)\n" * 200_000)
    (folder / ("long" * 40 + ".py")).write_bytes(b"")
    return folder


def test_a_package_comes_back_as_it_was(package: Path, tmp_path: Path) -> None:
    made = package_parts(package)
    assert len(made) == 3
    assert made == package_parts(package)
    join_package(made, tmp_path / "joined")
    read = {path.name: path.read_bytes() for path in (tmp_path / "joined").iterdir()}
    assert read == {path.name: path.read_bytes() for path in package.iterdir()}


def test_a_package_that_no_pod_can_be_given_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PACKAGE_PARTS", 2)
    with pytest.raises(LimitError, match="pods can be given"):
        package_parts(package)


def test_a_missing_package_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        package_parts(tmp_path / "nothing")


def test_more_files_than_a_description_may_list_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MAX_FILES", 1)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(3):
            archive.addfile(tarfile.TarInfo(f"{number}.py"))
    with pytest.raises(LimitError, match="more than 1 files"):
        join_package([packed.getvalue()], tmp_path / "joined")


def test_nothing_is_written_into_a_folder_that_is_there(package: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be unpacked"):
        join_package(package_parts(package), package)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_compressed_package_is_refused(tmp_path: Path, mode: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("a.py"))
    with pytest.raises(FormatError):
        join_package([packed.getvalue()], tmp_path / "joined")


@given(content=st.binary(max_size=2048))
def test_any_bytes_are_joined_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any") / "joined"
    try:
        join_package([content], folder)
    except (FormatError, LimitError):
        return
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


@given(headers=st.lists(st.binary(min_size=512, max_size=512), max_size=3), name=st.binary(max_size=100))
def test_any_headers_are_joined_or_refused(
    tmp_path_factory: pytest.TempPathFactory, headers: list[bytes], name: bytes
) -> None:
    entry = bytearray(tarfile.TarInfo("a").tobuf())
    entry[: len(name)] = name
    checksum = sum(entry[:148]) + 8 * 32 + sum(entry[156:512])
    entry[148:156] = b"%06o\0 " % checksum
    folder = tmp_path_factory.mktemp("any") / "joined"
    try:
        join_package([b"".join((bytes(entry), *headers))], folder)
    except (FormatError, LimitError):
        return
    assert {path.parent for path in folder.rglob("*")} <= {folder}
