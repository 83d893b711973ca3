"""The router that looks at few routes finds what one that tries all finds."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router

from strongroom.services.routing import ShapedRouter

PATHS = [
    "/keys",
    "/keys/restore",
    "/keys/{name}",
    "/keys/{name}/create",
    "/keys/{name}/versions",
    "/keys/{name}/",
    "/keys/{name}/{version}",
    "/keys/{name}/wrapkey",
    "/keys/{name}//wrapkey",
    "/keys/{name}/{version}/wrapkey",
    "/policies/{type}:reset",
    "/policies/{type}",
    "/runs/{run}/keys",
    "/files/{path:path}",
    "/healthz",
]
METHODS = ["GET", "POST"]
SEGMENTS = st.sampled_from(
    ["", "keys", "restore", "a", "versions", "create", "wrapkey", "a:reset", "files", "runs", "{"]
)


def routes() -> list[BaseRoute]:
    def answering(text: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return PlainTextResponse(f"{text} {sorted(request.path_params.items())}")

        return answer

    return [Route(path, answering(f"{method} {path}"), methods=[method]) for path in PATHS for method in METHODS]


SHAPED, PLAIN = ShapedRouter(routes()), Router(routes(), redirect_slashes=False)


def ask(router: Router, method: str, path: str) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append((message.get("status"), message.get("body")))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    asyncio.run(router(scope, receive, send))
    return sent


@pytest.mark.parametrize("method", [*METHODS, "HEAD", "DELETE"])
@pytest.mark.parametrize(
    "path", [path.replace("{path:path}", "a/b//c").replace("{", "").replace("}", "") for path in PATHS]
)
def test_finds_every_route(method: str, path: str) -> None:
    found = ask(SHAPED, method, path)
    assert found == ask(PLAIN, method, path)
    assert (found[0][0] == 200) == (method != "DELETE")


@given(st.sampled_from([*METHODS, "PATCH"]), st.lists(SEGMENTS, max_size=6), st.sampled_from(["", "/", "\n"]))
def test_finds_what_trying_all_routes_finds(method: str, segments: list[str], end: str) -> None:
    path = "/" + "/".join(segments) + end
    assert ask(SHAPED, method, path) == ask(PLAIN, method, path)


def test_looks_at_few_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    matches = Route.matches

    def noting(route: Route, scope: Any) -> Any:
        looked.append(route.path)
        return matches(route, scope)

    monkeypatch.setattr(Route, "matches", noting)
    ask(SHAPED, "POST", "/keys/a/b/wrapkey")
    assert set(looked) <= {"/keys/{name}//wrapkey", "/keys/{name}/{version}/wrapkey", "/files/{path:path}"}
