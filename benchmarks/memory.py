"""How much memory processes hold, as Linux counts it."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_INTERVAL_S = 0.5
_KIB_PER_MB = 1000 / 1.024  # Linux counts in KiB; a MB has 1,000,000 bytes


class PeakMemory:
    """Watches the resident memory (RSS) of the largest process whose command line holds certain words.

    Shared libraries count in full: each TEE has its own copy of them.

    Args:
        words: What the command line holds; all of them.
    """

    def __init__(self, *words: str) -> None:
        self._words = words
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0

    def __enter__(self) -> Self:
        self._watcher.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(_INTERVAL_S):
            self.peak_mb = max(self.peak_mb, *resident_mb(self._words), 0.0)


def resident_mb(words: Sequence[str]) -> list[float]:
    """Return the resident memory of each process whose command line holds all of the words."""
    return list(_resident_mb(words))


def _resident_mb(words: Sequence[str]) -> Iterator[float]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if all(word in command for word in words):
                yield process_mb(folder.name)


def process_mb(process: int | str) -> float:
    """Return the resident memory of a process.

    Raises:
        OSError: There is no such process.
    """
    for line in Path("/proc", str(process), "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / _KIB_PER_MB, 1)
    return 0.0
