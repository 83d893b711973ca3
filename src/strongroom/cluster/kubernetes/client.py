"""The part of a cluster's API that runs need, in one namespace, on the official client's connections.

Objects are the API's JSON as it is. Every error is one of ours, in the API's own words.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

import urllib3

from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.template import Manifest

Kind: TypeAlias = Literal["pods", "configmaps", "events"]
Patch: TypeAlias = Literal["application/merge-patch+json", "application/strategic-merge-patch+json"]
MERGE: Final[Patch] = "application/merge-patch+json"
STRATEGIC: Final[Patch] = "application/strategic-merge-patch+json"

_CONNECT_S: Final = 10.0
_READ_S: Final = 60.0
_WATCH_S: Final = 240
_WATCH_SLACK_S: Final = 30.0
_MAX_BYTES: Final = 64 << 20
_MAX_LINE_BYTES: Final = 1 << 20
_PAGE: Final = 500
_FIRST_ERROR: Final = 400
_GONE: Final = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a watch tells: an object that was added, modified, or deleted (as it was last)."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    object: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line of a container's log, and when the node wrote it (RFC 3339, as the API has it)."""

    time: str
    text: str


class Stream:
    """An answer that goes on: lines, until the other side or `close` ends it.

    Args:
        response: The answer, not yet read.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        """Yield lines without their ends.

        Raises:
            UnavailableError: The connection broke, or was silent for too long.
            LimitError: A line is too long.
        """
        rest = b""
        with _unavailable("the cluster's API"):
            for chunk in self._response.stream(1 << 16, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace")
                if len(rest) > _MAX_LINE_BYTES:
                    raise LimitError("a line of the cluster's API is too long")
                if self._closed:
                    return
        if rest:
            yield rest.decode("utf-8", "replace")

    def close(self) -> None:
        """End it, also from another thread, whatever it waits for, and however far that thread is with ending it."""
        self._closed = True
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # its connection was given up in this moment
            self._response.shutdown()

    def release(self) -> None:
        """Give the connection up; by the thread that read it."""
        self._response.close()


class KubernetesClient:
    """One namespace of a cluster. Threads may share it.

    Args:
        access: The cluster.
        namespace: The namespace.
    """

    def __init__(self, access: Access, *, namespace: str) -> None:
        from kubernetes.client import ApiClient  # noqa: PLC0415 - slow to load; `access` has checked that it is there

        self.namespace: Final = namespace
        self.server: Final = access.server
        self._token_file = access.token_file
        self._api: Any = ApiClient(access.configuration)
        self._pool: urllib3.PoolManager = self._api.rest_client.pool_manager

    def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Create an object and return it as the API has it.

        Raises:
            ConflictError: It exists already.
            StrongroomError: The API refuses or does not answer.
        """
        return self._json("POST", self._path(kind), body=manifest)

    def get(self, kind: Kind, name: str) -> Manifest | None:
        """Return an object, if there is one of this name."""
        try:
            return self._json("GET", self._path(kind, name))
        except NotFoundError:
            return None

    def find(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Manifest]:
        """Return the objects with these labels."""
        return self.find_at(kind, labels=labels, fields=fields)[0]

    def find_at(
        self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = ""
    ) -> tuple[list[Manifest], str]:
        """Return the objects with these labels, and the version of the list, from which a watch goes on."""
        query = {"labelSelector": _selector(labels or {}), "fieldSelector": fields, "limit": str(_PAGE)}
        found: list[Manifest] = []
        while True:
            page = self._json("GET", self._path(kind), query=query)
            found += [each for each in page.get("items") or [] if isinstance(each, dict)]
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return found, str(metadata.get("resourceVersion", ""))
            query["continue"] = str(metadata["continue"])

    def patch(self, kind: Kind, name: str, patch: Manifest, *, how: Patch = MERGE) -> Manifest:
        """Change an object and return it.

        Raises:
            NotFoundError: It is gone.
        """
        return self._json("PATCH", self._path(kind, name), body=patch, content_type=how)

    def delete(self, kind: Kind, name: str, *, uid: str | None = None, grace_s: int | None = None) -> bool:
        """Delete an object, and in the background what it owns.

        Args:
            kind: Of which kind it is.
            name: Its name.
            uid: Only if it is still this very object.
            grace_s: How long a pod may take to end; its own time if None.

        Returns:
            Whether there was such an object.
        """
        options: Manifest = {"propagationPolicy": "Background"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", self._path(kind, name), body=options)
        except NotFoundError:
            return False
        return True

    def delete_all(self, kind: Kind, *, labels: Mapping[str, str], grace_s: int | None = None) -> int:
        """Delete the objects with these labels, one by one; return how many there were."""
        names = [each["metadata"]["name"] for each in self.find(kind, labels=labels)]
        return sum(self.delete(kind, name, grace_s=grace_s) for name in names)

    def watch(self, kind: Kind, *, labels: Mapping[str, str], since: str) -> "Watch":
        """Open a watch on the objects with these labels, from a version of their list on."""
        query = {
            "labelSelector": _selector(labels),
            "resourceVersion": since,
            "timeoutSeconds": str(_WATCH_S),
            "watch": "true",
        }
        return Watch(Stream(self._open("GET", self._path(kind), query=query, read_s=_WATCH_S + _WATCH_SLACK_S)))

    def log(self, pod: str, *, container: str, follow: bool, since: str | None = None) -> "Log":
        """Open a container's log.

        Args:
            pod: The pod.
            container: Its container.
            follow: Whether to wait for further lines until the container ends.
            since: Only lines from this second on, as a line's own time says.

        Raises:
            NotFoundError: The pod is gone.
            ConfigurationError: The container has not started.
        """
        query = {"container": container, "follow": str(follow).lower(), "timestamps": "true"}
        if since is not None:
            query["sinceTime"] = since
        return Log(Stream(self._open("GET", f"{self._path('pods', pod)}/log", query=query, read_s=_READ_S)))

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _path(self, kind: Kind, name: str | None = None) -> str:
        path = f"/api/v1/namespaces/{quote(self.namespace, safe='')}/{kind}"
        return path if name is None else f"{path}/{quote(name, safe='')}"

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        response = self._open(method, path, query=query, body=body, content_type=content_type)
        try:
            value = json.loads(_read(response))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"the cluster's API at {self.server} answered with something else than JSON") from error
        finally:
            response.release_conn()
        if not isinstance(value, dict):
            raise FormatError(f"the cluster's API at {self.server} answered with no object")
        return value

    def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
        read_s: float = _READ_S,
    ) -> urllib3.BaseHTTPResponse:
        chosen = {name: value for name, value in (query or {}).items() if value}
        url = self.server + path + (f"?{urlencode(chosen)}" if chosen else "")
        headers = self._headers()
        if body is not None:
            headers["Content-Type"] = content_type
        with _unavailable(f"the cluster's API at {self.server}"):
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                preload_content=False,
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
            )
            if response.status >= _FIRST_ERROR:
                try:
                    raise _error(response.status, _read(response))
                finally:
                    response.release_conn()
        return response

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": "strongroom"}
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        else:
            for setting in self._api.configuration.auth_settings().values():  # renewed there, where it has to be
                headers[setting["key"]] = setting["value"]
        return headers


