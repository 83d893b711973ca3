"""A clock that never goes behind what the log has recorded."""

import threading
from collections.abc import Callable
from datetime import datetime

from strongroom.base.clock import Clock


class LogClock:
    """The machine's clock, or the newest logged time where that is later.

    What expired once stays expired: a machine whose clock is set back gives nothing a second life, neither a nonce nor
    a ticket nor a token. A clock that once ran ahead while something was logged holds this one there until real time
    catches up.

    Args:
        clock: The machine's.
        newest_time: Returns the log's newest time, RFC 3339.
    """

    def __init__(self, clock: Clock, *, newest_time: Callable[[], str]) -> None:
        self._clock = clock
        self._newest_time = newest_time
        self._lock = threading.Lock()
        self._known = ""
        self._floor: datetime | None = None

    def now(self) -> datetime:
        """Return the time, timezone-aware, in UTC."""
        moment, newest = self._clock.now(), self._newest_time()
        with self._lock:
            if newest > self._known and newest[:1] != "0":
                self._known, logged = newest, datetime.fromisoformat(newest)
                self._floor = logged if self._floor is None else max(logged, self._floor)
            if self._floor is not None:
                moment = max(moment, self._floor)
        return moment
