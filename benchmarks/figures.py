"""The arithmetic behind a benchmark's figures: percentiles, growth, and when requests are to be sent."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is published of many times, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Spread":
        """Summarise times in seconds; at least one."""
        p50, p95, p99 = (round(1000 * percentile(seconds, share), 3) for share in (0.50, 0.95, 0.99))
        return cls(p50_ms=p50, p95_ms=p95, p99_ms=p99, count=len(seconds))

    @classmethod
    def middle(cls, rounds: Sequence["Spread"]) -> "Spread":
        """Return the median of the rounds for each percentile; at least one round."""
        p50, p95, p99 = (median(getattr(each, name) for each in rounds) for name in ("p50_ms", "p95_ms", "p99_ms"))
        return cls(p50_ms=p50, p95_ms=p95, p99_ms=p99, count=sum(each.count for each in rounds))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all values does not exceed (nearest rank).

    Args:
        values: At least one, in any order.
        share: Above 0, at most 1.
    """
    rank = math.ceil(share * len(values) - 1e-9)
    return sorted(values)[max(rank, 1) - 1]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return b of the power law cost = a * size ** b that fits best (least squares over the logarithms).

    1 is linear growth, 2 quadratic.

    Args:
        sizes: At least two different ones, above 0.
        costs: One for each size, above 0.
    """
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x_mean, y_mean = math.fsum(x) / len(x), math.fsum(y) / len(y)
    covariance = math.fsum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return covariance / math.fsum((a - x_mean) ** 2 for a in x)


def arrivals(*, per_second: float, duration_s: float) -> list[float]:
    """Return when requests are to be sent, in seconds from the start: at random, as independent callers come.

    The gaps are exponential (a Poisson process) and the same each time.

    Args:
        per_second: How many on average.
        duration_s: For how long.
    """
    moments: list[float] = []
    moment = 0.0
    while True:
        moment -= math.log1p(-_uniform(len(moments))) / per_second
        if moment >= duration_s:
            return moments
        moments.append(moment)


def latencies(planned: Sequence[float], answered: Sequence[float]) -> list[float]:
    """Return how long each request took from the moment it was to be sent, not from when it really was.

    A request that waits because earlier ones are late has waited for the service: a caller of his own would have, too.

    Args:
        planned: When each was to be sent.
        answered: When its answer was complete, on the same clock.
    """
    return [end - start for start, end in zip(planned, answered, strict=True)]


def _uniform(number: int) -> float:
    """Return the number-th of a fixed sequence of values in [0, 1)."""
    digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)
