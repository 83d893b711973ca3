"""What is published of crowds of executors, from made-up figures."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

SIZES = (100, 300, 1000)


def measured(benchmark: Callable[[str], ModuleType], *, seconds: Sequence[float], key_cpu_ms: Sequence[float]) -> Any:
    busy, crowd, figures = (benchmark(name) for name in ("busy", "crowd", "figures"))
    joined = [
        crowd.Joined(
            executors=size,
            seconds=time,
            each=figures.Spread.of([0.5, 1.0]),
            attestation_cpu_ms=7.0,
            key_cpu_ms=cpu,
        )
        for size, time, cpu in zip(SIZES, seconds, key_cpu_ms, strict=True)
    ]
    return crowd.Measured(
        crowds=[[busy.Taken(value=each, stolen=0.0, repeated=0)] for each in joined],
        attestation_mb=(80.0, 81.0),
        key_mb=(84.0, 90.0),
        at_once=128,
        busy=0.01,
    )


def test_a_service_that_takes_longer_for_each_executor_the_more_there_are_misses_the_limit(
    benchmark: Callable[[str], ModuleType],
) -> None:
    """The crowd's own core sets the pace, so the time alone would not show it."""
    found = measured(benchmark, seconds=(6.0, 18.0, 60.0), key_cpu_ms=(11.0, 20.0, 50.0))
    page = benchmark("crowd")._page(found)

    assert found.growth() == pytest.approx(1)
    assert "| growth of the time with the number of executors (1: linear) | 1.00 | at most 1.1 | reached |" in page
    assert found.service_growth() > 1.4
    assert "processor time with the number of executors (1: linear) | 1.50 | at most 1.1 | **missed** |" in page


def test_the_page_says_what_all_and_one_took(benchmark: Callable[[str], ModuleType]) -> None:
    page = benchmark("crowd")._page(measured(benchmark, seconds=(6.0, 18.0, 60.0), key_cpu_ms=(11.0, 11.0, 11.0)))

    assert "**The TEEs are simulated, and none starts\nSpark**" in page
    assert "| 1000 | 60.0 | 17 | 500 | 1000 | 7.0 | 11.0 |" in page
    assert "| key service | 84 MB | 90 MB |" in page
    assert "The median of 1 round, " in page
