"""Bounds of connections that no clock has to pass for: each is met with bytes alone, and the deadline is far away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from strongroom.services.connections import ConnectionLimits, bounded_protocol

BODY = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PIECE = b"a" * 16_000
MANY = 1000


class Wire(asyncio.Transport):
    """What a connection sends and whether it ends it; nothing is on the other side."""

    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 4000), "sockname": ("127.0.0.1", 443)})
        self.sent, self.ended = b"", False

    @override
    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    @override
    def is_closing(self) -> bool:
        return self.ended

    @override
    def close(self) -> None:
        self.ended = True

    @override
    def abort(self) -> None:
        self.ended = True

    @override
    def pause_reading(self) -> None:
        """As if it were obeyed too late: what is under way arrives all the same."""

    @override
    def resume_reading(self) -> None:
        pass


class Server:
    """Connections with these limits; `asked` counts the requests that the application saw."""

    def __init__(self, **limits: int) -> None:
        self.asked = 0
        protocol = bounded_protocol(ConnectionLimits(request_s=600, **limits))
        config = uvicorn.Config(self._answer, http=protocol, interface="asgi3", log_config=None, access_log=False)
        config.load()
        self._config, self._state = config, ServerState()

    async def _answer(self, _scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def connect(self, address: str = "192.0.2.1") -> tuple[Wire, HttpToolsProtocol]:
        protocol = self._config.http_protocol_class(  # type: ignore[operator]
            config=self._config, server_state=self._state, app_state={}
        )
        wire = Wire(address)
        protocol.connection_made(wire)
        return wire, protocol


async def settled() -> None:
    """Let everything that was started come to its end."""
    for _ in range(20):
        await asyncio.sleep(0)


def on_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settled()

    asyncio.run(run())


def test_connections_of_all_addresses_together_are_bounded() -> None:
    async def test() -> None:
        server = Server(connections=3, per_address=2)
        wires = [server.connect(f"192.0.2.{number}") for number in (1, 1, 2, 3)]
        assert [wire.ended for wire, _ in wires] == [False, False, False, True]
        assert wires[-1][0].sent.startswith(b"HTTP/1.1 429")
        for _, protocol in wires[:-1]:
            protocol.connection_lost(None)
        wires[-1][1].connection_lost(None)
        again, protocol = server.connect("192.0.2.3")
        assert not again.ended
        protocol.connection_lost(None)

    on_loop(test)


def test_what_arrives_on_a_connection_that_was_refused_is_not_read() -> None:
    async def test() -> None:
        server = Server(connections=1, per_address=1)
        _, held = server.connect()
        _, refused = server.connect()
        refused.data_received(GET)
        await settled()
        assert server.asked == 0
        held.data_received(GET)
        await settled()
        assert server.asked == 1
        for protocol in (held, refused):
            protocol.connection_lost(None)

    on_loop(test)


@pytest.mark.parametrize(
    "begun",
    [BODY + b"0\r\nx: ", b"GET / HTTP/1.1\r\nx: ", b"GET /"],
    ids=["after a body", "in a header", "in the first line"],
)
def test_what_is_no_body_does_not_grow_though_there_is_time(begun: bytes) -> None:
    async def test() -> None:
        server = Server()
        wire, protocol = server.connect()
        protocol.data_received(begun)
        await settled()
        for count in range(MANY):
            if wire.ended:
                assert count < 10
                break
            protocol.data_received(PIECE)
        else:
            pytest.fail("sixteen megabytes were taken")
        protocol.connection_lost(None)

    on_loop(test)


def test_a_body_may_be_long() -> None:
    async def test() -> None:
        server = Server()
        wire, protocol = server.connect()
        protocol.data_received(BODY)
        for _ in range(20):
            protocol.data_received(b"3e80\r\n" + PIECE + b"\r\n")
            await settled()
        protocol.data_received(b"0\r\n\r\n")
        await settled()
        assert wire.sent.startswith(b"HTTP/1.1 200")
        protocol.connection_lost(None)

    on_loop(test)
