"""A run's lease inside a TEE: a few keys and a few seconds for each renewal."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from strongroom.agent import patience
from strongroom.agent.lease import BATCH_KEYS, BATCH_S, Lease, lost_lease, renew_everywhere
from strongroom.base.clock import SystemClock
from strongroom.base.errors import RefusedError, StrongroomError, UnavailableError


class Run:
    """A run whose key service answers what it is told to, and the TEE's seconds."""

    def __init__(self) -> None:
        self.asked = 0
        self.seconds = 0.0
        self.error: StrongroomError | None = None
        self.lease = Lease(self.renew, elapsed_s=lambda: self.seconds)

    def renew(self, *, now: Any = None) -> None:
        del now
        self.asked += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def run() -> Run:
    return Run()


def test_asks_before_the_first_key_of_each_batch(run: Run) -> None:
    for _ in range(BATCH_KEYS):
        run.lease.draw()
    assert run.asked == 1
    run.lease.draw()
    assert run.asked == 2


def test_a_batch_that_is_not_used_up_ends_with_its_time(run: Run) -> None:
    run.lease.draw()
    run.seconds = BATCH_S - 0.1
    run.lease.draw()
    assert run.asked == 1
    run.seconds = BATCH_S
    run.lease.draw()
    assert run.asked == 2


def test_asks_before_every_commit(run: Run) -> None:
    run.lease.draw()
    run.lease.demand()
    run.lease.demand()
    assert run.asked == 3


def test_gives_nothing_after_a_refusal_not_even_the_rest_of_a_batch(run: Run) -> None:
    run.lease.draw()
    run.error = RefusedError("revoked")
    with pytest.raises(RefusedError):
        run.lease.demand()
    with pytest.raises(RefusedError):
        run.lease.draw()
    run.error = None
    run.lease.draw()


def test_gives_nothing_while_the_key_service_is_silent(run: Run) -> None:
    run.error = UnavailableError("no answer")
    with pytest.raises(UnavailableError):
        run.lease.draw()


def test_many_threads_get_no_more_than_a_batch_holds(run: Run) -> None:
    barrier = threading.Barrier(8)

    def draw(_: int) -> None:
        barrier.wait()
        for _ in range(BATCH_KEYS):
            run.lease.draw()

    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(draw, range(8)))
    assert run.asked == 8


def test_every_key_service_is_asked_and_each_may_say_no() -> None:
    services: list[Any] = [Run(), Run()]
    renew_everywhere(services, now=SystemClock().now)
    assert [service.asked for service in services] == [1, 1]
    services[1].error = RefusedError("revoked")
    with pytest.raises(RefusedError):
        renew_everywhere(services, now=SystemClock().now)


def test_waits_for_a_key_service_that_restarts_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    service, told = Run(), []
    service.error = UnavailableError("no answer")

    def pass_time(_seconds: float) -> None:
        service.error = None if service.asked == 3 else service.error

    monkeypatch.setattr(patience.time, "sleep", pass_time)
    services: list[Any] = [service]
    renew_everywhere(services, now=SystemClock().now, waiting=told.append)
    assert service.asked == 4
    assert [error.message for error in told] == ["no answer"]


def test_tells_a_lost_lease_from_a_silent_service() -> None:
    silent, lost = Run(), Run()
    silent.error, lost.error = UnavailableError("no answer"), RefusedError("revoked")
    services: list[Any] = [silent, Run()]
    assert lost_lease(services, clock=SystemClock()) is None
    services.append(lost)
    assert lost_lease(services, clock=SystemClock()) is lost.error
