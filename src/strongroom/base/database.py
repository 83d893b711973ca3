"""SQLite as a service keeps its state in it: one process, one writer, every acknowledged change on the disk."""

import enum
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError

_PRAGMAS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "secure_delete = ON",  # what is deleted is overwritten
)


class Locking(enum.Enum):
    """Who may use a database beside the returned connection."""

    EXCLUSIVE = "EXCLUSIVE"
    """Nobody."""
    NORMAL = "NORMAL"
    """Other connections; that they are this process's own is the caller's care."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables of a database.

    Attributes:
        application_id: Whose database this is.
        version: Grows when the tables change.
        statements: What makes the tables, separated by a semicolon and a line feed.
    """

    application_id: int
    version: int
    statements: str


def open_database(path: Path, schema: Schema, *, name: str, locking: Locking = Locking.EXCLUSIVE) -> sqlite3.Connection:
    """Open a database, or make it; mode 600.

    Args:
        path: The file. No other process may use it meanwhile.
        schema: Its tables.
        name: What to call the database in errors.
        locking: Who else may use it.

    Returns:
        A connection without implicit transactions, which threads may share under a lock of the caller's.

    Raises:
        ConfigurationError: It is another program's, or of another version.
        sqlite3.Error: It cannot be used; the caller translates it.
    """
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        connection.execute(f"PRAGMA locking_mode = {locking.value}")
        _prepare(connection, schema, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, schema: Schema, name: str) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN EXCLUSIVE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        for statement in filter(str.strip, schema.statements.split(";\n")):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.application_id}")
        connection.execute(f"PRAGMA user_version = {schema.version}")
    elif (version, application) != (schema.version, schema.application_id):
        raise ConfigurationError(
            f"{name} has schema version {version}, this program knows {schema.version}",
            action="Start the program's version that wrote it.",
        )
    connection.execute("COMMIT")
