"""`strongroom roster`: who approves for a dataset, and how many of them it takes."""

from typing import Any

import click

from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.errors import RefusedError
from strongroom.cli.approval_words import lines_of, roster_changes, roster_words
from strongroom.cli.approving import ReadRosters, read_rosters
from strongroom.cli.options import DATASET_NAME, json_option, state_option
from strongroom.cli.owner_keys import public_key_of
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import owner_client, owner_key
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, print_json, say
from strongroom.clients.owner import OwnerClient
from strongroom.policy.roster import Roster, SignedBy
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.approvals import MAX_SIGNERS


@click.group()
def roster() -> None:
    """Say who approves for a dataset, and how many of them it takes."""


@roster.command()
@click.argument("dataset", type=DATASET_NAME)
@json_option
@state_option
def show(*, dataset: str, as_json: bool, state: State) -> None:
    """Show the roster of DATASET, and those that wait for signatures."""
    client = owner_client(state)
    if as_json:
        print_json(client.rosters(dataset))
        return
    rosters = _read(client, dataset, state=state)
    if rosters.now is None:
        say(f"dataset {dataset} has no roster: one owner's signature is enough")
    else:
        say(f"dataset {dataset}:")
        _say(roster_words(rosters.now))
    for waiting in rosters.waiting:
        say(f"waits for signatures, {len(waiting.signers)} of {waiting.needed}:")
        _print(waiting.roster, rosters)


@roster.command(
    epilog=examples(
        "strongroom roster change trips --member alice.jwk --member bob.jwk --member carol.jwk --threshold 2",
    )
)
@click.argument("dataset", type=DATASET_NAME)
@click.option(
    "--member",
    "members",
    multiple=True,
    required=True,
    metavar="KEYFILE",
    help="A person's public key (JWK); repeatable. Name every member, those who stay too.",
)
@click.option(
    "--threshold", required=True, type=click.IntRange(1, MAX_SIGNERS), metavar="K", help="How many of them must sign."
)
@click.option(
    "--keep-approvals", is_flag=True, help="Approvals that were given before go on.  [default: they end with it]"
)
@state_option
def change(*, dataset: str, members: tuple[str, ...], threshold: int, keep_approvals: bool, state: State) -> None:
    """Give DATASET a roster, or propose another one.

    The first roster is for the dataset's owner to sign. Each later one holds from the moment as many members of the one
    before have signed it as that one demands; yours is the first signature (`strongroom roster sign`).
    """
    if threshold > len(members):
        raise click.UsageError("--threshold demands more signatures than there are members")
    client = owner_client(state)
    rosters = _read(client, dataset, state=state)
    before = rosters.now
    proposed = Roster(
        key_service=trusted_service(load_trust(state.trust), "key-service").identity,
        dataset=dataset,
        number=before.number + 1 if before else 1,
        previous=before.digest if before else None,
        members=tuple(public_key_of(file).to_jwk() for file in members),
        threshold=threshold,
        keeps_approvals=keep_approvals,
        issued_at=to_rfc3339(SystemClock().now()),
    )
    _demand_may_sign(before, state=state)
    say(f"You sign the roster of dataset {dataset}:")
    _print(proposed, rosters)
    say(_signed_line(client.propose_roster(proposed), dataset))


@roster.command()
@click.argument("dataset", type=DATASET_NAME)
@click.argument("roster_id", metavar="ROSTER")
@click.option("--yes", is_flag=True, help="Sign without asking.")
@state_option
def sign(*, dataset: str, roster_id: str, yes: bool, state: State) -> None:
    """Sign the roster ROSTER (its digest or the beginning), which somebody proposed for DATASET."""
    client = owner_client(state)
    rosters = _read(client, dataset, state=state)
    waiting: dict[str, SignedBy] = {each.roster.digest: each for each in rosters.waiting}
    found = find_by_prefix(roster_id, waiting, "proposed roster").roster
    _demand_may_sign(rosters.now, state=state)
    say(f"You sign the roster of dataset {dataset}:")
    _print(found, rosters)
    if not yes:
        click.confirm("Sign this?", abort=True)
    say(_signed_line(client.sign_roster(found), dataset))


def _read(client: OwnerClient, dataset: str, *, state: State) -> ReadRosters:
    trust = load_trust(state.trust)
    return read_rosters(client, dataset, key_service=trusted_service(trust, "key-service").identity, trust=trust)


def _demand_may_sign(before: Roster | None, *, state: State) -> None:
    if before is not None and owner_key(state).verifying_key.thumbprint not in before.keys:
        raise RefusedError(
            f"your key is not in the roster of dataset {before.dataset}", action="ask one of its members to sign"
        )


def _print(found: Roster, rosters: ReadRosters) -> None:
    _say(roster_words(found))
    if rosters.now is not None:
        say(f"Unlike roster {rosters.now.number}:")
        for line in roster_changes(rosters.now, found) or ["nothing"]:
            say(f"  {line}")


def _say(words: list[tuple[str, str]]) -> None:
    for line in lines_of(words):
        say(line)


def _signed_line(answer: dict[str, Any], dataset: str) -> str:
    digest, signatures, needed = answer["roster"], answer["signatures"], answer["needed"]
    if answer["holds"]:
        return f"the roster holds: {digest}"
    return (
        f"signed, {signatures} of {needed}: {digest}\n"
        f"it holds once {needed - signatures} more sign it: strongroom roster sign {dataset} {digest[:12]}"
    )
