"""How much of this machine others use: numbers of a busy machine say little."""

import time
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


def _processor_times() -> list[int]:
    first = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    return [int(ticks) for ticks in first.split()[1:9]]
