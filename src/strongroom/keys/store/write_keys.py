"""The write keys of all datasets, wrapped: what rotation changes, so that neither data nor manifests have to.

A manifest holds a write key as it was wrapped when the write was made. Here stands the same key as it is wrapped now. A
wrapped key that comes back from a manifest names a row here, and must be byte for byte what was handed out for it.
"""

from collections.abc import Iterator
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import NotFoundError
from strongroom.keys.store.transaction import Transaction
from strongroom.wire.model import B64Url, ColumnName, DatasetName, Hex16, Hex32, Message

WRITE_KEYS_TABLES: Final = """
CREATE TABLE write_keys (
  dataset TEXT NOT NULL, write_id TEXT NOT NULL, of_column TEXT NOT NULL, kek TEXT NOT NULL,
  public TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (dataset, write_id, of_column)
) STRICT;
CREATE INDEX write_keys_by_kek ON write_keys (kek, write_id);
"""


class WriteKeyRecord(Message):
    """A write key, or a column key of a write.

    Attributes:
        column: The column of a column key; None for a write key.
        kek: The version of the KEK that it is wrapped under now.
        wrapped: The key, as it is wrapped now.
        issued: SHA-256 of the key as it was wrapped when the write was made: the form that manifests hold.
    """

    dataset: DatasetName
    write_id: Hex16
    column: ColumnName | None
    kek: Hex16
    wrapped: B64Url
    issued: Hex32


def add_write_key(tx: Transaction, record: WriteKeyRecord) -> None:
    """Store a new write key.

    Raises:
        ConflictError: There is one of this write and column.
    """
    tx.rows.insert("write_keys", _key(record), record)


def find_write_key(tx: Transaction, *, dataset: str, write_id: str, column: str | None) -> WriteKeyRecord:
    """Return a write key.

    Raises:
        NotFoundError: There is none.
        IntegrityError: The row was edited.
    """
    place: dict[str, Json] = {"dataset": dataset, "write_id": write_id, "of_column": column or ""}
    found = tx.rows.find("write_keys", place, WriteKeyRecord)
    if found is None:
        raise NotFoundError(f"dataset {dataset} has no such write")
    return found[0]


def write_keys_under(tx: Transaction, kek: str, *, limit: int) -> Iterator[WriteKeyRecord]:
    """Return write keys that are wrapped under this version of a KEK, at most `limit`."""
    for record, _ in tx.rows.select("write_keys", {"kek": kek}, WriteKeyRecord, ("write_id",), limit=limit):
        yield record


def replace_write_key(tx: Transaction, old: WriteKeyRecord, new: WriteKeyRecord) -> None:
    """Put a write key that was wrapped anew in the place of its old form."""
    tx.rows.delete("write_keys", _key(old))
    tx.rows.insert("write_keys", _key(new), new)


def _key(record: WriteKeyRecord) -> dict[str, Json]:
    return {
        "dataset": record.dataset,
        "write_id": record.write_id,
        "of_column": record.column or "",
        "kek": record.kek,
    }
