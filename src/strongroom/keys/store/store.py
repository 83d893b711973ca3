"""The store: transactions that write, readings of one moment, and the log's checkpoint and proofs."""

import contextlib
import threading
from collections.abc import Generator, Iterable
from datetime import datetime
from typing import Final

from strongroom.base.errors import RefusedError, StrongroomError, UnavailableError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import hkdf_sha256
from strongroom.keys.providers import MasterKey
from strongroom.keys.store.audit import Audit, Audited
from strongroom.keys.store.databases import Database
from strongroom.keys.store.group import GroupCommit
from strongroom.keys.store.ledger import Head, LogEnd, LogSigner, LogView, demand_sound_end, newest_time
from strongroom.keys.store.rows import RowOpener
from strongroom.keys.store.transaction import Transaction
from strongroom.wire.key_service import LogProof

_ROWS_INFO: Final = b"strongroom/1 store rows"
_NONCES_INFO: Final = b"strongroom/1 nonces"
_TAIL: Final = 1024
"""Leaves whose text is compared at the start; the audit compares the others."""


class Store:
    """The key service's database. Threads may share it.

    Use `open_store`.

    Args:
        database: Where everything is.
        store_key: Encrypts and authenticates rows.
        master_key: Wraps the store key, and backups.
        signer: Signs the log.
        largest_group: Transactions that share one commit at most.
    """

    def __init__(
        self,
        database: Database,
        *,
        store_key: SecretBytes,
        master_key: MasterKey,
        signer: LogSigner,
        largest_group: int | None = None,
    ) -> None:
        self.database = database
        self.master_key: Final = master_key
        self._opener = RowOpener(hkdf_sha256(store_key, salt=b"", info=_ROWS_INFO))
        self.nonce_key: Final = hkdf_sha256(store_key, salt=b"", info=_NONCES_INFO)
        self._signer = signer
        self._head = Head(signer)
        end = LogEnd(database.writer, head=self._head, signer=signer)
        sizes = {} if largest_group is None else {"largest": largest_group}
        self._end = end
        self._commits = GroupCommit(database, end, **sizes)
        self._trouble: StrongroomError | None = None
        self._closed = threading.Event()
        self._demand_sound_end()
        self._restored = True  # until the log says otherwise, which is read when the first request comes

    @contextlib.contextmanager
    def transaction(self) -> Generator[Transaction, None, None]:
        """Run a block as one transaction: all of its changes are kept, or none; on return they are on the disk.

        Raises:
            IntegrityError: The database is damaged, or was edited.
            ConfigurationError: It cannot be written (locked, read-only, disk full).
            UnavailableError: Its server does not answer.
        """
        with self._commits.block():
            yield Transaction(self.database.writer, opener=self._opener, end=self._end)

    @contextlib.contextmanager
    def reading(self) -> Generator[Transaction, None, None]:
        """Run a block that only reads, on what was committed at one moment; it waits for nobody's writing.

        Raises:
            IntegrityError: The database is damaged, or was edited.
            ConfigurationError: It cannot be read.
            UnavailableError: Its server does not answer.
        """
        with self.database.translated(), self.database.snapshot() as connection:
            note, checkpoint = self._head.read(connection)
            view = LogView(connection, note=note, checkpoint=checkpoint)
            yield Transaction(connection, opener=self._opener, view=view)

    @contextlib.contextmanager
    def log(self) -> Generator[LogView, None, None]:
        """Read the log at its newest checkpoint."""
        with self.database.translated(), self.database.snapshot() as connection:
            note, checkpoint = self._head.read(connection)
            yield LogView(connection, note=note, checkpoint=checkpoint)

    def checkpoint(self) -> str:
        """Return the log's newest signed checkpoint."""
        with self.log() as view:
            return view.note

    @property
    def newest_time(self) -> str:
        """The time of the newest entry of the log that this process knows: no clock of it may be behind that."""
        return self._end.time

    def prove(self, positions: Iterable[int]) -> tuple[LogProof, ...]:
        """Return leaves with their proofs under the newest checkpoint.

        Raises:
            NotFoundError: The log has no such leaf.
            IntegrityError: A leaf or the tree was edited.
        """
        with self.log() as view:
            return tuple(view.prove(position) for position in positions)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return an inclusion proof (RFC 9162, section 2.1.3)."""
        with self.log() as view:
            return view.tree.inclusion_proof(index, size)

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return a consistency proof (RFC 9162, section 2.1.4)."""
        with self.log() as view:
            return view.tree.consistency_proof(old_size, new_size)

    def demand_extends(self, note: str) -> None:
        """Check that the log still holds everything it held at an earlier checkpoint of its own.

        Raises:
            FormatError: Not a checkpoint.
            VerificationError: Not one of this log's.
            RefusedError: The log was rolled back since.
        """
        seen = self._signer.verify(note)
        with self.reading() as tx:
            lost = seen.size <= tx.log_state().lost_size
            extends = tx.extends(seen)
        if not (extends or lost):
            raise RefusedError(
                "the key service's log is older than one its clients have seen",
                action="The key service's state was rolled back: restore the newest copy before anything is released.",
            )

    # --- whether it may serve -----------------------------------------------------------------------------------

    @property
    def trouble(self) -> StrongroomError | None:
        """Why nothing is released, where that is so."""
        return self._trouble

    def audit(self, *, pause_s: float = 0.0) -> Audited | None:
        """Go through everything (`audit`); None when the store was closed meanwhile.

        Args:
            pause_s: How long it rests after each piece, in seconds.

        Raises:
            IntegrityError: Something was edited.
            ConfigurationError: The database cannot be read.
            UnavailableError: Its server does not answer.
        """
        return Audit(self.database, head=self._head, opener=self._opener, stop=self._closed, pause_s=pause_s).run()

    def stop_releasing(self, error: StrongroomError) -> None:
        """Release nothing any more in this process: the audit found something."""
        self._trouble = error

    def demand_sound(self) -> None:
        """Refuse to serve after the audit found something, or a restored backup that no owner has accepted.

        Raises:
            UnavailableError: That is so.
        """
        if self._trouble is not None:
            raise UnavailableError(
                f"the key service releases nothing: {self._trouble.message}", action=self._trouble.action
            )
        if self._restored:
            with self.reading() as tx:
                self._restored = tx.is_restoring() or tx.log_state().restore is not None
        if self._restored:
            raise UnavailableError(
                "the key service releases nothing: it was restored from a backup",
                action="An owner says that this is meant: strongroom key-service accept-restore. "
                "Was the restore interrupted, empty the state folder and restore again.",
            )

    def end_master_key_rotation(self, *, now: datetime) -> None:
        """Forget the master key that is being replaced by the one that opened this store, if there is one; log that.

        Raises:
            ConfigurationError: The database cannot be written.
            UnavailableError: Its server does not answer.
        """
        with self.transaction() as tx:
            replaced = tx.end_master_key_rotation(self.master_key)
            if replaced:
                tx.append_leaf("master-key-rotated", now=now, what={})
        if replaced:
            self.scrub()

    def scrub(self) -> None:
        """Remove what was deleted from the database's files, as far as the database can.

        Raises:
            ConfigurationError: The database cannot be written.
            UnavailableError: Its server does not answer.
        """
        with self.database.translated():
            self.database.scrub()

    @property
    def closed(self) -> threading.Event:
        """Set when the store is closed; whoever works in the background ends then."""
        return self._closed

    def close(self) -> None:
        """Close the database."""
        self._closed.set()
        self.database.close()

    def _demand_sound_end(self) -> None:
        with self.database.translated(), self.database.snapshot() as connection:
            note, checkpoint = self._head.read(connection)
            view = LogView(connection, note=note, checkpoint=checkpoint)
            demand_sound_end(connection, view, checkpoint=checkpoint, tail=_TAIL)
            self._end.time = newest_time(connection, checkpoint.size)
