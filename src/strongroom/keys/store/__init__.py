"""The key service's state."""

from strongroom.keys.store.database import LogSigner, Store, open_store
from strongroom.keys.store.transaction import StoredKey, StoredRun, Transaction

__all__ = ["LogSigner", "Store", "StoredKey", "StoredRun", "Transaction", "open_store"]
