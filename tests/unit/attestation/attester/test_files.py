import os
import threading
from pathlib import Path

import pytest

from strongroom.attestation.attester.files import SystemFiles
from strongroom.base.errors import LimitError


def test_what_comes_in_parts_is_read_whole(tmp_path: Path) -> None:
    pipe = tmp_path / "quote"
    os.mkfifo(pipe)

    def feed() -> None:
        with pipe.open("wb", buffering=0) as file:
            for part in (b"one", b"two", b"three"):
                file.write(part)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert SystemFiles().read(pipe, limit_bytes=11) == b"onetwothree"
    feeder.join()


@pytest.mark.parametrize(("size", "limit"), [(11, 10), (1 << 20, 1 << 16), (1, 0)])
def test_what_is_larger_than_the_limit_is_refused(tmp_path: Path, size: int, limit: int) -> None:
    (tmp_path / "quote").write_bytes(bytes(size))
    with pytest.raises(LimitError, match="quote of the quoting device"):
        SystemFiles().read(tmp_path / "quote", limit_bytes=limit)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(LimitError):
        SystemFiles().read(Path("/dev/zero"), limit_bytes=1000)


def test_a_write_that_the_system_takes_in_part_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inblob").write_bytes(b"")
    monkeypatch.setattr(os, "write", lambda _, data: len(data) - 1)
    with pytest.raises(OSError, match="only a part"):
        SystemFiles().write(tmp_path / "inblob", bytes(64))


def test_a_write_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SystemFiles().write(tmp_path / "inblob", b"data")
    (tmp_path / "inblob").write_bytes(b"")
    SystemFiles().write(tmp_path / "inblob", b"data")
    assert (tmp_path / "inblob").read_bytes() == b"data"


def test_folders_are_made_and_removed(tmp_path: Path) -> None:
    files = SystemFiles()
    files.make_folder(tmp_path / "request")
    with pytest.raises(FileExistsError):
        files.make_folder(tmp_path / "request")
    files.remove_folder(tmp_path / "request")
    assert not list(tmp_path.iterdir())
