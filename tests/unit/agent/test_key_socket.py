import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.agent import key_socket
from strongroom.agent.key_socket import BoundDataset, KeyEvent, Keyholder, KeySocketServer
from strongroom.base.errors import ConfigurationError, RefusedError, VerificationError
from strongroom.base.limits import LIMITS, Limits
from strongroom.crypto.random import random_id, random_secret
from strongroom.datasets.file_keys import read_material
from strongroom.datasets.identity import ColumnKey, DatasetWrite, aad_prefix, with_file_id
from strongroom.datasets.manifest import Manifest
from strongroom.datasets.storage import Storage
from strongroom.datasets.view import DatasetView
from strongroom.keys.hierarchy import derive_file_key
from strongroom.wire.manifest import FileEntry, ManifestHeader

SETTINGS = {"spark.authenticate": "true"}
OTHER_RUN = DatasetWrite(write_id="0a" * 16, key=random_secret(), wrapped="AAAA", base=None)
BASE_FILE = FileEntry(path="a/1 x.parquet", write_id=OTHER_RUN.write_id, file_id=random_id(), length_bytes=10)


def manifest(name: str) -> Manifest:
    header = ManifestHeader(
        dataset=name,
        key_service="5e" * 32,
        number=1,
        previous=None,
        write_keys={OTHER_RUN.write_id: "AAAA"},
        sealed_by=OTHER_RUN.write_id,
    )
    return Manifest(header=header, digest="00" * 32, files=(BASE_FILE,))


def bind(name: str, access: Literal["read", "write"], *, has_base: bool) -> BoundDataset:
    write = DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None)
    return BoundDataset(
        name=name,
        access=access,
        location="file:///store/a%20b",
        view=DatasetView(manifest(name) if has_base else None, write_id=write.write_id if access == "write" else None),
        write_keys={OTHER_RUN.write_id: OTHER_RUN.key} if has_base else {},
        write=write if access == "write" else None,
    )


@dataclass(frozen=True)
class Tee:
    keyholder: Keyholder
    events: list[KeyEvent]
    datasets: dict[str, BoundDataset]

    def ask(self, operation: str, dataset: str = "", path: str | None = None, **fields: Any) -> dict[str, Any]:
        request = {"op": operation, **({"dataset": dataset} if dataset else {}), **fields}
        if path is not None:
            request["path"] = path
        answer = self.keyholder.answer(json.dumps(request).encode() + b"\n")
        assert answer.endswith(b"\n")
        assert answer.count(b"\n") == 1
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def refusal(self, operation: str, dataset: str = "", path: str | None = None, **fields: Any) -> str:
        error = self.ask(operation, dataset, path, **fields)["error"]
        assert set(error) == {"code", "message", "action"}
        return f"{error['code']}: {error['message']}"


def tee(role: Literal["driver", "executor"], **options: Any) -> Tee:
    datasets = {
        "trips": bind("trips", "read", has_base=True),
        "report": bind("report", "write", has_base=False),
        "history": bind("history", "write", has_base=True),
    }
    events: list[KeyEvent] = []
    keyholder = Keyholder(datasets=datasets, required_settings=SETTINGS, role=role, on_event=events.append, **options)
    return Tee(keyholder=keyholder, events=events, datasets=datasets)


@pytest.fixture
def driver() -> Tee:
    return tee("driver")


@pytest.fixture
def executor() -> Tee:
    return tee("executor")


def expected_key(write: DatasetWrite, dataset: str, file_id: str) -> dict[str, str]:
    prefix = aad_prefix(dataset=dataset, write_id=write.write_id, file_id=file_id)
    return {
        "key_b64": base64.b64encode(derive_file_key(write.key, file_id=file_id).reveal()).decode(),
        "aad_prefix_b64": base64.b64encode(prefix).decode(),
    }


def own(tee: Tee, dataset: str) -> DatasetWrite:
    write = tee.datasets[dataset].write
    assert write is not None
    return write


def test_tells_the_required_settings_and_the_binding(driver: Tee) -> None:
    assert driver.ask("settings") == {"required": SETTINGS}
    assert driver.ask("binding", "trips") == {"access": "read", "write_id": None}
    assert driver.ask("binding", "report") == {"access": "write", "write_id": own(driver, "report").write_id}


