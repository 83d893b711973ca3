"""What the attestation benchmark publishes: JSON, a page in Markdown, a picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import matplotlib as mpl
from appraisals import Growth, PolicyCost
from busy import disturbance
from figures import Spread
from load import (
    CONNECTIONS,
    LOAD_HEAD,
    OPEN_LOOP_CONNECTIONS,
    RATE_LIMIT,
    VERIFIED_SHARE,
    Latency,
    Memory,
    Rate,
    load_cells,
)
from machines import KINDS
from results import Bound, hardware, judged, shares, table

from strongroom.base.limits import LIMITS
from strongroom.policy.evidence_grammar import MAX_RULES

mpl.use("Agg")
from matplotlib import pyplot as plt

_PER_SECOND, _P99_MS, _RESIDENT_MB, _FLAT, _LINEAR = 100, 60, 150, 1.1, 1.1
_AFTER_FIRST: Final = 5_000
_AT_MOST: Final[Bound] = "at most "
_BLUE, _RED = "#1f4e79", "#c0392b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        kinds: Verification and appraisal, by kind of evidence.
        policies: Costs of policies, the shortest first.
        policy_growth: How "parse" and "evaluate" grow with a policy's rules.
        families: Verification and appraisal, by the number of platform families known.
        family_growth: How it grows with that number.
        rates: The service's closed loop, by kind of evidence.
        latencies: The service's open loop, likewise.
        memory: The service's memory, sample by sample.
        busy: Shares of the machine that others used before each part, from 0 to 1.
        pool: Different requests of each kind that the service was asked.
        load_rounds: Rounds of the closed loop, and of the open loop.
        closed_s: How long each of the former took, in seconds.
        open_s: How long each of the latter took, in seconds.
    """

    kinds: Mapping[str, Spread]
    policies: Sequence[PolicyCost]
    policy_growth: Mapping[str, Growth]
    families: Mapping[int, Spread]
    family_growth: Growth
    rates: Mapping[str, Rate]
    latencies: Mapping[str, Latency]
    memory: Sequence[Memory]
    busy: Sequence[float]
    pool: int
    load_rounds: int
    closed_s: float
    open_s: float

    def settled(self) -> Memory:
        """Return the memory after the first 5,000 attestations, or after the first sample of a shorter run."""
        return next((each for each in self.memory if each.attestations >= _AFTER_FIRST), self.memory[0])

    def largest_mb(self) -> float:
        """Return the most memory of any sample."""
        return max(sample.resident_mb for sample in self.memory)

    def memory_ratio(self) -> float:
        """Return the memory at the end, over that after the first attestations."""
        return self.memory[-1].resident_mb / self.settled().resident_mb


def publish(measured: Measured, folder: Path) -> None:
    """Write `attestation.json`, `attestation.md` and `attestation.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "attestation.json").write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (folder / "attestation.md").write_text(_page(measured), encoding="utf-8")
    _draw(measured, folder / "attestation.png")


# --- the page ----------------------------------------------------------------------------------------------------


def _page(measured: Measured) -> str:
    return f"""# What an attestation costs

Written by `make bench-attestation`; all figures are in [attestation.json](attestation.json). **Simulated hardware: the
cost of verification is real, that of quoting is not measured.** The evidence has the vendors' formats, signatures and
certificate chains, with keys as large as theirs; the service verifies it as it would the vendors' own.

![verification by kind of evidence, cost against policy size, memory over time](attestation.png)

## The limits, and where it stands
{_limits_table(measured)}

## One core: parse, verify, make claims, appraise
Milliseconds, in one process, without HTTP and without signing the result. SGX and TDX: both verifiers.

{_kinds_table(measured)}

## The service: complete attestations
HTTPS to a process on one core: everything above, and reading the request, signing and sending the result.

{_service_table(measured)}

## Cost against the length of a policy
{_policies_table(measured)}

{_exponents(measured)}

The service takes policies of up to {MAX_RULES} rules and {LIMITS.policy_text_bytes >> 10} KiB; for this table both
bounds are lifted.

## Cost against the number of platform families known
{_families_table(measured)}

## Memory of the service
{_memory_text(measured)}

