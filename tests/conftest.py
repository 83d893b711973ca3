import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings
from tests.support.postgres import PostgresServer

settings.register_profile("strongroom", deadline=None)  # how fast this machine is decides no test
settings.load_profile("strongroom")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Who is started in the background may have it ignored, and so would every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

NEEDED = {
    "needs_postgres": ("pg_ctlcluster", "PostgreSQL, a database server"),
    "needs_softhsm": ("softhsm2-util", "SoftHSM, a hardware security module in software"),
    "needs_swtpm": ("swtpm", "swtpm, a software TPM"),
}
"""What a marked test needs: a program, and what it is."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--kills`: how often tests/crash kills the key service; a number given by hand is not bounded in time."""
    parser.addoption("--kills", type=int, default=None, help="how often tests/crash kills the key service")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs a system package that is not here; with CI set that is a failure."""
    for marker, (program, what) in NEEDED.items():
        if item.get_closest_marker(marker) is not None and shutil.which(program) is None:
            left_out = f"{what}, is not installed: run `make system` as root"
            if "CI" in os.environ:
                pytest.fail(f"{left_out}; with CI set no test is left out")
            pytest.skip(left_out)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test session's own; it is made when the first test asks for it."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


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