def test_lists_and_opens_from_the_manifest(driver: Tee) -> None:
    assert driver.ask("list", "trips", "") == {"files": [{"path": BASE_FILE.path, "length_bytes": 10}]}
    assert driver.ask("list", "trips", "b") == {"files": []}
    location = f"file:///store/a%20b/{OTHER_RUN.write_id}/a/1%20x.parquet"
    assert driver.ask("open", "trips", BASE_FILE.path) == {"location": location, "length_bytes": 10}


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_gives_the_key_of_a_file_in_the_bound_version(role: Literal["driver", "executor"]) -> None:
    found = tee(role).ask("decryption", "trips", BASE_FILE.path)
    assert found == expected_key(OTHER_RUN, "trips", BASE_FILE.file_id)


def test_writes_commits_and_reads_back_across_tees(driver: Tee) -> None:
    executor = Tee(
        keyholder=Keyholder(datasets=driver.datasets, required_settings=SETTINGS, role="executor"),
        events=[],
        datasets=driver.datasets,
    )
    write = own(driver, "report")
    created = executor.ask("create", "report", "out/part-0.snappy.parquet")
    path, file_id = created["path"], created["file_id"]
    assert path == f"out/part-0-{file_id}.snappy.parquet"
    assert created["location"] == Storage("file:///store/a%20b").uri(f"{write.write_id}/{path}")
    key = executor.ask("encryption", "report", path)
    assert key == expected_key(write, "report", file_id)
    assert driver.ask("list", "report", "") == {"files": []}
    assert driver.ask("commit", "report", files=[{"path": path, "length_bytes": 321}]) == {}
    assert driver.ask("list", "report", "out") == {"files": [{"path": path, "length_bytes": 321}]}
    assert driver.ask("open", "report", path) == {"location": created["location"], "length_bytes": 321}
    assert driver.ask("decryption", "report", path) == key
    assert driver.ask("remove", "report", "out") == {"removed": 1}
    assert driver.ask("list", "report", "") == {"files": []}


def test_an_executor_reads_what_another_executor_of_the_run_wrote(executor: Tee) -> None:
    file_id = random_id()
    path = with_file_id("part-7.parquet", file_id=file_id)
    write = own(executor, "report")
    assert executor.ask("open", "report", path) == {
        "location": f"file:///store/a%20b/{write.write_id}/{path}",
        "length_bytes": None,
    }
    assert executor.ask("decryption", "report", path) == expected_key(write, "report", file_id)


def test_the_driver_knows_no_file_that_was_not_committed(driver: Tee) -> None:
    path = with_file_id("part-7.parquet", file_id=random_id())
    for operation in ("open", "decryption"):
        assert driver.refusal(operation, "report", path).startswith("not-found: ")


@pytest.mark.parametrize("operation", ["open", "decryption"])
def test_gives_no_key_of_a_file_outside_the_bound_version(driver: Tee, executor: Tee, operation: str) -> None:
    named = with_file_id("x.parquet", file_id=random_id())
    for path in ("a/2.parquet", "a", named, f"{BASE_FILE.path}x"):
        assert driver.refusal(operation, "trips", path).startswith("not-found: ")
        assert executor.refusal(operation, "trips", path).startswith("not-found: ")


def test_the_same_file_id_never_opens_another_datasets_or_runs_file(executor: Tee) -> None:
    path = with_file_id("x.parquet", file_id=BASE_FILE.file_id)
    assert executor.ask("decryption", "report", path) != executor.ask("decryption", "trips", BASE_FILE.path)
    assert executor.ask("decryption", "report", path) != executor.ask("decryption", "history", path)


@pytest.mark.parametrize("operation", ["open", "decryption"])
def test_a_dataset_bound_for_writing_shows_its_files_but_not_what_is_in_them(
    driver: Tee, executor: Tee, operation: str
) -> None:
    assert driver.ask("list", "history", "") == {"files": [{"path": BASE_FILE.path, "length_bytes": 10}]}
    for each in (driver, executor):
        assert each.refusal(operation, "history", BASE_FILE.path).startswith("refused: ")
    assert driver.ask("remove", "history", "") == {"removed": 1}


