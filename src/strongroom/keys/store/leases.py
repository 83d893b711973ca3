"""What was used up of approvals, what was revoked, and why something was refused.

Every count is written in the transaction of the leaf that it counts, and compared with the log when it is used.
"""

from typing import Final

from pydantic import Field

from strongroom.base.encoding import Json
from strongroom.base.secret import SecretBytes
from strongroom.keys.store.rows import edited
from strongroom.keys.store.transaction import Transaction
from strongroom.wire.approvals import MAX_REASON, ExplainedRefusal
from strongroom.wire.model import Hex32, Message, Timestamp

TABLES: Final = """
CREATE TABLE approval_uses (approval TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE revocations (approval TEXT PRIMARY KEY, public TEXT NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE TABLE refusals (
  leaf INTEGER NOT NULL, part INTEGER NOT NULL, run TEXT NOT NULL, public TEXT NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (leaf, part)
) STRICT;
CREATE INDEX refusals_by_run ON refusals (run);
"""


class ApprovalUse(Message):
    """What was used of an approval.

    Attributes:
        runs: How many runs were opened under it.
        executors: How many executors joined these runs.
    """

    approval: Hex32
    runs: int = Field(ge=0)
    executors: int = Field(ge=0)


class RevocationRecord(Message):
    """Who revoked an approval, when and why.

    Attributes:
        by: Thumbprint of the person's key.
    """

    approval: Hex32
    by: Hex32
    at: Timestamp
    reason: str = Field(max_length=MAX_REASON)


class RefusalRecord(Message):
    """That something was refused; what differed is the row's secret (`wire.approvals.ExplainedRefusal`).

    Attributes:
        leaf: Position of the leaf that says it.
        part: Counts the datasets and approvals that it is about.
    """

    leaf: int = Field(ge=0)
    part: int = Field(ge=0)
    run: Hex32
    reason: str


def use_of(tx: Transaction, approval: str) -> ApprovalUse:
    """Return what was used of an approval.

    Raises:
        IntegrityError: It is not what the log says.
    """
    found = tx.rows.find("approval_uses", {"approval": approval}, ApprovalUse)
    use = ApprovalUse(approval=approval, runs=0, executors=0) if found is None else found[0]
    if (use.runs, use.executors) != (tx.runs_opened(approval), tx.executors_joined(approval)):
        raise edited("an approval was used more or less often than the log says")
    return use


def count_run(tx: Transaction, use: ApprovalUse) -> None:
    """Count one more run. The caller appends the leaf that opens it in the same transaction."""
    _keep(tx, use.model_copy(update={"runs": use.runs + 1}), is_new=use.runs == 0)


def count_executor(tx: Transaction, use: ApprovalUse) -> None:
    """Count one more executor. The caller appends the leaf that says it in the same transaction."""
    _keep(tx, use.model_copy(update={"executors": use.executors + 1}), is_new=False)


def _keep(tx: Transaction, use: ApprovalUse, *, is_new: bool) -> None:
    store = tx.rows.insert if is_new else tx.rows.update
    store("approval_uses", {"approval": use.approval}, use)


def add_revocation(tx: Transaction, record: RevocationRecord) -> None:
    """Store who revoked an approval. The caller logs it in the same transaction: the log's word counts.

    Raises:
        ConflictError: It was revoked before.
    """
    tx.rows.insert("revocations", {"approval": record.approval}, record)


def revocation_of(tx: Transaction, approval: str) -> RevocationRecord | None:
    """Return who revoked an approval and when; None where nobody did.

    Raises:
        IntegrityError: The log says another thing.
    """
    found = tx.rows.find("revocations", {"approval": approval}, RevocationRecord)
    if (found is not None) != tx.is_revoked(approval):
        raise edited("an approval's revocation is not what the log says")
    return None if found is None else found[0]


def add_refusal(tx: Transaction, refusal: ExplainedRefusal, *, part: int) -> None:
    """Store why something was refused, sealed."""
    record = RefusalRecord(leaf=refusal.leaf, part=part, run=refusal.run, reason=refusal.reason)
    key: dict[str, Json] = {"leaf": refusal.leaf, "part": part, "run": refusal.run}
    tx.rows.insert("refusals", key, record, SecretBytes(refusal.to_json()))


def was_refused(tx: Transaction, run: str, *, reason: str) -> bool:
    """Return whether a run was refused for this reason before."""
    return any(record.reason == reason for record, _ in tx.rows.select("refusals", {"run": run}, RefusalRecord))


def refusals(tx: Transaction, *, run: str | None, limit: int) -> tuple[ExplainedRefusal, ...]:
    """Return why things were refused, newest first.

    Args:
        tx: The transaction.
        run: Only of this run, by its ticket's digest.
        limit: The largest number of rows.
    """
    rows = tx.rows.select(
        "refusals", {} if run is None else {"run": run}, RefusalRecord, ("leaf DESC", "part"), limit=limit
    )
    return tuple(ExplainedRefusal.from_json(secret.reveal()) for _, secret in rows)
