"""A caller of the API server out of the standard library alone, for the node's small services and for tests' looks."""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from strongroom.base.errors import NotFoundError, UnavailableError

Objects = dict[tuple[str, str], dict[str, Any]]
"""Objects of one kind by namespace and name; what has no namespace has an empty one."""
_WATCH_S: Final = 300
_AGAIN_AFTER_S: Final = 0.3
_CORE: Final = "/api/v1"
_APPS: Final = "/apis/apps/v1"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_NAMESPACED: Final = {
    "configmaps": _CORE,
    "daemonsets": _APPS,
    "deployments": _APPS,
    "events": _CORE,
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "persistentvolumeclaims": _CORE,
    "poddisruptionbudgets": "/apis/policy/v1",
    "pods": _CORE,
    "rolebindings": _RBAC,
    "roles": _RBAC,
    "secrets": _CORE,
    "serviceaccounts": _CORE,
    "services": _CORE,
    "statefulsets": _APPS,
}
_OF_THE_CLUSTER: Final = {
    "namespaces": _CORE,
    "nodes": _CORE,
    "persistentvolumes": _CORE,
    "tokenreviews": "/apis/authentication.k8s.io/v1",
}
_PLURALS: Final = {
    **{name: name for name in (*_NAMESPACED, *_OF_THE_CLUSTER)},
    **{name.removesuffix("s"): name for name in (*_NAMESPACED, *_OF_THE_CLUSTER)},
    "networkpolicy": "networkpolicies",
}


def path_of(kind: str, namespace: str = "", name: str = "", part: str = "") -> str | None:
    """Return the path of an object, or of all of a kind; None for a kind that is not read this way.

    Args:
        kind: As kubectl takes it, in the singular or plural.
        namespace: Its namespace; "default" where none is named.
        name: The object; without it, all of the kind.
        part: A part of the object, as in "log".
    """
    plural = _PLURALS.get(kind, "")
    if plural in _NAMESPACED:
        start = f"{_NAMESPACED[plural]}/namespaces/{namespace or 'default'}/{plural}"
    elif plural in _OF_THE_CLUSTER:
        start = f"{_OF_THE_CLUSTER[plural]}/{plural}"
    else:
        return None
    return "/".join(filter(None, (start, name, part)))


class _Connection:
    """A connection that is closed when nobody has it any longer, or its thread has ended."""

    def __init__(self, connection: http.client.HTTPSConnection) -> None:
        self.open = connection

    def __del__(self) -> None:
        self.open.close()


class Api:
    """Calls an API server with a certificate.

    Each thread keeps its connection for what it reads: whoever looks again and again does not greet again.

    Args:
        server: Its address.
        certificates: The folder of the cluster's certificates.
        caller: The name of the caller's files there.
        timeout_s: How long one answer may take, in seconds.
    """

    def __init__(self, server: str, certificates: Path, caller: str, *, timeout_s: float = 10.0) -> None:
        parts = urlsplit(server)
        assert parts.hostname is not None
        self._host, self._port = parts.hostname, parts.port
        self._tls = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        self._tls.load_cert_chain(certificates / f"{caller}.crt", certificates / f"{caller}.key")
        self._timeout_s = timeout_s
        self._kept = threading.local()

    def is_ready(self) -> bool:
        try:
            self.call("GET", "/readyz")
        except (UnavailableError, NotFoundError):
            return False
        return True

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request; an answer that is no JSON object counts as an empty one.

        Raises:
            NotFoundError: The object does not exist.
            UnavailableError: There is no answer, or another refusal.
        """
        content = self._answer(method, path, body)
        return dict(json.loads(content)) if content.startswith(b"{") else {}

    def read(self, path: str) -> str:
        """Return what lies at a path, as it is.

        Raises:
            NotFoundError: It does not exist.
            UnavailableError: There is no answer, or another refusal.
        """
        return self._answer("GET", path, None).decode()

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        try:
            status, content = self._exchanged(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"{method} {path}: {error}", action="see whether the API server runs") from error
        if status == HTTPStatus.NOT_FOUND:
            raise NotFoundError(f"{method} {path}: not found", action="see whether it was deleted")
        if status >= HTTPStatus.BAD_REQUEST:
            raise UnavailableError(f"{method} {path}: {status} {_message_of(content)}", action="see the answer")
        return content

    def _exchanged(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        """Send a request and read the whole answer; a kept connection may be one that the server has closed."""
        kept: _Connection | None = self._kept.__dict__.pop("connection", None)
        if method == "GET" and kept is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self._over(kept, method, path, body)
        return self._over(_Connection(self._connect(self._timeout_s)), method, path, body)

    def _over(
        self, connection: "_Connection", method: str, path: str, body: dict[str, Any] | None
    ) -> tuple[int, bytes]:
        answer = self._send(connection.open, method, path, body)
        content = answer.read()
        self._kept.connection = connection
        return answer.status, content

    def follow(self, path: str, changed: Callable[[Objects], None]) -> None:
        """Call `changed` with all objects below a path, now and after each change; never ends."""
        while True:
            try:
                self._follow_once(path, changed)
            except (OSError, ValueError, KeyError, http.client.HTTPException, UnavailableError, NotFoundError):
                time.sleep(_AGAIN_AFTER_S)

    def _follow_once(self, path: str, changed: Callable[[Objects], None]) -> None:
        listing = self.call("GET", path)
        objects = {_key(each): each for each in listing.get("items") or []}
        changed(objects)
        for event in self._watch(f"{path}?watch=1&timeoutSeconds={_WATCH_S}", listing["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                return
            if event["type"] == "DELETED":
                objects.pop(_key(event["object"]), None)
            else:
                objects[_key(event["object"])] = event["object"]
            changed(objects)

    def _watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        connection = self._connect(_WATCH_S + self._timeout_s)
        try:
            answer = self._send(connection, "GET", f"{path}&resourceVersion={version}", None)
            while line := answer.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _connect(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._host, self._port, context=self._tls, timeout=timeout_s)

    @staticmethod
    def _send(
        connection: http.client.HTTPSConnection, method: str, path: str, body: dict[str, Any] | None
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, body=content, headers={"Content-Type": "application/json"})
        return connection.getresponse()


def _message_of(content: bytes) -> str:
    """Return what a refusal says; the API server's own has it in a Status."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(json.loads(content)["message"])
    return content.decode()


def _key(each: dict[str, Any]) -> tuple[str, str]:
    return each["metadata"].get("namespace", ""), each["metadata"]["name"]
