"""What every request to a service goes through first: rate limits, one log record, one count."""

import ipaddress
import logging
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strongroom.base.errors import RateError
from strongroom.services.errors import ErrorShape
from strongroom.services.http import ROUTE, to_response

_BURST_S: Final = 2.0
"""A caller who was silent may send so many seconds' worth at once."""
_MAX_ADDRESSES: Final = 10_000
_IPV6_SITE_BITS: Final = 64
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_UNLIMITED: Final = "/healthz"
_log = logging.getLogger(__name__)


class RateLimiter:
    """Bounds how often one address, and all together, may ask. Not for several threads.

    Each address has the time at which its allowance will be whole again (the generic cell rate algorithm). A request
    that one address may not make does not count against all.

    Args:
        per_second: Requests a second of all addresses together.
        per_second_and_address: Requests a second of one address; IPv6 addresses of one /64 count as one.
        monotonic: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        per_second: int,
        per_second_and_address: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 1 / per_second
        self._address_interval = 1 / per_second_and_address
        self._monotonic = monotonic
        self._whole_at = 0.0
        self._addresses: dict[str, float] = {}

    def delay_s(self, address: str) -> float:
        """Count a request; return 0 if it may be answered, otherwise in how many seconds one more may."""
        now, site = self._monotonic(), _site(address)
        mine = max(self._addresses.pop(site, now), now)
        if mine - now > _BURST_S:
            self._addresses[site] = mine
            return mine - now - _BURST_S
        if self._whole_at - now > _BURST_S:
            self._addresses[site] = mine
            return self._whole_at - now - _BURST_S
        self._addresses[site] = mine + self._address_interval  # last in the dictionary: least likely to be dropped
        self._whole_at = max(self._whole_at, now) + self._interval
        if len(self._addresses) > _MAX_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]
        return 0.0


class Counters(Protocol):
    """Where requests are counted."""

    def request(self, *, route: str, method: str, status: int) -> None:
        """Count an answered request."""

    def rate_limited(self) -> None:
        """Count a request that was refused for its rate."""


class Traffic:
    """ASGI middleware: refuses what comes too often (429), logs and counts the rest.

    Args:
        app: What answers.
        limiter: How often is too often.
        counters: Where requests are counted.
        shape_for: The shape of errors of a path.
    """

    def __init__(
        self, app: ASGIApp, *, limiter: RateLimiter, counters: Counters, shape_for: Callable[[str], ErrorShape]
    ) -> None:
        self._app = app
        self._limiter = limiter
        self._counters = counters
        self._shape_for = shape_for

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noting)
        finally:
            route = scope.get(ROUTE, "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._counters.request(route=route, method=method, status=status)
            fields = {
                "route": route,
                "method": method,
                "status": status,
                "client": _address(scope),
                "duration_ms": round(1000 * (time.perf_counter() - started), 1),
            }
            _log.info("request", extra={"fields": fields})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        delay_s = 0.0 if scope["path"] == _UNLIMITED else self._limiter.delay_s(_address(scope))
        if not delay_s:
            await self._app(scope, receive, send)
            return
        self._counters.rate_limited()
        retry_after_s = math.ceil(delay_s)
        error = RateError("there are too many requests", action=f"try again in {retry_after_s} s")
        response = to_response(self._shape_for(scope["path"])(error))
        response.headers["retry-after"] = str(retry_after_s)
        await response(scope, receive, send)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _site(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 6:  # noqa: PLR2004 - the protocol's version
        return str(ipaddress.ip_network((parsed, _IPV6_SITE_BITS), strict=False))
    return address
