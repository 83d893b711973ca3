"""Promises 4 and 5: no plaintext and no secret leaves; the same search over a plain run finds what it looks for."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest
from tests.support.installation import Installation
from tests.support.leaks import summary
from tests.support.needles import Value
from tests.support.watched_runs import ROWS, Watched, mark, watched_plain_run, watched_protected_run
from tests.support.watchers import FolderWatch, ProcessWatch, demand_packet_capture

pytestmark = pytest.mark.timeout(2400)

Trips = tuple[Path, dict[str, Value]]


@pytest.fixture(scope="module")
def marked(trips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Trips:
    """Made-up trips with 50 distinctive values among them."""
    demand_packet_capture()
    folder = tmp_path_factory.mktemp("marked") / "trips"
    table, values = mark(pa.concat_tables(trips.generate(ROWS, seed=5)))
    trips.write_trips([table], folder, rows_per_file=ROWS // 4)
    return folder, values


@pytest.fixture(scope="module")
def report(repo_root: Path) -> Path:
    return repo_root / "examples" / "nyctaxi" / "report.py"


@pytest.fixture(scope="module")
def plain(marked: Trips, report: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    return watched_plain_run(report, marked[0], folder=tmp_path_factory.mktemp("plain-run"))


@pytest.fixture(scope="module")
def protected(marked: Trips, report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("protected")
    for name in ("home", "tmp"):
        (root / name).mkdir()
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": f"{root}/home", "TMPDIR": f"{root}/tmp"}
    made = Installation(root=root, environment=environment)
    yield watched_protected_run(made, report, marked[0], folder=tmp_path_factory.mktemp("seen"))
    made.assert_nothing_left()


def test_the_search_finds_values_in_every_channel_of_a_plain_run_that_carries_data(
    plain: Watched, marked: Trips
) -> None:
    values = marked[1]
    leaks = plain.leaks_of_values(values)

    assert len(values) == 50
    assert {leak.of for leak in leaks["storage"]} == set(values)
    shuffled = {leak.of for leak in leaks["scratch"] if "shuffle_" in leak.place}
    assert {name for name in values if name.startswith("total_amount")} <= shuffled
    sent = {leak.of for leak in leaks["loopback"]}
    assert {name for name in values if name.startswith("trip_distance")} <= sent


def test_no_value_of_the_input_is_found_in_a_protected_run(protected: Watched, marked: Trips) -> None:
    found = [leak for leaks in protected.leaks_of_values(marked[1]).values() for leak in leaks]

    assert not found, summary(found)


def test_no_secret_is_found_in_a_protected_run(protected: Watched) -> None:
    kinds = {name.split(" ")[0] for name in protected.secrets}
    assert kinds == {"MEK", "KEK", "write", "DEK", "share", "RPC"}

    found = [leak for leaks in protected.leaks_of_secrets().values() for leak in leaks]

    assert not found, summary(found)


def test_every_channel_of_the_protected_run_was_looked_at(protected: Watched) -> None:
    """A search that looked at nothing would find nothing."""
    places = {place for watch in protected.watches.values() if isinstance(watch, FolderWatch) for place in watch.places}
    for part in (
        "storage/trips/",
        "storage/report/",
        "packages/",
        ".descriptor.json",
        ".receipt.json",
        "logs/",
        "trust",
    ):
        assert any(part in place for place in places), f"nothing was seen of {part}"
    processes = protected.watches["processes"]
    assert isinstance(processes, ProcessWatch)
    for part in ("strongroom submit", "strongroom.agent", "key_service", "attestation_service", "simulated-platform"):
        assert any(part in line for line in processes.command_lines), f"no process was seen of {part}"


def test_the_protected_report_has_the_same_rows_as_the_plain_one(plain: Watched, protected: Watched) -> None:
    assert len(plain.tables) == 8
    assert protected.tables == plain.tables


def test_all_eight_steps_were_shown(protected: Watched) -> None:
    assert protected.ended is not None
    steps = {step for step, _ in protected.ended.steps()}
    assert steps == {"submit", "policy", "executors", "attest", "release", "decrypt", "compute", "write"}
