"""The key service's state: SQLite, one writer, every change one transaction together with the log leaf that records it.

What an edit of the file would change is bound: each row is an authenticated encryption whose context is the
row's table, key and public text, under a store key that the master key wraps. What was counted, revoked,
opened and closed is read from the leaves of the log, never from a column; the leaves hang together in a Merkle tree
whose signed checkpoint is compared when the store opens. A whole older copy of the file cannot be told from the
newest one here; clients tell it, because tickets name the last checkpoint they saw.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.database import Schema, open_database
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import hkdf_sha256
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.store.rows import edited
from strongroom.keys.store.transaction import Transaction
from strongroom.keys.store.vault import VAULT_TABLES
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, sign_checkpoint
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.wire.key_service import LogProof

_STORE_KEY_CONTEXT: Final = b"strongroom/1 store key"
_ROWS_INFO: Final = b"strongroom/1 store rows"
_NONCES_INFO: Final = b"strongroom/1 nonces"

_TABLES: Final = """
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
_SCHEMA: Final = Schema(
    application_id=0x5374726D,  # "Strm"
    version=1,
    statements=_TABLES + VAULT_TABLES,  # a part with tables of its own adds their text here
)


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

    Attributes:
        master_key: What the store's own key is wrapped with; also for what leaves the store encrypted.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, store_key: SecretBytes, master_key: MasterKey, signer: LogSigner
    ) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self._row_key = hkdf_sha256(store_key, salt=b"", info=_ROWS_INFO)
        self._signer = signer
        self.master_key: Final = master_key
        self.nonce_key: Final = hkdf_sha256(store_key, salt=b"", info=_NONCES_INFO)
        self._tree, self._checkpoint = self._read_log()

    @contextlib.contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
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

    def _sign_new_leaves(self, transaction: Transaction) -> str:
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
                raise edited("the log's checkpoint is not this service's") from error
            if (signed.size, signed.root) != (tree.size, tree.root()):
                raise edited("the log's leaves are not those of its checkpoint")
            counts = self._connection.execute(
                "SELECT name, (SELECT max(number) FROM versions WHERE dataset = name),"
                " (SELECT count(*) FROM leaves WHERE event = 'dataset-version'"
                "  AND json_extract(data, '$.dataset') = name) FROM datasets"
            )
            if any((newest or 0) != logged for _, newest, logged in counts):
                raise edited("a dataset has other versions than the log says")
            return tree, note


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
        connection = open_database(path, _SCHEMA, name="the key service's database")
        try:
            store_key = _store_key(connection, master_key)
            return Store(connection, store_key=store_key, master_key=master_key, signer=signer)
        except BaseException:
            connection.close()
            raise


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
        raise edited("the store's own key is gone")
    store_key = random_secret()
    wrapped = master_key.wrap(store_key, context=_STORE_KEY_CONTEXT)
    connection.execute("INSERT INTO meta (name, value) VALUES ('store-key', ?)", (wrapped,))
    return store_key


def _leaf_hashes(connection: sqlite3.Connection) -> Generator[bytes, None, None]:
    rows = connection.execute("SELECT position, data FROM leaves ORDER BY position")
    for expected, (position, data) in enumerate(rows):
        if position != expected:
            raise edited("the log has a gap")
        yield leaf_hash(data.encode("utf-8"))


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
