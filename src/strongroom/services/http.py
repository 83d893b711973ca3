"""HTTP for both services: endpoints with size limits and one error shape each, and the TLS server.

Handlers are plain functions `(Call) -> Reply` that run on worker threads; what they raise from the error
tree becomes an answer here, and nothing else is ever shown to a peer.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from typing_extensions import override

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    StrongroomError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.services.connections import ConnectionLimits, bounded_protocol
from strongroom.services.errors import ErrorShape, Reply
from strongroom.services.routing import ShapedRouter

JOSE_TYPE: Final = "application/jose"
TEXT_TYPE: Final = "text/plain; charset=utf-8"
_KEEP_ALIVE_S: Final = 75
_SHUTDOWN_S: Final = 2
_TURN_S: Final = 0.0005
"""How long one thread computes before another may: Python's 5 ms would keep finished answers waiting behind others."""
_WORKERS: Final = 40
"""Requests that are worked on at once; those of one commit wait for it together."""
_LIMITS: Final = ConnectionLimits()
ROUTE: Final = "strongroom.route"
"""Where a request's ASGI scope says which of our paths answered it."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, read completely and within the limits.

    Attributes:
        path: The path's parameters.
        query: The query's parameters; a name given twice is refused before a handler sees it.
        authorization: The header's value, or "".
        body: At most as large as the endpoint takes.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    authorization: str
    body: bytes

    def required(self, name: str) -> str:
        """Return a query parameter.

        Raises:
            FormatError: It is not there.
        """
        if name not in self.query:
            raise FormatError(f"the query parameter {name} is missing")
        return self.query[name]

    def number(self, name: str) -> int:
        """Return a query parameter that is a whole number from 0 to 2**53 - 1.

        Raises:
            FormatError: It is missing, or something else.
        """
        text = self.required(name)
        if not (text.isascii() and text.isdigit()) or len(text) > len(str(1 << 53)) or int(text) >= 1 << 53:
            raise FormatError(f"the query parameter {name} is not a number")
        return int(text)

    def text(self) -> str:
        """Return the body as ASCII text, as compact JWS have it.

        Raises:
            FormatError: Other bytes.
        """
        try:
            return self.body.decode("ascii")
        except UnicodeDecodeError as error:
            raise FormatError("the body is not ASCII text") from error

    def json_object(self) -> dict[str, object]:
        """Return the body's JSON object.

        Raises:
            FormatError: Not strict JSON, or not an object.
        """
        return parse_json_object(self.body)


Handler: TypeAlias = Callable[[Call], Reply]


def json_reply(value: Json | BaseModel, *, status: int = 200) -> Reply:
    """Answer with canonical JSON."""
    content: Json = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return Reply(body=canonical_json(content), status=status)


def jose_reply(token: str, *, status: int = 200) -> Reply:
    """Answer with a compact JWS."""
    return Reply(body=token.encode("ascii"), content_type=JOSE_TYPE, status=status)


def text_reply(text: str) -> Reply:
    """Answer with plain text (a signed note)."""
    return Reply(body=text.encode("utf-8"), content_type=TEXT_TYPE)


def endpoint(
    path: str,
    handler: Handler,
    *,
    methods: Sequence[str] = ("GET",),
    errors: ErrorShape,
    max_body_bytes: int = LIMITS.request_body_bytes,
) -> Route:
    """Bind a handler to a path.

    Args:
        path: In Starlette's form, such as `/runs/{run}`.
        handler: Called on a worker thread.
        methods: The HTTP methods it answers.
        errors: The shape of its errors.
        max_body_bytes: A longer body is refused, if possible before it is read.
    """

    async def answer(request: Request) -> Response:
        request.scope[ROUTE] = path
        try:
            call = await _read_call(request, max_body_bytes)
            reply = await asyncio.get_running_loop().run_in_executor(None, _guarded, handler, call, errors)
        except StrongroomError as error:
            reply = errors(error)
        except ClientDisconnect:
            reply = errors(FormatError("the request ended in the middle"))  # nobody is there to read it
        return to_response(reply)

    return Route(path, answer, methods=list(methods))


def application(
    routes: Sequence[BaseRoute], *, shape_for: Callable[[str], ErrorShape], middleware: Sequence[Middleware] = ()
) -> Starlette:
    """Make the ASGI application.

    Args:
        routes: From `endpoint`.
        shape_for: The error shape for a path that no route answers.
        middleware: What every request goes through first.
    """

    async def unrouted(request: Request, error: Exception) -> Response:
        shape = shape_for(request.url.path)
        status = error.status_code if isinstance(error, HTTPException) else 404
        reply = shape(NotFoundError("there is nothing at this address, or not with this method"))
        return to_response(replace(reply, status=status))

    async def failed(request: Request, _error: Exception) -> Response:
        # A fault of ours ends as a plain 500; the server writes its details to our own log, and nowhere else.
        shape = shape_for(request.url.path)
        return to_response(shape(StrongroomError("the service failed", action="See the service's log.")))

    app = Starlette(
        exception_handlers={HTTPException: unrouted, Exception: failed},
        middleware=list(middleware),
    )
    app.router = ShapedRouter(list(routes))
    return app


class JsonLines(logging.Formatter):
    """Log records as JSON lines; `extra={"fields": {…}}` adds members."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        if record.exc_info and record.exc_info[0]:
            fields["exception"] = record.exc_info[0].__name__
            fields["where"] = self.formatException(record.exc_info).rsplit("File ", 1)[-1].split("\n", 1)[0]
        more = getattr(record, "fields", None)
        return json.dumps({**(more if isinstance(more, dict) else {}), **fields, "message": record.getMessage()})


