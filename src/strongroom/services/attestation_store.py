"""The attestation service's state: every change one transaction, on the disk when it returns.

It is in an SQLite file, which one process uses, or in a PostgreSQL database, which several replicas share.

What is kept: the policy tokens, the policy certificates, the public history of the keys that sign results, and the
newest signed time that was seen. No secret: private keys are files of their own (`identity`).
"""

import contextlib
import sqlite3
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from strongroom.base.database import Schema, open_database
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    UnavailableError,
)
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.keys.store import databases
from strongroom.keys.store.databases import Database
from strongroom.keys.store.rows import Connection

_SCHEMA: Final = Schema(
    application_id=0x53747261,  # "Stra"
    version=1,
    statements="""
CREATE TABLE policies (type TEXT PRIMARY KEY, jws TEXT NOT NULL) STRICT;
CREATE TABLE policy_certificates (position INTEGER PRIMARY KEY, certificate BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE signing_keys (
  number INTEGER PRIMARY KEY, kid TEXT NOT NULL UNIQUE, chain TEXT NOT NULL,
  made_at INTEGER NOT NULL, last_expiry INTEGER NOT NULL
) STRICT;
CREATE TABLE times (name TEXT PRIMARY KEY, microseconds INTEGER NOT NULL) STRICT;
""",
)
_NAME: Final = "the attestation service's database"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeyRecord:
    """What is public of a key that signs, or signed, results.

    Attributes:
        kid: SHA-256 of its SubjectPublicKeyInfo.
        chain_der: Its certificate, then the identity's.
        made_at: When it began to sign, seconds since 1970.
        last_expiry: No token it signed lives longer, seconds since 1970.
    """

    kid: str
    chain_der: tuple[bytes, ...]
    made_at: int
    last_expiry: int


class _Place(Protocol):
    """Where the tables are. What goes wrong is an `UnavailableError`."""

    is_shared: bool
    """Whether other processes use them as well."""

    def transaction(self) -> AbstractContextManager[Connection]:
        """Run a block as one transaction, alone: all of its changes are kept, or none."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Run a block that only reads, on what was committed at one moment."""

    def close(self) -> None:
        """Close what is open."""


class _File:
    """An SQLite file that no other process uses."""

    is_shared = False

    def __init__(self, connection: sqlite3.Connection, *, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._file = _file_id(path)
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """Run a block as one transaction (see `_Place`)."""
        with self._lock, _translated():
            if _file_id(self.path) != self._file:
                # SQLite would go on writing into a file that nobody finds again.
                raise _gone("its file is not where it was")
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # SQLite may have rolled back itself, on a full disk
                    self.connection.execute("ROLLBACK")
                raise

    def reading(self) -> AbstractContextManager[Connection]:
        """Run a block that only reads (see `_Place`)."""
        return self.transaction()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self.connection.close()


class _Server:
    """A PostgreSQL database that replicas share."""

    is_shared = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def transaction(self) -> Generator[Connection, None, None]:
        """Run a block as one transaction (see `_Place`); replicas take turns."""
        writer = self._database.writer
        with self._lock, _unavailable(), self._database.translated():
            writer.begin()
            try:
                yield writer
                writer.commit()
            finally:
                writer.roll_back()

    @contextlib.contextmanager
    def reading(self) -> Generator[Connection, None, None]:
        """Run a block that only reads (see `_Place`)."""
        with _unavailable(), self._database.translated(), self._database.snapshot() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._database.close()


class AttestationStore:
    """The database. Threads may share it; use `open_attestation_store`.

    Every method raises `UnavailableError` when the storage is gone, full, locked or damaged; nothing was changed then.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        self.newest_signed_time: Final = SignedTimeCell(self)

    @property
    def is_shared(self) -> bool:
        """Whether other replicas change it as well."""
        return self._place.is_shared

    def check(self) -> None:
        """Read from the database, to see that it can be read."""
        with self._place.reading() as connection:
            connection.execute("SELECT count(*) FROM policies").fetchone()

    def policies(self) -> dict[str, str]:
        """Return the stored policy tokens by attestation type."""
        with self._place.reading() as connection:
            return dict(connection.execute("SELECT type, jws FROM policies").fetchall())

    def put_policy(self, attestation_type: str, jws: str) -> None:
        """Store a policy token in the place of the one that is there."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO policies (type, jws) VALUES (?, ?) ON CONFLICT (type) DO UPDATE SET jws = excluded.jws",
                (attestation_type, jws),
            )

    def remove_policy(self, attestation_type: str) -> None:
        """Remove a policy token, if there is one."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM policies WHERE type = ?", (attestation_type,))

    def policy_certificates(self) -> tuple[bytes, ...]:
        """Return the registered policy certificates, DER, the oldest first."""
        with self._place.reading() as connection:
            rows = connection.execute("SELECT certificate FROM policy_certificates ORDER BY position").fetchall()
        return tuple(bytes(certificate) for (certificate,) in rows)

    def add_policy_certificate(self, certificate_der: bytes, *, limit: int) -> None:
        """Register a policy certificate; nothing changes if it is registered already.

        Raises:
            ConflictError: There are `limit` certificates.
        """
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO policy_certificates (position, certificate)"
                " VALUES ((SELECT coalesce(max(position), 0) + 1 FROM policy_certificates), ?)"
                " ON CONFLICT (certificate) DO NOTHING",
                (certificate_der,),
            )
            (count,) = connection.execute("SELECT count(*) FROM policy_certificates").fetchone()
            if count > limit:
                raise ConflictError(f"there are {limit} policy certificates", action="remove one first")

    def remove_policy_certificate(self, certificate_der: bytes) -> None:
        """Remove a policy certificate, if it is there.

        Raises:
            ConflictError: It is the last one.
        """
        with self.transaction() as connection:
            gone = connection.execute("DELETE FROM policy_certificates WHERE certificate = ?", (certificate_der,))
            (count,) = connection.execute("SELECT count(*) FROM policy_certificates").fetchone()
            if gone.rowcount and not count:
                raise ConflictError(
                    "the last policy certificate cannot be removed", action="add the one that replaces it first"
                )

    def signing_keys(self) -> tuple[SigningKeyRecord, ...]:
        """Return the history of signing keys, the newest first."""
        with self._place.reading() as connection:
            rows = connection.execute(
                "SELECT kid, chain, made_at, last_expiry FROM signing_keys ORDER BY number DESC"
            ).fetchall()
        try:
            return tuple(
                SigningKeyRecord(
                    kid=kid, chain_der=parse_pem_chain(chain.encode()), made_at=made_at, last_expiry=last_expiry
                )
                for kid, chain, made_at, last_expiry in rows
            )
        except FormatError as error:
            raise _gone("a signing key's certificate is not readable") from error

    def put_signing_key(self, record: SigningKeyRecord, *, forget_before: int) -> None:
        """Make a key the newest, or renew what is kept of the newest.

        Args:
            record: The key.
            forget_before: Keys whose last token expired before this time are forgotten, seconds since 1970.
        """
        chain = "".join(map(to_pem, record.chain_der))
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO signing_keys (number, kid, chain, made_at, last_expiry)"
                " VALUES ((SELECT coalesce(max(number), 0) + 1 FROM signing_keys), ?, ?, ?, ?)"
                " ON CONFLICT (kid) DO UPDATE SET number = excluded.number, chain = excluded.chain,"
                " last_expiry = CASE WHEN signing_keys.last_expiry > excluded.last_expiry"
                " THEN signing_keys.last_expiry ELSE excluded.last_expiry END",
                (record.kid, chain, record.made_at, record.last_expiry),
            )
            connection.execute(
                "DELETE FROM signing_keys WHERE last_expiry < ? AND kid != ?", (forget_before, record.kid)
            )

    def extend_signing_key(self, kid: str, *, last_expiry: int) -> None:
        """Note, before it signs, that a key's tokens may live until this time, seconds since 1970."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE signing_keys SET last_expiry = ? WHERE kid = ? AND last_expiry < ?",
                (last_expiry, kid, last_expiry),
            )

    def transaction(self) -> AbstractContextManager[Connection]:
        """Run a block as one transaction: all of its changes are kept, or none."""
        return self._place.transaction()

    def reading(self) -> AbstractContextManager[Connection]:
        """Run a block that only reads, on what was committed at one moment."""
        return self._place.reading()

    def close(self) -> None:
        """Close the database."""
        self._place.close()


