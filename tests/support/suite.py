"""Runs every test: `python -m tests.support.suite [PYTEST-OPTION...]`.

Runs of pytest: first all tests that share this machine among them; then those on Kubernetes, where each process has a
cluster of its own, and beside these, with what they leave of the processors, those of what clusters and images are made
of. What clusters need is built during the first run.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.kubernetes.processes import bound

CLUSTER_TESTS: Final = "tests/kubernetes"
MACHINE_TESTS: Final = "tests/kubernetes/machine"
"""Those of them that need no cluster, and nobody else who makes one."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The arguments of each run of pytest; None where there is nothing to run.

    Attributes:
        shared: All tests that share this machine.
        clusters: Those on clusters.
        machine: Those beside them.
    """

    shared: list[str] | None = None
    clusters: list[str] | None = None
    machine: list[str] | None = None


def main() -> int:
    """Run the tests; return 0 when all passed."""
    runs = split(sys.argv[1:], clusters=clusters())
    on_kubernetes = runs.clusters is not None or runs.machine is not None
    ended = []
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-suite-") as name,
        _preparation(Path(name), wanted=on_kubernetes, nice=19 if runs.shared else 0) as prepared,
    ):
        if runs.shared is not None:
            ended.append(_run(runs.shared, Path(name, "shared.xml")))
        if on_kubernetes:
            prepared()
        with _beside(runs.machine, Path(name)) as of_machine:
            if runs.clusters is not None:
                ended.append(_run(runs.clusters, Path(name, "clusters.xml")))
            if of_machine is not None:
                ended.append(of_machine())
    sys.stdout.write(f"\n{sum((counts for _, counts in ended), Counts())}\n")
    return verdict([status for status, _ in ended])


def _run(arguments: Sequence[str], report: Path) -> tuple[int, Counts]:
    """Run pytest; return its exit status, and how many tests ended how."""
    status = subprocess.run(_pytest(arguments, report), cwd=_ROOT, check=False).returncode
    return status, _counted(report)


@contextmanager
def _beside(arguments: Sequence[str] | None, folder: Path) -> Iterator[Callable[[], tuple[int, Counts]] | None]:
    """Run pytest while the block runs; calling what it gives waits for its end, and shows what it said."""
    if arguments is None:
        yield None
        return
    report, log = folder / "machine.xml", folder / "machine.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            bound(_pytest(arguments, report)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=_ROOT,
        )

    def ended() -> tuple[int, Counts]:
        status = process.wait()
        sys.stdout.write(log.read_text(errors="replace"))
        sys.stdout.flush()
        return status, _counted(report)

    try:
        yield ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()


def _pytest(arguments: Sequence[str], report: Path) -> list[str]:
    return [sys.executable, "-m", "pytest", f"--junit-xml={report}", *arguments]


def _counted(report: Path) -> Counts:
    return read_counts(report.read_text()) if report.exists() else Counts()


def clusters() -> int:
    """Return how many clusters are made: one where KUBECONFIG names it, or as many as this machine is good for."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    most = min(len(os.sched_getaffinity(0)), gib // _CLUSTER_GIB, _MAX_CLUSTERS)
    return 1 if os.environ.get("KUBECONFIG") else max(1, most)


def split(arguments: Sequence[str], *, clusters: int) -> Runs:
    """Return the arguments of each run.

    Args:
        arguments: pytest's arguments. Which of them are tests is seen by whether they exist.
        clusters: How many clusters there are for the second run, each with a process.
    """
    several = ("--numprocesses", str(clusters), "--dist", "loadfile", "--no-loadscope-reorder")
    on_clusters = (*(several if clusters > 1 else _ALONE), f"--ignore={MACHINE_TESTS}")
    shared = (*_SHARED, f"--ignore={CLUSTER_TESTS}")
    named = [each for each in arguments if not each.startswith("-") and (_ROOT / each.partition("::")[0]).exists()]
    options = [each for each in arguments if each not in named]
    if not named:
        return Runs(
            shared=[*shared, *options],
            clusters=[*on_clusters, CLUSTER_TESTS, *options],
            machine=[*_ALONE, MACHINE_TESTS, *options],
        )
    machine = [each for each in named if _is_in(each, MACHINE_TESTS)]
    cluster = [each for each in named if _is_in(each, CLUSTER_TESTS) and each not in machine]
    others = [each for each in named if not _is_in(each, CLUSTER_TESTS)]
    if any(Path(each) == Path(CLUSTER_TESTS) for each in cluster):
        machine = [MACHINE_TESTS]
    return Runs(
        shared=[*shared, *options, *others] if others else None,
        clusters=[*on_clusters, *options, *cluster] if cluster else None,
        machine=[*_ALONE, *options, *machine] if machine else None,
    )


def _is_in(test: str, folder: str) -> bool:
    return Path(test.partition("::")[0]).is_relative_to(folder)


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
