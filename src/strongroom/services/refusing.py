"""Keeping refusals: a leaf with names only, and everything that differed sealed in rows that only owners are shown."""

from collections.abc import Mapping
from datetime import datetime

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import NotFoundError, StrongroomError
from strongroom.keys.refusal import Explained, ExplainedRefusalError
from strongroom.keys.store import Transaction
from strongroom.keys.store.leases import add_refusal, was_refused
from strongroom.policy.disclosure import disclose
from strongroom.wire.approvals import ExplainedRefusal, FoundDifference
from strongroom.wire.ticket import RunTicket


def keep_refusal(
    tx: Transaction, error: StrongroomError, *, run: str, ticket: RunTicket, now: datetime, what: Mapping[str, Json]
) -> None:
    """Log that something was refused, and keep why.

    Args:
        tx: The transaction.
        error: The refusal.
        run: Digest of the run ticket.
        ticket: The ticket; only names of its datasets that are kept here are used.
        now: The present time.
        what: What the leaf says of who asked.
    """
    names = list(dict.fromkeys(mismatch.name for mismatch in error.mismatches))
    leaf = tx.append_leaf("refused", now=now, what={**what, "run": run, "reason": error.message, "mismatches": names})
    for part, each in enumerate(_parts(tx, error, ticket)):
        differences = tuple(
            FoundDifference(name=mismatch.name, expected=mismatch.expected, actual=mismatch.actual)
            for mismatch in each.mismatches
        )
        refusal = ExplainedRefusal(
            leaf=leaf,
            run=run,
            run_id=ticket.run_id,
            at=to_rfc3339(now),
            reason=error.message,
            dataset=each.dataset,
            approval=each.approval,
            differences=differences,
        )
        add_refusal(tx, refusal, part=part)


def keep_first_refusal(
    tx: Transaction, error: StrongroomError, *, run: str, ticket: RunTicket, now: datetime, what: Mapping[str, Json]
) -> None:
    """Keep a refusal of an open run's member, once for each reason: a run that lost its lease may ask very often."""
    if not was_refused(tx, run, reason=error.message):
        keep_refusal(tx, error, run=run, ticket=ticket, now=now, what=what)


def disclosed(error: StrongroomError) -> StrongroomError:
    """Return a refusal as the refused may see it."""
    if not isinstance(error, ExplainedRefusalError):
        error.mismatches = disclose(error.mismatches)
    return error


def _parts(tx: Transaction, error: StrongroomError, ticket: RunTicket) -> list[Explained]:
    explained = error.explained if isinstance(error, ExplainedRefusalError) else ()
    if any(each.dataset is not None for each in explained):
        return list(explained)
    # It is about the run itself: everybody who answers for one of its datasets may know.
    mismatches = tuple(mismatch for each in explained for mismatch in each.mismatches) or error.mismatches
    return [
        Explained(dataset=name, approval=None, mismatches=mismatches)
        for name in sorted(ticket.datasets)
        if _is_kept(tx, name)
    ]


def _is_kept(tx: Transaction, dataset: str) -> bool:
    try:
        tx.dataset(dataset)
    except NotFoundError:
        return False
    return True
