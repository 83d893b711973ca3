"""`strongroom init`, `up`, `down`, `status`: an installation on this machine."""

import click

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import Json
from strongroom.base.errors import StrongroomError
from strongroom.cli.installation import bring_up, take_down
from strongroom.cli.options import json_option, state_option
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.processes import ProcessRecord, read_table
from strongroom.cli.state import State
from strongroom.cli.terminal import busy, print_records, say
from strongroom.simulation.server import expected_measurement, socket_of
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect
from strongroom.wire.trust import Trust, TrustedService

_COLUMNS = {
    "name": "process",
    "pid": "pid",
    "url": "address",
    "mode": "mode",
    "hardware": "hardware",
    "health": "health",
}


@click.command()
@state_option
def init(*, state: State) -> None:
    """Make the keys of a data owner, a submitter and a recipient.

    They lie in owner/, each private key in a file that only its owner may read, each public key in a .jwk file beside
    it, to be handed on. Keys that are there already are never overwritten.
    """
    for name, thumbprint in make_owner_keys(state).items():
        say(f"{name:<10} {thumbprint}")
    say(f"keys made in {state.owner}; next: strongroom up")


@click.command()
@state_option
def up(*, state: State) -> None:
    """Start both services and the simulated platform on this machine.

    For people who want to try: owner and operator are the same person here, and simulated hardware protects nothing.
    Makes the owner's keys if there are none, writes trust.json, and registers an evidence policy that accepts exactly
    this installation's agent, if none is registered. What runs already is kept.
    """
    with busy("starting") as tell:
        brought_up = bring_up(state, clock=SystemClock(), tell=tell)
    for record in brought_up.processes:
        word = "started" if record.name in brought_up.started else "was running"
        say(f"{record.name:<20} {word:<12} {record.url}")
    for text in brought_up.notes:
        say(text)
    say(f"trust file: {state.trust} ({brought_up.trust.hardware} hardware, services owner-operated)")


@click.command()
@state_option
def down(*, state: State) -> None:
    """Stop what `up` started."""
    stopped = take_down(state)
    say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@click.command()
@json_option
@state_option
def status(*, as_json: bool, state: State) -> None:
    """Show what runs, where, and who is trusted."""
    records = read_table(state.processes)
    trust = load_trust(state.trust) if state.trust.exists() else None
    rows = [_row(record, _service(trust, record.name), state) for record in records]
    print_records(rows, columns=_COLUMNS, as_json=as_json)
    if not rows and not as_json:
        say("nothing was started here; start it with: strongroom up")


def _service(trust: Trust | None, name: str) -> TrustedService | None:
    return next((each for each in trust.services if each.service == name), None) if trust else None


def _row(record: ProcessRecord, service: TrustedService | None, state: State) -> dict[str, Json]:
    return {
        "name": record.name,
        "pid": record.pid,
        "url": record.url,
        "mode": service.mode if service else "operator's",
        "hardware": "simulated",
        "health": _health(record, service, state),
        "started_at": record.started_at,
    }


def _health(record: ProcessRecord, service: TrustedService | None, state: State) -> str:
    if not record.is_running:
        return "not running"
    try:
        if service is None:
            expected_measurement(socket_of(state.platform), entry="strongroom.agent")
        else:
            connect(service).request("GET", "/healthz").require_success()
    except StrongroomError as error:
        return f"not well: {error.message}"
    return "answers"
