"""uvicorn's HTTP/1.1 connections with bounds: slow ones, too many and too long heads are closed."""

import asyncio
import enum
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Final

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from strongroom.base.errors import FormatError

_BUSY: Final = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_MAX_HEAD_BYTES: Final = 64 << 10
"""Of a request's first line and headers, and of what follows its body; the parser bounds neither."""
_MAX_WAITING: Final = 16
"""Requests that are sent on one connection without waiting for the answers before."""


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


def bounded_protocol(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """Return uvicorn's HTTP protocol with these limits, which the connections of one server share."""
    return type("Bounded", (_BoundedProtocol,), {"limits": limits, "open": Counter()})


class _Arriving(enum.Enum):
    """What of a request was received last."""

    NOTHING = enum.auto()
    """No request has begun since the last one was complete."""
    HEAD = enum.auto()
    BODY = enum.auto()


class _BoundedProtocol(HttpToolsProtocol):
    limits: ClassVar[ConnectionLimits]
    open: ClassVar[Counter[str]]
    _deadline: asyncio.TimerHandle | None = None
    _address: str = ""
    _arriving: _Arriving = _Arriving.NOTHING
    _bytes_without_body: int = 0
    """Received since the request began, or since the last piece of its body."""
    _unanswered: int = 0
    """Requests whose head is complete and whose answer is not."""

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
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._arriving is not _Arriving.NOTHING and self._bytes_without_body > _MAX_HEAD_BYTES:
            self._refuse()
        if self._waits_for_the_peer():
            self._expect_request()
        else:
            self._request_is_here()

    @override
    def on_message_begin(self) -> None:
        if self._unanswered > _MAX_WAITING:
            raise FormatError("there are too many requests on one connection")  # the parser's caller closes it
        self._arriving = _Arriving.HEAD
        super().on_message_begin()

    @override
    def on_url(self, url: bytes) -> None:
        if url.startswith(b"*"):  # also the HTTP/2 preface, of which the parser would wait for more
            raise FormatError("a request names a path")  # the parser's caller answers 400
        super().on_url(url)

    @override
    def on_headers_complete(self) -> None:
        self._arriving = _Arriving.BODY
        super().on_headers_complete()
        self._unanswered += 1

    @override
    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._arriving, self._bytes_without_body = _Arriving.NOTHING, 0
        super().on_message_complete()

    @override
    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        # The rest of a body that was refused, or a part of the next request.
        if self._arriving is not _Arriving.NOTHING and self._waits_for_the_peer():
            self._expect_request()

    def _waits_for_the_peer(self) -> bool:
        """Return whether nothing of this connection is being answered while more of a request has to come."""
        being_received = 1 if self._arriving is _Arriving.BODY else 0
        return self._unanswered <= being_received

    def _refuse(self) -> None:
        """Close the connection; with an answer, if there can be none yet."""
        if self._arriving is _Arriving.BODY:
            self.transport.abort()
        elif not self.transport.is_closing():
            self.send_400_response("The request's head is too long.")

    def _expect_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.request_s, self.transport.abort)

    def _request_is_here(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
