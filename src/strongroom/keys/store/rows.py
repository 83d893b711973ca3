"""Authenticated rows: what a database keeps of a record, bound to its place.

A table of such rows has key columns, `public` (the record's canonical JSON) and `sealed` (an authenticated encryption
of the record's secret, empty where it has none). The encryption's context is the table's name, the key columns and the
public text, so that an edited row, or one that was moved to another key or table, does not open any more. A column
`entry` counts the order in which rows came and is not bound.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from pydantic import ValidationError

from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import ConflictError, FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.wire.model import Message

ROWS_VERSION: Final = 1
_NO_SECRET: Final = SecretBytes(b"")
_KEPT: Final = ("public", "sealed")
_UNBOUND: Final = frozenset({*_KEPT, "entry"})

_WITHOUT_SECRET: Final = len(aead.encrypt(SecretBytes(bytes(32)), b"", context=b""))
"""The length of an encryption of nothing."""
_REMEMBERED: Final = 4096
_REMEMBERED_CHARACTERS: Final = 4096
_REMEMBERED_LONG: Final = 128
_REMEMBERED_LONG_CHARACTERS: Final = 64 << 10
"""Of long rows, which hold evidence or many names, only few are remembered: some megabytes at most."""

_M = TypeVar("_M", bound=Message)
_Key: TypeAlias = tuple[tuple[str, Any], ...]


class Cursor(Protocol):
    """What a statement answered."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    @property
    def description(self) -> Any:  # noqa: ANN401 - the database library's own form (PEP 249)
        """The columns, each a sequence that begins with its name."""

    def fetchone(self) -> Any:  # noqa: ANN401 - a row, as PEP 249 has it
        """Return the next row, or None."""

    def fetchall(self) -> Sequence[Any]:
        """Return the rows that are left."""


