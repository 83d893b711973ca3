"""How one call runs pytest twice, and what comes out of both."""

from collections.abc import Sequence

import pytest
from tests.support.suite import Counts, read_counts, split, verdict

REPORT = """\
<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="16" time="1.0"></testsuite></testsuites>
"""
SHARED = ["--numprocesses", "auto", "--dist", "loadfile", "--ignore=tests/kubernetes"]


def test_without_arguments_all_tests_run_in_two_parts() -> None:
    assert split([]) == (SHARED, ["--numprocesses", "0", "tests/kubernetes"])


def test_options_reach_both_parts() -> None:
    shared, alone = split(["-k", "no such test", "--verbose"])
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
    assert split(["-x", *named]) == (shared, alone)


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
