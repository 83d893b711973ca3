"""The key service's state: SQLite, one writer, every change one transaction together with the log leaf that records it.

What an edit of the file would change is bound: each row is an authenticated encryption whose context is the
row's table, key and public text, under a store key that the master key wraps. What was counted, revoked,
opened and closed is read from the leaves of the log, never from a column; the leaves hang together in a Merkle tree
whose signed checkpoint is compared when the store opens. A whole older copy of the file cannot be told from the
newest one here; clients tell it, because tickets name the last checkpoint they saw.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.crypto.derive import hkdf_sha256
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.records import (
    ApprovalRecord,
    DatasetRecord,
    KeyRecord,
    MemberRecord,
    RunRecordRow,
    RunSecretsRow,
    VersionRecord,
)
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, sign_checkpoint
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.wire.key_service import LogProof
from strongroom.wire.model import Message

SCHEMA_VERSION: Final = 1
_APPLICATION_ID: Final = 0x5374726D  # "Strm": whose database this is
_STORE_KEY_CONTEXT: Final = b"strongroom/1 store key"
_ROWS_INFO: Final = b"strongroom/1 store rows"
_NONCES_INFO: Final = b"strongroom/1 nonces"
_NO_SECRET: Final = SecretBytes(b"")

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE keys (
  name TEXT NOT NULL, version TEXT NOT NULL UNIQUE, number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (name, number)
) STRICT;
CREATE TABLE datasets (name TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE versions (
  dataset TEXT NOT NULL REFERENCES datasets (name), number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (dataset, number)
) STRICT;
CREATE TABLE approvals (
  id TEXT PRIMARY KEY, dataset TEXT NOT NULL REFERENCES datasets (name), application TEXT NOT NULL,
  public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX approvals_by_application ON approvals (application, dataset);
CREATE TABLE runs (run TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE members (
  run TEXT NOT NULL REFERENCES runs (run), number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (run, number)
) STRICT;
CREATE TABLE nonces (nonce TEXT PRIMARY KEY, expires_at INTEGER NOT NULL) STRICT;
CREATE TABLE leaves (
  position INTEGER PRIMARY KEY, data TEXT NOT NULL,
  event TEXT AS (json_extract(data, '$.event')) VIRTUAL,
  run TEXT AS (json_extract(data, '$.run')) VIRTUAL,
  number INTEGER AS (json_extract(data, '$.number')) VIRTUAL
) STRICT;
CREATE INDEX leaves_by_event ON leaves (event);
CREATE INDEX leaves_by_run ON leaves (run, number);
"""

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One version of a key with its private part: PKCS#8 DER, or the bytes of a symmetric key."""

    record: KeyRecord
    material: SecretBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run with its secrets."""

    record: RunRecordRow
    secrets: RunSecretsRow


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSigner:
    """Who signs the log's checkpoints.

    Attributes:
        origin: The log's name.
        key: An Ed25519 key.
    """

    origin: str
    key: SigningKey


class Store:
    """The key service's database. Threads may share it; one transaction runs at a time.

    Use `open_store`.
    """

    def __init__(self, connection: sqlite3.Connection, *, store_key: SecretBytes, signer: LogSigner) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self._row_key = hkdf_sha256(store_key, salt=b"", info=_ROWS_INFO)
        self._signer = signer
        self.nonce_key: Final = hkdf_sha256(store_key, salt=b"", info=_NONCES_INFO)
        self._tree, self._checkpoint = self._read_log()

    @contextlib.contextmanager
    def transaction(self) -> Generator["Transaction", None, None]:
        """Run a block as one transaction: all of its changes are kept, or none.

        Raises:
            IntegrityError: The database is damaged, or was edited.
            ConfigurationError: It cannot be written (locked, read-only, disk full).
        """
        with self._lock, _translated():
            self._connection.execute("BEGIN IMMEDIATE")
            transaction = Transaction(self._connection, row_key=self._row_key, tree=self._tree)
            try:
                yield transaction
                checkpoint = self._sign_new_leaves(transaction)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite may have rolled back itself, on a full disk
                    self._connection.execute("ROLLBACK")
                if transaction.appended:
                    self._tree = MerkleTree(_leaf_hashes(self._connection))
                raise
            self._checkpoint = checkpoint

    def checkpoint(self) -> str:
        """Return the log's newest signed checkpoint."""
        with self._lock:
            return self._checkpoint

    def prove(self, positions: Iterable[int]) -> tuple[LogProof, ...]:
        """Return leaves with their proofs under the newest checkpoint.

        Raises:
            NotFoundError: The log has no such leaf.
        """
        with self._lock, _translated():
            return tuple(self._prove(position) for position in positions)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return an inclusion proof (RFC 9162, section 2.1.3)."""
        with self._lock:
            return self._tree.inclusion_proof(index, size)

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return a consistency proof (RFC 9162, section 2.1.4)."""
        with self._lock:
            return self._tree.consistency_proof(old_size, new_size)

    def demand_extends(self, note: str) -> None:
        """Check that the log still holds everything it held at an earlier checkpoint of its own.

        Raises:
            FormatError: Not a checkpoint.
            VerificationError: Not one of this log's.
            RefusedError: The log was rolled back since.
        """
        seen = parse_and_verify_checkpoint(note, origin=self._signer.origin, key=self._signer.key.verifying_key)
        with self._lock:
            extends = seen.size <= self._tree.size and self._tree.root(seen.size) == seen.root
        if not extends:
            raise RefusedError(
                "the key service's log is older than one its clients have seen",
                action="The key service's state was rolled back: restore the newest copy before anything is released.",
            )

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def _prove(self, position: int) -> LogProof:
        row = self._connection.execute("SELECT data FROM leaves WHERE position = ?", (position,)).fetchone()
        if row is None:
            raise NotFoundError("the log has no such entry")
        path = self._tree.inclusion_proof(position, self._tree.size)
        return LogProof(
            leaf=row[0], index=position, checkpoint=self._checkpoint, path=tuple(node.hex() for node in path)
        )

    def _sign_new_leaves(self, transaction: "Transaction") -> str:
        if not transaction.appended:
            return self._checkpoint
        now = Checkpoint(origin=self._signer.origin, size=self._tree.size, root=self._tree.root())
        note = sign_checkpoint(now, key=self._signer.key)
        self._connection.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('checkpoint', ?)", (note.encode("utf-8"),)
        )
        return note

    def _read_log(self) -> tuple[MerkleTree, str]:
        """Return the log's tree and checkpoint.

        1. The checkpoint is signed by this service's own key, and is of exactly the leaves that are there.
        2. Every dataset has as many versions as the log says.
        """
        with _translated():
            tree = MerkleTree(_leaf_hashes(self._connection))
            row = self._connection.execute("SELECT value FROM meta WHERE name = 'checkpoint'").fetchone()
            if row is None and tree.size == 0:
                empty = Checkpoint(origin=self._signer.origin, size=0, root=tree.root())
                return tree, sign_checkpoint(empty, key=self._signer.key)
            note = bytes(row[0]).decode("utf-8", errors="replace") if row else ""
            try:
                signed = parse_and_verify_checkpoint(
                    note, origin=self._signer.origin, key=self._signer.key.verifying_key
                )
            except (FormatError, VerificationError) as error:
                raise _edited("the log's checkpoint is not this service's") from error
            if (signed.size, signed.root) != (tree.size, tree.root()):
                raise _edited("the log's leaves are not those of its checkpoint")
            counts = self._connection.execute(
                "SELECT name, (SELECT max(number) FROM versions WHERE dataset = name),"
                " (SELECT count(*) FROM leaves WHERE event = 'dataset-version'"
                "  AND json_extract(data, '$.dataset') = name) FROM datasets"
            )
            if any((newest or 0) != logged for _, newest, logged in counts):
                raise _edited("a dataset has other versions than the log says")
            return tree, note


