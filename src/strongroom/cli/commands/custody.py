"""`strongroom custody`: a master key that several people hold together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from strongroom.base.clock import SystemClock
from strongroom.cli.custody import (
    custody_client,
    expected_service,
    open_share,
    pin_into_trust,
    split_for,
    verified_progress,
)
from strongroom.cli.options import json_option, state_option
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, print_json, say, short
from strongroom.submit.custody import give_share

_Command = TypeVar("_Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)


def _service_options(command: _Command) -> _Command:
    """Add what says which service is meant: `config`, `roster`, `measurement`, `address`, `trust` and `state`."""
    for option in (
        state_option,
        click.option(
            "--trust",
            type=_FILE,
            metavar="FILE",
            help="The trust file with the hardware's roots.  [default: trust.json of the state folder]",
        ),
        click.option(
            "--address", metavar="URL", help="Where you reach the service.  [default: where its configuration says]"
        ),
        click.option(
            "--measurement",
            metavar="HEX",
            help="What the key service's code measures (MRENCLAVE).  [default: the trust file's key service]",
        ),
        click.option(
            "--roster",
            type=_FILE,
            metavar="FILE",
            help="The custodians' roster.  [default: where the configuration says]",
        ),
        click.option(
            "--config",
            required=True,
            type=_FILE,
            metavar="FILE",
            help="The key service's configuration, from its owner; its digest is demanded of the service.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def custody() -> None:
    """Hold a key service's master key together with others, and unlock it.

    An attested key service has its master key only in the memory of its TEE. When it starts it is locked; when as many
    custodians as it takes gave their shares, it opens its store. Each custodian's command verifies first that the
    service is the measured code with the owner's configuration, and seals the share to that very start of it.
    """


@custody.command(
    epilog=examples(
        "strongroom custody split --threshold 2 --custodian ann=ann.jwk --custodian bob=bob.jwk"
        " --custodian eve=eve.jwk --out custody/"
    )
)
@click.option("--threshold", required=True, type=click.IntRange(min=2), help="How many custodians it takes.")
@click.option(
    "--custodian",
    "custodians",
    required=True,
    multiple=True,
    metavar="NAME=FILE",
    help="A custodian and the public key (P-256 JWK) that the share is sealed to: recipient.jwk of their `init`.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="A folder to be made."
)
def split(*, threshold: int, custodians: tuple[str, ...], out: Path) -> None:
    """Make a new master key and split it among custodians.

    Writes roster.json, which is public and goes to the key service, and for each custodian NAME.share.jwe, which only
    that custodian can open. The key itself is never written, and nobody can put it together but the custodians: run
    this on a machine that its owner trusts, once, and keep the shares' files, each with its custodian.
    """
    roster, files = split_for(custodians, threshold=threshold, out=out)
    for file in files:
        say(f"{file.name}")
    say(f"roster: {out / 'roster.json'}, {threshold} of {len(roster.custodians)}")
    say(f'next: in the key service\'s configuration, "master_key": "custody://{(out / "roster.json").absolute()}"')


@custody.command(
    epilog=examples("strongroom custody unlock --share ann.share.jwe --config key-service.json --roster roster.json")
)
@click.option("--share", required=True, type=_FILE, metavar="FILE", help="Your share's file.")
@click.option(
    "--key", type=_FILE, metavar="FILE", help="Your private key.  [default: recipient.key of the state folder]"
)
@_service_options
def unlock(
    *,
    share: Path,
    key: Path | None,
    config: Path,
    roster: Path | None,
    measurement: str | None,
    address: str | None,
    trust: Path | None,
    state: State,
) -> None:
    """Give your share to a locked key service, after verifying it.

    Refuses, and gives nothing, if the service's evidence does not hold under the trust file's roots, or its code,
    configuration or custodians are not the expected ones.
    """
    expected = expected_service(
        config, roster=roster, measurement=measurement, address=address, trust=trust or state.trust
    )
    opened = open_share(share, key=key or state.recipient_key)
    progress = give_share(custody_client(expected), opened, expected=expected, clock=SystemClock())
    if progress.unlocked:
        say("the key service is unlocked")
    else:
        say(f"your share was given: {len(progress.given)} of {progress.needed}")


@custody.command(epilog=examples("strongroom custody status --config key-service.json"))
@json_option
@_service_options
def status(
    *,
    as_json: bool,
    config: Path,
    roster: Path | None,
    measurement: str | None,
    address: str | None,
    trust: Path | None,
    state: State,
) -> None:
    """Say whether a key service is locked, and whose shares it has; its evidence is verified."""
    expected = expected_service(
        config, roster=roster, measurement=measurement, address=address, trust=trust or state.trust
    )
    progress = verified_progress(custody_client(expected), expected=expected, clock=SystemClock())
    if as_json:
        print_json(progress)
        return
    if not progress["locked"]:
        say("the key service is unlocked")
        return
    say(f"the key service is locked: {len(progress['given'])} of {progress['needed']} shares are there")
    for each in progress["custodians"]:
        say(f"  {each['name']:<20} {'gave' if each['number'] in progress['given'] else '-'}")


@custody.command(epilog=examples("strongroom custody pin --config key-service.json"))
@_service_options
def pin(
    *,
    config: Path,
    roster: Path | None,
    measurement: str | None,
    address: str | None,
    trust: Path | None,
    state: State,
) -> None:
    """Write an unlocked attested key service into the trust file, after verifying it.

    Its identity was made inside the TEE, so that it can be learnt from evidence only. Takes the place of the trust
    file's key service. Works for every attested key service, whoever holds its master key.
    """
    path = trust or state.trust
    expected = expected_service(config, roster=roster, measurement=measurement, address=address, trust=path)
    service = pin_into_trust(path, custody_client(expected), expected=expected, clock=SystemClock())
    say(f"trust file: {path}: key service {short(service.identity)}, attested, master key: {service.master_key}")
