"""Speed and cost of attestation, with real verification of simulated evidence: `make bench-attestation ARGS=...`.

Needs two cores: one for what is measured, one for who asks. `--quick` is a smoke run, whose figures say nothing.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appraisals import Growth, PolicyCost, measure_families, measure_kinds, measure_policies, pinned, two_cores
from attestation_results import Measured, publish
from busy import busy_before
from load import (
    Latency,
    Memory,
    Rate,
    Service,
    measure_latency,
    measure_memory,
    measure_rate,
    running_service,
)
from machines import KINDS, Machines, Request
from sessions import HERE, BenchmarkError

_POLICY_SIZES: Final = (10, 100, 1_000, 10_000)
_FAMILIES: Final = (1, 10, 100, 1_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Of verification and appraisal in this process; each kind once in each.
        policy_sizes: Rules of the policies.
        policy_work: Policies are parsed and evaluated until so many rules were.
        families: How many platform families the endorsements folder holds.
        family_attestations: At least so many for each number of families.
        pool: Different requests of each kind that the service is asked.
        load_rounds: Rounds of the closed loop, and of the open loop.
        closed_s: How long each of the former takes, in seconds.
        open_s: How long each of the latter takes, in seconds.
        requests: Attestations over which the service's memory is watched.
        memory_step: After how many of them it is read.
    """

    rounds: int = 500
    policy_sizes: Sequence[int] = _POLICY_SIZES
    policy_work: int = 30_000
    families: Sequence[int] = _FAMILIES
    family_attestations: int = 300
    pool: int = 500
    load_rounds: int = 5
    closed_s: float = 5.0
    open_s: float = 5.0
    requests: int = 100_000
    memory_step: int = 500


def main() -> int:
    options = _parser().parse_args()
    plan = _quick() if options.quick else Plan(requests=options.requests)
    out = options.out or HERE.parent / ("build/benchmark" if options.quick else "docs/benchmarks")
    try:
        measured = _measure(plan)
        publish(measured, out)
    except BenchmarkError as error:
        print(f"bench-attestation: {error}", file=sys.stderr)
        return 1
    print((out / ("attestation.json" if options.json else "attestation.md")).read_text(encoding="utf-8"))
    return 0


def _measure(plan: Plan) -> Measured:
    measured_core, callers_core = two_cores()
    busy = [busy_before("verification and appraisal", tell=_tell)]
    machines = Machines.create()
    with pinned(measured_core):
        kinds = measure_kinds(machines, rounds=plan.rounds)
        busy.append(busy_before("policies and platforms", tell=_tell))
        policies = measure_policies(machines, sizes=plan.policy_sizes, work=plan.policy_work)
        families = measure_families(machines, sizes=plan.families, attestations=plan.family_attestations)
    with pinned(callers_core):
        pool = {kind.name: [kind.make(machines) for _ in range(plan.pool)] for kind in KINDS}
        busy.append(busy_before("the service under load", tell=_tell))
        rates, latencies = _loads(machines, pool, plan=plan, core=measured_core)
        busy.append(busy_before("the service's memory", tell=_tell))
        memory = _memory(machines, pool, plan=plan, core=measured_core)
    return Measured(
        kinds=kinds,
        policies=policies,
        policy_growth={
            "parse": _growth(policies, [cost.parse_ms for cost in policies]),
            "evaluate": _growth(policies, [cost.evaluate_ms for cost in policies]),
        },
        families=families,
        family_growth=Growth.of(list(families), [each.p50_ms for each in families.values()]),
        rates=rates,
        latencies=latencies,
        memory=memory,
        busy=busy,
        pool=plan.pool,
        load_rounds=plan.load_rounds,
        closed_s=plan.closed_s,
        open_s=plan.open_s,
    )


def _loads(
    machines: Machines, pool: Mapping[str, Sequence[Request]], *, plan: Plan, core: int
) -> tuple[dict[str, Rate], dict[str, Latency]]:
    rates: dict[str, Rate] = {}
    latencies: dict[str, Latency] = {}
    with _service(machines, core=core) as service:
        for name, requests in pool.items():
            rate = measure_rate(service, requests, rounds=plan.load_rounds, duration_s=plan.closed_s)
            half = rate.per_second / 2
            latency = measure_latency(
                service, requests, per_second=half, rounds=plan.load_rounds, duration_s=plan.open_s
            )
            rates[name], latencies[name] = rate, latency
            _tell(f"{name}: {rate.per_second:.0f}/s; p99 {latency.spread.p99_ms:.0f} ms at half of that")
    return rates, latencies


def _memory(machines: Machines, pool: Mapping[str, Sequence[Request]], *, plan: Plan, core: int) -> list[Memory]:
    """Watch the memory of a service of its own, asked about all kinds in turn."""

    def tell(sample: Memory) -> None:
        if sample.attestations % (10 * plan.memory_step) == 0:
            _tell(f"{sample.attestations:,} attestations: {sample.resident_mb:.1f} MB")

    mixed = [request for each in zip(*pool.values(), strict=True) for request in each]
    with _service(machines, core=core) as service:
        return measure_memory(
            service, mixed, attestations=plan.requests, step=min(plan.memory_step, plan.requests), tell=tell
        )


@contextmanager
def _service(machines: Machines, *, core: int) -> Iterator[Service]:
    with (
        tempfile.TemporaryDirectory(prefix="strongroom-load-") as folder,
        running_service(machines, Path(folder), core=core) as service,
    ):
        yield service


def _growth(policies: Sequence[PolicyCost], costs: Sequence[float]) -> Growth:
    return Growth.of([cost.rules for cost in policies], costs)


def _tell(text: str) -> None:
    print(f"bench-attestation: {text}", flush=True)


def _quick() -> Plan:
    return Plan(
        rounds=10,
        policy_sizes=(10, 100, 1_000),
        policy_work=1_000,
        families=(1, 10),
        family_attestations=10,
        pool=10,
        load_rounds=1,
        closed_s=1.0,
        open_s=1.0,
        requests=100,
        memory_step=20,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench-attestation ARGS=...", description="Measure what verifying and appraising evidence costs."
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run of a minute; writes into build/benchmark")
    parser.add_argument(
        "--requests",
        type=int,
        default=Plan().requests,
        help="attestations over which the service's memory is watched (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the page")
    parser.add_argument("--out", type=Path, help="where results go (default: docs/benchmarks)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
