"""`strongroom identity`: replacing identity keys, and following those that were replaced."""

from pathlib import Path
from typing import Literal

import click

from strongroom.base.clock import SystemClock
from strongroom.cli.options import state_option
from strongroom.cli.rotations import rotate_owner, rotate_service
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, say, short
from strongroom.datasets.storage import write_file
from strongroom.submit.rotations import follow_rotations
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.rotation import Rotations


@click.group()
def identity() -> None:
    """Replace identity keys, and follow those that were replaced."""


@identity.command(
    epilog=examples(
        "strongroom identity rotate key-service",
        "strongroom identity rotate attestation-service",
        "strongroom identity rotate owner",
    )
)
@click.argument("whose", type=click.Choice(["key-service", "attestation-service", "owner"]))
@state_option
def rotate(*, whose: Literal["key-service", "attestation-service", "owner"], state: State) -> None:
    """Replace the identity key of an own service, or the owner's own key.

    The old key signs that the new one stands in its place, and the key service logs it. The new key takes effect with
    the next `strongroom up`; an attested key service makes it itself, and takes it when it is started again. Hand
    rotations.json of the state folder to everybody who pinned the old identity. Approvals name key services and owners:
    when one of those was replaced, applications have to be approved anew.
    """
    clock = SystemClock()
    old, new = rotate_owner(state, clock=clock) if whose == "owner" else rotate_service(state, whose, clock=clock)
    say(f"{whose}: {short(old)} is replaced by {short(new)}, and the key service logged it")
    attested = whose == "key-service" and trusted_service(load_trust(state.trust), whose).mode == "attested"
    up = f"start the service again, strongroom identity follow {state.rotations}" if attested else "strongroom up"
    anew = "" if whose == "attestation-service" else ", approve anew"
    say(f"next: {up}{anew}, and hand {state.rotations} to who pinned the old identity")


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