@dataclass(slots=True, kw_only=True)
class _Log:
    tree: MerkleTree
    appended: bool = field(default=False)


class Transaction:
    """The reads and writes of one transaction."""

    def __init__(self, connection: sqlite3.Connection, *, row_key: SecretBytes, tree: MerkleTree) -> None:
        self._connection = connection
        self._row_key = row_key
        self._log = _Log(tree=tree)

    @property
    def appended(self) -> bool:
        """Whether leaves were appended."""
        return self._log.appended

    # --- the log ------------------------------------------------------------------------------------------------

    def append_leaf(self, event: str, *, now: datetime, what: Mapping[str, Json]) -> int:
        """Append a leaf that belongs to no run, or only mentions one.

        Returns:
            Its position.
        """
        data = canonical_json({"version": 1, "event": event, "time": to_rfc3339(now), **what})
        position = self._log.tree.append(leaf_hash(data))
        self._log.appended = True
        self._connection.execute("INSERT INTO leaves (position, data) VALUES (?, ?)", (position, data.decode("utf-8")))
        return position

    def append_run_leaf(self, event: str, *, run: str, now: datetime, what: Mapping[str, Json]) -> int:
        """Append the next numbered leaf of a run.

        Returns:
            Its position.
        """
        number = len(self.run_leaves(run))
        return self.append_leaf(event, now=now, what={"run": run, "number": number, **what})

    def run_leaves(self, run: str) -> tuple[int, ...]:
        """Return the positions of a run's numbered leaves, in order."""
        rows = self._connection.execute(
            "SELECT position FROM leaves WHERE run = ? AND number IS NOT NULL ORDER BY number", (run,)
        )
        return tuple(position for (position,) in rows)

    def leaves(self, start: int, end: int) -> tuple[str, ...]:
        """Return the text of the leaves from position `start` up to before `end`."""
        rows = self._connection.execute(
            "SELECT data FROM leaves WHERE position >= ? AND position < ? ORDER BY position", (start, end)
        )
        return tuple(data for (data,) in rows)

    def outcome(self, run: str) -> str | None:
        """Return how a run ended, as the log says; None while it is open."""
        row = self._connection.execute(
            "SELECT json_extract(data, '$.outcome') FROM leaves WHERE run = ? AND event = 'run-closed'", (run,)
        ).fetchone()
        return None if row is None else str(row[0])

    def is_revoked(self, approval: str) -> bool:
        """Return whether the log says that an approval was revoked."""
        return self._logged(
            "SELECT 1 FROM leaves WHERE event = 'revoked' AND json_extract(data, '$.approval') = ?", approval
        )

    def runs_opened(self, approval: str) -> int:
        """Return how many runs were opened under an approval: the count of the leaves that say so."""
        row = self._connection.execute(
            "SELECT count(*) FROM leaves, json_each(leaves.data, '$.approvals') AS used"
            " WHERE leaves.event = 'run-opened' AND used.value = ?",
            (approval,),
        ).fetchone()
        return int(row[0])

    def _logged(self, query: str, name: str) -> bool:
        return self._connection.execute(query + " LIMIT 1", (name,)).fetchone() is not None

    # --- nonces -------------------------------------------------------------------------------------------------

    def use_nonce(self, nonce: str, *, expires_at: int, now: datetime) -> None:
        """Record that a nonce was used.

        Raises:
            RefusedError: It was used before.
        """
        self._connection.execute("DELETE FROM nonces WHERE expires_at < ?", (int(now.timestamp()),))
        try:
            self._connection.execute("INSERT INTO nonces (nonce, expires_at) VALUES (?, ?)", (nonce, expires_at))
        except sqlite3.IntegrityError as error:
            raise RefusedError("the nonce was used before", action="Ask for a new one and attest again.") from error

    # --- keys ---------------------------------------------------------------------------------------------------

    def add_key(self, record: KeyRecord, material: SecretBytes) -> None:
        """Store a new version of a key.

        Raises:
            ConflictError: The version exists.
        """
        self._insert("keys", _key_key(record), record, material)

    def update_key(self, record: KeyRecord, material: SecretBytes) -> None:
        """Replace what is kept of a version."""
        public, sealed = self._seal("keys", _key_key(record), record, material)
        self._connection.execute(
            "UPDATE keys SET public = ?, sealed = ? WHERE name = ? AND number = ?",
            (public, sealed, record.name, record.number),
        )

    def key(self, name: str, version: str | None = None) -> StoredKey:
        """Return a version of a key; the newest without a version.

        Raises:
            NotFoundError: There is no such key.
        """
        found = [stored for stored in self.key_versions(name) if version in {None, stored.record.version}]
        if not found:
            raise NotFoundError(f"a key {name}{'/' + version if version else ''} was not found in this key vault")
        return found[-1]

    def key_versions(self, name: str) -> tuple[StoredKey, ...]:
        """Return the versions of a key, oldest first."""
        rows = self._connection.execute(
            "SELECT name, version, number, public, sealed FROM keys WHERE name = ? ORDER BY number", (name,)
        )
        return tuple(self._stored_key(row) for row in rows)

    def newest_keys(self) -> tuple[StoredKey, ...]:
        """Return the newest version of every key, by name."""
        rows = self._connection.execute(
            "SELECT name, version, max(number), public, sealed FROM keys GROUP BY name ORDER BY name"
        )
        return tuple(self._stored_key(row) for row in rows)

    def _stored_key(self, row: tuple[Any, ...]) -> StoredKey:
        key = {"name": row[0], "version": row[1], "number": row[2]}
        record, material = self._open("keys", key, row[3], row[4], KeyRecord)
        return StoredKey(record=record, material=material)

    # --- datasets -----------------------------------------------------------------------------------------------

    def add_dataset(self, record: DatasetRecord) -> None:
        """Store a new dataset.

        Raises:
            ConflictError: It exists.
        """
        self._insert("datasets", {"name": record.name}, record)

    def dataset(self, name: str) -> DatasetRecord:
        """Return a dataset.

        Raises:
            NotFoundError: There is none of that name.
        """
        return self._one("datasets", {"name": name}, DatasetRecord, missing=f"there is no dataset {name}")

    def datasets(self) -> tuple[DatasetRecord, ...]:
        """Return every dataset, by name."""
        rows = self._connection.execute("SELECT name, public, sealed FROM datasets ORDER BY name")
        return tuple(
            self._open("datasets", {"name": name}, public, sealed, DatasetRecord)[0] for name, public, sealed in rows
        )

    def versions(self, dataset: str) -> tuple[VersionRecord, ...]:
        """Return a dataset's versions, oldest first."""
        rows = self._connection.execute(
            "SELECT number, public, sealed FROM versions WHERE dataset = ? ORDER BY number", (dataset,)
        )
        return tuple(
            self._open("versions", {"dataset": dataset, "number": number}, public, sealed, VersionRecord)[0]
            for number, public, sealed in rows
        )

    def version(self, dataset: str, number: int) -> VersionRecord:
        """Return one version of a dataset.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._one(
            "versions",
            {"dataset": dataset, "number": number},
            VersionRecord,
            missing=f"dataset {dataset} has no version {number}",
        )

    def head(self, dataset: str) -> int | None:
        """Return the number of a dataset's newest version; None before the first."""
        row = self._connection.execute("SELECT max(number) FROM versions WHERE dataset = ?", (dataset,)).fetchone()
        return None if row[0] is None else int(row[0])

    def add_version(self, record: VersionRecord, *, base: int | None) -> None:
        """Make a version a dataset's newest, if `base` still is (compare and swap).

        Raises:
            ConflictError: Another version came in between.
        """
        head = self.head(record.dataset)
        if head != base or record.number != (base or 0) + 1:
            raise ConflictError(
                f"dataset {record.dataset} is at version {head or 0}, not at {base or 0} any more",
                action="Run again on the newest version.",
            )
        self._insert("versions", {"dataset": record.dataset, "number": record.number}, record)

    # --- approvals ----------------------------------------------------------------------------------------------

    def add_approval(self, record: ApprovalRecord) -> None:
        """Store an approval.

        Raises:
            ConflictError: It is stored already.
        """
        self._insert("approvals", _approval_key(record), record)

    def approval(self, approval_id: str) -> ApprovalRecord:
        """Return an approval.

        Raises:
            NotFoundError: There is none of that id.
        """
        found = self._approvals("WHERE id = ?", (approval_id,))
        if not found:
            raise NotFoundError("there is no such approval")
        return found[0]

    def approvals(self) -> tuple[ApprovalRecord, ...]:
        """Return every approval, oldest first."""
        return self._approvals("", ())

    def approvals_for(self, dataset: str, application: str) -> tuple[ApprovalRecord, ...]:
        """Return the approvals of an application for a dataset, oldest first."""
        return self._approvals("WHERE dataset = ? AND application = ?", (dataset, application))

    def _approvals(self, where: str, values: tuple[str, ...]) -> tuple[ApprovalRecord, ...]:
        rows = self._connection.execute(
            f"SELECT id, dataset, application, public, sealed FROM approvals {where} ORDER BY rowid",  # noqa: S608 - fixed texts
            values,
        )
        return tuple(
            self._open("approvals", {"id": key, "dataset": of, "application": app}, public, sealed, ApprovalRecord)[0]
            for key, of, app, public, sealed in rows
        )

    # --- runs ---------------------------------------------------------------------------------------------------

    def demand_unopened(self, run: str) -> None:
        """Refuse a ticket whose run was opened before.

        Raises:
            ConflictError: It was.
        """
        if self._logged("SELECT 1 FROM leaves WHERE run = ? AND event = 'run-opened'", run):
            raise ConflictError(
                "the run ticket was used before", action="Submit again: every run needs a ticket of its own."
            )

    def add_run(self, record: RunRecordRow, secrets: RunSecretsRow) -> None:
        """Store a new run.

        Raises:
            ConflictError: A run was opened with this ticket before.
        """
        self.demand_unopened(record.run)
        self._insert("runs", {"run": record.run}, record, SecretBytes(secrets.to_json()))

    def run(self, run: str) -> StoredRun:
        """Return a run.

        Raises:
            NotFoundError: There is none.
            IntegrityError: The log says there is one, but it is gone.
        """
        row = self._connection.execute("SELECT public, sealed FROM runs WHERE run = ?", (run,)).fetchone()
        if row is None:
            if self._logged("SELECT 1 FROM leaves WHERE run = ? AND event = 'run-opened'", run):
                raise _edited("a run that the log names is gone")
            raise NotFoundError("there is no such run")
        record, secrets = self._open("runs", {"run": run}, row[0], row[1], RunRecordRow)
        return StoredRun(record=record, secrets=RunSecretsRow.from_json(secrets.reveal()))

    def runs(self) -> tuple[RunRecordRow, ...]:
        """Return every run, oldest first."""
        rows = self._connection.execute("SELECT run, public, sealed FROM runs ORDER BY rowid")
        return tuple(self._open("runs", {"run": run}, public, sealed, RunRecordRow)[0] for run, public, sealed in rows)

    def add_member(self, record: MemberRecord) -> None:
        """Store a member of a run."""
        self._insert("members", {"run": record.run, "number": record.number}, record)

    def members(self, run: str) -> tuple[MemberRecord, ...]:
        """Return a run's members, in the order they joined."""
        rows = self._connection.execute(
            "SELECT number, public, sealed FROM members WHERE run = ? ORDER BY number", (run,)
        )
        return tuple(
            self._open("members", {"run": run, "number": number}, public, sealed, MemberRecord)[0]
            for number, public, sealed in rows
        )

    # --- rows ---------------------------------------------------------------------------------------------------

    def _insert(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes = _NO_SECRET) -> None:
        public, sealed = self._seal(table, key, record, secret)
        columns = ", ".join([*key, "public", "sealed"])
        marks = ", ".join("?" * (len(key) + 2))
        try:
            self._connection.execute(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})",  # noqa: S608 - names of our own schema
                (*key.values(), public, sealed),
            )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"there is such an entry in {table} already") from error

    def _one(self, table: str, key: Mapping[str, Json], kind: type[_M], *, missing: str) -> _M:
        where = " AND ".join(f"{column} = ?" for column in key)
        row = self._connection.execute(
            f"SELECT public, sealed FROM {table} WHERE {where}",  # noqa: S608 - names of our own schema
            tuple(key.values()),
        ).fetchone()
        if row is None:
            raise NotFoundError(missing)
        return self._open(table, key, row[0], row[1], kind)[0]

    def _seal(self, table: str, key: Mapping[str, Json], record: Message, secret: SecretBytes) -> tuple[str, bytes]:
        public = record.to_json().decode("utf-8")
        return public, aead.encrypt(self._row_key, secret.reveal(), context=_context(table, key, public))

    def _open(
        self, table: str, key: Mapping[str, Json], public: str, sealed: bytes, kind: type[_M]
    ) -> tuple[_M, SecretBytes]:
        try:
            secret = aead.decrypt(self._row_key, sealed, context=_context(table, key, public))
            return kind.from_object(parse_json_object(public)), secret
        except (IntegrityError, FormatError) as error:
            raise _edited(f"an entry in {table} is not what was stored") from error


