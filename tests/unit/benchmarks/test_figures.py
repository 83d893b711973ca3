import importlib.util
import itertools
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def figures(repo_root: Path) -> ModuleType:
    """The module `benchmarks/figures.py`."""
    spec = importlib.util.spec_from_file_location("benchmark_figures", repo_root / "benchmarks" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("share", "expected"), [(0.50, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(figures: ModuleType, share: float, expected: int) -> None:
    assert figures.percentile(list(range(100, 0, -1)), share) == expected


def test_a_percentile_of_one_value_is_that_value(figures: ModuleType) -> None:
    assert figures.percentile([7.0], 0.99) == 7.0


def test_times_are_published_in_milliseconds(figures: ModuleType) -> None:
    spread = figures.Spread.of([0.001, 0.002, 0.003])

    assert (spread.p50_ms, spread.p95_ms, spread.p99_ms, spread.count) == (2, 3, 3, 3)


@pytest.mark.parametrize("growth", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(figures: ModuleType, growth: float) -> None:
    sizes = [10, 100, 1_000, 10_000]

    assert figures.exponent(sizes, [3 * size**growth for size in sizes]) == pytest.approx(growth)


def test_a_fixed_cost_hides_growth_at_small_sizes_only(figures: ModuleType) -> None:
    sizes = [10, 100, 1_000, 10_000]
    costs = [1_000 + size for size in sizes]

    assert figures.exponent(sizes, costs) < 0.5
    assert figures.exponent(sizes[-2:], costs[-2:]) > figures.exponent(sizes, costs)


def test_arrivals_come_at_the_given_rate_in_order_and_are_the_same_each_time(figures: ModuleType) -> None:
    moments = figures.arrivals(per_second=50, duration_s=100)

    assert moments == sorted(moments) == figures.arrivals(per_second=50, duration_s=100)
    assert 0 < moments[0] < moments[-1] < 100
    assert len(moments) == pytest.approx(5_000, rel=0.05)


def test_the_gaps_between_arrivals_vary_as_those_of_independent_callers(figures: ModuleType) -> None:
    moments = figures.arrivals(per_second=1, duration_s=5_000)
    gaps = [after - before for before, after in itertools.pairwise(moments)]

    assert figures.percentile(gaps, 0.5) == pytest.approx(0.693, rel=0.1)
    assert figures.percentile(gaps, 0.95) == pytest.approx(2.996, rel=0.1)


def test_a_request_that_was_sent_late_has_waited_since_it_was_to_be_sent(figures: ModuleType) -> None:
    # One that takes 1 s holds up the next two, which take 0.01 s each once they are sent.
    assert figures.latencies([0.0, 0.1, 0.2], [1.0, 1.01, 1.02]) == pytest.approx([1.0, 0.91, 0.82])


def test_every_planned_request_needs_its_answer(figures: ModuleType) -> None:
    with pytest.raises(ValueError, match="shorter"):
        figures.latencies([0.0, 0.1], [1.0])