def test_a_dataset_bound_for_reading_refuses_every_write(driver: Tee, executor: Tee) -> None:
    for each in (driver, executor):
        assert "reading only" in each.refusal("create", "trips", "x.parquet")
        assert "reading only" in each.refusal("encryption", "trips", BASE_FILE.path)
    assert "reading only" in driver.refusal("remove", "trips", "")
    assert "reading only" in driver.refusal("commit", "trips", files=[])
    assert driver.ask("list", "trips", "")["files"]


def test_executors_neither_list_nor_remove_nor_commit(executor: Tee) -> None:
    assert "only the driver" in executor.refusal("list", "trips", "")
    assert "only the driver" in executor.refusal("remove", "report", "")
    assert "only the driver" in executor.refusal("commit", "report", files=[])


def test_an_encryption_key_is_given_once(executor: Tee) -> None:
    path = executor.ask("create", "report", "part-0.parquet")["path"]
    assert "key_b64" in executor.ask("encryption", "report", path)
    assert "given already" in executor.refusal("encryption", "report", path)


def test_an_encryption_key_is_given_only_for_what_create_issued(executor: Tee) -> None:
    issued = executor.ask("create", "report", "part-0.parquet")["path"]
    for path in (with_file_id("part-0.parquet", file_id=random_id()), f"x/{issued}", "part-0.parquet"):
        assert executor.refusal("encryption", "report", path).startswith("refused: ")
    assert executor.refusal("encryption", "history", issued).startswith("refused: ")


def test_a_commit_is_all_or_nothing(driver: Tee) -> None:
    good = {"path": with_file_id("a.parquet", file_id=random_id()), "length_bytes": 1}
    for bad in (
        {"path": "b.parquet", "length_bytes": 1},
        {"path": with_file_id("b.parquet", file_id=random_id()), "length_bytes": 0},
        {"path": f"../b-{random_id()}.parquet", "length_bytes": 1},
        good,
    ):
        assert "error" in driver.ask("commit", "report", files=[good, bad])
    assert driver.ask("list", "report", "") == {"files": []}


def test_an_unbound_dataset_is_refused_whatever_is_asked(driver: Tee) -> None:
    for operation in ("binding", "list", "open", "decryption", "create", "encryption", "remove", "commit"):
        fields: dict[str, Any] = {"files": []} if operation == "commit" else {}
        path = None if operation in {"binding", "commit"} else "x"
        assert "is not bound" in driver.refusal(operation, "salaries", path, **fields)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"op":"keys"}\n',
        b'{"op":["open"]}\n',
        b'{"op":"settings","x":1}\n',
        b'{"op":"settings","op":"binding"}\n',
        b'{"op":"binding"}\n',
        b'{"op":"binding","dataset":"Trips"}\n',
        b'{"op":"open","dataset":"trips"}\n',
        b'{"op":"open","dataset":"trips","path":""}\n',
        b'{"op":"open","dataset":"trips","path":"/a"}\n',
        b'{"op":"open","dataset":"trips","path":"a/../b"}\n',
        b'{"op":"open","dataset":"trips","path":"a//b"}\n',
        b'{"op":"open","dataset":"trips","path":"a/"}\n',
        b'{"op":"open","dataset":"trips","path":7}\n',
        b'{"op":"list","dataset":"trips","path":null}\n',
        b'{"op":"commit","dataset":"report","files":[{"path":"a","length_bytes":"1"}]}\n',
        b'{"op":"commit","dataset":"report","files":[{"path":"a","length_bytes":1.5}]}\n',
        b'{"op":"commit","dataset":"report","files":[{"path":"a","length_bytes":-1}]}\n',
        b'{"op":"settings"}{"op":"settings"}\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_malformed_line_is_answered_with_a_refusal(driver: Tee, line: bytes) -> None:
    assert json.loads(driver.keyholder.answer(line))["error"]["code"] == "format"


@settings(deadline=None)
@given(st.binary(max_size=128))
def test_any_bytes_get_one_line_of_answer(line: bytes) -> None:
    answer = tee("driver").keyholder.answer(line)
    assert answer.endswith(b"\n")
    assert isinstance(json.loads(answer), dict)


