import os
import py_compile
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError
from strongroom.simulation.measure import Environment, Measurer, tee_measurement
from strongroom.wire.model import TEE_KINDS

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
TAG = sys.implementation.cache_tag


class Installation:
    """A small Python installation with one virtual environment: files in the right places, nothing that runs."""

    def __init__(self, folder: Path) -> None:
        self.base, self.venv = folder / "base", folder / "venv"
        self.stdlib = self.base / "lib" / PYTHON
        self.packages = self.venv / "lib" / PYTHON / "site-packages"
        self.source = folder / "checkout" / "src"
        self.share = self.venv / "share" / "strongroom"
        for path, text in {
            self.base / "bin" / PYTHON: "interpreter",
            self.stdlib / "os.py": "name = 'posix'",
            self.stdlib / "site-packages" / "unused.py": "",
            self.packages / "library" / "__init__.py": "version = 1",
            self.packages / "library" / "native.so": "native",
            self.packages / "library-1.dist-info" / "METADATA": "Name: library",
            self.packages / "library-1.dist-info" / "RECORD": "",
            self.packages / "editable.pth": str(self.source),
            self.source / "strongroom" / "__init__.py": "",
            self.share / "strongroom.jar": "jar",
            self.venv / "pyvenv.cfg": "home = base",
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.venv / "bin").mkdir()
        (self.venv / "bin" / "python").symlink_to(self.base / "bin" / PYTHON)
        self.measurer = Measurer()

    @property
    def environment(self) -> Environment:
        return Environment.of_python(self.venv / "bin" / "python")

    def measure(self) -> str:
        fresh, known = Measurer().measure(self.environment), self.measurer.measure(self.environment)
        assert fresh == known, "what is remembered must not differ from what is read"
        return known


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


CHANGES: dict[str, Callable[[Installation], object]] = {
    "interpreter": lambda it: (it.base / "bin" / PYTHON).write_text("interpreteR"),
    "standard library": lambda it: (it.stdlib / "os.py").write_text("name = 'posiX'"),
    "package": lambda it: (it.packages / "library" / "__init__.py").write_text("version = 2"),
    "native code": lambda it: (it.packages / "library" / "native.so").write_text("nativE"),
    "new file": lambda it: (it.packages / "sitecustomize.py").write_text("import evil"),
    "removed file": lambda it: (it.packages / "library" / "native.so").unlink(),
    "renamed file": lambda it: (it.packages / "library" / "native.so").rename(it.packages / "library" / "n.so"),
    "package metadata": lambda it: (it.packages / "library-1.dist-info" / "METADATA").write_text("Name: other"),
    "editable package": lambda it: (it.source / "strongroom" / "__init__.py").write_text("changed = True"),
    "path file": lambda it: (it.packages / "editable.pth").write_text(f"{it.source}\nimport evil"),
    "jar": lambda it: (it.share / "strongroom.jar").write_text("jaR"),
    "ahead-of-time cache": lambda it: (it.share / "spark.aot").write_text("cache"),
    "environment settings": lambda it: (it.venv / "pyvenv.cfg").write_text("include-system-site-packages = true"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_to_what_can_be_loaded_changes_the_measurement(installation: Installation, change: str) -> None:
    before = installation.measure()
    CHANGES[change](installation)
    assert installation.measure() != before


def test_an_edit_that_keeps_size_and_time_is_noticed(installation: Installation) -> None:
    file = installation.packages / "library" / "native.so"
    before, status = installation.measure(), file.stat()
    file.write_text("nativE")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert installation.measure() != before


def test_importing_a_module_does_not_change_the_measurement(installation: Installation) -> None:
    before = installation.measure()
    source = installation.packages / "library" / "__init__.py"
    compiled = source.parent / "__pycache__" / f"__init__.{TAG}.pyc"
    assert compiled.exists(), "missing compiled modules are written before measuring"
    (compiled.parent / f"__init__.{TAG}-pytest-9.pyc").write_bytes(b"not loaded by Python")
    (compiled.parent / f"gone.{TAG}.pyc").write_bytes(b"has no source")
    (compiled.parent / "__init__.cpython-27.pyc").write_bytes(b"of another Python")
    assert installation.measure() == before


def test_a_forged_compiled_module_changes_the_measurement(installation: Installation, tmp_path: Path) -> None:
    before = installation.measure()
    source = installation.packages / "library" / "__init__.py"
    compiled = source.parent / "__pycache__" / f"__init__.{TAG}.pyc"
    forged = tmp_path / "forged.py"
    forged.write_text("version = 9")
    body = Path(py_compile.compile(str(forged), cfile=str(tmp_path / "forged.pyc")) or "").read_bytes()[16:]
    compiled.write_bytes(compiled.read_bytes()[:16] + body)
    assert installation.measure() != before


def test_a_compiled_module_that_python_would_not_load_is_written_anew(installation: Installation) -> None:
    before = installation.measure()
    compiled = installation.packages / "library" / "__pycache__" / f"__init__.{TAG}.pyc"
    content = compiled.read_bytes()
    compiled.write_bytes(content[:8] + bytes(4) + content[12:])
    assert installation.measure() == before
    assert compiled.read_bytes() == content


def test_sources_that_do_not_compile_are_measured_as_they_are(installation: Installation) -> None:
    template = installation.packages / "library" / "template.py"
    template.write_text("{{ not python }}")
    before = installation.measure()
    template.write_text("{{ nor this }}")
    assert installation.measure() != before


@pytest.mark.parametrize("record", ["RECORD", "INSTALLER", "direct_url.json"])
def test_how_a_package_was_installed_is_no_part_of_it(installation: Installation, record: str) -> None:
    before = installation.measure()
    (installation.packages / "library-1.dist-info" / record).write_text("elsewhere")
    assert installation.measure() == before


def test_packages_of_the_base_interpreter_are_no_part_of_a_virtual_environment(installation: Installation) -> None:
    before = installation.measure()
    (installation.stdlib / "site-packages" / "unused.py").write_text("changed")
    assert installation.measure() == before


def test_links_are_followed_and_may_form_a_circle(installation: Installation, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "module.py").write_text("one = 1")
    (installation.packages / "linked").symlink_to(outside)
    (outside / "circle").symlink_to(outside)
    (installation.packages / "nowhere").symlink_to(tmp_path / "missing")
    before = installation.measure()
    (outside / "module.py").write_text("one = 2")
    assert installation.measure() != before


def test_two_environments_with_the_same_files_have_the_same_measurement(
    installation: Installation, tmp_path: Path
) -> None:
    before = installation.measure()
    copy = tmp_path / "copy"
    shutil.copytree(installation.venv, copy, symlinks=True)
    assert Measurer().measure(Environment.of_python(copy / "bin" / "python")) == before


def test_the_entry_and_the_kind_of_tee_are_part_of_the_measurement(installation: Installation) -> None:
    files = installation.measure()
    entries = ("strongroom.agent", "strongroom.services.key_service")
    measured = {tee_measurement(files, entry, tee=tee) for entry in entries for tee in TEE_KINDS}
    assert len(measured | {files}) == 7
    assert {len(each) for each in measured} == {64, 96}


def test_there_is_no_measurement_of_what_is_no_interpreter(installation: Installation) -> None:
    with pytest.raises(ConfigurationError):
        Environment.of_python(installation.venv / "bin" / "missing")
    shutil.rmtree(installation.stdlib)
    with pytest.raises(ConfigurationError):
        installation.measure()
