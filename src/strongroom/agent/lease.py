"""A run's lease, from inside a TEE: keys are given out in small batches, and each batch begins with asking again.

So a revocation takes effect while a run is running: what was not given out yet stays, and nothing is committed. Time in
a TEE is the host's word; a host that stops the clock only makes a batch last until its keys are used up.
"""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Final

from strongroom.agent.patience import when_it_answers
from strongroom.base.clock import Clock
from strongroom.base.errors import RefusedError, StrongroomError, UnavailableError
from strongroom.clients.key_service import TeeKeyServiceClient

BATCH_KEYS: Final = 16
"""How many keys of files one renewal is good for."""
BATCH_S: Final = 10.0
"""How long one renewal is good for, in seconds."""
_PATIENCE_S: Final = 120.0
"""How long a key service may be away. Spark tries a task that fails without keys four times, within seconds."""


class Lease:
    """Counts what is given out under a renewal; safe to use from several threads.

    Args:
        renew: Asks every key service whether the run still stands; its error is the answer to whoever wanted something.
        elapsed_s: A clock that only runs forward, in seconds.
    """

    def __init__(self, renew: Callable[[], None], *, elapsed_s: Callable[[], float] = time.monotonic) -> None:
        self._renew: Final = renew
        self._elapsed_s: Final = elapsed_s
        self._lock: Final = threading.Lock()
        self._left = 0
        self._ends_s = 0.0

    def draw(self) -> None:
        """Take one key of the batch, after renewing where it is used up or too old.

        Raises:
            StrongroomError: The run stands no more, or a key service does not answer. Nothing may be given out.
        """
        with self._lock:
            if self._left <= 0 or self._elapsed_s() >= self._ends_s:
                self._begin()
            self._left -= 1

    def demand(self) -> None:
        """Renew, whatever is left of the batch: before a commit.

        Raises:
            StrongroomError: The run stands no more, or a key service does not answer.
        """
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._left = 0
        began_s = self._elapsed_s()
        self._renew()
        self._left, self._ends_s = BATCH_KEYS, began_s + BATCH_S


def renew_everywhere(
    services: Iterable[TeeKeyServiceClient],
    *,
    now: Callable[[], datetime],
    waiting: Callable[[UnavailableError], None] = lambda _: None,
) -> None:
    """Ask every key service of a run whether it still stands; wait for one that restarts, and give out nothing.

    Args:
        services: The run's key services.
        now: The time.
        waiting: Told once that one does not answer.

    Raises:
        RefusedError: One says no: closed, over, or revoked, by whom and when.
        StrongroomError: One does not answer for two minutes, or answers something else.
    """
    for service in services:
        when_it_answers(partial(_renew, service, now), patience_s=_PATIENCE_S, waiting=waiting)


def _renew(service: TeeKeyServiceClient, now: Callable[[], datetime]) -> None:
    service.renew(now=now())


def lost_lease(services: Iterable[TeeKeyServiceClient], *, clock: Clock) -> RefusedError | None:
    """Return why a run stands no more; None where it stands, or nobody says.

    Args:
        services: The run's key services.
        clock: The time.
    """
    for service in services:
        try:
            service.renew(now=clock.now())
        except RefusedError as refusal:
            return refusal
        except StrongroomError:
            continue
    return None
