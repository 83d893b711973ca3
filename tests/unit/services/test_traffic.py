"""Rate limits: one caller, all together, and what is remembered of whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.services.traffic import RateLimiter


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answered(limiter: RateLimiter, address: str, count: int = 1000) -> int:
    """How many of so many requests at once may be answered."""
    return sum(not limiter.delay_s(address) for _ in range(count))


def test_one_address_gets_its_rate_and_a_burst_after_a_pause() -> None:
    seconds = Seconds()
    limiter = RateLimiter(per_second=10_000, per_second_and_address=8, monotonic=seconds)
    assert answered(limiter, "a") == 17  # two seconds' worth, and the one that finds nobody before it
    assert answered(limiter, "b") == 17
    seconds.now += 1
    assert answered(limiter, "a") == 8
    seconds.now += 3600
    assert answered(limiter, "a") == 17


def test_all_addresses_together_have_a_rate_and_a_greedy_one_does_not_use_it_up() -> None:
    limiter = RateLimiter(per_second=32, per_second_and_address=8, monotonic=Seconds())
    assert answered(limiter, "greedy", 100_000) == 17
    assert [answered(limiter, name) for name in "abcd"] == [17, 17, 14, 0]


def test_says_when_to_come_again() -> None:
    seconds = Seconds()
    limiter = RateLimiter(per_second=10, per_second_and_address=1, monotonic=seconds)
    answered(limiter, "a")
    delay = limiter.delay_s("a")
    assert delay > 0
    seconds.now += delay
    assert limiter.delay_s("a") == 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_addresses_of_one_site_count_as_one(one: str, other: str, *, same: bool) -> None:
    limiter = RateLimiter(per_second=10_000, per_second_and_address=1, monotonic=Seconds())
    answered(limiter, one)
    assert bool(limiter.delay_s(other)) is same


def test_remembers_a_bounded_number_of_addresses() -> None:
    limiter = RateLimiter(per_second=1_000_000, per_second_and_address=1, monotonic=Seconds())
    for number in range(12_000):
        limiter.delay_s(str(number))
    assert len(limiter._addresses) <= 10_001


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=80))
def test_nobody_ever_gets_more_than_the_rate_and_one_burst(calls: list[tuple[str, float]]) -> None:
    seconds = Seconds()
    limiter = RateLimiter(per_second=4, per_second_and_address=2, monotonic=seconds)
    counts = dict.fromkeys("abc", 0)
    for name, pause in calls:
        seconds.now += pause
        counts[name] += not limiter.delay_s(name)
    elapsed = seconds.now - 1000.0
    assert all(count <= 2 * (elapsed + 2) + 1 for count in counts.values())
    assert sum(counts.values()) <= 4 * (elapsed + 2) + 1
