"""Plain against protected on the taxi applications: `make bench ARGS=...`.

Every session that is done is kept in the work folder, so a benchmark that was stopped goes on where it was, and one
that is complete is only published again. `--fresh` starts anew.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from busy import QUIET, busy_share, undisturbed
from joins import Joins, measure_joins
from plain import PlainSide
from protected import Installation, ProtectedSide
from results import Measured, publish
from sessions import EXAMPLES, EXECUTOR_CORES, HERE, MEASURED_RUNS, BenchmarkError, Session

from strongroom.cli.state import State

_ROWS = 20_000_000
_ROWS_PER_FILE = 1_000_000
_NODES = 60
_ROUNDS = "rounds.jsonl"
_TRIES = 2
"""A session that other virtual machines disturb is run once more."""
_START_ONLY: dict[str, int] = {}
_WARM_UP = dict.fromkeys(MEASURED_RUNS, 0)
_START_S = 20.0
_REPORT_S_PER_MILLION = 3.0
_NODE_S = 3.0

Side: TypeAlias = PlainSide | ProtectedSide


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured; two plans that differ share no result."""

    rows: int
    rounds: int
    executors: tuple[int, ...]
    nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One session that is to be run; round 0 warms the machine up and does not count."""

    side: Side
    executors: int
    round: int
    measured: dict[str, int]


class Record:
    """The file that keeps what was measured, one JSON object a line, the plan in the first."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path = path
        head = {"kind": "plan", **asdict(plan), "executors": list(plan.executors)}
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.add(head)
        elif self._read()[0] != head:
            raise BenchmarkError("a benchmark was begun here with other options; repeat them, or give --fresh")

    def add(self, entry: dict[str, Any]) -> None:
        """Append an entry."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def sessions(self) -> list[Session]:
        """Return the sessions that are done."""
        entries = [entry for entry in self._read() if entry.pop("kind") == "session"]
        return [Session(**{**entry, "printed": tuple(entry["printed"])}) for entry in entries]

    def joins(self) -> tuple[Joins, float] | None:
        """Return the joins and the services' memory, if they are done."""
        for entry in self._read():
            if entry.pop("kind") == "joins":
                service_mb = entry.pop("service_mb")
                return Joins(**entry), service_mb
        return None

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]


def main() -> int:
    options = _parser().parse_args()
    plan = Plan(rows=options.rows, rounds=options.rounds, executors=options.executors, nodes=options.nodes)
    try:
        measured = _measure(plan, work=options.work.absolute(), fresh=options.fresh)
        publish(measured, options.out)
        shutil.copyfile(options.work / _ROUNDS, options.out / "nyctaxi.rounds.jsonl")
    except BenchmarkError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print((options.out / ("nyctaxi.json" if options.json else "nyctaxi.md")).read_text(encoding="utf-8"))
    return 0


def _measure(plan: Plan, *, work: Path, fresh: bool) -> Measured:
    installation = Installation(state=State(root=work / "state"))
    if fresh:
        if installation.state.root.exists():
            installation.stop()
        shutil.rmtree(work, ignore_errors=True)
    record = Record(work / _ROUNDS, plan)
    todo = _left(plan, record, _sides(work, installation))
    if todo or record.joins() is None:
        _tell_estimate(plan, todo)
        installation.start()
        try:
            _prepare(plan, work, installation)
            for number, item in enumerate(todo, start=1):
                record.add({"kind": "session", **asdict(_run(item, f"{number} of {len(todo)}"))})
            if record.joins() is None:
                joins = measure_joins(installation.state, nodes=plan.nodes)
                record.add({"kind": "joins", **asdict(joins), "service_mb": installation.service_mb()})
        finally:
            installation.stop()
    done = record.joins()
    assert done is not None
    sessions = [session for session in record.sessions() if session.round > 0]
    return Measured(rows=plan.rows, sessions=sessions, joins=done[0], service_mb=done[1])


