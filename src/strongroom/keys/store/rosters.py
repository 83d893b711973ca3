"""Rosters of datasets, and people's signatures: over rosters and approvals that were proposed.

A roster that was left out would bring an earlier one back; so their number is compared with the log's at every use.
"""

from typing import Final

from pydantic import Field

from strongroom.base.encoding import Json
from strongroom.keys.store.rows import edited
from strongroom.keys.store.transaction import Transaction
from strongroom.wire.approvals import DetachedJws, SignedRoster
from strongroom.wire.model import CompactJws, DatasetName, Hex32, Message, Timestamp

ROSTER_CHANGED: Final = "roster-changed"

TABLES: Final = """
CREATE TABLE rosters (
  dataset TEXT NOT NULL REFERENCES datasets (name), number INTEGER NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (dataset, number)
) STRICT;
CREATE TABLE roster_proposals (
  id TEXT PRIMARY KEY, dataset TEXT NOT NULL REFERENCES datasets (name), public TEXT NOT NULL, sealed BLOB NOT NULL
) STRICT;
CREATE INDEX roster_proposals_by_dataset ON roster_proposals (dataset);
CREATE TABLE signatures (
  subject TEXT NOT NULL, signer TEXT NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (subject, signer)
) STRICT;
"""


class RosterRecord(Message):
    """A roster that holds or held."""

    dataset: DatasetName
    number: int = Field(ge=1)
    signed: SignedRoster


class RosterProposal(Message):
    """A roster that somebody proposed.

    Attributes:
        id: SHA-256 of its bytes.
    """

    id: Hex32
    dataset: DatasetName
    statement: CompactJws
    proposed_at: Timestamp


class SignatureRecord(Message):
    """One person's further signature.

    Attributes:
        subject: SHA-256 of what was signed.
        signer: Thumbprint of the person's key.
    """

    subject: Hex32
    signer: Hex32
    signature: DetachedJws
    signed_at: Timestamp


def rosters_of(tx: Transaction, dataset: str) -> tuple[SignedRoster, ...]:
    """Return a dataset's rosters, from the first one to the one that holds.

    Raises:
        IntegrityError: There are others than the log says.
    """
    found = [record for record, _ in tx.rows.select("rosters", {"dataset": dataset}, RosterRecord, ("number",))]
    numbers = [record.number for record in found]
    if numbers != list(range(1, tx.rosters_logged(dataset) + 1)):
        raise edited(f"dataset {dataset} has other rosters than the log says")
    return tuple(record.signed for record in found)


def newest_rosters(tx: Transaction) -> tuple[RosterRecord, ...]:
    """Return the roster that holds of every dataset that has one."""
    rows = tx.rows.select("rosters", {}, RosterRecord, ("dataset", "number"))
    return tuple({record.dataset: record for record, _ in rows}.values())


def count_rosters(tx: Transaction) -> int:
    """Return how many rosters there ever were, of all datasets."""
    return tx.rows.count("rosters")


def add_roster(tx: Transaction, record: RosterRecord) -> None:
    """Make a roster a dataset's newest. The caller logs it in the same transaction.

    Raises:
        ConflictError: Another one came in between.
    """
    tx.rows.insert("rosters", {"dataset": record.dataset, "number": record.number}, record)


def propose_roster(tx: Transaction, proposal: RosterProposal) -> None:
    """Store a proposed roster.

    Raises:
        ConflictError: It is proposed already.
    """
    tx.rows.insert("roster_proposals", {"id": proposal.id, "dataset": proposal.dataset}, proposal)


def proposed_roster(tx: Transaction, roster: str) -> RosterProposal | None:
    """Return a proposed roster; None where there is none of that id."""
    found = tx.rows.find("roster_proposals", {"id": roster}, RosterProposal)
    return None if found is None else found[0]


def proposed_rosters(tx: Transaction, dataset: str) -> tuple[RosterProposal, ...]:
    """Return the rosters that were ever proposed for a dataset."""
    where: dict[str, Json] = {"dataset": dataset}
    return tuple(record for record, _ in tx.rows.select("roster_proposals", where, RosterProposal, ("id",)))


def add_signature(tx: Transaction, record: SignatureRecord) -> None:
    """Store a further signature.

    Raises:
        ConflictError: This person signed it before.
    """
    tx.rows.insert("signatures", {"subject": record.subject, "signer": record.signer}, record)


def signatures_of(tx: Transaction, subject: str) -> tuple[SignatureRecord, ...]:
    """Return the further signatures over something, in the order of the signers' thumbprints."""
    rows = tx.rows.select("signatures", {"subject": subject}, SignatureRecord, ("signer",))
    return tuple(record for record, _ in rows)
