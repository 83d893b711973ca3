"""`strongroom leases` and `why`: what is open, how much is left, and why something was refused."""

from collections.abc import Mapping
from typing import Any

import click

from strongroom.base.encoding import Json
from strongroom.base.errors import NotFoundError
from strongroom.cli.options import json_option, state_option
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, print_json, print_table, printable, say, short

_MAX_SHOWN = 20


@click.command(epilog=examples("strongroom leases", "strongroom leases --json"))
@json_option
@state_option
def leases(*, as_json: bool, state: State) -> None:
    """List what may still be opened, and the runs that are open, of the datasets you answer for."""
    answer = owner_client(state).leases()
    if as_json:
        print_json(answer)
        return
    standing, runs = answer["leases"], answer["runs"]
    print_table(
        ["approval", "dataset", "access", "application", "runs left", "executors left", "until", "purpose"],
        [_lease_row(each) for each in standing],
        caption="approvals that stand",
    )
    print_table(
        ["run", "application", "opened", "until", "TEEs", "executors", "reads", "writes", "ended for"],
        [_run_row(each) for each in runs],
        caption="open runs",
    )


@click.command(epilog=examples("strongroom why", "strongroom why 5b1e", "strongroom why 5b1e --json"))
@click.argument("run", required=False)
@json_option
@state_option
def why(*, run: str | None, as_json: bool, state: State) -> None:
    """Say why something was refused to RUN, as the owner of a dataset it asked for.

    RUN is a run id or its beginning, as `submit` prints it; also of a run that was never opened. Without it, the newest
    refusals are listed. What differed from which approval is told to those who answer for the dataset alone.
    """
    refusals: list[dict[str, Any]] = owner_client(state).refusals()["refusals"]
    if run is not None:
        names = {str(name): str(each["run"]) for each in refusals for name in (each["run"], each["run_id"])}
        if not names:
            raise NotFoundError(f"nothing was refused to run {run} that you may know of")
        wanted = find_by_prefix(run, names, "refused run")
        refusals = [each for each in refusals if each["run"] == wanted]
    if as_json:
        print_json(refusals)
        return
    if not refusals:
        say("nothing was refused")
    for each in refusals if run is not None else refusals[:_MAX_SHOWN]:
        _explain(each)


def _explain(refusal: Mapping[str, Any]) -> None:
    say(f"{refusal['at']}  run {refusal['run_id']}: {printable(str(refusal['reason']))}")
    about = f"dataset {refusal['dataset']}" if refusal["dataset"] else "the run itself"
    approval = f", approval {refusal['approval'][:12]}…" if refusal["approval"] else ""
    say(f"  {about}{approval}")
    for each in refusal["differences"]:
        say(printable(f"    {each['name']}: expected {each['expected']}, found {each['actual']}"))


def _lease_row(lease: Mapping[str, Any]) -> list[str]:
    executors = lease["executors_left"]
    return [
        short(lease["approval"]),
        str(lease["dataset"]),
        str(lease["access"]),
        short(lease["application"]),
        f"{lease['runs_left']} of {lease['max_runs']}",
        "no limit" if executors is None else f"{executors} of {lease['max_executors_total']}",
        str(lease["not_after"] or "no end"),
        printable(str(lease["purpose"])) or "-",
    ]


def _run_row(run: Mapping[str, Any]) -> list[str]:
    reads: Mapping[str, Json] = run["reads"]
    return [
        short(run["run_id"]),
        short(run["application"]),
        str(run["opened_at"]),
        str(run["until"]),
        str(run["members"]),
        f"{run['executors']} of {run['max_executors']}",
        ", ".join(f"{name} {number}" for name, number in reads.items()) or "-",
        ", ".join(run["writes"]) or "-",
        ", ".join(run["ended_for"]) or "-",
    ]
