"""Which database a setting names."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Final

from strongroom.base.database import Schema
from strongroom.base.errors import ConfigurationError
from strongroom.keys.store.databases.seam import Database, Readable
from strongroom.keys.store.databases.sqlite import SqliteDatabase, SqliteReaders

_POSTGRES: Final = ("postgresql://", "postgres://")
_NAME: Final = "the key service's database"


def is_postgres_url(place: str) -> bool:
    """Return whether a place is PostgreSQL's."""
    return place.startswith(_POSTGRES)


def open_database(place: Path | str, schema: Schema, *, name: str = _NAME) -> Database:
    """Open a database, or make its tables.

    Args:
        place: A file's path, or a PostgreSQL URL.
        schema: Its tables.
        name: What to call a PostgreSQL database in errors.

    Raises:
        ConfigurationError: It cannot be used, or is of another version; or the PostgreSQL client is not installed.
        UnavailableError: Its server does not answer.
        IntegrityError: It is damaged.
    """
    if isinstance(place, Path):
        return SqliteDatabase(place, schema)
    opened: Database = _postgres(place).PostgresDatabase(place, schema, name=name)
    return opened


def open_for_reading(place: Path | str) -> Readable:
    """Open a database to read it while a key service may be using it.

    Args:
        place: A file's path, or a PostgreSQL URL.

    Raises:
        ConfigurationError: There is none, or the PostgreSQL client is not installed.
    """
    if isinstance(place, Path):
        if not place.exists():
            raise ConfigurationError(f"there is no database {place}", action="Name the service's own configuration.")
        return SqliteReaders(place)
    opened: Readable = _postgres(place).PostgresReaders(place, name=_NAME)
    return opened


def _postgres(place: str) -> ModuleType:
    if not is_postgres_url(place):
        raise ConfigurationError(
            "state_database is no address of a database",
            action="Write it as postgresql://HOST/DATABASE, or leave it out.",
        )
    try:
        return importlib.import_module("strongroom.keys.store.databases.postgres")
    except ImportError as error:
        raise ConfigurationError(
            "PostgreSQL's client library cannot be loaded", action="Install it: pip install 'strongroom[postgres]'"
        ) from error
