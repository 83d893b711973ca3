"""The agent's side of the key socket, with datasets kept in memory: for tests of the engine alone."""

import base64
import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import override

from strongroom.agent.key_socket import BoundDataset, Keyholder
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_id, random_secret
from strongroom.engine.settings import guarded_settings
from strongroom.keys.hierarchy import derive_file_key


class RefusalError(Exception):
    """What goes back as an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = {"error": {"code": code, "message": message, "action": "Ask the owner"}}


@dataclass(frozen=True)
class FileRecord:
    dataset: str
    write_id: str
    write_key: SecretBytes
    file_id: str
    length_bytes: int | None

    def key(self) -> bytes:
        return derive_file_key(self.write_key, file_id=self.file_id).reveal()

    def aad_prefix(self) -> bytes:
        return f"strongroom/1|{self.dataset}|{self.write_id}|{self.file_id}".encode()


@dataclass
class Dataset:
    """One dataset, as the agents of a run see it together."""

    name: str
    folder: Path
    access: str = "write"
    write_id: str = field(default_factory=random_id)
    write_key: SecretBytes = field(default_factory=random_secret)
    view: dict[str, FileRecord] = field(default_factory=dict)
    issued: dict[str, FileRecord] = field(default_factory=dict)
    keyed: set[str] = field(default_factory=set)

    def location(self, path: str) -> Path:
        return self.folder / path

    def new_write(self) -> None:
        """Go on as another run would: with another write key."""
        self.write_id, self.write_key = random_id(), random_secret()


class KeySocket:
    """Answers the questions of one node's Spark processes, and remembers their operations."""

    def __init__(self, datasets: Mapping[str, Dataset | BoundDataset], *, is_driver: bool) -> None:
        self.datasets = datasets
        self.is_driver = is_driver
        self.required = guarded_settings()
        self.asked: list[str] = []

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(question["op"])
        if question["op"] == "settings":
            return {"required": self.required}
        dataset = self.datasets.get(question["dataset"])
        if dataset is None:
            raise RefusalError("refused", f"the dataset {question['dataset']} is not bound to this application")
        if isinstance(dataset, BoundDataset):
            return self._ask_the_agents_own(dataset, question)
        return getattr(self, "_" + question["op"])(dataset, question)

    def _ask_the_agents_own(self, dataset: BoundDataset, question: dict[str, Any]) -> dict[str, Any]:
        keyholder = Keyholder(
            datasets={dataset.name: dataset},
            required_settings=self.required,
            role="driver" if self.is_driver else "executor",
        )
        answer: dict[str, Any] = json.loads(keyholder.answer(json.dumps(question).encode() + b"\n"))
        return answer

    def _binding(self, dataset: Dataset, _: dict[str, Any]) -> dict[str, Any]:
        return {"access": dataset.access, "write_id": dataset.write_id}

    def _list(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        self._demand_driver()
        return {
            "files": [
                {"path": path, "length_bytes": record.length_bytes}
                for path, record in sorted(dataset.view.items())
                if _is_below(path, question["path"])
            ]
        }

    def _open(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        record = self._existing(dataset, question["path"])
        length = None if record.write_id == dataset.write_id and not self.is_driver else record.length_bytes
        return {"location": dataset.location(question["path"]).as_uri(), "length_bytes": length}

    def _decryption(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        return _key_answer(self._existing(dataset, question["path"]))

    def _create(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        if dataset.access != "write":
            raise RefusalError("refused", f"the dataset {dataset.name} is bound for reading only")
        wanted, file_id = PurePosixPath(question["path"]), random_id()
        stem, dot, suffix = wanted.name.partition(".")
        path = str(wanted.with_name(f"{stem}-{file_id}{dot}{suffix}"))
        dataset.issued[path] = FileRecord(dataset.name, dataset.write_id, dataset.write_key, file_id, None)
        return {"path": path, "location": dataset.location(path).as_uri(), "file_id": file_id}

    def _encryption(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        record = dataset.issued.get(question["path"])
        if record is None or record.file_id in dataset.keyed:
            raise RefusalError("refused", "this file has its key already, or was never issued")
        dataset.keyed.add(record.file_id)
        return _key_answer(record)

    def _remove(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        self._demand_driver()
        gone = [path for path in dataset.view if _is_below(path, question["path"])]
        for path in gone:
            del dataset.view[path]
        return {"removed": len(gone)}

    def _commit(self, dataset: Dataset, question: dict[str, Any]) -> dict[str, Any]:
        self._demand_driver()
        for file in question["files"]:
            record = dataset.issued[file["path"]]
            dataset.view[file["path"]] = FileRecord(
                record.dataset, record.write_id, record.write_key, record.file_id, file["length_bytes"]
            )
        return {}

    def _existing(self, dataset: Dataset, path: str) -> FileRecord:
        record = dataset.view.get(path)
        if record is None:
            raise RefusalError("not-found", f"{dataset.name} has no file {path}")
        return record

    def _demand_driver(self) -> None:
        if not self.is_driver:
            raise RefusalError("refused", "only the driver's agent does this")


class _Connection(socketserver.StreamRequestHandler):
    server: "_Server"

    @override
    def handle(self) -> None:
        for line in self.rfile:
            with self.server.lock:
                try:
                    answer = self.server.key_socket.answer(json.loads(line))
                except RefusalError as refusal:
                    answer = refusal.answer
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    lock = threading.Lock()
    key_socket: KeySocket

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A Spark process that ended in the middle of a question is no error here."""


@contextlib.contextmanager
def serving(key_socket: KeySocket, path: Path) -> Iterator[KeySocket]:
    """Serve a node's key socket while the block runs."""
    with _Server(str(path), _Connection) as server:
        server.key_socket = key_socket
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield key_socket
        finally:
            server.shutdown()
            thread.join()


def _is_below(path: str, place: str) -> bool:
    return place in ("", path) or path.startswith(place + "/")


def _key_answer(record: FileRecord) -> dict[str, Any]:
    return {
        "key_b64": base64.b64encode(record.key()).decode(),
        "aad_prefix_b64": base64.b64encode(record.aad_prefix()).decode(),
    }
