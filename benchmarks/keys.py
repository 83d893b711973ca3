"""Speed and cost of the key service, with real requests and a log on the disk: `make bench-keys ARGS=...`.

Needs two cores: one for what is measured, one for who asks. `--quick` is a smoke run, whose figures say nothing.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appraisals import pinned, two_cores
from busy import busy_before
from key_load import KeyServer, Releases, Wrapping, Wraps, running_key_service, start_key_service, write_config
from key_results import Asked, Measured, publish
from key_states import Commits, LargeState, fill, fresh_database, measure_commits, measure_state
from load import CONNECTIONS, Loop, Service, latency_of, rate_of, running_service
from machines import Machines, long_policy
from sessions import HERE, BenchmarkError

from strongroom.base.clock import SystemClock
from strongroom.crypto.keys import SigningKey
from strongroom.keys.store import Store
from strongroom.services.identity import open_identity
from strongroom.services.key_service import COMMON_NAME, open_state, read_settings

_WRAPPINGS: Final[tuple[Wrapping, ...]] = ("A256KW", "RSA-OAEP-256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Of the closed loop, and of the open loop.
        closed_s: How long each of the former takes, in seconds.
        open_s: How long each of the latter takes, in seconds.
        keys: In the large state.
        leaves: Entries of its log.
        starts: How often a service is started over it.
        reads: How often each thing is read from it.
        commit_s: How long the store alone is measured, in seconds.
        commit_threads: Threads that write to it.
    """

    rounds: int = 5
    closed_s: float = 5.0
    open_s: float = 5.0
    keys: int = 1_000_000
    leaves: int = 10_000_000
    starts: int = 5
    reads: int = 1_000
    commit_s: float = 10.0
    commit_threads: int = 16


def main() -> int:
    options = _parser().parse_args()
    plan = _quick() if options.quick else Plan(keys=options.keys, leaves=options.leaves)
    out = options.out or HERE.parent / ("build/benchmark" if options.quick else "docs/benchmarks")
    try:
        measured = _measure(plan, postgres=options.postgres)
        publish(measured, out)
    except BenchmarkError as error:
        print(f"bench-keys: {error}", file=sys.stderr)
        return 1
    print((out / ("keys.json" if options.json else "keys.md")).read_text(encoding="utf-8"))
    return 0


def _measure(plan: Plan, *, postgres: str | None) -> Measured:
    measured_core, callers_core = two_cores()
    databases: dict[str, str | None] = {"SQLite": None, **({"PostgreSQL": postgres} if postgres else {})}
    busy = [busy_before("the service under load", tell=_tell)]
    asked: list[Asked] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strongroom-keys-")))
        stack.enter_context(pinned(callers_core))
        machines = Machines.create()
        (folder / "attestation").mkdir()
        attestation = stack.enter_context(
            running_service(machines, folder / "attestation", core=callers_core, policy_of=lambda _type: long_policy(1))
        )
        for name, url in databases.items():
            where = folder / f"served-{name}"
            with (
                fresh_database(url) as database,
                running_key_service(machines, attestation, where, core=measured_core, database=database) as server,
            ):
                asked.extend(_loads(server, name, plan=plan))
        busy.append(busy_before("the store alone", tell=_tell))
        commits = [
            _commits(url, folder / f"commits-{name}", name=name, plan=plan, core=measured_core)
            for name, url in databases.items()
        ]
        busy.append(busy_before("a large state", tell=_tell))
        large = _large(folder / "large", attestation, plan=plan, core=measured_core)
    return Measured(
        asked=asked,
        commits=commits,
        large=large,
        busy=busy,
        load_rounds=plan.rounds,
        closed_s=plan.closed_s,
        open_s=plan.open_s,
        connections=CONNECTIONS,
    )


def _loads(server: KeyServer, database: str, *, plan: Plan) -> list[Asked]:
    loops: dict[str, Callable[[], Loop]] = {"release": functools.partial(Releases, server)}
    for algorithm in _WRAPPINGS:
        loops[f"wrap, unwrap ({algorithm})"] = functools.partial(Wraps, server, algorithm)
    found = []
    for name, make in loops.items():
        loop = make()
        rate = rate_of(loop, server.service, warm_up=CONNECTIONS * 4, rounds=plan.rounds, duration_s=plan.closed_s)
        half = rate.per_second / 2
        latency = latency_of(loop, per_second=half, rounds=plan.rounds, duration_s=plan.open_s)
        found.append(Asked(what=name, database=database, rate=rate, latency=latency))
        _tell(f"{database}, {name}: {rate.per_second:.0f}/s; p99 {latency.spread.p99_ms:.0f} ms at half of that")
    return found


def _commits(url: str | None, folder: Path, *, name: str, plan: Plan, core: int) -> Commits:
    folder.mkdir(mode=0o700)
    with pinned(core):
        found = measure_commits(url, folder, name=name, threads=plan.commit_threads, seconds=plan.commit_s)
    _tell(f"{name}: {found.grouped:.0f} commits a second in groups, {found.alone:.0f} each by itself")
    return found


def _large(folder: Path, attestation: Service, *, plan: Plan, core: int) -> LargeState:
    folder.mkdir()
    config = write_config(folder, attestation, owner=SigningKey.generate("ES256"), database=None)
    start_key_service(config, core=core).stop()  # it makes its keys and its database
    settings = read_settings(config)
    identity = open_identity(Path(settings.state), common_name=COMMON_NAME, sans=["127.0.0.1"], now=SystemClock().now())

    def opened() -> Store:
        return open_state(settings, identity)

    store = opened()
    fill(store, keys=plan.keys, leaves=plan.leaves, tell=_tell)
    store.close()
    with pinned(core):
        return measure_state(
            config,
            opened,
            keys=plan.keys,
            core=core,
            starts=plan.starts,
            reads=plan.reads,
            folder=Path(settings.state),
        )


def _tell(text: str) -> None:
    print(f"bench-keys: {text}", flush=True)


def _quick() -> Plan:
    return Plan(
        rounds=1,
        closed_s=1.0,
        open_s=1.0,
        keys=1_000,
        leaves=10_000,
        starts=1,
        reads=20,
        commit_s=0.5,
        commit_threads=4,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-keys ARGS=...", description="Measure releases, wraps, look-ups and starts of the key service."
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; writes into build/benchmark")
    parser.add_argument("--keys", type=int, default=Plan().keys, help="keys in the large state (default: %(default)s)")
    parser.add_argument(
        "--leaves", type=int, default=Plan().leaves, help="log entries in the large state (default: %(default)s)"
    )
    parser.add_argument(
        "--postgres", metavar="URL", help="a PostgreSQL server to measure as well; it gets databases, which are dropped"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the page")
    parser.add_argument("--out", type=Path, help="where results go (default: docs/benchmarks)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
