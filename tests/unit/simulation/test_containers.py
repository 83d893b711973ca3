import os
from collections.abc import Callable
from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError, FormatError, LimitError
from strongroom.simulation import containers
from strongroom.simulation.containers import MARK, Container, ContainerMeasurer, ImageMark, container_at, files_digest

PYTHON = "/opt/strongroom/venv/bin/python"
IMAGE_MARK = ImageMark(python=PYTHON, entries=("strongroom.agent",))


class Image:
    """The root of a container: files in the right places, nothing that runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.measurer = ContainerMeasurer()
        for path, content in {
            MARK: IMAGE_MARK.to_json().decode(),
            "usr/bin/python3.11": "interpreter",
            "usr/lib/libc.so.6": "C library",
            "usr/lib/python3.11/os.py": "name = 'posix'",
            "opt/strongroom/venv/lib/agent.py": "agent",
            "etc/passwd": "users",
            "etc/hosts": "addresses",
            "strongroom/run/descriptor.json": "the host's word",
            "tmp/file": "data",
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        (root / "opt/strongroom/venv/bin").mkdir()
        (root / PYTHON[1:]).symlink_to("/usr/bin/python3.11")
        (root / "lib").symlink_to("usr/lib")

    @property
    def container(self) -> Container:
        container = container_at(self.root)
        assert container is not None
        return container

    def measure(self) -> str:
        fresh, known = ContainerMeasurer().measure(self.container), self.measurer.measure(self.container)
        assert fresh == known, "what is remembered must not differ from what is read"
        return known


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path / "root")


def replace(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


CHANGES: dict[str, Callable[[Path], object]] = {
    "the system's library": lambda root: (root / "usr/lib/libc.so.6").write_text("c library"),
    "Python's library": lambda root: (root / "usr/lib/python3.11/os.py").write_text("name = 'posiX'"),
    "our code": lambda root: (root / "opt/strongroom/venv/lib/agent.py").write_text("Agent"),
    "a setting": lambda root: (root / "etc/ld.so.preload").write_text("/tmp/evil.so"),
    "a file beside Spark's settings": lambda root: put(root / "opt/spark/configuration", "evil"),
    "a new file": lambda root: (root / "opt/strongroom/venv/lib/sitecustomize.py").write_text("evil"),
    "a file that is gone": lambda root: (root / "usr/lib/libc.so.6").unlink(),
    "a file with another name": lambda root: (root / "etc/passwd").rename(root / "etc/shadow"),
    "where a link leads": lambda root: replace(root / PYTHON[1:], "/tmp/python"),
    "a link in a file's place": lambda root: replace(root / "etc/passwd", "hosts"),
    "a top folder": lambda root: replace(root / "lib", "tmp"),
    "a pipe": lambda root: os.mkfifo(root / "etc/pipe"),
    "what it is made for": lambda root: (root / MARK).write_bytes(
        ImageMark(python=PYTHON, entries=("strongroom.agent", "strongroom.services.key_service")).to_json()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_to_what_code_can_come_from_changes_the_measurement(image: Image, change: str) -> None:
    before = image.measure()
    CHANGES[change](image.root)
    assert image.measure() != before


@pytest.mark.parametrize(
    "path",
    [
        *("etc/hosts", "etc/hostname", "etc/resolv.conf", "strongroom/run/descriptor.json", "tmp/file", "data/part"),
        *("opt/spark/conf/spark.properties", "opt/spark/conf/..data/spark.properties"),
    ],
)
def test_what_a_cluster_writes_and_mounts_is_data(image: Image, path: str) -> None:
    before = image.measure()
    (image.root / path).parent.mkdir(parents=True, exist_ok=True)
    (image.root / path).write_text("another one")
    assert image.measure() == before


def test_a_folder_to_mount_on_changes_nothing(image: Image) -> None:
    before = image.measure()
    (image.root / "etc/mounted").mkdir()
    assert image.measure() == before


def test_an_edit_that_keeps_size_and_time_is_noticed(image: Image) -> None:
    file = image.root / "usr/lib/libc.so.6"
    before, status = image.measure(), file.stat()
    file.write_text("c LIBRARY")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert image.measure() != before


def test_two_containers_of_an_image_have_one_measurement(image: Image, tmp_path: Path) -> None:
    other = Image(tmp_path / "elsewhere" / "root")
    assert image.measurer.measure(other.container) == image.measure()


def test_no_link_leads_out_of_the_container(image: Image, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (image.root / "opt/linked").symlink_to(outside)
    before = image.measure()
    (outside / "file").write_text("anything")
    assert image.measure() == before


def test_the_interpreter_is_the_containers_own(image: Image) -> None:
    assert image.container.interpreter() == image.root / "usr/bin/python3.11"


@pytest.mark.parametrize("target", ["../../../../../../../../usr/bin/python3.11", "/lib/../bin/./python3.11"])
def test_links_lead_to_where_they_lead_in_the_container(image: Image, target: str) -> None:
    replace(image.root / PYTHON[1:], target)
    assert image.container.interpreter() == image.root / "usr/bin/python3.11"


def test_there_is_no_interpreter_where_links_lead_nowhere(image: Image) -> None:
    for target in ("/missing", PYTHON):
        replace(image.root / PYTHON[1:], target)
        with pytest.raises(ConfigurationError):
            image.container.interpreter()


def test_files_without_a_mark_are_no_container_of_ours(image: Image, tmp_path: Path) -> None:
    (image.root / MARK).unlink()
    assert container_at(image.root) is None
    assert container_at(tmp_path / "missing") is None


def test_the_mark_is_not_read_outside_of_the_container(image: Image, tmp_path: Path) -> None:
    (tmp_path / "mark").write_bytes(IMAGE_MARK.to_json())
    replace(image.root / MARK, str(tmp_path / "mark"))
    assert container_at(image.root) is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"version":1,"python":"python","entries":[]}',
        b'{"version":1,"python":"/usr//python","entries":[]}',
        b'{"version":2,"python":"/usr/python","entries":[]}',
        b'{"version":1,"python":"/usr/python","entries":[],"more":1}',
        b" " * 5000,
    ],
)
def test_a_malformed_mark_is_a_format_error(image: Image, text: bytes) -> None:
    (image.root / MARK).write_bytes(text)
    with pytest.raises(FormatError):
        container_at(image.root)


def test_a_mark_that_is_no_file_is_a_format_error(image: Image) -> None:
    (image.root / MARK).unlink()
    os.mkfifo(image.root / MARK)
    with pytest.raises(FormatError):
        container_at(image.root)


def test_more_files_than_in_any_image_are_refused(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_MOST_FILES", 5)
    with pytest.raises(LimitError):
        image.measure()


def test_names_and_contents_do_not_run_into_each_other() -> None:
    one = files_digest({"etc/a": "link b", "etc/c": "link d"})
    assert files_digest({"etc/a": "link betc/clink d"}) != one
    assert files_digest({"etc/al": "ink b", "etc/c": "link d"}) != one
    assert files_digest({"etc/c": "link d", "etc/a": "link b"}) == one
