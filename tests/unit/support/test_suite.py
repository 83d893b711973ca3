"""How one call runs pytest twice, and what comes out of both."""

from collections.abc import Sequence

import pytest
from tests.support.suite import Counts, clusters, read_counts, split, verdict

REPORT = """\
<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="16" time="1.0"></testsuite></testsuites>
"""
SHARED = ["--numprocesses", "auto", "--dist", "loadfile", "--ignore=tests/kubernetes"]


def test_without_arguments_all_tests_run_in_two_parts() -> None:
    assert split([], clusters=1) == (SHARED, ["--numprocesses", "0", "tests/kubernetes"])


def test_options_reach_both_parts() -> None:
    shared, alone = split(["-k", "no such test", "--verbose"], clusters=1)
    assert shared == [*SHARED, "-k", "no such test", "--verbose"]
    assert alone == ["--numprocesses", "0", "tests/kubernetes", "-k", "no such test", "--verbose"]


@pytest.mark.parametrize(
    ("named", "shared", "alone"),
    [
        (["tests/unit"], [*SHARED, "-x", "tests/unit"], None),
        (["tests/kubernetes"], None, ["--numprocesses", "0", "-x", "tests/kubernetes"]),
        (
            ["tests/kubernetes/test_cluster.py::test_a", "tests/unit"],
            [*SHARED, "-x", "tests/unit"],
            ["--numprocesses", "0", "-x", "tests/kubernetes/test_cluster.py::test_a"],
        ),
    ],
)
def test_named_tests_run_in_their_part(named: list[str], shared: list[str] | None, alone: list[str] | None) -> None:
    assert split(["-x", *named], clusters=1) == (shared, alone)


def test_several_clusters_have_a_process_each_and_a_file_stays_on_one() -> None:
    several = ["--numprocesses", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert split([], clusters=3) == (SHARED, [*several, "tests/kubernetes"])


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
def test_either_part_can_fail_all(statuses: Sequence[int], status: int) -> None:
    assert verdict(statuses) == status