def log_to_stderr() -> None:
    """Send this process's log records to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def serve(
    app: Starlette,
    *,
    host: str,
    port: int,
    certificate_chain_pem: str,
    key_pem: SecretBytes,
    ready: Callable[[], None],
    limits: ConnectionLimits = _LIMITS,
    done: Callable[[], bool] = lambda: False,
) -> None:
    """Serve HTTPS (TLS 1.2 or later) until SIGTERM or SIGINT, then finish the running requests and return.

    Args:
        app: The ASGI application.
        host: Address to listen on.
        port: Port to listen on.
        certificate_chain_pem: The TLS leaf and what issued it.
        key_pem: The leaf's private key; it never touches a disk.
        ready: Called once the port is open.
        limits: What the server bears.
        done: Asked a few times a second whether the server shall end by itself.

    Raises:
        ConfigurationError: The address cannot be listened on.
    """
    sys.setswitchinterval(_TURN_S)
    gc.collect()
    gc.freeze()  # what is here by now stays: looking through it again and again would keep requests waiting
    context = _tls_context(certificate_chain_pem, key_pem)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        loop="uvloop",
        host=host,
        port=port,
        ssl_context_factory=lambda _config, _default: context,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # what a caller says of its address decides nothing
        lifespan="off",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_SHUTDOWN_S,
    )
    config.load()
    try:
        listener = config.bind_socket()
    except SystemExit as error:
        raise ConfigurationError(
            f"{host}:{port} cannot be listened on", action="Stop what uses the port, or configure another one."
        ) from error
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which uvicorn's does not;
    # without it every answer waits 40 ms for the peer's delayed acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.closing(listener):
        _Server(config, ready=ready, done=done).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn's server, which ends with status 0 on SIGTERM and says when it is ready."""

    def __init__(self, config: uvicorn.Config, *, ready: Callable[[], None], done: Callable[[], bool]) -> None:
        super().__init__(config)
        self._ready = ready
        self._done = done

    @override
    async def startup(self, sockets: "list[object] | None" = None) -> None:  # type: ignore[override]
        # The loop waits for its workers when it ends: what was begun is finished before its means are closed.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_WORKERS, thread_name_prefix="request"))
        await super().startup(sockets=sockets)  # type: ignore[arg-type]
        if self.started:
            self._ready()

    @override
    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._done()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _tls_context(certificate_chain_pem: str, key_pem: SecretBytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The library reads keys from files only: this one is anonymous memory of this process.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(certificate_chain_pem.encode("ascii") + b"\n" + key_pem.reveal())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context


def _guarded(handler: Handler, call: Call, errors: ErrorShape) -> Reply:
    try:
        return handler(call)
    except StrongroomError as error:
        reply = errors(error)
        if reply.status >= 500:  # noqa: PLR2004 - a server's own fault
            _log.error("%s: %s", error.code, error.message)
        return reply


async def _read_call(request: Request, max_body_bytes: int) -> Call:
    items = request.query_params.multi_items()
    query = dict(items)
    if len(query) != len(items):
        raise FormatError("a query parameter is given twice")
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:20]) > max_body_bytes:
        raise LimitError("the request body is too large")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_body_bytes:
            raise LimitError("the request body is too large")
    return Call(
        path=dict(request.path_params),
        query=query,
        authorization=request.headers.get("authorization", ""),
        body=bytes(body),
    )


def to_response(reply: Reply) -> Response:
    """Return an answer as the web framework sends it."""
    headers = {"cache-control": "no-store", **reply.headers}
    return Response(reply.body, status_code=reply.status, media_type=reply.content_type, headers=headers)
