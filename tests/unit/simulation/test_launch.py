import os
from pathlib import Path

import pytest
from typing_extensions import override

from strongroom.attestation.evidence.simulated import ENTRIES, entry_command
from strongroom.base.errors import ConfigurationError, RefusedError
from strongroom.simulation.containers import MARK, Container, ContainerMeasurer, ImageMark
from strongroom.simulation.launch import Launches, started_as, started_in
from strongroom.simulation.measure import Measurer
from strongroom.simulation.processes import Process


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter of a virtual environment; nothing that runs."""
    base = tmp_path / "base" / "bin" / "python3"
    environment = tmp_path / "venv"
    for folder in (base.parent, environment / "bin"):
        folder.mkdir(parents=True)
    base.write_text("")
    (environment / "pyvenv.cfg").write_text("")
    (environment / "bin" / "python").symlink_to(base)
    return environment / "bin" / "python"


@pytest.mark.parametrize("entry", ENTRIES)
def test_accepts_the_one_command_line_of_each_entry(python: Path, entry: str) -> None:
    environment, found = started_as([*entry_command(str(python), entry), "argument"], python.resolve(), ["HOME"])
    assert (environment.prefix, found) == (python.parent.parent, entry)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-m", "strongroom.agent"],
        ["-I", "-m", "strongroom.cli"],
        ["-I", "-c", "strongroom.agent"],
        ["-I", "-X", "pycache_prefix=/tmp", "-m", "strongroom.agent"],
        ["script.py", "-I", "-m", "strongroom.agent"],
        ["-I", "script.py", "strongroom.agent"],
    ],
    ids=" ".join,
)
def test_refuses_every_other_command_line(python: Path, arguments: list[str]) -> None:
    with pytest.raises(RefusedError, match="not started as an entry"):
        started_as([str(python), *arguments], python.resolve(), [])


def test_refuses_a_process_without_a_command_line(python: Path) -> None:
    with pytest.raises(RefusedError):
        started_as([], python.resolve(), [])


def test_refuses_an_interpreter_that_is_another_file_than_its_name_says(python: Path, tmp_path: Path) -> None:
    other = tmp_path / "evil"
    other.write_text("")
    with pytest.raises(RefusedError, match="does not execute"):
        started_as(entry_command(str(python), "strongroom.agent"), other, [])


def test_refuses_a_deleted_interpreter(python: Path) -> None:
    deleted = Path(f"{python.resolve()} (deleted)")
    with pytest.raises(RefusedError, match="does not execute"):
        started_as(entry_command(str(python), "strongroom.agent"), deleted, [])


def test_refuses_names_that_are_no_absolute_path(python: Path) -> None:
    with pytest.raises(RefusedError, match="absolute path"):
        started_as(entry_command("python", "strongroom.agent"), python.resolve(), [])


def test_refuses_variables_of_the_dynamic_loader(python: Path) -> None:
    with pytest.raises(RefusedError, match="dynamic loader") as caught:
        started_as(entry_command(str(python), "strongroom.agent"), python.resolve(), ["HOME", "LD_PRELOAD"])
    assert "LD_PRELOAD" in caught.value.action


def test_a_name_that_is_no_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        started_as(entry_command(str(tmp_path / "python"), "strongroom.agent"), tmp_path, [])


@pytest.mark.parametrize("name", ["GCONV_PATH", "GLIBC_TUNABLES", "OPENSSL_CONF", "OPENSSL_MODULES", "LD_AUDIT"])
def test_refuses_variables_that_name_code_for_libraries(python: Path, name: str) -> None:
    with pytest.raises(RefusedError, match="or of a library") as caught:
        started_as(entry_command(str(python), "strongroom.agent"), python.resolve(), [name])
    assert name in caught.value.action


@pytest.fixture
def container(tmp_path: Path) -> Container:
    mark = ImageMark(python="/opt/strongroom/venv/bin/python", entries=("strongroom.agent",))
    return Container(root=tmp_path, mark=mark)


def test_a_container_starts_the_entries_that_its_image_is_made_for(container: Container) -> None:
    command = entry_command(container.mark.python, "strongroom.agent")
    assert started_in(container, [*command, "--pod", "driver"], ["HOME"]) == "strongroom.agent"
    for entry in ("strongroom.services.key_service", "strongroom.cli"):
        with pytest.raises(RefusedError):
            started_in(container, entry_command(container.mark.python, entry), [])


@pytest.mark.parametrize("python", ["/usr/bin/python3.11", "/opt/strongroom/venv/bin/python3", "python"])
def test_another_interpreter_of_a_container_is_refused(container: Container, python: str) -> None:
    with pytest.raises(RefusedError):
        started_in(container, entry_command(python, "strongroom.agent"), [])


def test_a_container_is_no_way_around_variables_of_the_loader(container: Container) -> None:
    with pytest.raises(RefusedError, match="dynamic loader"):
        started_in(container, entry_command(container.mark.python, "strongroom.agent"), ["LD_PRELOAD"])


class Image:
    """The root of a container, with a mark and an interpreter that nobody executes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.interpreter = root / "usr/bin/python3"
        self.interpreter.parent.mkdir(parents=True)
        self.interpreter.write_text("interpreter")
        (root / MARK).parent.mkdir()
        (root / MARK).write_bytes(ImageMark(python="/usr/bin/python3", entries=("strongroom.agent",)).to_json())

    def caller(self, *, executes: Path, ends: bool = False) -> Process:
        """This process, as the kernel would show it if it were the entry of this container."""
        image = self

        class Caller(Process):
            __slots__ = ()

            @override
            def root(self) -> Path:
                return image.root

            @override
            def has_root(self, folder: Path) -> bool:
                return image.root.samefile(folder)

            @override
            def command_line(self) -> list[str]:
                return entry_command("/usr/bin/python3", "strongroom.agent")

            @override
            def environment_names(self) -> list[str]:
                return []

            @override
            def executes(self, file: Path) -> bool:
                return executes.samefile(file)

            @override
            def exists(self) -> bool:
                return not ends

        return Caller(os.getpid(), 0)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path / "root")


def launch(process: Process) -> bytes:
    return Launches(Measurer(), ContainerMeasurer()).launch(process, bytes(64), tee="sgx").measurement


def test_an_entry_of_a_container_of_ours_is_launched(image: Image) -> None:
    before = launch(image.caller(executes=image.interpreter))
    (image.root / "usr/lib").mkdir()
    (image.root / "usr/lib/evil.py").write_text("evil")
    assert launch(image.caller(executes=image.interpreter)) != before


def test_a_process_that_executes_something_else_than_its_containers_interpreter_is_refused(image: Image) -> None:
    """Its command line is its own word; a volume may hold what it executes."""
    evil = image.root / "evil"
    evil.write_text("interpreter")
    with pytest.raises(RefusedError, match="does not execute"):
        launch(image.caller(executes=evil))


def test_a_process_that_ends_while_it_is_measured_is_refused(image: Image) -> None:
    """What was measured would be of whoever has its number by then."""
    with pytest.raises(RefusedError, match="has ended"):
        launch(image.caller(executes=image.interpreter, ends=True))


def test_a_process_in_a_container_without_a_mark_is_refused(image: Image) -> None:
    (image.root / MARK).unlink()
    with pytest.raises(RefusedError, match="does not say what it is"):
        launch(image.caller(executes=image.interpreter))