def _sides(work: Path, installation: Installation) -> tuple[tuple[Side, dict[str, int]], ...]:
    """Return each side with what it runs: execution is compared where both have the same Java, cache included."""
    trips, output = work / "plain", work / "plain-report"
    return (
        (PlainSide(trips=trips, output=output, with_cache=False), _START_ONLY),
        (PlainSide(trips=trips, output=output, with_cache=True), MEASURED_RUNS),
        (ProtectedSide(installation=installation), MEASURED_RUNS),
    )


def _left(plan: Plan, record: Record, sides: tuple[tuple[Side, dict[str, int]], ...]) -> list[Work]:
    done = {(session.side, session.executors, session.round) for session in record.sessions()}
    return [item for item in _all(plan, sides) if (item.side.name, item.executors, item.round) not in done]


def _all(plan: Plan, sides: tuple[tuple[Side, dict[str, int]], ...]) -> Iterator[Work]:
    for side, _ in sides:
        yield Work(side=side, executors=plan.executors[0], round=0, measured=_WARM_UP)
    for number in range(1, plan.rounds + 1):
        for executors in plan.executors:
            for side, measured in sides if number % 2 else reversed(sides):
                yield Work(side=side, executors=executors, round=number, measured=measured)


def _run(item: Work, place: str) -> Session:
    busy = busy_share()
    taken = undisturbed(
        lambda: item.side.run(executors=item.executors, number=item.round, measured=item.measured), tries=_TRIES
    )
    session = replace(taken.value, busy_before=busy, stolen=taken.stolen)
    times = ", ".join(f"{name} {min(seconds):.2f} s" for name, seconds in session.seconds.items() if seconds)
    what = f"round {session.round}, {session.executors} executors, {session.side}"
    print(f"bench: {place}: {what}: first task after {session.first_task_s:.1f} s; {times}", flush=True)
    if busy > QUIET:
        print(
            f"bench: others used {busy:.0%} of this machine before that; numbers of a busy machine say little",
            flush=True,
        )
    return session


def _prepare(plan: Plan, work: Path, installation: Installation) -> None:
    """Generate the trips and encrypt them, once."""
    plain, raw = work / "plain", work / "generated"
    if plain.is_dir():
        return
    started = time.monotonic()
    shutil.rmtree(raw, ignore_errors=True)
    sizes = ("--rows", str(plan.rows), "--rows-per-file", str(_ROWS_PER_FILE))
    subprocess.run([sys.executable, EXAMPLES / "trips.py", "generate", raw, *sizes], check=True)
    installation.encrypt(raw, plain=plain)
    shutil.rmtree(raw)
    print(f"bench: {plan.rows:,} trips generated and encrypted in {time.monotonic() - started:.0f} s", flush=True)


def _tell_estimate(plan: Plan, todo: list[Work]) -> None:
    report_s = _REPORT_S_PER_MILLION * plan.rows / 1e6
    seconds = plan.nodes * _NODE_S + sum(
        _START_S + (1 + item.measured["report"]) * report_s / min(item.executors * EXECUTOR_CORES, os.cpu_count() or 1)
        if item.measured
        else _START_S
        for item in todo
    )
    print(f"bench: {len(todo)} sessions and {plan.nodes} nodes, about {seconds / 60:.0f} minutes in all", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="Measure plain against protected Spark.")
    parser.add_argument("--rows", type=int, default=_ROWS, help="trips to generate (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--executors", type=_numbers, default=(1, 2, 3), metavar="N,N,...", help="(default: 1,2,3)")
    parser.add_argument("--nodes", type=int, default=_NODES, help="that attest without Spark (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the page")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured, and the trips")
    root = HERE.parent
    parser.add_argument("--out", type=Path, default=root / "docs" / "benchmarks", help="where results go")
    parser.add_argument("--work", type=Path, default=root / "build" / "benchmark", help="where trips and state lie")
    return parser


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError("numbers from 1, separated by commas")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
