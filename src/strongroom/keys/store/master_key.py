"""The store's own key, wrapped by the master key; and wrapped anew when the master key is replaced.

While a master key is being replaced two wrappings stand side by side, one by each: whichever of the two the service is
configured with opens the store. The first start with the new one drops the old wrapping.
"""

from typing import Final

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers import MasterKey
from strongroom.keys.store.rows import Connection

_CONTEXT: Final = b"strongroom/1 store key"
_CURRENT: Final = "store-key"
_NEXT: Final = "store-key-next"


def has_store_key(connection: Connection) -> bool:
    """Return whether a store has its own key yet."""
    return _value(connection, _CURRENT) is not None or _value(connection, _NEXT) is not None


def open_store_key(connection: Connection, master_key: MasterKey) -> SecretBytes:
    """Return the store's own key.

    Raises:
        IntegrityError: It is wrapped by another master key, or was edited.
    """
    for name in (_CURRENT, _NEXT):
        store_key = _unwrapped(connection, name, master_key)
        if store_key is not None:
            return store_key
    raise IntegrityError(
        "the key service's database belongs to another master key, or was edited",
        action="Configure the master key it was made with.",
    )


def keep_store_key(connection: Connection, store_key: SecretBytes, master_key: MasterKey) -> None:
    """Keep a store's own key, so that this master key alone opens it."""
    _put(connection, _CURRENT, master_key.wrap(store_key, context=_CONTEXT))
    connection.execute("DELETE FROM meta WHERE name = ?", (_NEXT,))


def add_master_key(connection: Connection, store_key: SecretBytes, master_key: MasterKey) -> None:
    """Let another master key open the store as well, because it will replace the present one."""
    _put(connection, _NEXT, master_key.wrap(store_key, context=_CONTEXT))


def drop_other_master_key(connection: Connection, master_key: MasterKey) -> bool:
    """Let only this master key open the store from now on, if another one is being replaced by it.

    Returns:
        Whether it was; with the old master key, or without a replacement under way, everything stays as it is.
    """
    if _unwrapped(connection, _CURRENT, master_key) is not None:
        return False
    following = _value(connection, _NEXT)
    if following is None or _unwrapped(connection, _NEXT, master_key) is None:
        return False
    _put(connection, _CURRENT, following)
    connection.execute("DELETE FROM meta WHERE name = ?", (_NEXT,))
    return True


def _unwrapped(connection: Connection, name: str, master_key: MasterKey) -> SecretBytes | None:
    wrapped = _value(connection, name)
    if wrapped is None:
        return None
    try:
        return master_key.unwrap(wrapped, context=_CONTEXT)
    except (IntegrityError, FormatError):
        return None


def _value(connection: Connection, name: str) -> bytes | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def _put(connection: Connection, name: str, value: bytes) -> None:
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
