"""Many executors that join one run at once: `make bench-crowd ARGS=...`.

Each has connections and evidence of its own and does what an agent does until it holds its keys; Spark is not started.
Both services share one core, the crowd has the other. `--quick` is a smoke run, whose figures say nothing.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from appraisals import pinned, two_cores
from busy import Taken, busy_before, disturbance, undisturbed
from figures import Spread, exponent
from key_load import DATASET, KeyServer, running_key_service
from load import Service, running_service
from machines import Machines, long_policy
from results import hardware, judged, table
from sessions import HERE, BenchmarkError

from strongroom.base.clock import SystemClock
from strongroom.crypto.keys import ReceivingKey

_AT_ONCE: Final = 128
"""So many executors are under way at any moment; the others wait as pods wait for a node."""
_WARM_UP: Final = 4
"""So many executors join before anything is measured."""
_GROWTH: Final = 1.1
_CLOCK: Final = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A crowd that joined a run.

    Attributes:
        executors: How many.
        seconds: From the first one's start until the last one held its keys.
        each: From each one's start until it held its keys.
        attestation_cpu_ms: Processor time of the attestation service for one.
        key_cpu_ms: Of the key service.
    """

    executors: int
    seconds: float
    each: Spread
    attestation_cpu_ms: float
    key_cpu_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        crowds: For each size, its rounds.
        attestation_mb, key_mb: Resident memory of the services before the first crowd, and after the last one.
        at_once: How many executors were under way at any moment.
        busy: Share of the machine that others used before.
    """

    crowds: Sequence[Sequence[Taken[Joined]]]
    attestation_mb: tuple[float, float]
    key_mb: tuple[float, float]
    at_once: int
    busy: float

    def middle(self) -> list[Joined]:
        """Return for each size the round whose time is the median."""
        return [
            sorted((each.value for each in rounds), key=lambda it: it.seconds)[len(rounds) // 2]
            for rounds in self.crowds
        ]

    def growth(self) -> float:
        """Return the exponent of the time's growth with the number of executors; 1 is linear."""
        found = self.middle()
        return exponent([each.executors for each in found], [each.seconds for each in found])

    def service_growth(self) -> float:
        """Return the same of the services' processor time for all executors together."""
        found = self.middle()
        cpu = [each.executors * (each.attestation_cpu_ms + each.key_cpu_ms) for each in found]
        return exponent([each.executors for each in found], cpu)


def main() -> int:
    options = _parser().parse_args()
    sizes = (4, 8, 16) if options.quick else (100, 300, 1000)
    out = options.out or HERE.parent / ("build/benchmark" if options.quick else "docs/benchmarks")
    try:
        measured = _measure(sizes, rounds=1 if options.quick else options.rounds)
    except BenchmarkError as error:
        print(f"bench-crowd: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    (out / "crowd.json").write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (out / "crowd.md").write_text(_page(measured), encoding="utf-8")
    print((out / "crowd.md").read_text(encoding="utf-8"))
    return 0


def _measure(sizes: Sequence[int], *, rounds: int) -> Measured:
    services_core, crowd_core = two_cores()
    _tell(f"making {max(sizes)} keys")
    # A run takes each key once. An agent makes its own, on its own machine; here they are made before.
    keys = [ReceivingKey.generate_rsa() for _ in range(max(sizes))]
    busy = busy_before("crowds of executors", tell=_tell)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="strongroom-crowd-")))
        stack.enter_context(pinned(crowd_core))
        machines = Machines.create()
        (folder / "attestation").mkdir()
        attestation = stack.enter_context(
            running_service(
                machines, folder / "attestation", core=services_core, policy_of=lambda _type: long_policy(1)
            )
        )
        server = stack.enter_context(
            running_key_service(machines, attestation, folder / "keys", core=services_core, database=None)
        )
        _join(server, attestation, keys=keys[:_WARM_UP])
        before = attestation.resident_mb, server.service.resident_mb
        crowds: list[list[Taken[Joined]]] = [[] for _ in sizes]
        for _ in range(rounds):
            for size, found in zip(sizes, crowds, strict=True):
                found.append(
                    undisturbed(lambda size=size: _join(server, attestation, keys=keys[:size]))  # type: ignore[misc]
                )
                value = found[-1].value
                _tell(f"{size} executors: {value.seconds:.1f} s, p99 {value.each.p99_ms:.0f} ms")
        after = attestation.resident_mb, server.service.resident_mb
    return Measured(
        crowds=crowds,
        attestation_mb=(before[0], after[0]),
        key_mb=(before[1], after[1]),
        at_once=_AT_ONCE,
        busy=busy,
    )