class Connection(Protocol):
    """A database connection, as far as rows need it; marks for values are question marks."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Cursor:
        """Run one statement."""


class RowOpener:
    """Opens rows. What a row without a secret says is remembered for these very bytes, so that it is computed once.

    A row with a secret is opened at each use, and its secret is not kept; only what its public text says is remembered,
    by that text. Whether the row is the one that was stored is asked before, each time.

    Args:
        row_key: Authenticates and encrypts rows.
    """

    def __init__(self, row_key: SecretBytes) -> None:
        self.row_key = row_key
        self._short = functools.lru_cache(maxsize=_REMEMBERED)(self._opened)
        self._long = functools.lru_cache(maxsize=_REMEMBERED_LONG)(self._opened)

    def remembered(self, table: str, key: _Key, public: str, sealed: bytes, kind: type[Message]) -> Message:
        """Return what a row without a secret says.

        Raises:
            IntegrityError: The row is not what was stored.
        """
        if len(public) <= _REMEMBERED_CHARACTERS:
            return self._short(table, key, public, sealed, kind)
        if len(public) <= _REMEMBERED_LONG_CHARACTERS:
            return self._long(table, key, public, sealed, kind)
        return self._opened(table, key, public, sealed, kind)

    def open(self, table: str, key: _Key, public: str, sealed: bytes) -> SecretBytes:
        """Return a row's secret.

        Raises:
            IntegrityError: The row is not what was stored.
        """
        try:
            return aead.decrypt(self.row_key, sealed, context=_context(table, dict(key), public))
        except (IntegrityError, FormatError) as error:
            raise edited(f"an entry in {table} is not what was stored") from error

    def _opened(self, table: str, key: _Key, public: str, sealed: bytes, kind: type[Message]) -> Message:
        self.open(table, key, public, sealed)
        return _read(table, public, kind)


class Rows:
    """Authenticated rows of one transaction. Names of tables and columns are the program's own, never a caller's."""

    def __init__(self, connection: Connection, *, opener: RowOpener) -> None:
        self._connection = connection
        self._opener = opener
        self._found: dict[tuple[object, ...], tuple[Message, SecretBytes] | None] = {}

    def insert(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes | None = None) -> None:
        """Store a new row.

        Args:
            table: The table.
            key: Every key column with its value.
            record: What is kept in the open, authenticated.
            secret: What is kept encrypted.

        Raises:
            ConflictError: There is a row with this key, or with another value that has to be unique.
        """
        self._found.clear()
        public, sealed = self._seal(table, key, record, secret)
        columns = ", ".join([*key, *_KEPT])
        marks = ", ".join("?" * (len(key) + len(_KEPT)))
        # A refused row must not end the transaction, in which its refusal may still be logged: no error, but a count.
        done = self._connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING",  # noqa: S608 - names of our own
            (*key.values(), public, sealed),
        )
        if done.rowcount != 1:
            raise ConflictError(f"there is such an entry in {table} already")

    def update(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes | None = None) -> None:
        """Replace a row. Without a secret it has none afterwards.

        Raises:
            IntegrityError: There is no such row (any more): callers read it before in the same transaction.
        """
        self._found.clear()
        public, sealed = self._seal(table, key, record, secret)
        done = self._connection.execute(
            f"UPDATE {table} SET public = ?, sealed = ? WHERE {_equal(key)}",  # noqa: S608 - names of our own
            (public, sealed, *key.values()),
        )
        if done.rowcount != 1:
            raise edited(f"an entry in {table} is gone")

    def delete(self, table: str, key: Mapping[str, Json]) -> None:
        """Delete a row.

        Raises:
            IntegrityError: There is no such row (any more): callers read it before in the same transaction.
        """
        self._found.clear()
        done = self._connection.execute(
            f"DELETE FROM {table} WHERE {_equal(key)}",  # noqa: S608 - names of our own
            tuple(key.values()),
        )
        if done.rowcount != 1:
            raise edited(f"an entry in {table} is gone")

    def find(self, table: str, key: Mapping[str, Json], kind: type[_M]) -> tuple[_M, SecretBytes] | None:
        """Return a row's record and secret; None where there is no such row.

        Args:
            table: The table.
            key: Columns with values that together name one row at most.
            kind: What the record is.

        Raises:
            IntegrityError: The row is not what was stored.
        """
        return self.first(table, key, kind)

    def first(
        self, table: str, where: Mapping[str, Json], kind: type[_M], order_by: Sequence[str] = ()
    ) -> tuple[_M, SecretBytes] | None:
        """Return the first row that `select` would; None where there is none.

        What was found, and that nothing was, is not read again until this transaction writes: nobody else's writing
        comes between.

        Raises:
            IntegrityError: The row is not what was stored.
        """
        place = (table, *where.items(), *order_by, kind)
        if place in self._found:
            kept = self._found[place]
            if kept is None:
                return None
            record, secret = kept
            assert isinstance(record, kind)
            return record, secret
        found = next(self.select(table, where, kind, order_by, limit=1), None)
        self._found[place] = found
        return found

    def count(self, table: str) -> int:
        """Return how many rows a table has; none of them is opened."""
        (found,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - names of our own
        return int(found)

    def select(
        self,
        table: str,
        where: Mapping[str, Json],
        kind: type[_M],
        order_by: Sequence[str] = (),
        *,
        after: tuple[str, Json] | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[_M, SecretBytes]]:
        """Return records and secrets of the rows that have these values.

        Args:
            table: The table.
            where: Columns with the values that they must have; none for all rows.
            kind: What the records are.
            order_by: Columns; one that ends with " DESC" runs downwards.
            after: A column, and the value above which rows are returned.
            limit: The largest number of rows.

        Raises:
            IntegrityError: A row is not what was stored.
        """
        statement = _select(
            table, tuple(where), tuple(order_by), None if after is None else after[0], limit is not None
        )
        values = [*where.values(), *(() if after is None else after[1:]), *(() if limit is None else (limit,))]
        cursor = self._connection.execute(statement, tuple(values))
        columns = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            yield self._open(table, dict(zip(columns, row, strict=True)), kind)

    def _seal(
        self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes | None
    ) -> tuple[str, bytes]:
        public = record.to_json().decode("utf-8")
        opened = (secret or _NO_SECRET).reveal()
        return public, aead.encrypt(self._opener.row_key, opened, context=_context(table, key, public))

    def open(self, table: str, row: Mapping[str, Any]) -> SecretBytes:
        """Return a row's secret: it is what was stored, in its place.

        Args:
            table: The table.
            row: All of its columns with their values.

        Raises:
            IntegrityError: It is not.
        """
        return self._opener.open(table, _key_of(row), row["public"], row["sealed"])

    def _open(self, table: str, row: Mapping[str, Any], kind: type[_M]) -> tuple[_M, SecretBytes]:
        key, public, sealed = _key_of(row), row["public"], bytes(row["sealed"])
        if len(sealed) == _WITHOUT_SECRET:
            record = self._opener.remembered(table, key, public, sealed, kind)
            assert isinstance(record, kind)
            return record, _NO_SECRET
        secret = self._opener.open(table, key, public, sealed)
        if len(public) > _REMEMBERED_CHARACTERS:
            return _read(table, public, kind), secret
        said = _said(table, public, kind)
        assert isinstance(said, kind)
        return said, secret


@functools.cache
def _select(
    table: str,
    where: tuple[str, ...],
    order_by: tuple[str, ...],
    after: str | None,
    limited: bool,  # noqa: FBT001
) -> str:
    """Return the text of a query; there are as many as there are places in the program that ask."""
    conditions = [*(f"{column} = ?" for column in where), *(() if after is None else (f"{after} > ?",))]
    statement = f"SELECT * FROM {table}"  # noqa: S608 - names of our own
    if conditions:
        statement += " WHERE " + " AND ".join(conditions)
    if order_by:
        statement += " ORDER BY " + ", ".join(order_by)
    return statement + (" LIMIT ?" if limited else "")


def _key_of(row: Mapping[str, Any]) -> _Key:
    return tuple((column, value) for column, value in row.items() if column not in _UNBOUND)


def _read(table: str, public: str, kind: type[_M]) -> _M:
    """Read a record; what is authenticated is what `to_json` wrote."""
    try:
        return kind.model_validate_json(public)
    except ValidationError as error:
        raise edited(f"an entry in {table} is not what was stored") from error


@functools.lru_cache(maxsize=_REMEMBERED)
def _said(table: str, public: str, kind: type[Message]) -> Message:
    """Return what the public text of an opened row says; the text alone decides."""
    return _read(table, public, kind)


def _equal(key: Mapping[str, Json]) -> str:
    return " AND ".join(f"{column} = ?" for column in key)


def _context(table: str, key: Mapping[str, Json], public: str) -> bytes:
    return canonical_json({"version": ROWS_VERSION, "table": table, "key": key, "public": public})


def edited(what: str) -> IntegrityError:
    """Return the error of a database that something else than the key service changed."""
    return IntegrityError(
        f"the key service's database was changed by something else: {what}",
        action="Restore the newest copy of the state folder; nothing is released until then.",
    )