## How it was measured
{_method(measured)}
"""


def _limits_table(measured: Measured) -> str:
    slowest = min(measured.rates, key=lambda name: measured.rates[name].per_second)
    latest = max(measured.latencies, key=lambda name: measured.latencies[name].spread.p99_ms)
    rows = [
        *(
            judged(
                f"{kind.name}: p50", measured.kinds[kind.name].p50_ms, kind.limit_ms, " ms", digits=1, bound=_AT_MOST
            )
            for kind in KINDS
        ),
        judged(
            f"attestations a second, the slowest kind ({slowest})",
            measured.rates[slowest].per_second,
            _PER_SECOND,
            "/s",
            bound="at least ",
        ),
        judged(
            f"p99 at half of the rate, the latest kind ({latest})",
            measured.latencies[latest].spread.p99_ms,
            _P99_MS,
            " ms",
            bound=_AT_MOST,
        ),
        *(
            judged(
                f"{name} against rules, exponent (larger of the fits)",
                max(growth.overall, growth.last),
                _LINEAR,
                "",
                bound=_AT_MOST,
            )
            for name, growth in measured.policy_growth.items()
        ),
        judged(
            "an attestation against platform families, exponent",
            max(measured.family_growth.overall, measured.family_growth.last),
            _LINEAR,
            "",
            bound=_AT_MOST,
        ),
        judged(
            f"memory at the end / after {measured.settled().attestations:,}",
            measured.memory_ratio(),
            _FLAT,
            "",
            bound=_AT_MOST,
        ),
        judged("memory, largest", measured.largest_mb(), _RESIDENT_MB, " MB", bound=_AT_MOST),
    ]
    return table(("what", "measured", "limit", ""), rows)


def _kinds_table(measured: Measured) -> str:
    rows = [(name, f"{spread.p50_ms:.2f}", f"{spread.p95_ms:.2f}") for name, spread in measured.kinds.items()]
    return table(("evidence", "p50", "p95"), rows)


def _service_table(measured: Measured) -> str:
    rows = [(name, *load_cells(rate, measured.latencies[name])) for name, rate in measured.rates.items()]
    return table(("evidence", *LOAD_HEAD), rows)


def _policies_table(measured: Measured) -> str:
    rows = [(f"{each.rules:,}", f"{each.parse_ms:.2f}", f"{each.evaluate_ms:.3f}") for each in measured.policies]
    return table(("rules", "parse, ms", "evaluate, ms"), rows)


def _exponents(measured: Measured) -> str:
    rows = [(name, f"{each.overall:.2f}", f"{each.last:.2f}") for name, each in measured.policy_growth.items()]
    return table(("exponent (1 is linear)", "over all sizes", "over the last two"), rows)


def _families_table(measured: Measured) -> str:
    rows = [
        (f"{size:,}", f"{each.p50_ms:.2f}", f"{each.p95_ms:.2f}") for size, each in sorted(measured.families.items())
    ]
    return table(("families", "p50, ms", "p95, ms"), rows)


def _memory_text(measured: Measured) -> str:
    settled, last = measured.settled(), measured.memory[-1]
    return f"""{settled.resident_mb:.1f} MB after the first {settled.attestations:,} attestations,
{last.resident_mb:.1f} MB after {last.attestations:,}; at most {measured.largest_mb():.1f} MB (resident memory; shared
libraries count in full). All kinds of evidence in turn, {CONNECTIONS} connections."""


def _method(measured: Measured) -> str:
    rounds = next(iter(measured.kinds.values())).count
    rounds_taken = [
        each for loop in (measured.rates, measured.latencies) for one in loop.values() for each in one.rounds
    ]
    return f"""- In one process: pinned to one core; {rounds} rounds after a warm-up, each kind once in each round,
  every time evidence of its own over runtime data of its own, as Strongroom's agents send them. The code is the
  service's: from the request's JSON to the appraised claims.
- The policies permit three releases (the last one is the one that runs), each with three to six conditions, deny what
  is unsafe and issue a few claims.
- Policies of different length: one `permit()` rule for each release of an enclave, the last one fits. Medians.
- Platform families: endorsements of so many families in the folder, all under one root; SGX evidence of one after the
  other. The signatures of the vendor's documents (TCB info, QE identity) are checked once a second for each family, and
  what was read of them is kept for the last few: with many families in turn, every attestation checks them.
- The service: a process as the installation starts it, pinned to one core; the callers on another. Its rate limits are
  set to {RATE_LIMIT:,} a second, for all and for one address, so that they limit nothing here.
- Closed loop: {CONNECTIONS} connections that are kept alive, each asks again when its answer is there. Rounds:
  {measured.load_rounds} of {measured.closed_s:.0f} s; the median counts. Of each kind {measured.pool} requests are made
  before, and sent in turn; where the call takes a nonce, each has a new one.
- Open loop: {measured.load_rounds} rounds of {measured.open_s:.0f} s at half of that rate, at random moments
  (exponential gaps) on up to {OPEN_LOOP_CONNECTIONS} connections; the median of the rounds counts. Time counts
  from the moment a request was to be sent, whether or not earlier
  ones were answered. Requests are made before and answers checked after, so that only the service computes meanwhile.
- Nonce and runtime data of every answer are compared with the request's; of one in {VERIFIED_SHARE} the signature is
  verified.
- {disturbance(rounds_taken)}.
- Before the parts, others used {shares(measured.busy)} of the machine.
- Machine: {hardware()}, dcap-qvl {version("dcap-qvl")}, cryptography {version("cryptography")}."""


# --- the picture -------------------------------------------------------------------------------------------------


def _draw(measured: Measured, path: Path) -> None:
    figure, (kinds, policies, memory) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    _draw_kinds(kinds, measured)
    sizes = [cost.rules for cost in measured.policies]
    policies.loglog(sizes, [cost.parse_ms for cost in measured.policies], "o-", color=_BLUE, label="parse")
    policies.loglog(sizes, [cost.evaluate_ms for cost in measured.policies], "s--", color=_RED, label="evaluate")
    policies.set(xlabel="rules", ylabel="ms", title="Cost of a policy")
    policies.legend()
    memory.plot([each.attestations for each in measured.memory], [each.resident_mb for each in measured.memory])
    memory.axhline(_RESIDENT_MB, color=_RED, linestyle="--", label="limit")
    memory.set(xlabel="attestations", ylabel="MB", title="Memory of the service")
    memory.set_ylim(0, None)
    memory.legend(loc="lower right")
    figure.suptitle("Simulated hardware: verification is real, quoting is not measured", fontsize=10)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _draw_kinds(axes: "plt.Axes", measured: Measured) -> None:
    names = [kind.name for kind in KINDS]
    axes.barh(names, [measured.kinds[name].p50_ms for name in names], color=_BLUE)
    axes.plot([kind.limit_ms for kind in KINDS], names, "|", color=_RED, markersize=18, label="limit")
    axes.invert_yaxis()
    axes.set(xlabel="ms (p50)", title="Verify and appraise, one core")
    axes.legend(loc="lower right")
