"""What the store needs of a database."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from strongroom.keys.store.rows import Connection, Cursor


class Writer(Protocol):
    """The one connection that writes. Its caller uses it from one thread at a time.

    A transaction is open from `begin` to `commit` or `roll_back`. Within it, one savepoint at a time.
    """

    @property
    def is_open(self) -> bool:
        """Whether a transaction is open; a database may have ended it itself, on a full disk."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Cursor:
        """Run one statement."""

    def begin(self) -> None:
        """Begin a transaction that nobody else's write comes between, in this process or another."""

    def save(self) -> None:
        """Set the savepoint."""

    def release(self) -> None:
        """Forget the savepoint: what was done since stands with the rest of the transaction."""

    def go_back(self) -> None:
        """Undo what was done since the savepoint, and forget it."""

    def commit(self) -> None:
        """End the transaction; on return it is on the disk."""

    def roll_back(self) -> None:
        """Undo the transaction, if one is open; does not fail."""


class Readable(Protocol):
    """A database that can be read while somebody else writes it."""

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Read, in any thread, what was committed at one moment; nobody's writing is waited for."""

    def translated(self) -> AbstractContextManager[None]:
        """Turn the database library's exceptions into ours.

        Raises:
            ConfigurationError: The database cannot be used: locked, read-only, no room left.
            UnavailableError: Its server does not answer.
            IntegrityError: It is damaged.
        """

    def tables(self) -> Sequence[str]:
        """Return the names of all tables, in the order in which they were made."""

    def primary_key(self, table: str) -> Sequence[str]:
        """Return the columns of a table's primary key, in its order."""

    def close(self) -> None:
        """Close every connection."""


class Database(Readable, Protocol):
    """An open database."""

    @property
    def writer(self) -> Writer:
        """The connection that writes."""

    def scrub(self) -> None:
        """Remove what was deleted from the database's files, as far as it can; between transactions."""
