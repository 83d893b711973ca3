"""How much of this machine others use, and what a hypervisor takes away: numbers of a busy machine say little."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

QUIET: Final = 0.1
"""Up to this share of the machine in use, a measurement says something."""

STOLEN: Final = 0.02
"""Up to this share of the processor time that was wanted may go to other virtual machines (Linux: stolen)."""
_TRIES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Generic[_T]):
    """What a measurement found, and how far other virtual machines disturbed it.

    Attributes:
        value: What it found.
        stolen: Share of the processor time wanted meanwhile that others had instead, from 0 to 1.
        repeated: How often it was measured again, because that share was too large.
    """

    value: _T
    stolen: float
    repeated: int


def undisturbed(measure: Callable[[], _T], *, tries: int = _TRIES) -> Taken[_T]:
    """Measure, and measure again while other virtual machines take too much; what was found plays no part in that.

    If they always do, the measurement that they disturbed least counts; who publishes it says its share.

    Args:
        measure: Measures once.
        tries: How often at most.
    """
    found: list[tuple[float, _T]] = []
    while not found or (found[-1][0] > STOLEN and len(found) < tries):
        before = _processor_times()
        value = measure()
        found.append((_stolen(before, _processor_times()), value))
    stolen, value = min(found, key=lambda each: each[0])
    return Taken(value=value, stolen=stolen, repeated=len(found) - 1)


def disturbance(taken: Sequence[Taken[_T]]) -> str:
    """Return how far measurements were disturbed, for people."""
    repeated, largest = sum(each.repeated for each in taken), max(each.stolen for each in taken)
    return (
        f"Where other virtual machines took more than {STOLEN:.0%} of the processor time that was wanted, it was\n"
        f"  measured again: {repeated} times for {len(taken)} measurements, up to {_TRIES - 1} times each. The\n"
        f"  largest share that remained is {largest:.1%}"
    )


def busy_share() -> float:
    """Return which share of the machine is in use, over a second in which the benchmark does nothing."""
    before = _processor_times()
    time.sleep(1)
    spent = _spent(before, _processor_times())
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return round(1 - idle / max(1, sum(spent)), 3)


def busy_before(what: str, *, tell: Callable[[str], None]) -> float:
    """Say what comes next, and whether others use too much of this machine; return which share they use."""
    share = busy_share()
    tell(f"next: {what}")
    if share > QUIET:
        tell(f"others use {share:.0%} of this machine; numbers of a busy machine say little")
    return share


def _stolen(before: Sequence[int], after: Sequence[int]) -> float:
    spent = _spent(before, after)
    wanted = sum(spent) - spent[3] - spent[4]
    return round(spent[7] / max(1, wanted), 4)


def _spent(before: Sequence[int], after: Sequence[int]) -> list[int]:
    return [later - earlier for later, earlier in zip(after, before, strict=True)]


def _processor_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    return [int(ticks) for ticks in first.split()[1:9]]
