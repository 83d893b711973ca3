"""How much of this machine others use: numbers of a busy machine say little."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

QUIET: Final = 0.1
"""Up to this share of the machine in use, a measurement says something."""


def busy_share() -> float:
    """Return which share of the machine is in use, over a second in which the benchmark does nothing."""
    before = _processor_times()
    time.sleep(1)
    spent = [after - earlier for after, earlier in zip(_processor_times(), before, strict=True)]
    idle = spent[3] + spent[4]  # idle, and waiting for a disk
    return round(1 - idle / max(1, sum(spent)), 3)


def busy_before(what: str, *, tell: Callable[[str], None]) -> float:
    """Say what comes next, and whether others use too much of this machine; return which share they use."""
    share = busy_share()
    tell(f"next: {what}")
    if share > QUIET:
        tell(f"others use {share:.0%} of this machine; numbers of a busy machine say little")
    return share


def _processor_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    return [int(ticks) for ticks in first.split()[1:9]]
