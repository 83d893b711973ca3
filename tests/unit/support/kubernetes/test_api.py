"""How the node's services follow objects: all of them first, then each change, and from the beginning after a break."""

import json
import queue
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.support.kubernetes.api import Api, path_of
from tests.support.kubernetes.certificates import make_certificates
from tests.support.kubernetes.site import Site
from typing_extensions import override

from strongroom.base.errors import NotFoundError, UnavailableError


def named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team"}}


class Answers(BaseHTTPRequestHandler):
    """Two listings, and after each of them some events."""

    protocol_version = "HTTP/1.0"
    listings = iter((["a"], ["z"]))
    events = iter(
        (
            [("ADDED", "b"), ("DELETED", "a"), ("MODIFIED", "b"), ("ERROR", "b")],
            [("ADDED", "y")],
        )
    )

    def do_GET(self) -> None:
        if self.path.startswith("/missing"):
            self.send_error(404)
        elif self.path.startswith("/forbidden"):
            self.send_error(403)
        elif self.path.startswith("/refused"):
            content = json.dumps({"kind": "Status", "message": 'violates "restricted"'}).encode()
            self.send_response(422)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        elif "watch=1" in self.path:
            assert "resourceVersion=7" in self.path
            self._say([{"type": kind, "object": named(name)} for kind, name in next(self.events)])
        elif (names := next(self.listings, None)) is not None:
            self._say([{"metadata": {"resourceVersion": "7"}, "items": [named(name) for name in names]}])
        else:
            self.send_error(503)

    def _say(self, lines: list[dict[str, Any]]) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class Ports(BaseHTTPRequestHandler):
    """Says from which port it was asked; a path that ends in "close" is the last that a connection is good for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        content = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = self.path.endswith("close")  # without a word of it

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(Answers, tmp_path) as made:
        yield made


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tmp_path: Path) -> Iterator[Api]:
    site = Site(name="e2e", link="sr", number=0, state=tmp_path, run=tmp_path / "run", store=tmp_path / "store")
    make_certificates(site)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(site.certificates / "ca.crt"))
    tls.load_cert_chain(site.certificates / "apiserver.crt", site.certificates / "apiserver.key")
    tls.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever).start()
        try:
            yield Api(f"https://127.0.0.1:{server.server_port}", site.certificates, "node-services", timeout_s=20)
        finally:
            server.shutdown()


def test_objects_are_followed_over_breaks(api: Api) -> None:
    seen: queue.Queue[list[str]] = queue.Queue()
    follow = threading.Thread(
        target=api.follow,
        args=("/api/v1/services", lambda objects: seen.put(sorted(name for _, name in objects))),
        daemon=True,
    )
    follow.start()

    states = [seen.get(timeout=20) for _ in range(6)]
    assert states == [["a"], ["a", "b"], ["b"], ["b"], ["z"], ["y", "z"]]


def test_what_is_missing_is_told_from_what_is_refused(api: Api) -> None:
    with pytest.raises(NotFoundError):
        api.call("GET", "/missing")
    with pytest.raises(UnavailableError, match="403"):
        api.call("GET", "/forbidden")
    with pytest.raises(UnavailableError, match=r'422 violates "restricted"$'):
        api.call("GET", "/refused")


def test_a_connection_is_kept_until_the_server_closes_it(tmp_path: Path) -> None:
    with serving(Ports, tmp_path) as api:
        first = api.read("/")
        assert api.read("/close") == first
        assert api.read("/") != first


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (("pod", "runs", "a"), "/api/v1/namespaces/runs/pods/a"),
        (("pods", "runs"), "/api/v1/namespaces/runs/pods"),
        (("pod", "runs", "a", "log"), "/api/v1/namespaces/runs/pods/a/log"),
        (("service", "", "a"), "/api/v1/namespaces/default/services/a"),
        (("node", "", "node-1"), "/api/v1/nodes/node-1"),
        (("namespaces",), "/api/v1/namespaces"),
        (("networkpolicy", "runs", "a"), "/apis/networking.k8s.io/v1/namespaces/runs/networkpolicies/a"),
        (("statefulset", "runs", "a"), "/apis/apps/v1/namespaces/runs/statefulsets/a"),
        (("job", "runs", "a"), None),
    ],
)
def test_objects_lie_where_the_api_has_them(place: tuple[str, ...], path: str | None) -> None:
    assert path_of(*place) == path
