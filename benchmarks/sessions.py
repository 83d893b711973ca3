"""What one session of the benchmark is, and what it told."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMED = HERE / "timed.py"
EXAMPLES = HERE.parent / "examples" / "nyctaxi"
APPLICATIONS = {"count": EXAMPLES / "count.py", "report": EXAMPLES / "report.py"}
MEASURED_RUNS = {"count": 15, "report": 1}
"""How often each application is measured in a session, after `WARM_UPS`."""
WARM_UPS = {"count": 80, "report": 1}
"""How often it runs before that: a run of `count` is so short that Java still compiles in its first dozens."""

EXECUTOR_CORES = 1
MEMORY_MB = 1024
"""Heap of the driver and of each executor."""

_MARK = "timed "
_VARIES = "Aggregation duration:"


class BenchmarkError(Exception):
    """A side of the benchmark did not do what was asked; the message says what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A cluster that was started, measured and stopped.

    Attributes:
        side: "plain" (no ahead-of-time cache, as spark-submit starts it), "plain-aot", or "protected".
        first_task_s: From the command to the end of the first task.
        initialisation_s: From the command until every executor was there.
        seconds: The measured runs of each application, without the warm-up.
        warming: The runs before them, from the session's first on.
        printed: What the applications printed, without durations: equal on all sides.
        agent_mb: Memory of the largest agent, where there are agents.
        busy_before: Share of the machine that others used just before, from 0 to 1: it should be near 0.
        stolen: Share of the processor time wanted meanwhile that other virtual machines had instead, likewise.
    """

    side: str
    executors: int
    round: int
    first_task_s: float
    initialisation_s: float
    seconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    warming: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    printed: tuple[str, ...] = ()
    agent_mb: float | None = None
    busy_before: float = 0.0
    stolen: float = 0.0


def repetitions(measured: Mapping[str, int]) -> tuple[str, ...]:
    """Return the arguments by which `timed.py` is told what to run."""
    return tuple(
        f"{application}={WARM_UPS[application] if times else 1}+{times}" for application, times in measured.items()
    )


def now() -> float:
    """Return the time in seconds, on the clock that `timed.py` uses."""
    return datetime.now(tz=UTC).timestamp()


def read_session(output: str, *, side: str, executors: int, number: int, started: float) -> Session:
    """Make a session of what `timed.py` and the applications printed.

    Args:
        output: Everything on standard output.
        side: Which side it is.
        executors: Of how many executors.
        number: Of which round.
        started: When the command was given.

    Raises:
        BenchmarkError: The script did not get to its end.
    """
    events = list(_events(output.splitlines()))
    at = {event["event"]: float(event["at"]) for event in events}
    if not {"first-task", "ready"} <= at.keys():
        raise BenchmarkError(f"the {side} side did not start: {output[-2000:]}")
    seconds: dict[str, tuple[float, ...]] = {}
    warming: dict[str, tuple[float, ...]] = {}
    for event in events:
        if event["event"] == "ran":
            runs = seconds if event["number"] > 0 else warming
            runs[event["application"]] = (*runs.get(event["application"], ()), event["seconds"])
    lines = (line for line in output.splitlines() if not line.startswith((_MARK, _VARIES)))
    return Session(
        side=side,
        executors=executors,
        round=number,
        first_task_s=round(at["first-task"] - started, 3),
        initialisation_s=round(at["ready"] - started, 3),
        seconds=seconds,
        warming=warming,
        printed=tuple(dict.fromkeys(lines)),
    )


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(_MARK):
            yield json.loads(line.removeprefix(_MARK))
