"""Plain `spark-submit` against `strongroom submit` on one Kubernetes cluster: `make bench-kubernetes ARGS=...`.

The cluster is that of the tests, made here as root or named by KUBECONFIG, with the services installed by the chart.
`--quick` is a smoke run, whose figures say nothing.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

HERE: Final = Path(__file__).resolve().parent
REPOSITORY: Final = HERE.parent
if __name__ == "__main__":
    # The cluster of the tests is used. This folder comes last: its name for this file is that of Kubernetes' client.
    sys.path[:1] = [str(REPOSITORY)]
    sys.path.append(str(HERE))

from busy import QUIET, busy_share, undisturbed  # noqa: E402 - found only now, when this is the program
from kubernetes_results import Measured, publish  # noqa: E402
from pod_sessions import PodSession  # noqa: E402
from pod_sides import CORES, HEAP, OVERHEAD, PlainPods, ProtectedPods  # noqa: E402
from sessions import EXAMPLES, BenchmarkError  # noqa: E402
from tests.support.kubernetes.cluster import Cluster, CommandError, LocalCluster, opened_cluster  # noqa: E402
from tests.support.kubernetes.runs import team_on  # noqa: E402

from strongroom.base.errors import StrongroomError  # noqa: E402

_ROUNDS: Final = 5
_EXECUTORS: Final = 3
_ROWS: Final = 20_000
_ROWS_PER_FILE: Final = 5_000
_TRIES: Final = 2
"""A session that other virtual machines disturb is run once more."""
_MADE_HERE: Final = """\
A real cluster of one node, made for this: Kubernetes' API server, etcd, scheduler, controllers, kubelet, containerd and
  runc, all on this machine, whose cores they share with the services and with all pods"""
_ANOTHER: Final = "A cluster that was there already (KUBECONFIG); this machine is where the commands were given"
_Named = TypeVar("_Named")


class Side(Protocol):
    """What is compared."""

    @property
    def name(self) -> str:
        """The side's name in the results."""

    def prepare(self) -> None:
        """Do once what is there before the command."""

    def run(self, *, executors: int, number: int) -> PodSession:
        """Run one session, from the command to the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    rounds: int
    executors: int


def main() -> int:
    options = _parser().parse_args()
    quick = Plan(rounds=1, executors=1)
    plan = Plan(
        rounds=options.rounds or (quick.rounds if options.quick else _ROUNDS),
        executors=options.executors or (quick.executors if options.quick else _EXECUTORS),
    )
    out = options.out or REPOSITORY / ("build/benchmark" if options.quick else "docs/benchmarks")
    try:
        publish(_measure(plan), out)
    except (BenchmarkError, CommandError, TimeoutError, subprocess.SubprocessError) as error:
        print(f"bench-kubernetes: {error}", file=sys.stderr)
        return 1
    except StrongroomError as error:
        print(f"bench-kubernetes: {error.message}; {error.action}", file=sys.stderr)
        return 1
    print((out / ("kubernetes.json" if options.json else "kubernetes.md")).read_text(encoding="utf-8"))
    return 0


def in_turn(sides: Sequence[_Named], *, rounds: int) -> Iterator[tuple[int, _Named]]:
    """Return whose turn it is: each side once a round, the order reversed every other round.

    Args:
        sides: What is compared.
        rounds: How many rounds count; before them comes round 0, which warms everything up.
    """
    for number in range(rounds + 1):
        yield from ((number, side) for side in (sides if number % 2 else reversed(sides)))


def _measure(plan: Plan) -> Measured:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strongroom-kubernetes-")))
        for name in ("team", "submitter"):
            (folder / name).mkdir()
        trips = _trips(folder / "trips")
        cluster = stack.enter_context(opened_cluster(say=_tell))
        team = stack.enter_context(team_on(cluster, folder / "team", trips=trips, say=_tell))
        sides: tuple[Side, ...] = (PlainPods(team=team, folder=folder / "submitter"), ProtectedPods(team=team))
        for side in sides:
            side.prepare()
        sessions = [_run(side, number=number, plan=plan) for number, side in in_turn(sides, rounds=plan.rounds)]
        where = _where(cluster)
    return Measured(
        sessions=[it for it in sessions if it.session.round > 0],
        executors=plan.executors,
        cluster=where,
        heap=HEAP,
        overhead=OVERHEAD,
        cores=CORES,
    )


def _run(side: Side, *, number: int, plan: Plan) -> PodSession:
    busy = busy_share()
    taken = undisturbed(lambda: side.run(executors=plan.executors, number=number), tries=_TRIES)
    session = replace(taken.value.session, busy_before=busy, stolen=taken.stolen)
    _tell(f"round {number} of {plan.rounds}, {side.name}: first task after {session.first_task_s:.1f} s")
    if busy > QUIET:
        _tell(f"others used {busy:.0%} of this machine before that; numbers of a busy machine say little")
    return replace(taken.value, session=session)


def _trips(folder: Path) -> Path:
    """Generate the trips that the protected side's dataset has; nobody reads them."""
    numbers = ("--rows", str(_ROWS), "--rows-per-file", str(_ROWS_PER_FILE))
    subprocess.run([sys.executable, EXAMPLES / "trips.py", "generate", folder, *numbers], check=True)
    return folder


def _where(cluster: Cluster) -> str:
    return _MADE_HERE if isinstance(cluster, LocalCluster) else _ANOTHER


def _tell(text: str) -> None:
    print(f"bench-kubernetes: {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-kubernetes ARGS=...",
        description="Measure plain against protected on Kubernetes, from the command to the first task.",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; writes into build/benchmark")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"(default: {_ROUNDS}, quick 1)")
    parser.add_argument(
        "--executors", type=_positive, metavar="N", help=f"of each run (default: {_EXECUTORS}, quick 1)"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the page")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results go (default: docs/benchmarks)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a number from 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
