"""What people ask of the key service about what is open, and about what was refused and why."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from starlette.routing import BaseRoute

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json
from strongroom.keys.records import OpenedRun
from strongroom.keys.release import verify_ticket
from strongroom.keys.store import Transaction
from strongroom.keys.store.leases import refusals
from strongroom.policy.approval import Approval
from strongroom.services.approvals import approval_json
from strongroom.services.consents import StoredApproval, answers_for, approver, stored_if_known
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.runs import PREFIX
from strongroom.wire.approvals import ExplainedRefusal

_MAX_REFUSALS: Final = 1000


class LeaseDesk:
    """The part of the key service that tells owners what is open, and why something was not opened."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        return [
            endpoint(f"{PREFIX}/leases", self.leases, errors=strongroom_error),
            endpoint(f"{PREFIX}/refusals", self.refusals, errors=strongroom_error),
        ]

    def leases(self, call: Call) -> Reply:
        """List what may still be opened, and what is open, of the datasets that the caller answers for."""
        person, now = approver(self._desk, call), self._desk.clock.now()
        with self._desk.store.reading() as tx:
            now = tx.present(now)
            known = {
                record.id: stored_if_known(self._desk, tx, record)
                for record in tx.approvals()
                if answers_for(tx, person.identity, record.dataset)
            }
            found = {approval: each for approval, each in known.items() if each is not None}
            standing: list[Json] = [
                {**approval_json(each.record, each, now=now), **dict(_left(each))}
                for each in found.values()
                if each.state(now=now) in {"standing", "not yet valid"}
            ]
            runs: list[Json] = [
                _open_run_json(tx, run, found)
                for run in tx.runs()
                if tx.outcome(run.run) is None and not found.keys().isdisjoint(run.approvals.values())
            ]
        return json_reply({"leases": standing, "runs": runs})

    def refusals(self, call: Call) -> Reply:
        """Say why things were refused, newest first: of datasets that the caller answers for, and only he."""
        person, run = approver(self._desk, call), call.query.get("run")
        with self._desk.store.reading() as tx:
            mine = {each.name for each in tx.datasets() if answers_for(tx, person.identity, each.name)}
            found = refusals(tx, run=run, limit=_MAX_REFUSALS)
            about = {each.leaf for each in found if each.dataset in mine}
            told: list[Json] = [each.model_dump(mode="json") for each in found if _may_read(each, mine, about)]
        return json_reply({"refusals": told})


def _may_read(refusal: ExplainedRefusal, mine: set[str], about: set[int]) -> bool:
    """Return whether a person may read a part of a refusal.

    Args:
        refusal: The part.
        mine: The datasets that the person answers for.
        about: The refusals that one of these datasets was a part of: what was wrong with the run is his business too.
    """
    return refusal.dataset in mine if refusal.dataset is not None else refusal.leaf in about


def _left(found: StoredApproval) -> Iterator[tuple[str, Json]]:
    approval = found.signed.approval
    yield "runs_left", max(0, approval.max_runs - found.use.runs)
    total = approval.max_executors_total
    yield "executors_left", None if total is None else max(0, total - found.use.executors)


def _open_run_json(tx: Transaction, run: OpenedRun, found: dict[str, StoredApproval]) -> Json:
    ticket = verify_ticket(run.ticket).ticket
    mine = {name: approval for name, approval in run.approvals.items() if approval in found}
    revoked = sorted(name for name, approval in mine.items() if found[approval].faults())
    members = tx.members(run.run)
    return {
        "run": run.run,
        "run_id": ticket.run_id,
        "application": run.application,
        "submitter": ticket.submitter,
        "opened_at": run.opened_at,
        "until": min([ticket.not_after, *_ends(run, (found[each].signed.approval for each in mine.values()))]),
        "members": len(members),
        "executors": max(0, len(members) - 1),
        "max_executors": ticket.max_executors,
        "reads": {name: number for name, number in run.reads.items() if name in mine},
        "writes": sorted(set(run.writes) & mine.keys()),
        "approvals": dict(mine),
        "ended_for": list(revoked),
    }


def _ends(run: OpenedRun, approvals: Iterator[Approval]) -> Iterator[str]:
    opened_at = datetime.fromisoformat(run.opened_at)
    for approval in approvals:
        if approval.not_after is not None:
            yield approval.not_after
        if approval.max_duration_s is not None:
            yield to_rfc3339(opened_at + timedelta(seconds=approval.max_duration_s))
