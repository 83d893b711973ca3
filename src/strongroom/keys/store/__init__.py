"""The key service's state."""

from strongroom.keys.store.database import open_store
from strongroom.keys.store.ledger import LogSigner
from strongroom.keys.store.store import Store
from strongroom.keys.store.transaction import StoredKey, StoredRun, Transaction

__all__ = ["LogSigner", "Store", "StoredKey", "StoredRun", "Transaction", "open_store"]