def open_store(path: Path, *, open_master_key: Callable[[bool], MasterKey], signer: LogSigner) -> Store:
    """Open the key service's database, or make it.

    Args:
        path: The file. No other process may use it meanwhile.
        open_master_key: Opens the master key; its argument says whether it may be made, because there is no database.
        signer: Signs the log.

    Raises:
        ConfigurationError: Another process uses the database; it is of another version; the master key is missing.
        IntegrityError: It is damaged, was edited, or belongs to another master key.
    """
    new = not path.exists()
    master_key = open_master_key(new)
    with _translated():
        if new:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
        try:
            _prepare(connection)
            return Store(connection, store_key=_store_key(connection, master_key), signer=signer)
        except BaseException:
            connection.close()
            raise


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN EXCLUSIVE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if version == 0 and tables == 0:
        for statement in filter(str.strip, _SCHEMA.split(";\n")):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    elif (version, application) != (SCHEMA_VERSION, _APPLICATION_ID):
        raise ConfigurationError(
            f"the key service's database has schema version {version}, this program knows {SCHEMA_VERSION}",
            action="Start the program's version that wrote it.",
        )
    connection.execute("COMMIT")


def _store_key(connection: sqlite3.Connection, master_key: MasterKey) -> SecretBytes:
    row = connection.execute("SELECT value FROM meta WHERE name = 'store-key'").fetchone()
    if row is not None:
        try:
            return master_key.unwrap(row[0], context=_STORE_KEY_CONTEXT)
        except (IntegrityError, FormatError) as error:
            raise IntegrityError(
                "the key service's database belongs to another master key, or was edited",
                action="Configure the master key it was made with.",
            ) from error
    if connection.execute("SELECT 1 FROM leaves UNION ALL SELECT 1 FROM keys LIMIT 1").fetchone():
        raise _edited("the store's own key is gone")
    store_key = random_secret()
    wrapped = master_key.wrap(store_key, context=_STORE_KEY_CONTEXT)
    connection.execute("INSERT INTO meta (name, value) VALUES ('store-key', ?)", (wrapped,))
    return store_key