@settings(deadline=None)
@given(
    st.sampled_from(["binding", "list", "open", "decryption", "create", "encryption", "remove", "commit", "x"]),
    st.sampled_from(["trips", "report", "history", "x", ""]) | st.text(max_size=5),
    st.text(max_size=40) | st.sampled_from([BASE_FILE.path, f"a-{'0a' * 16}.parquet"]),
)
def test_no_request_gives_a_key_that_is_not_for_it(operation: str, dataset: str, path: str) -> None:
    each = tee("executor")
    reply = each.ask(operation, dataset, path)
    if "key_b64" in reply:
        assert operation == "decryption"
        prefix = base64.b64decode(reply["aad_prefix_b64"]).decode()
        assert prefix.startswith(f"strongroom/1|{dataset}|")
        assert dataset == "trips" or own(each, dataset).write_id in prefix


def test_no_answer_holds_a_write_key(driver: Tee) -> None:
    keys = [OTHER_RUN.key, own(driver, "report").key]
    path = driver.ask("create", "report", "a.parquet")["path"]
    answers = [
        driver.ask("binding", "report"),
        driver.ask("encryption", "report", path),
        driver.ask("decryption", "trips", BASE_FILE.path),
    ]
    for key in keys:
        assert base64.b64encode(key.reveal()).decode() not in json.dumps(answers)
        assert key.reveal().hex() not in json.dumps(answers)


def test_too_long_a_line_is_refused(driver: Tee, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_socket, "LIMITS", Limits(socket_line_bytes=64))
    assert driver.refusal("list", "trips", "x" * 64).startswith("limit: ")


def test_renews_before_the_first_key_of_a_batch_and_before_a_commit() -> None:
    calls: list[str] = []
    each = tee("driver", renew=lambda: calls.append("renewed"))
    each.ask("open", "trips", BASE_FILE.path)
    each.ask("list", "trips", "")
    path = each.ask("create", "report", "a.parquet")["path"]
    assert calls == []
    each.ask("encryption", "report", path)
    each.ask("decryption", "trips", BASE_FILE.path)
    assert calls == ["renewed"]
    each.ask("commit", "report", files=[])
    assert calls == ["renewed", "renewed"]


def test_commits_nothing_while_renewal_is_refused() -> None:
    def renew() -> None:
        raise RefusedError("the approval was revoked", action="ask the owner")

    each = tee("driver", renew=renew)
    assert each.refusal("commit", "report", files=[]) == "refused: the approval was revoked"
    assert not each.datasets["report"].view.changed


def test_gives_no_key_while_renewal_is_refused() -> None:
    is_revoked = True

    def renew() -> None:
        if is_revoked:
            raise RefusedError("the approval was revoked", action="ask the owner")

    each = tee("executor", renew=renew)
    path = each.ask("create", "report", "a.parquet")["path"]
    assert each.refusal("decryption", "trips", BASE_FILE.path) == "refused: the approval was revoked"
    assert each.refusal("encryption", "report", path) == "refused: the approval was revoked"
    is_revoked = False
    assert "key_b64" in each.ask("encryption", "report", path)


def test_tells_what_was_granted_and_refused(driver: Tee) -> None:
    driver.ask("settings")
    driver.ask("decryption", "trips", BASE_FILE.path)
    driver.ask("decryption", "trips", "x")
    driver.ask("commit", "report", files=[])
    driver.keyholder.answer(b"nonsense")
    assert driver.events == [
        KeyEvent(operation="decryption", dataset="trips", path=BASE_FILE.path, refused=None),
        KeyEvent(operation="decryption", dataset="trips", path="x", refused="not-found"),
        KeyEvent(operation="commit", dataset="report", path="", refused=None),
    ]


def test_a_base_file_without_a_released_key_is_refused() -> None:
    datasets = {"trips": replace(bind("trips", "read", has_base=True), write_keys={})}
    keyholder = Keyholder(datasets=datasets, required_settings=SETTINGS, role="driver")
    each = Tee(keyholder=keyholder, events=[], datasets=datasets)
    assert "released no key" in each.refusal("decryption", "trips", BASE_FILE.path)


