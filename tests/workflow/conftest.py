"""One installation for all tests of a process, with 20,000 made-up trips in it."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.installation import Installation, Submission, add_datasets, new_installation

ROWS = 20_000


@pytest.fixture(scope="session")
def plain_trips(trips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trips as plain Parquet, in four files."""
    folder = tmp_path_factory.mktemp("plain") / "trips"
    trips.write_trips(trips.generate(ROWS, seed=3), folder, rows_per_file=ROWS // 4)
    return folder


@pytest.fixture(scope="session")
def installation(plain_trips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Services, platform, an owner, the encrypted dataset `trips` and the empty one `report`."""
    with new_installation(tmp_path_factory.mktemp("installation")) as made:
        add_datasets(made, plain_trips)
        yield made


@pytest.fixture
def count(repo_root: Path, tmp_path: Path) -> Submission:
    """The application that counts the trips, in a copy that may be changed."""
    script = tmp_path / "count.py"
    script.write_bytes((repo_root / "examples" / "nyctaxi" / "count.py").read_bytes())
    return Submission(script=script, arguments=("strongroom://trips",))
