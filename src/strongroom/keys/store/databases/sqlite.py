"""SQLite: one file (WAL, every commit on the disk), one process, one connection that writes and several that read."""

import contextlib
import fcntl
import os
import queue
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from strongroom.base.database import Locking, Schema, open_database
from strongroom.base.errors import ConfigurationError, IntegrityError, UnavailableError
from strongroom.keys.store.rows import Connection, Cursor

_NAME: Final = "the key service's database"
_READERS: Final = 8
"""Connections that are kept for reading; more are opened when more threads read, and closed afterwards."""
_SCRUB_S: Final = 10.0
"""How long emptying the journal waits for readers, in seconds."""


class SqliteWriter:
    """The connection that writes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Cursor:
        """Run one statement."""
        return self._connection.execute(statement, values)

    def begin(self) -> None:
        """Begin a transaction."""
        self._connection.execute("BEGIN IMMEDIATE")

    def save(self) -> None:
        """Set the savepoint."""
        self._connection.execute("SAVEPOINT block")

    def release(self) -> None:
        """Forget the savepoint."""
        self._connection.execute("RELEASE block")

    def go_back(self) -> None:
        """Undo what was done since the savepoint, and forget it."""
        self._connection.execute("ROLLBACK TO block")
        self._connection.execute("RELEASE block")

    def commit(self) -> None:
        """End the transaction; SQLite has synced its log by then (`synchronous = FULL`)."""
        self._connection.execute("COMMIT")

    def roll_back(self) -> None:
        """Undo the transaction, if one is open."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


class SqliteReaders:
    """An SQLite file that is read, while another process may write it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._free: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue(_READERS)

    @contextlib.contextmanager
    def snapshot(self) -> Generator[Connection, None, None]:
        """Read what was committed at one moment."""
        reader = self._reader()
        try:
            reader.execute("BEGIN")
            try:
                yield reader
            finally:
                reader.execute("ROLLBACK")
        except sqlite3.Error:
            reader.close()
            raise
        except BaseException:
            self._keep(reader)
            raise
        self._keep(reader)

    @contextlib.contextmanager
    def translated(self) -> Generator[None, None, None]:
        """Turn SQLite's exceptions into ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ConfigurationError(
                f"{_NAME} cannot be used: {error}",
                action="Check that no other key service uses it, and that its disk is writable and not full.",
            ) from error
        except (sqlite3.Error, UnicodeError) as error:
            raise IntegrityError(
                f"{_NAME} is damaged: {error}",
                action="Restore the newest copy of the state folder, or a backup: strongroom key-service restore",
            ) from error

    def tables(self) -> Sequence[str]:
        """Return the names of all tables."""
        with self.translated(), self.snapshot() as reader:
            rows = reader.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY rowid"
            ).fetchall()
        return [name for (name,) in rows]

    def primary_key(self, table: str) -> Sequence[str]:
        """Return the columns of a table's primary key."""
        with self.translated(), self.snapshot() as reader:
            rows = reader.execute("SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)).fetchall()
        return [name for (name,) in rows]

    def close(self) -> None:
        """Close every connection."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()

    def _keep(self, reader: sqlite3.Connection) -> None:
        try:
            self._free.put_nowait(reader)
        except queue.Full:
            reader.close()

    def _reader(self) -> sqlite3.Connection:
        with contextlib.suppress(queue.Empty):
            return self._free.get_nowait()
        reader = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=1.0)
        reader.execute("PRAGMA query_only = ON")
        return reader


class SqliteDatabase(SqliteReaders):
    """An SQLite file that no other process writes.

    Args:
        path: The file; made if it is not there.
        schema: Its tables.

    Raises:
        ConfigurationError: Another process uses it, or it is another program's or of another version.
        IntegrityError: It is damaged.
    """

    def __init__(self, path: Path, schema: Schema) -> None:
        super().__init__(path)
        self._lock = _lock(path)
        try:
            with self.translated():
                self._connection = open_database(path, schema, name=_NAME, locking=Locking.NORMAL)
        except BaseException:
            os.close(self._lock)
            raise
        self._writer = SqliteWriter(self._connection)

    @property
    def writer(self) -> SqliteWriter:
        """The connection that writes."""
        return self._writer

    def scrub(self) -> None:
        """Empty the journal into the file, where what was deleted is overwritten already (`secure_delete`)."""
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, timeout=_SCRUB_S)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UnavailableError(
                f"{_NAME} is in use, and its journal could not be emptied", action="Try again in a moment."
            )

    @override
    def close(self) -> None:
        """Close every connection, and let other processes use the file."""
        super().close()
        self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock(path: Path) -> int:
    """Take the file's lock, which lasts as long as this process or its database; SQLite's own are for one statement."""
    try:
        descriptor = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"{_NAME} cannot be used: {error.strerror}",
            action="Check that its folder is there and writable, and that its disk is not full.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"{_NAME} cannot be used: another process uses it",
            action="Stop the other key service; several replicas need PostgreSQL (state_database).",
        ) from error
    return descriptor
