"""The key service's state: every change one transaction together with the log leaf that records it.

What an edit of the database would change is bound: each row is an authenticated encryption whose context is the row's
table, key and public text, under a store key that the master key wraps (`rows`). What was counted, revoked, opened and
closed is what the log says, and a state row beside it finds that without reading the log (`chains`: what which edit can
do, and when it is noticed). The leaves hang together in a Merkle tree, whose nodes are rows too and whose signed
checkpoint is compared with them when the store opens (`ledger`). What no use and no start reads is gone through in the
background (`audit`).

Nothing here reads all rows or all leaves, neither at the start nor in a request.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from strongroom.base.database import Schema
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.store import chains, leases, ledger, rosters, rotations, transaction, vault, write_keys
from strongroom.keys.store.databases import Database, open_database
from strongroom.keys.store.ledger import LogSigner, begin_log
from strongroom.keys.store.master_key import has_store_key, keep_store_key, open_store_key
from strongroom.keys.store.rows import edited
from strongroom.keys.store.store import Store

_ANY_STATE: Final = ("SELECT 1 FROM meta LIMIT 1", "SELECT 1 FROM leaves LIMIT 1", "SELECT 1 FROM keys LIMIT 1")

_TABLES: Final = (
    transaction.TABLES,
    ledger.TABLES,
    chains.TABLES,
    vault.VAULT_TABLES,
    write_keys.WRITE_KEYS_TABLES,
    rosters.TABLES,
    leases.TABLES,
    rotations.ROTATION_TABLES,
)
"""A part with tables of its own adds their text here."""
SCHEMA: Final = Schema(
    application_id=0x5374726D,  # "Strm"
    version=2,
    statements="".join(_TABLES),
)


def open_store(
    place: Path | str,
    *,
    open_master_key: Callable[[bool], MasterKey],
    signer: LogSigner,
    largest_group: int | None = None,
) -> Store:
    """Open the key service's database, or make it.

    Args:
        place: A file, which no other process may use meanwhile; or a PostgreSQL URL, which replicas share.
        open_master_key: Opens the master key; its argument says whether it may be made, because there is no state.
        signer: Signs the log.
        largest_group: Transactions that share one commit at most.

    Raises:
        ConfigurationError: The database cannot be used; it is of another version; the master key is missing.
        UnavailableError: Its server does not answer.
        IntegrityError: It is damaged, was edited, or belongs to another master key.
    """
    database = open_database(place, SCHEMA)
    try:
        with database.translated():
            store_key, master_key = _keys(database, open_master_key, signer)
        return Store(database, store_key=store_key, master_key=master_key, signer=signer, largest_group=largest_group)
    except BaseException:
        database.close()
        raise


def _keys(
    database: Database, open_master_key: Callable[[bool], MasterKey], signer: LogSigner
) -> tuple[SecretBytes, MasterKey]:
    """Return the store key and the master key; make the first, and an empty log, in a database without any state."""
    writer = database.writer
    writer.begin()  # replicas that start together make it once
    try:
        if has_store_key(writer):
            master_key = open_master_key(False)  # noqa: FBT003 - whether it may be made
            return open_store_key(writer, master_key), master_key
        if any(writer.execute(statement).fetchone() for statement in _ANY_STATE):
            raise edited("the store's own key is gone")
        store_key = random_secret()
        master_key = open_master_key(True)  # noqa: FBT003 - the same
        keep_store_key(writer, store_key, master_key)
        begin_log(writer, signer)
        writer.commit()
        return store_key, master_key
    finally:
        writer.roll_back()