def test_a_write_key_comes_exactly_with_write_access() -> None:
    reading, writing = bind("a", "read", has_base=True), bind("b", "write", has_base=False)
    with pytest.raises(VerificationError):
        replace(reading, write=writing.write)
    with pytest.raises(VerificationError):
        replace(writing, write=None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tee"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[[], Path]]:
    with contextlib.ExitStack() as stack:

        def start() -> Path:
            datasets = {
                "trips": bind("trips", "read", has_base=True),
                "report": bind("report", "write", has_base=False),
            }
            server = KeySocketServer(folder / "keys", datasets=datasets, required_settings=SETTINGS, role="driver")
            stack.enter_context(server)
            return folder / "keys"

        yield start


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def exchange(connection: socket.socket, line: bytes) -> dict[str, Any]:
    connection.sendall(line)
    received = b""
    while not received.endswith(b"\n"):
        chunk = connection.recv(1 << 16)
        assert chunk, "the connection was cut"
        received += chunk
    reply: dict[str, Any] = json.loads(received)
    return reply


def test_a_connection_carries_many_requests_in_order(serve: Callable[[], Path]) -> None:
    with connect(serve()) as connection:
        assert exchange(connection, b'{"op":"settings"}\n') == {"required": SETTINGS}
        assert exchange(connection, b"nonsense\n")["error"]["code"] == "format"
        assert exchange(connection, b'{"op":"binding","dataset":"trips"}\n')["access"] == "read"
        connection.sendall(b'{"op":"settings"}\n{"op":"binding","dataset":"trips"}\n')
        lines = connection.makefile("rb")
        assert [list(json.loads(lines.readline())) for _ in range(2)] == [["required"], ["access", "write_id"]]
        lines.close()


def test_serves_many_connections_at_once(serve: Callable[[], Path]) -> None:
    path = serve()
    created: list[str] = []

    def work() -> None:
        with connect(path) as connection:
            for _ in range(20):
                reply = exchange(connection, b'{"op":"create","dataset":"report","path":"part-0.parquet"}\n')
                created.append(reply["path"])

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(created)) == 320


def test_a_line_without_end_gets_no_answer(serve: Callable[[], Path]) -> None:
    with connect(serve()) as connection:
        connection.sendall(b'{"op":"settings"}')
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_line_beyond_the_limit_ends_the_connection(
    serve: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_socket, "LIMITS", Limits(socket_line_bytes=1000))
    with connect(serve()) as connection:
        connection.sendall(b" " * 2000)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert LIMITS.socket_line_bytes > 1000


def test_a_process_that_vanishes_harms_nobody(serve: Callable[[], Path]) -> None:
    path = serve()
    for _ in range(5):
        with connect(path) as connection:
            connection.sendall(b'{"op":"settings"}\n' * 1000)
    with connect(path) as connection:
        assert exchange(connection, b'{"op":"settings"}\n') == {"required": SETTINGS}


def test_only_the_owner_may_connect(serve: Callable[[], Path]) -> None:
    assert serve().stat().st_mode & 0o777 == 0o600


