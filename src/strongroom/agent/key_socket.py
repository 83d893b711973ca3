"""The key socket: Spark's processes of this TEE ask their agent about datasets, and get keys of single files.

One JSON object a line over a Unix socket, one answer a line, in order. `Keyholder` decides and has no socket;
`KeySocketServer` carries its answers. What is given out: keys of files in the bound version, of files that this run
committed, and of this run's own writes; nothing that opens anything else.
"""

import base64
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field
from typing_extensions import override

from strongroom.agent.lease import Lease
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.datasets.file_keys import FileKeys
from strongroom.datasets.identity import (
    DatasetWrite,
    aad_prefix,
    demand_no_column_in_path,
    file_id_of,
    storage_name,
)
from strongroom.datasets.manifest import ColumnKeys, file_keys_of
from strongroom.datasets.storage import Storage
from strongroom.datasets.view import DatasetView
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.manifest import FileEntry, FilePath
from strongroom.wire.model import DatasetName, Message
from strongroom.wire.runtime_data import Role

_MAX_CONNECTIONS: Final = 1024
_SOCKET_MODE: Final = 0o600
_OTHERS: Final = 0o077

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundDataset:
    """A dataset that the application may use in this run.

    Attributes:
        name: As in `strongroom://NAME`.
        access: With "write", files of the bound version can be listed and removed, but not read.
        location: Where its storage lies, `file:///…`.
        view: What this run sees of it.
        write_keys: The write keys of the bound version, by write id; empty where there is none.
        write: The run's own write; None exactly where it may only read.
        column_keys: What was released of the version's column keys.
    """

    name: str
    access: Literal["read", "write"]
    location: str
    view: DatasetView
    write_keys: Mapping[str, SecretBytes]
    write: DatasetWrite | None
    column_keys: ColumnKeys = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.access == "write") != (self.write is not None):
            raise VerificationError(
                f"the key service's write key does not fit dataset {self.name}, which is bound to {self.access}",
                action="ask the dataset's owner whether the approval fits the application",
                step=Step.RELEASE,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """Something that happened to a dataset. Paths may hold values of partition columns: not for the host.

    Attributes:
        operation: The request's `op`.
        path: The file or place; empty for the dataset's root, and for commits.
        refused: Code of the error; None where it was granted.
    """

    operation: str
    dataset: str
    path: str
    refused: str | None


class _Settings(Message):
    op: Literal["settings"]


class _Binding(Message):
    op: Literal["binding"]
    dataset: DatasetName


class _PlaceRequest(Message):
    op: Literal["list", "remove"]
    dataset: DatasetName
    path: FilePath | Literal[""]


class _FileRequest(Message):
    op: Literal["open", "decryption", "create", "encryption"]
    dataset: DatasetName
    path: FilePath


class _FinishedFile(Message):
    path: FilePath
    length_bytes: Annotated[int, Field(ge=1)]


class _Commit(Message):
    op: Literal["commit"]
    dataset: DatasetName
    files: tuple[_FinishedFile, ...]


_Request: TypeAlias = _Settings | _Binding | _PlaceRequest | _FileRequest | _Commit
_Reply: TypeAlias = dict[str, Any]
_REQUESTS: Final[Mapping[str, type[_Request]]] = {
    "settings": _Settings,
    "binding": _Binding,
    "list": _PlaceRequest,
    "remove": _PlaceRequest,
    "open": _FileRequest,
    "decryption": _FileRequest,
    "create": _FileRequest,
    "encryption": _FileRequest,
    "commit": _Commit,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Located:
    """A file that may be read: where it lies, and what its key is derived from.

    Attributes:
        columns: Its keys, where columns of it have keys of their own; else None.
    """

    path: str
    write_id: str
    file_id: str
    write_key: SecretBytes
    length_bytes: int | None
    columns: FileKeys | None


class Keyholder:
    """Answers requests of the key socket; safe to use from several threads.

    Args:
        datasets: Every bound dataset, by name.
        required_settings: What Spark's configuration must show before any key is asked for.
        role: Whose TEE this is; only the driver's lists, removes and commits.
        renew: Called before each batch of keys and each commit; its error is the answer, and the next request calls it
            again.
        on_event: Told of every answer about a dataset.
    """

    def __init__(
        self,
        *,
        datasets: Mapping[str, BoundDataset],
        required_settings: Mapping[str, str],
        role: Role,
        renew: Callable[[], None] = lambda: None,
        on_event: Callable[[KeyEvent], None] = lambda _event: None,
    ) -> None:
        self._datasets: Final = dict(datasets)
        self._required_settings: Final = dict(required_settings)
        self._role: Final = role
        self._lease: Final = Lease(renew)
        self._on_event: Final = on_event

    def answer(self, line: bytes) -> bytes:
        """Return the answer to one line, itself one line; a refusal is an answer too."""
        request: _Request | None = None
        refused: str | None = None
        try:
            request = _parse(line)
            reply = self._reply(request)
        except StrongroomError as error:
            refused = error.code
            reply = {"error": {"code": error.code, "message": error.message, "action": error.action}}
        if request is not None and not isinstance(request, _Settings):
            path = request.path if isinstance(request, _PlaceRequest | _FileRequest) else ""
            self._on_event(KeyEvent(operation=request.op, dataset=request.dataset, path=path, refused=refused))
        return json.dumps(reply, separators=(",", ":")).encode("ascii") + b"\n"

    def _reply(self, request: _Request) -> _Reply:
        match request:
            case _Settings():
                return {"required": self._required_settings}
            case _Binding():
                bound = self._bound(request.dataset)
                return {"access": bound.access, "write_id": bound.write.write_id if bound.write else None}
            case _PlaceRequest():
                self._demand_driver(request.op)
                view = self._bound(request.dataset).view
                return _listing(view, request.path) if request.op == "list" else {"removed": view.remove(request.path)}
            case _Commit():
                self._demand_driver(request.op)
                bound = self._bound(request.dataset)
                self._lease.demand()
                return _commit(bound, request.files)
            case _FileRequest():
                return self._file_reply(self._bound(request.dataset), request)

    def _file_reply(self, bound: BoundDataset, request: _FileRequest) -> _Reply:
        match request.op:
            case "open":
                file = self._readable(bound, request.path)
                return {"location": _location(bound, file.write_id, file.path), "length_bytes": file.length_bytes}
            case "decryption":
                file = self._readable(bound, request.path)
                self._lease.draw()
                if file.columns is not None:
                    return _wrapping_reply(file.columns)
                key = derive_file_key(file.write_key, file_id=file.file_id)
                return _key_reply(bound, key, write_id=file.write_id, file_id=file.file_id)
            case "create":
                write = _own_write(bound)
                demand_no_column_in_path(request.path, write.columns)
                path, file_id = bound.view.create(request.path)
                return {"path": path, "location": _location(bound, write.write_id, path), "file_id": file_id}
            case "encryption":
                write = _own_write(bound)
                self._lease.draw()
                file_id = bound.view.claim(request.path)
                if write.columns:
                    return _parquet_keys_reply(write.file_keys(file_id, dataset=bound.name))
                return _key_reply(bound, write.file_key(file_id), write_id=write.write_id, file_id=file_id)

    def _bound(self, name: str) -> BoundDataset:
        bound = self._datasets.get(name)
        if bound is None:
            raise RefusedError(
                f"strongroom://{name} is not bound to this application", action=f"add --dataset {name}=LOCATION"
            )
        return bound

    def _demand_driver(self, operation: str) -> None:
        if self._role != "driver":
            raise RefusedError(
                f"only the driver may {operation} files of a dataset", action="do this in the driver, not in a task"
            )

    def _readable(self, bound: BoundDataset, path: str) -> _Located:
        entry = bound.view.find(path)
        own = bound.write
        if entry is not None and own is not None and entry.write_id == own.write_id:
            return _located_own(bound, own, path, file_id=entry.file_id, length_bytes=entry.length_bytes)
        if entry is not None and bound.access == "write":
            raise RefusedError(
                f"dataset {bound.name} is bound for writing; files that other runs wrote cannot be read",
                action="bind it for reading, under the name that its owner approved for that",
                step=Step.DECRYPT,
            )
        if entry is not None:
            return _Located(
                path=path,
                write_id=entry.write_id,
                file_id=entry.file_id,
                write_key=_write_key(bound, entry.write_id),
                length_bytes=entry.length_bytes,
                columns=_file_keys(bound, entry),
            )
        file_id = file_id_of(path)
        if self._role == "executor" and own is not None and file_id is not None:
            return _located_own(bound, own, path, file_id=file_id, length_bytes=None)
        raise NotFoundError(
            f"strongroom://{bound.name}/{path} does not exist", action="look at what the dataset's version lists"
        )


class KeySocketServer:
    """Serves a `Keyholder` at a Unix socket, a thread for each connection.

    Use it as a context manager; at the end every connection is cut.

    Args:
        path: The socket; its folder must belong to this process's user and be closed to everybody else.
        datasets, required_settings, role, renew, on_event: See `Keyholder`.

    Raises:
        ConfigurationError: The folder is open to others, or the socket cannot be made there.
    """

    def __init__(
        self,
        path: Path,
        *,
        datasets: Mapping[str, BoundDataset],
        required_settings: Mapping[str, str],
        role: Role,
        renew: Callable[[], None] = lambda: None,
        on_event: Callable[[KeyEvent], None] = lambda _event: None,
    ) -> None:
        keyholder = Keyholder(
            datasets=datasets, required_settings=required_settings, role=role, renew=renew, on_event=on_event
        )
        _demand_private(path.parent)
        self._path: Final = path
        try:
            self._server: Final = _Server(path, keyholder)
            path.chmod(_SOCKET_MODE)
        except OSError as error:
            raise ConfigurationError(
                f"the key socket {path} cannot be made: {error.strerror or error}",
                action="use a new scratch folder with a short path",
            ) from error
        self._thread: Final = threading.Thread(target=self._server.serve_forever, name="key-socket", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()
        self._path.unlink(missing_ok=True)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path, keyholder: Keyholder) -> None:
        self.keyholder: Final = keyholder
        self._connections: Final[set[socket.socket]] = set()
        self._lock: Final = threading.Lock()
        self._is_open = True
        super().__init__(str(path), _Connection)

    def admit(self, connection: socket.socket) -> bool:
        with self._lock:
            if not self._is_open or len(self._connections) >= _MAX_CONNECTIONS:
                return False
            self._connections.add(connection)
            return True

    def dismiss(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def cut_connections(self) -> None:
        with self._lock:
            self._is_open = False
            for connection in self._connections:
                with suppress(OSError):  # it has just ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        # Without the traceback: this log is the host's to read.
        _log.error("a connection of the key socket ended with %s", type(sys.exception()).__name__)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server
    connection: socket.socket

    @override
    def handle(self) -> None:
        if not self.server.admit(self.connection):
            return
        try:
            self._answer_lines()
        except (ConnectionError, TimeoutError):
            _log.debug("a process of Spark closed its connection")
        finally:
            self.server.dismiss(self.connection)

    def _answer_lines(self) -> None:
        while line := self.rfile.readline(LIMITS.socket_line_bytes + 1):
            if not line.endswith(b"\n"):
                return  # the other side ended, or the line is too long: there is nothing to be in step with any more
            self.wfile.write(self.server.keyholder.answer(line))


def _parse(line: bytes) -> _Request:
    if len(line) > LIMITS.socket_line_bytes:
        raise LimitError("the request is too long", action="write fewer files in one job")
    fields = parse_json_object(line)
    operation = fields.get("op")
    kind = _REQUESTS.get(operation) if isinstance(operation, str) else None
    if kind is None:
        raise FormatError("the key socket has no such operation")
    return kind.from_object(fields)


def _listing(view: DatasetView, path: str) -> _Reply:
    return {"files": [{"path": file.path, "length_bytes": file.length_bytes} for file in view.list(path)]}


def _commit(bound: BoundDataset, files: tuple[_FinishedFile, ...]) -> _Reply:
    for file in files:
        demand_no_column_in_path(file.path, bound.write.columns if bound.write else ())
    lengths = {file.path: file.length_bytes for file in files}
    if len(lengths) != len(files):
        raise FormatError("a file is committed twice", step=Step.WRITE)
    bound.view.commit(lengths)
    return {}


def _located_own(
    bound: BoundDataset, write: DatasetWrite, path: str, *, file_id: str, length_bytes: int | None
) -> _Located:
    return _Located(
        path=path,
        write_id=write.write_id,
        file_id=file_id,
        write_key=write.key,
        length_bytes=length_bytes,
        columns=write.file_keys(file_id, dataset=bound.name) if write.columns else None,
    )


def _file_keys(bound: BoundDataset, entry: FileEntry) -> FileKeys | None:
    base = bound.view.base
    columns = base.header.columns_of(entry.write_id) if base else frozenset()
    if not columns:
        return None
    return file_keys_of(
        entry, dataset=bound.name, columns=columns, write_keys=bound.write_keys, column_keys=bound.column_keys
    )


def _own_write(bound: BoundDataset) -> DatasetWrite:
    if bound.write is None:
        raise RefusedError(
            f"dataset {bound.name} is bound for reading only",
            action="bind it with write access, and let its owner approve that",
            step=Step.WRITE,
        )
    return bound.write


def _write_key(bound: BoundDataset, write_id: str) -> SecretBytes:
    key = bound.write_keys.get(write_id)
    if key is None:
        raise RefusedError(f"the key service released no key for this file of dataset {bound.name}", step=Step.DECRYPT)
    return key


def _location(bound: BoundDataset, write_id: str, path: str) -> str:
    return Storage(bound.location).uri(storage_name(write_id=write_id, path=path))


def _key_reply(bound: BoundDataset, key: SecretBytes, *, write_id: str, file_id: str) -> _Reply:
    prefix = aad_prefix(dataset=bound.name, write_id=write_id, file_id=file_id)
    return {
        "key_b64": _b64(key.reveal()),
        "aad_prefix_b64": _b64(prefix),
    }


def _wrapping_reply(keys: FileKeys) -> _Reply:
    """Answer with what wraps a file's Parquet keys; its key metadata hold them."""

    def wrapping(column: str | None) -> _Reply:
        each = keys.wrapping_key(column)
        return {"key_b64": _b64(each.key.reveal()), "context_b64": _b64(each.context)}

    return {
        "wrapping": wrapping(None),
        "columns": {column: wrapping(column) for column in sorted(keys.column_keys)},
    }


def _parquet_keys_reply(keys: FileKeys) -> _Reply:
    """Answer with new Parquet keys for the footer and for each column that has a key of its own."""

    def parquet_key(column: str | None) -> _Reply:
        each = keys.new_key(column)
        return {"key_b64": _b64(each.key.reveal()), "metadata_b64": _b64(each.metadata)}

    return {
        "footer": parquet_key(None),
        "columns": {column: parquet_key(column) for column in sorted(keys.column_keys)},
    }


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _demand_private(folder: Path) -> None:
    try:
        is_open_to_others = bool(folder.stat().st_mode & _OTHERS)
    except OSError as error:
        raise ConfigurationError(f"the folder {folder} of the key socket cannot be used: {error.strerror}") from error
    if is_open_to_others:
        raise ConfigurationError(
            f"the folder {folder} of the key socket is open to other users", action=f"run: chmod 700 {folder}"
        )
