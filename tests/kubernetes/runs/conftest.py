"""One team for all tests of runs on the cluster: its services stay installed, its runs come and go."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.installation import Submission
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.runs import QUICKLY_COMPILED, ROWS, SIZES, SLOW_PARTITIONS, Team, team_on, trips_folder
from tests.support.slow import slow_script


@pytest.fixture(scope="session")
def plain_trips(trips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trips as plain Parquet, in four files."""
    return trips_folder(trips, tmp_path_factory.mktemp("plain") / "trips", rows=ROWS)


@pytest.fixture(scope="session")
def team(cluster: Cluster, say: Say, plain_trips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Services, an owner who is the analyst as well, a namespace for runs, encrypted trips on the pods' storage."""
    folder = tmp_path_factory.mktemp("team")
    keys = folder / "jwks.json"
    keys.write_text(cluster.kubectl("get", "--raw=/openid/v1/jwks"))
    options = ("--workload-issuer", f"{cluster.issuer()}={keys}")
    with team_on(cluster, folder, trips=plain_trips, say=say, options=options) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(team: Team) -> Iterator[None]:
    """Every test starts without runs in the namespace."""
    team.clear()
    yield
    team.clear()


@pytest.fixture(scope="session")
def slow(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Submission:
    """An application that has a middle."""
    script = tmp_path_factory.mktemp("slow") / "slow.py"
    script.write_text(slow_script(partitions=SLOW_PARTITIONS))
    submission = Submission(
        script=script,
        arguments=("strongroom://trips", "strongroom://report/slow"),
        writes=("report",),
        options=QUICKLY_COMPILED,
        sizes=SIZES,
    )
    team.approve(submission)
    return submission


@pytest.fixture(scope="session")
def count(team: Team, repo_root: Path) -> Submission:
    """The application that counts the trips."""
    submission = Submission(
        script=repo_root / "examples" / "nyctaxi" / "count.py",
        arguments=("strongroom://trips",),
        options=QUICKLY_COMPILED,
        sizes=SIZES,
    )
    team.approve(submission)
    return submission