def _join(server: KeyServer, attestation: Service, *, keys: Sequence[ReceivingKey]) -> Joined:
    """Open a run and let an executor with each of the keys join it, all at once."""
    executors = len(keys)
    driver = server.runs.open(executors=executors)
    cpu = attestation.cpu_s, server.service.cpu_s

    def one(receiving: ReceivingKey) -> float:
        begun = time.perf_counter()
        member = server.runs.join(driver, receiving=receiving)
        released = member.client.write_keys({DATASET: server.version}, now=_CLOCK.now())
        if set(released.write_keys) != {DATASET}:
            raise BenchmarkError("an executor did not receive the keys of its version")
        return time.perf_counter() - begun

    begun = time.perf_counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        each = list(pool.map(one, keys))
    seconds = time.perf_counter() - begun
    return Joined(
        executors=executors,
        seconds=seconds,
        each=Spread.of(each),
        attestation_cpu_ms=1000 * (attestation.cpu_s - cpu[0]) / executors,
        key_cpu_ms=1000 * (server.service.cpu_s - cpu[1]) / executors,
    )


def _page(measured: Measured) -> str:
    rows = [
        (
            each.executors,
            f"{each.seconds:.1f}",
            f"{each.executors / each.seconds:.0f}",
            f"{each.each.p50_ms:.0f}",
            f"{each.each.p99_ms:.0f}",
            f"{each.attestation_cpu_ms:.1f}",
            f"{each.key_cpu_ms:.1f}",
        )
        for each in measured.middle()
    ]
    head = (
        "executors",
        "all have keys, s",
        "a second",
        "p50, ms",
        "p99, ms",
        "attestation service, ms",
        "key service, ms",
    )
    memory = [
        ("attestation service", *(f"{value:.0f} MB" for value in measured.attestation_mb)),
        ("key service", *(f"{value:.0f} MB" for value in measured.key_mb)),
    ]
    limits = [
        judged(
            f"growth of {what} with the number of executors (1: linear)", value, _GROWTH, "", digits=2, bound="at most "
        )
        for what, value in (
            ("the time", measured.growth()),
            ("the services' processor time", measured.service_growth()),
        )
    ]
    rounds, repeats = [each for size in measured.crowds for each in size], len(measured.crowds[0])
    return f"""# A thousand executors join

Written by `make bench-crowd`; all figures are in [crowd.json](crowd.json). **The TEEs are simulated, and none starts
Spark**: this is what both services do when many executors come at once, not how long pods or enclaves take to start.

{table(head, rows)}

p50 and p99 count from the moment that an executor begins; most of both is waiting for the crowd's own core. The last
two columns are processor time of the services for one executor.

{table(("memory", "before", "after the last crowd"), memory)}

{table(("what", "measured", "limit", ""), limits)}

## How it was measured
- Each executor opens connections of its own, gets a nonce, has its quote (SGX, simulated) verified and appraised, joins
  the run, and receives the write keys of the bound version, sealed to it; it checks every signature and log proof as
  agents do. {measured.at_once} are under way at any moment.
- Both services, SQLite, share one core; all executors share the other, which is what limits how fast they come. The
  keys that they receive with are made before, one each: an agent makes its own on its own machine.
- The median of {repeats} round{"s" if repeats > 1 else ""}, the sizes in turn. {disturbance(rounds)}.
- Others used {measured.busy:.0%} of the machine before it began. {hardware()}.
"""


def _tell(text: str) -> None:
    print(f"bench-crowd: {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-crowd ARGS=...", description="Measure many executors joining.")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a smoke run, whose figures say nothing")
    parser.add_argument("--out", type=Path, help="where results go  [default: docs/benchmarks]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
