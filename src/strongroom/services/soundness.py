"""Whether the key service may serve: the audit in the background, and the gate that closes when it finds something."""

import logging
import threading
from collections.abc import Callable, Collection
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from strongroom.base.errors import ConfigurationError, IntegrityError, StrongroomError, UnavailableError
from strongroom.keys.store import Store
from strongroom.services.errors import ErrorShape
from strongroom.services.http import to_response

_PAUSE_S: Final = 0.05
"""The audit's rest after each piece: it takes a small share of one processor."""
_RETRY_S: Final = 60.0
_log = logging.getLogger(__name__)


class SoundnessGate:
    """Answers every request with the reason while nothing is released, except on paths that only look or mend.

    Args:
        app: What answers otherwise.
        store: Says whether it is sound.
        shape_for: The shape of an error on a path.
        open_paths: Paths that are always answered; one that ends with a slash stands for all below it.
    """

    def __init__(
        self, app: ASGIApp, *, store: Store, shape_for: Callable[[str], ErrorShape], open_paths: Collection[str]
    ) -> None:
        self._app = app
        self._store = store
        self._shape_for = shape_for
        self._open = frozenset(open_paths)
        self._below = tuple(path for path in open_paths if path.endswith("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and not self._is_open(scope["path"]):
            try:
                self._store.demand_sound()
            except StrongroomError as error:
                await to_response(self._shape_for(scope["path"])(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(self._below)


def start_audit(store: Store, *, pause_s: float = _PAUSE_S) -> threading.Thread:
    """Audit a store in the background, once; when it finds something, the store releases nothing any more."""
    thread = threading.Thread(target=_audit, args=(store, pause_s), name="audit", daemon=True)
    thread.start()
    return thread


def _audit(store: Store, pause_s: float) -> None:
    while not store.closed.is_set():
        try:
            audited = store.audit(pause_s=pause_s)
        except (ConfigurationError, UnavailableError) as error:
            if not store.closed.is_set():
                _log.warning("the audit could not read the database, and begins again: %s", error.message)
            store.closed.wait(_RETRY_S)
            continue
        except IntegrityError as error:
            if not store.closed.is_set():
                _log.error("the audit found something; nothing is released any more: %s", error.message)
                store.stop_releasing(error)
            return
        except Exception:  # noqa: BLE001 - whatever it is: what was not audited is not trusted
            if not store.closed.is_set():
                _log.exception("the audit failed; nothing is released any more")
                store.stop_releasing(IntegrityError("the audit failed", action="See the service's log."))
            return
        if audited is not None:
            _log.info(
                "the audit found nothing: %d log entries, %d rows, %d subjects",
                audited.leaves,
                audited.rows,
                audited.subjects,
            )
        return
