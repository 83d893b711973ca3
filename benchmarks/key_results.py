"""What the key service's benchmark publishes: JSON, a page in Markdown, a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import matplotlib as mpl
from busy import disturbance
from key_load import VERIFIED_SHARE
from key_states import Commits, LargeState
from load import LOAD_HEAD, OPEN_LOOP_CONNECTIONS, Latency, Rate, load_cells
from results import Bound, hardware, judged, shares, table

mpl.use("Agg")
from matplotlib import pyplot as plt

_RELEASES, _P99_MS, _WRAPS, _START_S, _RESIDENT_MB, _READ_MS = 300, 50, 1_000, 2, 200, 10
_AT_MOST: Final[Bound] = "at most "
_AT_LEAST: Final[Bound] = "at least "
_BLUE, _RED = "#1f4e79", "#c0392b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one kind of request costs on one database."""

    what: str
    database: str
    rate: Rate
    latency: Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        asked: The service under load.
        commits: The store alone.
        large: The large state.
        busy: Shares of the machine that others used before each part, from 0 to 1.
        load_rounds: Rounds of the closed loop, and of the open loop.
        closed_s: How long each of the former took, in seconds.
        open_s: How long each of the latter took, in seconds.
        connections: Of the closed loop.
    """

    asked: Sequence[Asked]
    commits: Sequence[Commits]
    large: LargeState
    busy: Sequence[float]
    load_rounds: int
    closed_s: float
    open_s: float
    connections: int


def publish(measured: Measured, folder: Path) -> None:
    """Write `keys.json`, `keys.md` and `keys.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keys.json").write_text(json.dumps(asdict(measured), indent=2) + "\n", encoding="utf-8")
    (folder / "keys.md").write_text(_page(measured), encoding="utf-8")
    _draw(measured, folder / "keys.png")


# --- the page ----------------------------------------------------------------------------------------------------


def _page(measured: Measured) -> str:
    large = measured.large
    return f"""# What a release costs

Written by `make bench-keys`; all figures are in [keys.json](keys.json). **Simulated hardware: the evidence that opens
the runs is simulated; everything that is measured here is real.**

![requests a second, time against rate](keys.png)

## The limits, and where it stands
{_limits_table(measured)}

## The service under load
HTTPS, kept alive, to a process on one core; every release is a leaf of the log, on the disk before it is answered.

{_asked_table(measured)}

## Group commit
Transactions a second at the store alone, each with one leaf, each on the disk when it returns.

{_commits_table(measured)}

## {large.keys:,} keys and {large.leaves:,} log entries
SQLite, {large.database_mb:,.0f} MB on disk.

{_large_table(large)}

## How it was measured
{_method(measured)}
"""


def _limits_table(measured: Measured) -> str:
    large = measured.large
    rows = []
    for each in measured.asked:
        limit = _RELEASES if each.what == "release" else _WRAPS
        name = f"{each.what} a second, {each.database}"
        rows.append(judged(name, each.rate.per_second, limit, "/s", bound=_AT_LEAST))
        if each.what == "release":
            p99 = each.latency.spread.p99_ms
            rows.append(judged(f"its p99 at half of that, {each.database}", p99, _P99_MS, " ms", bound=_AT_MOST))
    rows += [
        judged("start (median)", median(large.start_s), _START_S, " s", digits=2, bound=_AT_MOST),
        judged("memory", max(large.resident_mb, large.resident_after_mb), _RESIDENT_MB, " MB", bound=_AT_MOST),
        judged("look-up, p99", large.look_up.p99_ms, _READ_MS, " ms", digits=2, bound=_AT_MOST),
        judged("proof, p99", large.prove.p99_ms, _READ_MS, " ms", digits=2, bound=_AT_MOST),
    ]
    return table(("what", "measured", "limit", ""), rows)


def _asked_table(measured: Measured) -> str:
    rows = [(each.what, each.database, *load_cells(each.rate, each.latency)) for each in measured.asked]
    return table(("request", "database", *LOAD_HEAD), rows)


def _commits_table(measured: Measured) -> str:
    rows = [(each.database, each.threads, f"{each.grouped:.0f}", f"{each.alone:.0f}") for each in measured.commits]
    return table(("database", "threads", "in groups", "each by itself"), rows)


def _large_table(large: LargeState) -> str:
    spreads = {
        "a key by its name": large.look_up,
        "an entry with its proof": large.prove,
        "a consistency proof": large.consistency,
    }
    rows = [(name, f"{each.p50_ms:.2f}", f"{each.p99_ms:.2f}") for name, each in spreads.items()]
    return f"""{table(("read", "p50, ms", "p99, ms"), rows)}

The service is ready {median(large.start_s):.2f} s after the command (median of {len(large.start_s)} starts); of that,
opening the state takes {median(large.open_s):.2f} s. It holds {large.resident_mb:.0f} MB then, and
{large.resident_after_mb:.0f} MB after it was read from."""


def _method(measured: Measured) -> str:
    rounds_taken = [each for asked in measured.asked for loop in (asked.rate, asked.latency) for each in loop.rounds]
    return f"""- The service: a process as the installation starts it, pinned to one core; the callers on another.
- A release: a driver of an open run asks for the write keys of its version. The service verifies the request, the
  ticket, the approval and the version, opens the key, appends a leaf, signs the checkpoint, syncs, seals and signs the
  answer with its proof.
- A wrap or unwrap: Azure Key Vault's call with a person's token, in turn.
- Closed loop: {measured.connections} connections, each asks again when its answer is there. Rounds:
  {measured.load_rounds} of {measured.closed_s:.0f} s; the median counts.
- Open loop: {measured.load_rounds} rounds of {measured.open_s:.0f} s at half of that rate, at random moments
  (exponential gaps) on up to {OPEN_LOOP_CONNECTIONS} connections; the median of the rounds counts. Time counts
  from the moment a request was to be sent. Requests are made before and answers checked after, so that only the
  service computes meanwhile.
- Run and key of every release are compared; of one in {VERIFIED_SHARE} the signature is verified.
- The large state is made through the store itself; every row is encrypted, every leaf in the tree. While the service is
  measured over it, the audit goes through it in the background. Files lie in the system's page cache.
- {disturbance(rounds_taken)}.
- Before the parts, others used {shares(measured.busy)} of the machine.
- Machine: {hardware()}."""


# --- the picture -------------------------------------------------------------------------------------------------


def _draw(measured: Measured, path: Path) -> None:
    figure, (rates, times) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = [f"{each.what}\n{each.database}" for each in measured.asked]
    rates.barh(names, [each.rate.per_second for each in measured.asked], color=_BLUE)
    limits = [_RELEASES if each.what == "release" else _WRAPS for each in measured.asked]
    rates.plot(limits, names, "|", color=_RED, markersize=18, label="limit")
    rates.invert_yaxis()
    rates.set(xlabel="a second, one core", title="The service under load")
    rates.legend(loc="lower right")
    times.barh(names, [each.latency.spread.p99_ms for each in measured.asked], color=_BLUE)
    times.axvline(_P99_MS, color=_RED, linestyle="--", label="limit")
    times.invert_yaxis()
    times.set(xlabel="ms (p99)", title="Time at half of that rate")
    times.legend(loc="lower right")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