def test_refuses_a_folder_that_others_can_enter(folder: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(ConfigurationError, match="open to other users"):
        KeySocketServer(folder / "keys", datasets={}, required_settings=SETTINGS, role="driver")


@pytest.mark.parametrize("name", ["x" * 120, "missing/keys", "taken"])
def test_refuses_a_place_where_no_socket_can_be(folder: Path, name: str) -> None:
    (folder / "taken").touch()
    with pytest.raises(ConfigurationError):
        KeySocketServer(folder / name, datasets={}, required_settings=SETTINGS, role="driver")


def test_at_the_end_every_connection_is_cut_and_the_socket_gone(folder: Path) -> None:
    path = folder / "keys"
    with KeySocketServer(path, datasets={}, required_settings=SETTINGS, role="driver"):
        connection = connect(path)
        assert exchange(connection, b'{"op":"settings"}\n') == {"required": SETTINGS}
    with connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(b'{"op":"settings"}\n')
        assert connection.recv(1) == b""
    assert not path.exists()
    with pytest.raises(OSError, match="No such file"):
        connect(path)


# --- columns with keys of their own ----------------------------------------------------------------------------------


def keyed_write(*columns: str) -> DatasetWrite:
    keys = {column: ColumnKey(key=random_secret(), wrapped="AAAA") for column in columns}
    return DatasetWrite(write_id=random_id(), key=random_secret(), wrapped="AAAA", base=None, columns=keys)


def with_column_keys(write: DatasetWrite, *released: str) -> Tee:
    """A TEE that reads a version in which columns have keys, of which some were released, and writes such a dataset."""
    entry = FileEntry(path="people.parquet", write_id=write.write_id, file_id="3" * 32, length_bytes=10)
    header = ManifestHeader(
        dataset="people",
        key_service="5e" * 32,
        number=1,
        previous=None,
        write_keys={write.write_id: "AAAA"},
        sealed_by=write.write_id,
        column_keys={column: {write.write_id: "AAAA"} for column in write.columns},
    )
    base = Manifest(header=header, digest="00" * 32, files=(entry,))
    own_write = keyed_write(*write.columns)
    datasets = {
        "people": BoundDataset(
            name="people",
            access="read",
            location="file:///store",
            view=DatasetView(base, write_id=None),
            write_keys={write.write_id: write.key},
            write=None,
            column_keys={column: {write.write_id: write.columns[column].key} for column in released},
        ),
        "copy": BoundDataset(
            name="copy",
            access="write",
            location="file:///store",
            view=DatasetView(None, write_id=own_write.write_id),
            write_keys={},
            write=own_write,
        ),
    }
    keyholder = Keyholder(datasets=datasets, required_settings=SETTINGS, role="driver")
    return Tee(keyholder=keyholder, events=[], datasets=datasets)


def opened(reply: dict[str, Any], column: str | None) -> tuple[bytes, bytes]:
    found = reply["wrapping"] if column is None else reply["columns"][column]
    return base64.b64decode(found["key_b64"]), base64.b64decode(found["context_b64"])


def test_gives_what_wraps_the_keys_of_one_file_for_released_columns_only() -> None:
    write = keyed_write("iban", "ssn")
    reply = with_column_keys(write, "iban").ask("decryption", "people", "people.parquet")
    assert set(reply) == {"wrapping", "columns"}
    assert set(reply["columns"]) == {"iban"}
    keys = write.file_keys("3" * 32, dataset="people")
    for column in (None, "iban"):
        expected = keys.wrapping_key(column)
        assert opened(reply, column) == (expected.key.reveal(), expected.context)


def test_no_answer_about_columns_holds_a_write_key_or_a_column_key() -> None:
    write = keyed_write("iban", "ssn")
    each = with_column_keys(write, "iban", "ssn")
    path = each.ask("create", "copy", "a.parquet")["path"]
    answers = json.dumps([each.ask("decryption", "people", "people.parquet"), each.ask("encryption", "copy", path)])
    for made in (write, own(each, "copy")):
        for key in (made.key, *(column.key for column in made.columns.values())):
            assert base64.b64encode(key.reveal()).decode() not in answers


def test_new_files_get_new_parquet_keys_that_their_metadata_bring_back() -> None:
    each = with_column_keys(keyed_write("iban", "ssn"))
    created = each.ask("create", "copy", "a.parquet")
    reply = each.ask("encryption", "copy", created["path"])
    keys = own(each, "copy").file_keys(created["file_id"], dataset="copy")
    found = {None: reply["footer"], **reply["columns"]}
    assert set(found) == {None, "iban", "ssn"}
    for column, made in found.items():
        named, wrapped = read_material(base64.b64decode(made["metadata_b64"]))
        assert named == column
        assert keys.unwrap(wrapped, column).reveal() == base64.b64decode(made["key_b64"])
    assert len({made["key_b64"] for made in found.values()}) == 3
    assert "given already" in each.refusal("encryption", "copy", created["path"])
    again = each.ask("decryption", "copy", with_file_id("a.parquet", file_id=created["file_id"]))
    assert again["error"]["code"] == "not-found"


@pytest.mark.parametrize("folder", ["iban=DE", "IBAN=DE", "ib%61n=DE", "year=1/iban=x"])
def test_values_of_a_column_with_a_key_do_not_become_names_of_folders(folder: str) -> None:
    each = with_column_keys(keyed_write("iban"))
    path = with_file_id(f"{folder}/a.parquet", file_id=random_id())
    says = "has a key of its own: files cannot be partitioned by it"
    assert says in each.refusal("create", "copy", f"{folder}/a.parquet")
    assert says in each.refusal("commit", "copy", files=[{"path": path, "length_bytes": 1}])
    assert "path" in each.ask("create", "copy", "year=1/a.parquet")
