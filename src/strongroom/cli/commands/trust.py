"""`strongroom trust`: what is trusted, and another owner's services beside one's own."""

from collections.abc import Iterator
from pathlib import Path

import click

from strongroom.base.errors import ConflictError, NotFoundError, StrongroomError
from strongroom.cli.options import PARTNER_NAME, examples, json_option, state_option
from strongroom.cli.state import State
from strongroom.cli.terminal import print_json, printable, say
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.datasets.storage import write_file
from strongroom.submit.run import load_trust
from strongroom.wire.model import TEE_KINDS
from strongroom.wire.trust import Anchors, Partner, Trust

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def trust() -> None:
    """Look at the trust file; trust another owner's services for joint runs."""


@trust.command(epilog=examples("strongroom trust show", "strongroom trust show hospital-trust.json"))
@click.argument("file", required=False, type=_FILE)
@json_option
@state_option
def show(*, file: Path | None, as_json: bool, state: State) -> None:
    """Show everything that a trust file trusts: your own, or FILE."""
    found = load_trust(file or state.trust)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found, title=str(file or state.trust), own=None)
    for partner in found.partners:
        _print_partner(partner, own=found)


@trust.command(epilog=examples("strongroom trust add hospital hospital-trust.json"))
@click.argument("name", type=PARTNER_NAME)
@click.argument("file", type=_FILE)
@click.option(
    "--accept-results",
    is_flag=True,
    help="Let your own key service believe the results of that owner's attestation service: needed where runs are "
    "attested there. It takes effect with `strongroom up`.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def add(*, name: str, file: Path, accept_results: bool, yes: bool, state: State) -> None:
    """Trust the services of another owner, NAME, as that owner's trust FILE names them.

    Shows what would be trusted, and asks. Compare the identities with the owner over another channel: whoever changed
    the file on its way would be trusted in that owner's place. Their anchors count for their own services and datasets
    alone; the partners in FILE are not taken over. An owner of this name is replaced.
    """
    own, theirs = load_trust(state.trust), load_trust(file)
    anchors = Anchors.from_object({field: theirs.model_dump(mode="json")[field] for field in Anchors.model_fields})
    partner = Partner(name=name, accept_results=accept_results, anchors=anchors)
    others = [each for each in own.partners if each.name != name]
    merged = _merged(own, [*others, partner])
    _print_partner(partner, own=own)
    if theirs.partners:
        say(f"not taken over from {file.name}: its partners {', '.join(each.name for each in theirs.partners)}")
    if not yes:
        click.confirm(f"Trust this as {name}?", abort=True)
    write_file(state.trust, merged.to_json())
    say(f"{name} is trusted; datasets there are called NAME@{name}")
    if accept_results:
        say("let your key service take it up with: strongroom up")


@trust.command()
@click.argument("name", type=PARTNER_NAME)
@state_option
def remove(*, name: str, state: State) -> None:
    """Trust the owner NAME no more.

    If its results were accepted, your key service forgets them with `strongroom up`.
    """
    own = load_trust(state.trust)
    partner = own.partner(name)
    if partner is None:
        raise NotFoundError(f"the trust file has no partner {name}", action="see them with: strongroom trust show")
    write_file(state.trust, _merged(own, [each for each in own.partners if each.name != name]).to_json())
    say(f"{name} is trusted no more")
    if partner.accept_results:
        say("let your key service take it up with: strongroom up")


def _merged(own: Trust, partners: list[Partner]) -> Trust:
    try:
        return Trust.from_json(own.model_copy(update={"partners": tuple(partners)}).to_json())
    except StrongroomError as error:
        raise ConflictError(
            f"the two trust files do not go together: {error.message}",
            action="see what is trusted already with: strongroom trust show",
        ) from error


def _print_partner(partner: Partner, *, own: Trust) -> None:
    _print(partner.anchors, title=f"partner {partner.name}", own=own)
    word = "are accepted" if partner.accept_results else "are not accepted"
    say(f"  {'results':<14} of its attestation service {word} by your key service")


def _print(anchors: Anchors, *, title: str, own: Anchors | None) -> None:
    say(title)
    for name, text in _lines(anchors, own=own):
        say(f"  {name:<14} {printable(text)}")


def _lines(anchors: Anchors, *, own: Anchors | None) -> Iterator[tuple[str, str]]:
    """Yield what is trusted, in words: what, and its value. What is like one's own is marked."""
    simulated = " (protects nothing)" if anchors.hardware == "simulated" else ""
    yield "hardware", f"{anchors.hardware}{simulated}"
    for root in anchors.roots:
        digest = sha256_hex(parse_pem_chain(root.certificate_pem.encode())[0])
        yield "root", f"{digest}{' (simulated)' if root.simulated else ''}{_same(root in own.roots if own else False)}"
    for service in anchors.services:
        yield service.service.removesuffix("-service"), f"{service.url}, {service.mode}"
        yield "  identity", service.identity
        yield "  code", service.measurement or "the identity's word alone"
        yield "  configured", service.configuration
        if service.master_key:
            yield "  master key", service.master_key
        if service.log_key:
            yield "  log", service.log_key
    for owner in anchors.owners:
        yield "owner", owner
    for kind in TEE_KINDS:
        for value in anchors.agents(kind):
            yield f"agent ({kind})", f"{value}{_same(value in own.agents(kind) if own else False)}"


def _same(is_so: bool) -> str:  # noqa: FBT001 - a word for a yes
    return " (yours too)" if is_so else ""
