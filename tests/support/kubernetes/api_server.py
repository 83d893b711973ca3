"""An API server in this process, for tests of what speaks to one: objects, watches, logs, owners; over real HTTP.

It keeps to the API's contract as far as runs use it; what a real cluster does is tested on one (tests/kubernetes).
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.client import KubernetesClient

NAMESPACE: Final = "analysts"
_POLL_S: Final = 0.02
_FIRST_TIME: Final = "2026-11-27T06:00:00"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """How the API refuses a request, for as long as it stands there."""

    status: int
    message: str


@dataclass(kw_only=True)
class ApiServer:
    """The objects of one namespace.

    Attributes:
        objects: By kind and name.
        logs: Lines of pods' logs, by pod: time and text.
        refusals: Requests that are refused: method and path's last words.
        requests: Every request: method and path.
        away: Whether every connection is closed without an answer.
    """

    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    away: bool = False
    on_create: Callable[[str, dict[str, Any]], None] = lambda _kind, _manifest: None
    _changes: list[tuple[int, str, str, dict[str, Any]]] = field(default_factory=list)
    _version: int = 0
    _broken: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _server: ThreadingHTTPServer | None = None

    # --- what a test does -------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator["ApiServer"]:
        """Serve while the block runs."""
        outer = self

        class Handler(_Handler):
            api = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": _POLL_S})
        thread.start()
        try:
            yield self
        finally:
            self.away = True
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def client(self) -> KubernetesClient:
        """A client of this server."""
        from kubernetes.client import Configuration  # noqa: PLC0415 - slow to load

        access = Access(server=self.url, configuration=Configuration(), spark={}, environment={})
        return KubernetesClient(access, namespace=NAMESPACE)

    def put(self, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Add or replace an object, as its controllers do."""
        with self._lock:
            name = manifest["metadata"]["name"]
            before = self.objects.get((kind, name))
            known = (before or {}).get("metadata", {})
            metadata = {
                "namespace": NAMESPACE,
                "uid": known.get("uid") or str(uuid.uuid4()),
                "creationTimestamp": known.get("creationTimestamp")
                or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                **manifest["metadata"],
                "resourceVersion": str(self._version + 1),
            }
            made = {**manifest, "metadata": metadata}
            self.objects[kind, name] = made
            self._tell(kind, "ADDED" if before is None else "MODIFIED", made)
            return made

    def remove(self, kind: str, name: str) -> None:
        """Delete an object and what it owns."""
        with self._lock:
            gone = self.objects.pop((kind, name), None)
            if gone is None:
                return
            self._tell(kind, "DELETED", gone)
            uid = gone["metadata"]["uid"]
            for (other_kind, other), each in list(self.objects.items()):
                owners = each["metadata"].get("ownerReferences") or []
                if any(owner["uid"] == uid for owner in owners):
                    self.remove(other_kind, other)

    def say(self, pod: str, *lines: str) -> None:
        """Write lines to a pod's log."""
        with self._lock:
            log = self.logs.setdefault(pod, [])
            for line in lines:
                log.append((f"{_FIRST_TIME}.{len(log):09d}Z", line))

    def break_streams(self) -> None:
        """End every watch and log that is open, in the middle."""
        with self._lock:
            self._broken += 1

    def names(self, kind: str) -> list[str]:
        """The names of the objects of a kind."""
        return sorted(name for each, name in self.objects if each == kind)

    # --- what the handler asks --------------------------------------------------------------------------------------

    def _tell(self, kind: str, what: str, manifest: dict[str, Any]) -> None:
        self._version += 1
        self._changes.append((self._version, kind, what, json.loads(json.dumps(manifest))))

    def listed(self, kind: str, labels: str, fields: str) -> tuple[list[dict[str, Any]], str]:
        with self._lock:
            found = [each for (other, _), each in sorted(self.objects.items()) if other == kind]
            chosen = [each for each in found if _matches(each, labels) and _meets(each, fields)]
            return json.loads(json.dumps(chosen)), str(self._version)

    def changes_since(self, version: int, kind: str) -> list[tuple[int, str, dict[str, Any]]]:
        with self._lock:
            return [(at, what, each) for at, other, what, each in self._changes if at > version and other == kind]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass

    def do_GET(self) -> None:
        kind, name, sub, query = self._asked("GET")
        if self._refused("GET", kind, sub):
            return
        if sub == "log":
            self._log(name, query)
        elif name:
            self._answer_object(self.api.objects.get((kind, name)))
        elif query.get("watch") == "true":
            self._watch(kind, query)
        else:
            items, version = self.api.listed(kind, query.get("labelSelector", ""), query.get("fieldSelector", ""))
            self._answer(200, {"kind": "List", "metadata": {"resourceVersion": version}, "items": items})

    def do_POST(self) -> None:
        kind, _, _, _ = self._asked("POST")
        body = self._body()
        if self._refused("POST", kind, ""):
            return
        name = body["metadata"]["name"]
        if (kind, name) in self.api.objects:
            self._status(409, f'{kind} "{name}" already exists')
            return
        made = self.api.put(kind, body)
        self.api.on_create(kind, made)
        self._answer(201, made)

    def do_PATCH(self) -> None:
        kind, name, _, _ = self._asked("PATCH")
        body = self._body()
        if self._refused("PATCH", kind, ""):
            return
        before = self.api.objects.get((kind, name))
        is_applied = "apply-patch" in self.headers.get("Content-Type", "")  # as Spark's client makes what is not there
        if before is None and not is_applied:
            self._status(404, f'{kind} "{name}" not found')
            return
        self._answer(200, self.api.put(kind, body if before is None else _patched(before, body)))

    def do_DELETE(self) -> None:
        kind, name, _, _ = self._asked("DELETE")
        body = self._body()
        if self._refused("DELETE", kind, ""):
            return
        found = self.api.objects.get((kind, name))
        wanted = body.get("preconditions", {}).get("uid")
        if found is None:
            self._status(404, f'{kind} "{name}" not found')
        elif wanted not in {None, found["metadata"]["uid"]}:
            self._status(409, "the UID in the precondition does not match")
        else:
            self.api.remove(kind, name)
            self._answer(200, {"kind": "Status", "status": "Success"})

    def _asked(self, method: str) -> tuple[str, str, str, dict[str, str]]:
        if self.api.away:
            self.close_connection = True
            self.connection.close()
            raise ConnectionAbortedError
        parts = urlsplit(self.path)
        self.api.requests.append((method, parts.path))
        words = parts.path.split("/")
        start = words.index("namespaces")
        assert words[start + 1] == NAMESPACE, parts.path
        kind, name, sub = (*words[start + 2 :], "", "")[:3]
        return kind, name, sub, {key: value[0] for key, value in parse_qs(parts.query).items()}

    def _refused(self, method: str, kind: str, sub: str) -> bool:
        refusal = self.api.refusals.get((method, sub or kind))
        if refusal is not None:
            self._status(refusal.status, refusal.message)
        return refusal is not None

    def _body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        return found

    def _answer_object(self, found: dict[str, Any] | None) -> None:
        if found is None:
            self._status(404, "not found")
        else:
            self._answer(200, found)

    def _status(self, status: int, message: str) -> None:
        self._answer(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _goes_on(self, broken: int) -> bool:
        """Whether a stream goes on; a broken one ends without the end of its answer."""
        if self.api.away or self.api._broken != broken:
            self.close_connection = True
            return False
        return True

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        version, broken = int(query["resourceVersion"]), self.api._broken
        self._begin_stream()
        try:
            while self._goes_on(broken):
                for at, what, each in self.api.changes_since(version, kind):
                    version = at
                    if _matches(each, query.get("labelSelector", "")):
                        self._chunk(json.dumps({"type": what, "object": each}) + "\n")
                time.sleep(_POLL_S)
        except OSError:
            self.close_connection = True

    def _log(self, name: str, query: dict[str, str]) -> None:
        pod = self.api.objects.get(("pods", name))
        if pod is None:
            self._status(404, f'pods "{name}" not found')
            return
        if pod.get("status", {}).get("phase", "Pending") == "Pending":
            self._status(400, f'container "x" in pod "{name}" is waiting to start: ContainerCreating')
            return
        since, told, broken = query.get("sinceTime", "")[:19], 0, self.api._broken
        self._begin_stream()
        try:
            while self._goes_on(broken):
                ended = self._has_ended(name)
                with self.api._lock:
                    lines = [f"{at} {text}\n" for at, text in self.api.logs.get(name, ()) if at >= since]
                for line in lines[told:]:
                    self._chunk(line)
                told = len(lines)
                if ended or query.get("follow") != "true":
                    self.wfile.write(b"0\r\n\r\n")
                    return
                time.sleep(_POLL_S)
        except OSError:
            self.close_connection = True

    def _has_ended(self, name: str) -> bool:
        pod = self.api.objects.get(("pods", name))
        return pod is None or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionAbortedError, OSError):
            self.close_connection = True


def _matches(manifest: dict[str, Any], selector: str) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    wanted = dict(each.split("=", 1) for each in selector.split(",") if each)
    return all(labels.get(name) == value for name, value in wanted.items())


def _meets(manifest: dict[str, Any], selector: str) -> bool:
    if not selector:
        return True
    path, _, value = selector.partition("=")
    found: Any = manifest
    for word in path.split("."):
        found = found.get(word, {}) if isinstance(found, dict) else {}
    return bool(found == value)


def _patched(before: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(before)
    for name, value in patch.items():
        if isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _patched(merged[name], value)
        elif isinstance(value, list) and any("$patch" in each for each in value):
            dropped = [each["name"] for each in value if each.get("$patch") == "delete"]
            merged[name] = [each for each in merged.get(name, []) if each["name"] not in dropped]
        else:
            merged[name] = value
    return merged