class SignedTimeCell:
    """The newest time that a signed document named (a list's or a TCB info's issue date): it never goes back."""

    def __init__(self, store: AttestationStore) -> None:
        self._store = store
        self._known: datetime | None = None

    def get(self) -> datetime | None:
        """Return the newest time seen (UTC), or None."""
        if self._known is None:
            with self._store.reading() as connection:
                row = connection.execute("SELECT microseconds FROM times WHERE name = 'newest-signed'").fetchone()
            self._known = None if row is None else _EPOCH + timedelta(microseconds=row[0])
        return self._known

    def advance(self, moment: datetime) -> datetime:
        """Note a time, and return the newest one seen.

        Args:
            moment: With its time zone; an older one than the newest changes nothing.
        """
        known = self.get()
        if known is not None and moment <= known:
            return known
        with self._store.transaction() as connection:
            connection.execute(
                "INSERT INTO times (name, microseconds) VALUES ('newest-signed', ?)"
                " ON CONFLICT (name) DO UPDATE SET microseconds = excluded.microseconds"
                " WHERE times.microseconds < excluded.microseconds",
                ((moment - _EPOCH) // timedelta(microseconds=1),),
            )
        self._known = None  # another thread may have noted a newer one
        return self.get() or moment


def open_attestation_store(place: Path | str) -> AttestationStore:
    """Open the attestation service's database, or make it.

    Args:
        place: A file, which no other process may use meanwhile; or a PostgreSQL URL, which replicas share.

    Raises:
        ConfigurationError: Another process uses it, it is of another version, or it cannot be used.
        IntegrityError: It is damaged.
        UnavailableError: Its server does not answer.
    """
    if not isinstance(place, Path):
        return AttestationStore(_Server(databases.open_database(place, _SCHEMA, name=_NAME)))
    try:
        return AttestationStore(_File(open_database(place, _SCHEMA, name=_NAME), path=place))
    except (sqlite3.OperationalError, OSError) as error:
        raise ConfigurationError(
            f"{_NAME} cannot be opened: {error}",
            action="Check that no other attestation service uses it, and that its disk is writable and not full.",
        ) from error
    except sqlite3.DatabaseError as error:
        raise IntegrityError(
            f"{_NAME} is damaged: {error}", action="Restore the newest copy of the state folder."
        ) from error


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _gone(why: str) -> UnavailableError:
    return UnavailableError(
        f"the attestation service's storage is gone: {why}",
        action="Look at the service's disk and state folder, then start the service again.",
    )


@contextlib.contextmanager
def _unavailable() -> Generator[None, None, None]:
    """Whatever is wrong with the server's database: nothing that needs it can be done now."""
    try:
        yield
    except (ConfigurationError, IntegrityError) as error:
        raise _gone(error.message) from error


@contextlib.contextmanager
def _translated() -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, UnicodeError) as error:
        raise _gone(str(error)) from error
