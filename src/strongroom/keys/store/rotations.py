"""Which identities were replaced: each at most once, so that nobody finds two successors of one."""

from typing import Final

from pydantic import Field

from strongroom.keys.store.transaction import Transaction
from strongroom.wire.model import CompactJws, Hex32, Message

ROTATION_TABLES: Final = """
CREATE TABLE identity_rotations (old TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
"""


class RotationRecord(Message):
    """A rotation that was logged.

    Attributes:
        leaf: Where in the log; None for one that an older version recorded.
    """

    new: Hex32
    statement: CompactJws
    leaf: int | None = Field(default=None, ge=0)


def add_rotation(tx: Transaction, old: str, record: RotationRecord) -> None:
    """Keep that an identity was replaced.

    Raises:
        ConflictError: It was replaced before.
    """
    tx.rows.insert("identity_rotations", {"old": old}, record)


def rotation_of(tx: Transaction, old: str) -> RotationRecord | None:
    """Return what an identity was replaced by; None if it was not."""
    found = tx.rows.find("identity_rotations", {"old": old}, RotationRecord)
    return None if found is None else found[0]


def all_rotations(tx: Transaction) -> list[RotationRecord]:
    """Return every rotation whose place in the log is recorded, oldest first."""
    found = [record for record, _ in tx.rows.select("identity_rotations", {}, RotationRecord)]
    return sorted((record for record in found if record.leaf is not None), key=lambda record: record.leaf or 0)


def names_of(tx: Transaction, identity: str) -> frozenset[str]:
    """Return an identity with all that were logged since to stand in its place: one person, under several keys."""
    found = {identity}
    while (record := rotation_of(tx, identity)) is not None and record.new not in found:
        identity = record.new
        found.add(identity)
    return frozenset(found)
