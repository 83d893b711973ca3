"""Tests on a Kubernetes cluster: one for each process of the session, made here, or the user's own."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.kubernetes.cluster import Cluster, LocalCluster, box_for_this_machine, opened_cluster
from tests.support.kubernetes.kubebox import Box, Say

from strongroom.base.errors import ConfigurationError

_HERE = Path(__file__).parent
_OF_OURS = "this is done only to a cluster that the tests made themselves"
_LONG = ("test_chart.py", "test_chart_replicas.py", "test_cluster.py", "test_images.py")
"""Files that take long for the number of their tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's time is its own: making the cluster, and what it needs, does not count.

    The operator's page comes first: it installs a simulated platform where runs look for it, and a node has one there.
    The team of `runs` has its own there from its first test to the session's end. Those runs come next, and longer
    files before shorter ones: what takes longest is not to be what is left for one process at the end.
    """
    tests = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            item.path != _HERE / "test_install_page.py",
            item.path.parent != _HERE / "runs",
            item.path.name not in _LONG,
            -tests[item.path],
            item.path,
        )
    )
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600, func_only=True))


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Shows a line of progress while tests run."""
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    worker = os.environ.get("PYTEST_XDIST_WORKER")

    def shown(text: str) -> None:
        with capture.global_and_fixture_disabled():
            if worker is not None:
                sys.stderr.write(f"\n[{worker}] {text}\n")
                sys.stderr.flush()
            else:
                reporter.ensure_newline()
                reporter.write_line(text)

    return shown


@contextmanager
def possible() -> Iterator[None]:
    """Where a machine cannot have a cluster, tests are left out; with CI set that is a failure."""
    try:
        yield
    except ConfigurationError as error:
        left_out = f"no cluster: {error.message}; {error.action}"
        if "CI" in os.environ:
            pytest.fail(f"{left_out}; with CI set no test is left out")
        pytest.skip(left_out)


@pytest.fixture(scope="session")
def cluster(say: Say) -> Iterator[Cluster]:
    """The cluster of this process."""
    if "KUBECONFIG" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("the cluster of KUBECONFIG is for one process: run these tests with `--numprocesses 0`")
    with possible(), opened_cluster(say=say) as opened:
        yield opened


@pytest.fixture(scope="session")
def box(say: Say) -> Box:
    """What clusters are made of, for tests that make them."""
    if "KUBECONFIG" in os.environ:
        pytest.skip(_OF_OURS)
    with possible():
        return box_for_this_machine(say=say)


@pytest.fixture(scope="session")
def local_cluster(cluster: Cluster) -> LocalCluster:
    """The cluster, for tests that stop its parts or look at the machine below it."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip(_OF_OURS)
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of a test's own."""
    name = cluster.new_namespace("test")
    yield name
    cluster.delete("namespace", name, wait=False)
