"""uvicorn's HTTP/1.1 connections with bounds: slow ones and too many are closed."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Final

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

_BUSY: Final = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_RECEIVING: Final = frozenset({h11.IDLE, h11.SEND_BODY})


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a server bears. The defaults leave room below the 1024 open files that a process has if nobody says more.

    Attributes:
        request_s: A request must have arrived completely after so many seconds; the connection is closed otherwise.
        connections: At most so many are open at once.
        per_address: At most so many of them from one address.
    """

    request_s: float = 30.0
    connections: int = 900
    per_address: int = 900


def bounded_protocol(limits: ConnectionLimits) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with these limits, which the connections of one server share."""
    return type("Bounded", (_BoundedProtocol,), {"limits": limits, "open": Counter()})


class _BoundedProtocol(H11Protocol):
    limits: ClassVar[ConnectionLimits]
    open: ClassVar[Counter[str]]
    _deadline: asyncio.TimerHandle | None = None
    _address: str = ""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self.open[self._address] += 1
        if self.open.total() > self.limits.connections or self.open[self._address] > self.limits.per_address:
            transport.write(_BUSY)
            transport.close()
        else:
            self._expect_request()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.open[self._address] -= 1
        if not self.open[self._address]:
            del self.open[self._address]
        self._request_is_here()
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state in _RECEIVING:
            self._expect_request()
        else:
            self._request_is_here()

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        # The rest of a body that was refused, or a part of the next request.
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._expect_request()

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.request_s, self.transport.abort)

    def _request_is_here(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
