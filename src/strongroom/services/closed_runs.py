"""A closing that is asked for again: the answer may have been lost, or the witnesses may not have answered in time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from strongroom.base.encoding import parse_json_object
from strongroom.keys.records import MemberRecord
from strongroom.keys.store import Transaction
from strongroom.wire.key_service import CloseRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedRun:
    """What a closing statement is made from.

    Attributes:
        leaf: Position of the closing leaf.
        positions: Of the run's other leaves, in order.
        versions: The countersigned statements by dataset.
    """

    leaf: int
    positions: Sequence[int]
    versions: Mapping[str, str]


def closed_before(tx: Transaction, request: CloseRequest, *, member: MemberRecord) -> ClosedRun | None:
    """Return what a run was closed with, if its driver closed it with this very request before; otherwise None.

    Nothing takes effect a second time: only the statement is made again. A closed run that is asked to close otherwise
    is refused as any other request to it.
    """
    if member.number != 0 or tx.outcome(request.run) is None:
        return None
    *positions, last = tx.run_leaves(request.run)
    leaf = parse_json_object(tx.leaves(last, last + 1)[0])
    asked = ("run-closed", request.outcome, request.receipt, request.leaves)
    if (leaf.get("event"), leaf.get("outcome"), leaf.get("receipt"), len(positions)) != asked:
        return None
    if sorted(leaf.get("versions", {})) != sorted(commit.dataset for commit in request.commits):
        return None
    versions = {
        commit.dataset: tx.version(commit.dataset, (commit.base or 0) + 1).statement for commit in request.commits
    }
    return ClosedRun(leaf=last, positions=positions, versions=versions)
