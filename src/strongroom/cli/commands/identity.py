"""`strongroom identity`: replacing identity keys, and following those that were replaced."""

from pathlib import Path

import click

from strongroom.base.clock import SystemClock
from strongroom.cli.options import examples, state_option
from strongroom.cli.rotations import rotate_key_service, rotate_owner
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import say, short
from strongroom.datasets.storage import write_file
from strongroom.submit.rotations import follow_rotations
from strongroom.submit.run import load_trust
from strongroom.wire.rotation import Rotations


@click.group()
def identity() -> None:
    """Replace identity keys, and follow those that were replaced."""


@identity.command(epilog=examples("strongroom identity rotate key-service", "strongroom identity rotate owner"))
@click.argument("whose", type=click.Choice(["key-service", "owner"]))
@state_option
def rotate(*, whose: str, state: State) -> None:
    """Replace the identity key of the own key service, or the owner's own key.

    The old key signs that the new one stands in its place, and the key service logs it. The new key takes effect with
    the next `strongroom up`. Hand rotations.json of the state folder to everybody who pinned the old identity.
    Approvals name identities: applications have to be approved anew.
    """
    act = rotate_key_service if whose == "key-service" else rotate_owner
    old, new = act(state, clock=SystemClock())
    say(f"{whose}: {short(old)} is replaced by {short(new)}, and the key service logged it")
    say(f"next: strongroom up, approve anew, and hand {state.rotations} to who pinned the old identity")


@identity.command(epilog=examples("strongroom identity follow rotations.json --trust trust.json"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The trust file to be updated.  [default: trust.json of the state folder]",
)
@state_option
def follow(*, file: Path, trust: Path | None, state: State) -> None:
    """Update a trust file with the rotations in FILE, offline.

    Each must be signed by the identity that is pinned, or by one that this leads to, and be proved to be in the log
    whose key is pinned. Nothing is changed if one does not hold.
    """
    path = trust or state.trust
    rotations = Rotations.from_json(read_file(file, what="the file of rotations"))
    updated, steps = follow_rotations(load_trust(path), rotations)
    if not steps:
        say("nothing that is pinned was replaced")
        return
    write_file(path, updated.to_json())
    for step in steps:
        say(f"{step.kind}: {short(step.old)} is replaced by {short(step.new)} ({step.issued_at})")
    say(f"{path} is updated")
