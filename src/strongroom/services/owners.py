"""What people ask of the key service, each call with an owner's token: approvals, runs, the log.

And what anybody may read of the log: its checkpoint and proofs.
"""

from starlette.routing import BaseRoute

from strongroom.base.encoding import Json
from strongroom.keys.records import OpenedRun
from strongroom.keys.release import verify_ticket
from strongroom.keys.store import Transaction
from strongroom.services.access import may_see_run, seen_run
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, Handler, endpoint, json_reply
from strongroom.services.key_desk import KeyDesk
from strongroom.services.people import Role
from strongroom.services.runs import PREFIX, run_record


class OwnerDesk:
    """The part of the key service that people talk to."""

    def __init__(self, desk: KeyDesk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        """Return the endpoints."""
        handlers: list[tuple[str, str, Handler]] = [
            ("GET", "/runs", self.runs),
            ("GET", "/runs/{run}", self.run),
        ]
        return [
            endpoint(PREFIX + path, handler, methods=(method,), errors=strongroom_error)
            for method, path, handler in handlers
        ]

    # --- runs ---------------------------------------------------------------------------------------------------

    def runs(self, call: Call) -> Reply:
        """List the runs that concern the caller, oldest first."""
        person = self._desk.caller(call, *Role)
        with self._desk.store.reading() as tx:
            return json_reply({"runs": [self._run_json(tx, run) for run in tx.runs() if may_see_run(tx, run, person)]})

    def run(self, call: Call) -> Reply:
        """Answer with everything known of a run that concerns the caller."""
        person = self._desk.caller(call, *Role)
        with self._desk.store.reading() as tx:
            run = seen_run(tx, call.path["run"], person)
            record: Json = run_record(tx, run).model_dump(mode="json")
            return json_reply({**self._run_json(tx, run), "record": record})

    def _run_json(self, tx: Transaction, run: OpenedRun) -> dict[str, Json]:
        ticket = verify_ticket(run.ticket).ticket
        return {
            "run": run.run,
            "run_id": ticket.run_id,
            "application": run.application,
            "submitter": ticket.submitter,
            "opened_at": run.opened_at,
            "approvals": dict(run.approvals),
            "reads": dict(run.reads),
            "writes": sorted(run.writes),
            "members": len(tx.members(run.run)),
            "outcome": tx.outcome(run.run),
            "hardware": self._desk.hardware,
        }
