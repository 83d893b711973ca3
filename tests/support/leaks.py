"""The leak search: many needles at once, in bytes and in every compressed stream inside them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tests.support.needles import MIN_BYTES, Needle
from tests.support.streams import streams_in

_MAX_DEPTH: Final = 5
_WINDOW_BYTES: Final = 16 << 20
_Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A needle that was found.

    Attributes:
        place: Where: a file or another source, and the streams it was unpacked from.
        of: The value or secret.
        form: How it was spelt.
    """

    place: str
    of: str
    form: str


class LeakSearch:
    """Looks for needles in bytes of any size.

    Of each needle the six bytes with the fewest zeros are its anchor. Each pair of bytes of the anchors is looked up
    in a table for all positions at once; what is left after three pairs is compared.
    """

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._by_anchor: dict[bytes, list[tuple[int, Needle]]] = defaultdict(list)
        for needle in needles:
            offset = _anchor(needle.pattern)
            self._by_anchor[needle.pattern[offset : offset + MIN_BYTES]].append((offset, needle))
        assert self._by_anchor, "a search for nothing finds nothing"
        self.needles: Final = tuple(needle for found in self._by_anchor.values() for _, needle in found)
        self._overlap = max(len(needle.pattern) for needle in self.needles)
        self._tables = [self._table(offset) for offset in range(0, MIN_BYTES, 2)]

    def search(self, data: bytes, *, place: str) -> list[Leak]:
        """Return every needle found in the data or in a stream inside it, once for each place."""
        return list(dict.fromkeys(self._search(data, place, depth=0)))

    def _search(self, data: bytes, place: str, *, depth: int) -> Iterator[Leak]:
        for needle in self._found_in(data):
            yield Leak(place=place, of=needle.of, form=needle.form)
        if depth < _MAX_DEPTH:
            for stream in streams_in(data):
                yield from self._search(stream.content, f"{place} > {stream.kind} at {stream.offset}", depth=depth + 1)

    def _found_in(self, data: bytes) -> set[Needle]:
        found: set[Needle] = set()
        for start in range(0, len(data), _WINDOW_BYTES):
            window = data[max(0, start - self._overlap) : start + _WINDOW_BYTES + self._overlap]
            for position in self._candidates(window):
                for offset, needle in self._by_anchor.get(window[position : position + MIN_BYTES], ()):
                    here = position - offset
                    if here >= 0 and needle not in found and window.startswith(needle.pattern, here):
                        found.add(needle)
        return found

    def _candidates(self, window: bytes) -> Iterator[int]:
        """Return the positions whose first three pairs of bytes are those of some needles."""
        for odd in (0, 1):
            size = (len(window) - odd) // 2
            if size < len(self._tables):
                continue
            pairs = np.frombuffer(window, dtype="<u2", count=size, offset=odd)
            left: _Positions = np.flatnonzero(self._tables[0][pairs[: size - len(self._tables) + 1]])
            for step, table in enumerate(self._tables[1:], start=1):
                left = left[table[pairs[left + step]]]
            yield from (int(index) * 2 + odd for index in left)

    def _table(self, offset: int) -> npt.NDArray[np.bool_]:
        table = np.zeros(1 << 16, dtype=np.bool_)
        for anchor in self._by_anchor:
            table[int.from_bytes(anchor[offset : offset + 2], "little")] = True
        return table


def _anchor(pattern: bytes) -> int:
    """Return the offset of the pattern's most telling bytes."""
    return max(range(len(pattern) - MIN_BYTES + 1), key=lambda offset: -pattern.count(0, offset, offset + MIN_BYTES))


def summary(leaks: Iterable[Leak]) -> str:
    """Return findings as a person reads them in a failed test: places, what, how often."""
    counts: Counter[tuple[Any, ...]] = Counter((leak.place, leak.of, leak.form) for leak in leaks)
    lines = [f"{place}: {of} as {form}" for place, of, form in counts]
    return "\n".join(lines[:40]) + (f"\n… and {len(lines) - 40} more" if len(lines) > 40 else "")
