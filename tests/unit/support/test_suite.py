"""How one call runs pytest several times, and what comes out of all."""

from collections.abc import Sequence

import pytest
from tests.support.suite import Counts, Runs, clusters, read_counts, split, verdict

REPORT = """\
<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="16" time="1.0"></testsuite></testsuites>
"""
SHARED = ["--numprocesses", "auto", "--dist", "loadfile", "--ignore=tests/kubernetes"]
ALONE = ["--numprocesses", "0"]
ON_CLUSTER = [*ALONE, "--ignore=tests/kubernetes/machine"]
MACHINE = [*ALONE, "tests/kubernetes/machine"]


def test_without_arguments_all_tests_run_in_three_parts() -> None:
    assert split([], clusters=1) == Runs(shared=SHARED, clusters=[*ON_CLUSTER, "tests/kubernetes"], machine=MACHINE)


def test_options_reach_every_part() -> None:
    runs = split(["-k", "no such test", "--verbose"], clusters=1)
    assert runs == Runs(
        shared=[*SHARED, "-k", "no such test", "--verbose"],
        clusters=[*ON_CLUSTER, "tests/kubernetes", "-k", "no such test", "--verbose"],
        machine=[*MACHINE, "-k", "no such test", "--verbose"],
    )


@pytest.mark.parametrize(
    ("named", "runs"),
    [
        (["tests/unit"], Runs(shared=[*SHARED, "-x", "tests/unit"])),
        (
            ["tests/kubernetes"],
            Runs(clusters=[*ON_CLUSTER, "-x", "tests/kubernetes"], machine=[*ALONE, "-x", "tests/kubernetes/machine"]),
        ),
        (
            ["tests/kubernetes/test_cluster.py::test_a", "tests/unit"],
            Runs(
                shared=[*SHARED, "-x", "tests/unit"],
                clusters=[*ON_CLUSTER, "-x", "tests/kubernetes/test_cluster.py::test_a"],
            ),
        ),
        (
            ["tests/kubernetes/machine/test_remains.py"],
            Runs(machine=[*ALONE, "-x", "tests/kubernetes/machine/test_remains.py"]),
        ),
    ],
)
def test_named_tests_run_in_their_part(named: list[str], runs: Runs) -> None:
    assert split(["-x", *named], clusters=1) == runs


def test_several_clusters_have_a_process_each_and_a_file_stays_on_one() -> None:
    several = ["--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    on_clusters = [*several, "--ignore=tests/kubernetes/machine", "tests/kubernetes"]
    assert split([], clusters=3) == Runs(shared=SHARED, clusters=on_clusters, machine=MACHINE)


def test_a_cluster_of_ones_own_is_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "file")
    assert clusters() == 1
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr("os.sysconf", lambda name: 1 << (30 if name == "SC_PHYS_PAGES" else 6))
    assert clusters() == 4
    monkeypatch.setattr("os.sysconf", lambda name: 13 << 18 if name == "SC_PHYS_PAGES" else 4096)
    assert clusters() == 2


def test_counts_are_read_from_a_report_and_added() -> None:
    counts = read_counts(REPORT)
    assert counts == Counts(passed=10, failed=3, skipped=3)
    assert str(counts + Counts(passed=5)) == "15 passed, 3 failed, 3 skipped"
    assert str(Counts(passed=5)) == "5 passed, 0 failed"


@pytest.mark.parametrize(
    ("statuses", "status"),
    [([0, 0], 0), ([0, 1], 1), ([1, 0], 1), ([0, 5], 0), ([5, 5], 5), ([5], 5), ([2, 1], 2), ([-9, 0], 9)],
)
def test_any_part_can_fail_all(statuses: Sequence[int], status: int) -> None:
    assert verdict(statuses) == status
