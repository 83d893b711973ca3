"""`strongroom approvals` and `revoke`: what was approved, signing what others proposed, and taking it back."""

from typing import Any

import click

from strongroom.cli.applications import describe
from strongroom.cli.approval_words import approval_words, lines_of
from strongroom.cli.approving import ReadApproval, changes_since, earlier_approval, read_stored_approval
from strongroom.cli.commands.approve import signed_line
from strongroom.cli.completion import complete_approvals
from strongroom.cli.options import json_option, state_option
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, print_json, print_records, printable, say
from strongroom.clients.owner import OwnerClient
from strongroom.submit.run import load_trust
from strongroom.wire.approvals import MAX_REASON

_COLUMNS = {
    "approval": "approval",
    "dataset": "dataset",
    "access": "access",
    "application": "application",
    "runs_opened": "runs",
    "max_runs": "of",
    "not_after": "until",
    "signatures": "signed",
    "needed": "needed",
    "state": "state",
}


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "strongroom approvals",
        "strongroom approvals list --waiting",
        "strongroom approvals show 7d20",
        "strongroom approvals sign 7d20",
    ),
)
@json_option
@state_option
@click.pass_context
def approvals(context: click.Context, *, as_json: bool, state: State) -> None:
    """List approvals and how often each was used; look at one, sign one that others proposed."""
    if context.invoked_subcommand is None:
        print_records(_records(owner_client(state)), columns=_COLUMNS, as_json=as_json)


@approvals.command(name="list")
@click.option("--waiting", is_flag=True, help="Only those that wait for signatures.")
@json_option
@state_option
def list_approvals(*, waiting: bool, as_json: bool, state: State) -> None:
    """List the approvals of datasets that you own or sign for."""
    records = _records(owner_client(state))
    shown = [record for record in records if not waiting or record.get("state") == "waits for signatures"]
    print_records(shown, columns=_COLUMNS, as_json=as_json)


@approvals.command()
@click.argument("approval", shell_complete=complete_approvals)
@json_option
@state_option
def show(*, approval: str, as_json: bool, state: State) -> None:
    """Show everything that APPROVAL (an id or its beginning) says, who signed it, and what was used of it."""
    client = owner_client(state)
    records = _records(client)
    record = client.approval(_find(approval, records))
    if as_json:
        print_json(record)
        return
    _print(read_stored_approval(record, trust=load_trust(state.trust)), records, state=state)


@approvals.command(epilog=examples("strongroom approvals sign 7d20"))
@click.argument("approval", shell_complete=complete_approvals)
@click.option("--yes", is_flag=True, help="Sign without asking.")
@state_option
def sign(*, approval: str, yes: bool, state: State) -> None:
    """Sign APPROVAL (an id or its beginning), which somebody else proposed.

    Shows in words everything that you sign, and what differs from the approval before it. You sign exactly what is
    shown: its bytes are checked here, not what the key service says about them.
    """
    client = owner_client(state)
    records = _records(client)
    read = read_stored_approval(client.approval(_find(approval, records)), trust=load_trust(state.trust))
    _print(read, records, state=state)
    if not yes:
        click.confirm("Sign this?", abort=True)
    say(signed_line(client.sign_approval(read.signed.id, read.signed.payload)))


@click.command(epilog=examples('strongroom revoke 7d20 --reason "the study has ended"'))
@click.argument("approval", shell_complete=complete_approvals)
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who answer for the dataset.")
@state_option
def revoke(*, approval: str, reason: str, state: State) -> None:
    """Revoke an approval. One person is enough, however many signed it.

    No run is opened under APPROVAL (an id or its beginning) any more; a run that is under way gets no further key and
    its results do not become a version. Its submitter is shown who revoked it and when, and not the reason.
    """
    if len(reason) > MAX_REASON:
        raise click.BadParameter(f"at most {MAX_REASON} characters", param_hint="--reason")
    client = owner_client(state)
    found = _find(approval, _records(client))
    client.revoke(found, reason=reason)
    say(f"approval {found} revoked")


def _records(client: OwnerClient) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = client.approvals()["approvals"]
    return records


def _find(approval: str, records: list[dict[str, Any]]) -> str:
    return find_by_prefix(
        approval, {str(record["approval"]): str(record["approval"]) for record in records}, "approval"
    )


def _print(read: ReadApproval, records: list[dict[str, Any]], *, state: State) -> None:
    signed, approval = read.signed, read.signed.approval
    say(f"Approval {signed.id}")
    for line in lines_of([*describe(read.description), *approval_words(approval), *_state(read)]):
        say(line)
    earlier = earlier_approval(records, approval, read.description, trust=load_trust(state.trust))
    if earlier is not None:
        say(f"Unlike approval {earlier.signed.id[:12]}…:")
        for line in changes_since(earlier, approval, read.description) or ["nothing but when it was issued"]:
            say(f"  {line}")


def _state(read: ReadApproval) -> list[tuple[str, str]]:
    record, signed = read.record, read.signed
    lines = [
        ("signed by", f"{len(signed.signers)} of {signed.needed} needed: {', '.join(signed.signers)}"),
        ("used", f"{record.get('runs_opened')} runs, {record.get('executors_joined')} executors"),
        ("state", str(record.get("state"))),
    ]
    match record.get("revocation"):
        case {"by": by, "at": at, "reason": reason}:
            lines.append(("revoked", printable(f"{at} by {by}: {reason or 'no reason given'}")))
        case _:
            pass
    return lines
