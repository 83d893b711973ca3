import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("strongroom", deadline=None)  # how fast this machine is decides no test
settings.load_profile("strongroom")

LEFT_OUT = "swtpm, a software TPM, is not installed: run `make system` as root"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a system package that is not here; with CI set that is a failure."""
    if item.get_closest_marker("needs_swtpm") is not None and shutil.which("swtpm") is None:
        if "CI" in os.environ:
            pytest.fail(f"{LEFT_OUT}; with CI set no test is left out")
        pytest.skip(LEFT_OUT)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared(repo_root: Path) -> Path:
    """The folder of test vectors and real trips beside the checkout."""
    folder = repo_root.parent / "shared"
    if not folder.is_dir():
        if "CI" in os.environ:
            pytest.fail(f"{folder} is missing, and with CI set no test is left out")
        pytest.skip(f"{folder} is not here")
    return folder


@pytest.fixture(scope="session")
def trips(repo_root: Path) -> ModuleType:
    """The module `examples/nyctaxi/trips.py`."""
    path = repo_root / "examples" / "nyctaxi" / "trips.py"
    spec = importlib.util.spec_from_file_location("nyctaxi_trips", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
