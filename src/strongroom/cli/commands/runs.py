"""`strongroom runs`: what ran, and what it printed."""

import sys
from pathlib import Path

import click

from strongroom.base.errors import NotFoundError
from strongroom.cli.completion import complete_runs
from strongroom.cli.options import examples, json_option, state_option
from strongroom.cli.owner_keys import load_recipient_key
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import owner_client
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import print_json, print_records
from strongroom.crypto.jose import open_as_recipient

_COLUMNS = {
    "run_id": "run",
    "opened_at": "opened",
    "outcome": "outcome",
    "application": "application",
    "members": "TEEs",
    "receipt": "receipt",
}


@click.group()
def runs() -> None:
    """List runs, and read what an application printed."""


@runs.command(name="list", epilog=examples("strongroom runs list", "strongroom runs list --json"))
@json_option
@state_option
def list_runs(*, as_json: bool, state: State) -> None:
    """List the runs that the key service opened, as its owner."""
    records = [{**run, "receipt": _receipt(run["run_id"], state)} for run in owner_client(state).runs()["runs"]]
    print_records(records, columns=_COLUMNS, as_json=as_json)


@runs.command(epilog=examples("strongroom runs show 3f9c"))
@click.argument("run", shell_complete=complete_runs)
@state_option
def show(*, run: str, state: State) -> None:
    """Show what the key service knows of RUN (an id or its beginning), as JSON."""
    client = owner_client(state)
    found = find_by_prefix(run, {name: item["run"] for item in client.runs()["runs"] for name in _names(item)}, "run")
    print_json(client.run(found))


@runs.command(epilog=examples("strongroom runs output 3f9c", "strongroom runs output 3f9c --key recipient.key"))
@click.argument("run", shell_complete=complete_runs)
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A recipient's key.  [default: your own]",
)
@state_option
def output(*, run: str, key: Path | None, state: State) -> None:
    """Print what the application of RUN printed, if it was sealed to your key.

    Needs no service. The approvals of the run name who may read this (`approve --recipient`).
    """
    folders = {folder.name: folder for folder in state.runs.iterdir()} if state.runs.is_dir() else {}
    folder = find_by_prefix(run, folders, "run")
    sealed = sorted(folder.glob("*.output.jwe"))
    if not sealed:
        raise NotFoundError(
            f"run {folder.name} left no output for anybody: it printed nothing, or no approval names a recipient",
            action="name one in every approval of the next run: strongroom approve … --recipient KEYFILE",
        )
    recipient = load_recipient_key(key or state.recipient_key)
    sys.stdout.buffer.write(open_as_recipient(read_file(sealed[0], what="the sealed output"), key=recipient))


def _receipt(run_id: str, state: State) -> str | None:
    """Return where a run's receipt lies, if it ran on this machine and was closed."""
    file = state.runs / run_id / f"{run_id}.receipt.json"
    return str(file) if file.is_file() else None


def _names(item: dict[str, str]) -> tuple[str, ...]:
    return (item["run"], item["run_id"])
