"""Reads of a cluster through one `kubectl proxy`: a test looks often, and each kubectl is a process of its own."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.support.kubernetes.processes import bound

_CORE: Final = "/api/v1"
_NAMESPACED: Final = {
    "configmaps": _CORE,
    "persistentvolumeclaims": _CORE,
    "pods": _CORE,
    "secrets": _CORE,
    "serviceaccounts": _CORE,
    "services": _CORE,
    "networkpolicies": "/apis/networking.k8s.io/v1",
}
_OF_THE_CLUSTER: Final = {"namespaces": _CORE, "nodes": _CORE, "persistentvolumes": _CORE}
_PLURALS: Final = {
    **{name: name for name in (*_NAMESPACED, *_OF_THE_CLUSTER)},
    **{name.removesuffix("s"): name for name in (*_NAMESPACED, *_OF_THE_CLUSTER)},
    "networkpolicy": "networkpolicies",
}
_SOCKET: Final = "proxy"
_TIMEOUT_S: Final = 60.0


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


class RefusalError(Exception):
    """The API server refused, or did not answer.

    Args:
        status: Of HTTP.
        message: What it said.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Reader:
    """Reads with the rights of whoever the command belongs to.

    Args:
        command: `kubectl proxy`, without where it listens.
        environment: Its environment.
        folder: Where its socket lies, for the caller's user alone.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._command, self._environment, self._folder = list(command), dict(environment), folder
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def read(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """Return what lies at a path.

        Raises:
            RefusalError: It is not there, not allowed, or nobody answers.
        """
        self._start()
        connection = _Connection(self._folder)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}" if query else path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise RefusalError(0, f"{path}: {error}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise RefusalError(answer.status, _message(body))
        return body

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._end()

    def _start(self) -> None:
        """Start the proxy if it does not run: it ends with the thread that started it."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return
            self._end()
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / _SOCKET).unlink()
            self._process = subprocess.Popen(
                bound([*self._command, f"--unix-socket={_SOCKET}"]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                cwd=self._folder,
                env=self._environment,
            )
            assert self._process.stdout is not None
            self._process.stdout.readline()  # Starting to serve on proxy

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


class _Connection(http.client.HTTPConnection):
    """A connection to the proxy's socket, whose path may be longer than an address of a socket."""

    def __init__(self, folder: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._folder = folder

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{_SOCKET}")
        finally:
            os.close(folder)


def _message(body: bytes) -> str:
    try:
        found: dict[str, Any] = json.loads(body)
        return str(found["message"])
    except (ValueError, TypeError, KeyError):
        return body.decode(errors="replace").strip()
