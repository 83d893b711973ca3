"""Which clusters an installation's key service knows: a file written by hand."""

import json
from pathlib import Path

import pytest
from tests.support.workloads import CLUSTER_URL, FakeCluster

from strongroom.base.errors import ConfigurationError
from strongroom.cli.clusters import read_clusters
from strongroom.cli.state import State

CLUSTER = FakeCluster(key_service="ab" * 32)


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(root=tmp_path / "state")
    state.owner.mkdir(parents=True)
    return state


def test_knows_no_cluster_where_there_is_no_file(state: State) -> None:
    assert read_clusters(state) == ()


def test_knows_the_clusters_that_the_file_names(state: State) -> None:
    state.clusters.write_text(json.dumps({"workload_issuers": [{"issuer": CLUSTER_URL, "jwks": CLUSTER.jwks()}]}))
    assert read_clusters(state) == (CLUSTER.settings(),)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[]",
        '{"workload_issuers":[{}]}',
        '{"workload_issuers":[],"version":2}',
        '{"workload_issuers":[],"x":1}',
    ],
)
def test_a_mistake_in_the_file_is_told_and_nothing_is_believed(state: State, content: str) -> None:
    state.clusters.write_text(content)
    with pytest.raises(ConfigurationError, match=r"clusters\.json"):
        read_clusters(state)