def _leaf_hashes(connection: sqlite3.Connection) -> Generator[bytes, None, None]:
    rows = connection.execute("SELECT position, data FROM leaves ORDER BY position")
    for expected, (position, data) in enumerate(rows):
        if position != expected:
            raise _edited("the log has a gap")
        yield leaf_hash(data.encode("utf-8"))


def _context(table: str, key: Mapping[str, Json], public: str) -> bytes:
    return canonical_json({"version": SCHEMA_VERSION, "table": table, "key": key, "public": public})


def _key_key(record: KeyRecord) -> dict[str, Json]:
    return {"name": record.name, "version": record.version, "number": record.number}


def _approval_key(record: ApprovalRecord) -> dict[str, Json]:
    return {"id": record.id, "dataset": record.dataset, "application": record.application}


def _edited(what: str) -> IntegrityError:
    return IntegrityError(
        f"the key service's database was changed by something else: {what}",
        action="Restore the newest copy of the state folder; nothing is released until then.",
    )


@contextlib.contextmanager
def _translated() -> Generator[None, None, None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ConfigurationError(
            f"the key service's database cannot be used: {error}",
            action="Check that no other key service uses it, and that its disk is writable and not full.",
        ) from error
    except (sqlite3.DatabaseError, UnicodeError) as error:
        raise IntegrityError(
            f"the key service's database is damaged: {error}", action="Restore the newest copy of the state folder."
        ) from error