class Watch:
    """A watch's changes, until it ends by itself; then list again, and watch from there.

    Args:
        stream: The answer.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream: Final = stream

    def __iter__(self) -> Iterator[Change]:
        """Yield changes.

        Raises:
            ConflictError: The version is too old: list again.
            UnavailableError: The connection broke.
            FormatError: This is no watch.
        """
        for line in self.stream:
            try:
                told = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FormatError("a watch on the cluster's API told something else than JSON") from error
            match told:
                case {"type": "ADDED" | "MODIFIED" | "DELETED" as kind, "object": dict(found)}:
                    yield Change(kind=kind, object=found)
                case {"type": "ERROR", "object": {"code": int(code), **said}}:
                    if code == _GONE:
                        raise ConflictError("the watch's version is too old")
                    raise UnavailableError(f"the watch on the cluster's API ended: {said.get('message', code)}")
                case _:
                    pass  # bookmarks


class Log:
    """A container's log.

    Args:
        stream: The answer.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream: Final = stream

    def __iter__(self) -> Iterator[LogLine]:
        """Yield lines.

        Raises:
            UnavailableError: The connection broke, or was silent for too long; the log may go on.
        """
        for line in self.stream:
            time, _, text = line.partition(" ")
            yield LogLine(time=time, text=text)


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in labels.items())


def _token(file: Any) -> str:  # noqa: ANN401 - a path
    try:
        return str(file.read_text(encoding="ascii")).strip()
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"the token file {file} cannot be read", action="check the path") from error


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    body = bytearray()
    for chunk in response.stream(1 << 16, decode_content=True):
        body += chunk
        if len(body) > _MAX_BYTES:
            response.close()
            raise LimitError("an answer of the cluster's API is too large")
    return bytes(body)


_TRY_AGAIN: Final = "try again"
_ERRORS: Final[Mapping[int, tuple[type[StrongroomError], str, str]]] = {
    401: (
        AuthenticationError,
        "the cluster does not know this person",
        "sign in again as for kubectl, or check the files with credentials",
    ),
    403: (
        RefusedError,
        "the cluster refused",
        "ask its administrator for the rights of a submitter (the chart's role strongroom-submitter)",
    ),
    404: (NotFoundError, "the cluster does not know it", ""),
    409: (ConflictError, "the cluster has another one", ""),
    410: (ConflictError, "too old for the cluster", ""),
    **dict.fromkeys((429, 500, 502, 503, 504), (UnavailableError, "the cluster cannot answer now", _TRY_AGAIN)),
}
"""What the API's statuses mean: our error, how its sentence begins, and what to do."""


def _error(status: int, body: bytes) -> StrongroomError:
    """Return the API's refusal as one of our errors, in its own words (`kind: Status`)."""
    try:
        said = str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError, RecursionError):
        said = ""
    kind, sentence, action = _ERRORS.get(status, (ConfigurationError, "the cluster does not take it", ""))
    return kind(f"{sentence}: {said or f'status {status}'}", action=action)


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.SSLError as error:
        raise VerificationError(
            f"what answers is not {what}: no accepted authority vouches for its certificate",
            action="name the cluster's certificate authority in the kubeconfig, or with"
            " --conf spark.kubernetes.authenticate.submission.caCertFile",
        ) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UnavailableError(
            f"{what} does not answer",
            action="check the address and the way there: kubectl cluster-info",
        ) from error
