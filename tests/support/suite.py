"""Runs every test: `python -m tests.support.suite [PYTEST-OPTION...]`.

Two runs of pytest, one after the other: all tests that share this machine among them, and those on Kubernetes, where
each process has a cluster of its own. What clusters need is built meanwhile, with what the first run leaves of the
processors.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.kubernetes.processes import bound

CLUSTER_TESTS: Final = "tests/kubernetes"
_SHARED: Final = ("--numprocesses", "auto", "--dist", "loadfile")
_ALONE: Final = ("--numprocesses", "0")
_CLUSTER_GIB: Final = 6
"""Memory for each cluster with what runs on it."""
_MAX_CLUSTERS: Final = 4
_NO_TESTS: Final = 5
_ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            passed=self.passed + other.passed, failed=self.failed + other.failed, skipped=self.skipped + other.skipped
        )

    def __str__(self) -> str:
        left_out = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{left_out}"


def main() -> int:
    """Run the tests; return 0 when all passed."""
    shared, alone = split(sys.argv[1:], clusters=clusters())
    ended = []
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-suite-") as name,
        _preparation(Path(name), wanted=alone is not None, nice=19 if shared else 0) as prepared,
    ):
        if shared is not None:
            ended.append(_run(shared, Path(name, "shared.xml")))
        if alone is not None:
            prepared()
            ended.append(_run(alone, Path(name, "alone.xml")))
    sys.stdout.write(f"\n{sum((counts for _, counts in ended), Counts())}\n")
    return verdict([status for status, _ in ended])


def _run(arguments: Sequence[str], report: Path) -> tuple[int, Counts]:
    """Run pytest; return its exit status, and how many tests ended how."""
    command = [sys.executable, "-m", "pytest", f"--junit-xml={report}", *arguments]
    status = subprocess.run(command, cwd=_ROOT, check=False).returncode
    return status, read_counts(report.read_text()) if report.exists() else Counts()


def clusters() -> int:
    """Return how many clusters are made: one where KUBECONFIG names it, or as many as this machine is good for."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    most = min(len(os.sched_getaffinity(0)), gib // _CLUSTER_GIB, _MAX_CLUSTERS)
    return 1 if os.environ.get("KUBECONFIG") else max(1, most)


def split(arguments: Sequence[str], *, clusters: int) -> tuple[list[str] | None, list[str] | None]:
    """Return the arguments of both runs; None for one in which there is nothing to run.

    Args:
        arguments: pytest's arguments. Which of them are tests is seen by whether they exist.
        clusters: How many clusters there are for the second run, each with a process.
    """
    several = ("--numprocesses", str(clusters), "--dist", "loadfile", "--no-loadscope-reorder")
    alone = several if clusters > 1 else _ALONE
    named = [each for each in arguments if not each.startswith("-") and (_ROOT / each.partition("::")[0]).exists()]
    options = [each for each in arguments if each not in named]
    on_cluster = [each for each in named if Path(each.partition("::")[0]).is_relative_to(CLUSTER_TESTS)]
    others = [each for each in named if each not in on_cluster]
    if not named:
        return [*_SHARED, f"--ignore={CLUSTER_TESTS}", *options], [*alone, CLUSTER_TESTS, *options]
    return (
        [*_SHARED, f"--ignore={CLUSTER_TESTS}", *options, *others] if others else None,
        [*alone, *options, *on_cluster] if on_cluster else None,
    )


def read_counts(report: str) -> Counts:
    """Return the counts of a report as JUnit has them."""
    total = Counts()
    for suite in ET.fromstring(report).iter("testsuite"):
        failed, skipped = int(suite.get("failures", 0)) + int(suite.get("errors", 0)), int(suite.get("skipped", 0))
        total += Counts(passed=int(suite.get("tests", 0)) - failed - skipped, failed=failed, skipped=skipped)
    return total


def verdict(statuses: Sequence[int]) -> int:
    """Return one exit status for several runs of pytest; one that found no test fails only when no other found any."""
    found = [abs(status) for status in statuses if status != _NO_TESTS]  # killed by a signal: its number, negative
    return max(found, default=_NO_TESTS)


@contextmanager
def _preparation(folder: Path, *, wanted: bool, nice: int) -> Iterator["_Prepared"]:
    """What the cluster needs is built while the block runs; calling what it gives waits for the end of that."""
    if not wanted:
        yield _Prepared(None, folder)
        return
    log = folder / "prepare.log"
    command = [sys.executable, "-m", "tests.support.kubernetes.prepare", "--nice", str(nice)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            bound(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, cwd=_ROOT
        )
    try:
        yield _Prepared(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()


class _Prepared:
    """Waits until everything is built, and shows what is said of it from the beginning."""

    def __init__(self, process: "subprocess.Popen[bytes] | None", log: Path) -> None:
        self._process, self._log = process, log

    def __call__(self) -> None:
        if self._process is None:
            return
        with self._log.open() as log:
            while True:
                ended = self._process.poll() is not None
                sys.stdout.write(log.read())
                sys.stdout.flush()
                if ended:
                    return
                time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
