"""Asking a service again that does not answer: hours of work may wait for one that just restarts."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from strongroom.base.errors import UnavailableError

_AGAIN_AFTER_S: Final = 1.0
_T = TypeVar("_T")


def when_it_answers(
    ask: Callable[[], _T], *, patience_s: float, waiting: Callable[[UnavailableError], None] = lambda _: None
) -> _T:
    """Ask a service, and ask again where it does not answer. Whatever it answers counts, a refusal as well.

    Args:
        ask: Asks once. A service that was cut off in its answer is asked twice.
        patience_s: For how long it is asked again, in seconds.
        waiting: Told once that the service did not answer.

    Raises:
        UnavailableError: It does not answer for that long.
    """
    deadline = time.monotonic() + patience_s
    told = False
    while True:
        try:
            return ask()
        except UnavailableError as error:
            if time.monotonic() + _AGAIN_AFTER_S > deadline:
                raise
            if not told:
                waiting(error)
                told = True
            time.sleep(_AGAIN_AFTER_S)
