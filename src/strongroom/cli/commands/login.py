"""`strongroom login`, `logout`, `whoami`: people who sign in instead of using a key."""

import webbrowser
from collections.abc import Sequence

import click

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError
from strongroom.cli.options import json_option, state_option
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.sign_in import forget, keep, sign_in, sign_in_on_device, signed_in
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, note, print_records, printable, say
from strongroom.clients.oidc import Tokens
from strongroom.clients.owner import OwnerClient
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect, verify_services
from strongroom.wire.sign_in import SignInIssuer, SignInOffer, WhoYouAre
from strongroom.wire.trust import Trust, TrustedService

_CLOCK = SystemClock()


@click.command(epilog=examples("strongroom login", "strongroom login --device", "strongroom whoami"))
@click.option("--issuer", metavar="URL", help="The issuer, where the services offer several.")
@click.option("--device", is_flag=True, help="Sign in on another device: for a machine without a browser.")
@click.option("--no-browser", is_flag=True, help="Only print the address; open no browser.")
@state_option
def login(*, issuer: str | None, device: bool, no_browser: bool, state: State) -> None:
    """Sign in at the services' issuer (OIDC), in the place of a key.

    The issuer is the one that the services of the trust file offer. From then on commands use the sign-in in the
    place of tokens signed with your key, until `strongroom logout`. What needs your signature, such as an approval,
    still needs your key: have its public half registered under your name. Tokens are kept in owner/sign-in/, in
    files that only you may read, and are refreshed as they end.
    """
    trust = load_trust(state.trust)
    verify_services(trust, clock=_CLOCK)
    for offer, services in _offers(trust, issuer=issuer):
        tokens = _sign_in(offer, device=device, no_browser=no_browser)
        known = [_who(service, tokens) for service in services]
        keep(state, offer, tokens, services=tuple(service.identity for service in services))
        for service, who in zip(services, known, strict=True):
            say(f"{service.service}: signed in as {who.name} ({', '.join(who.roles)})")


@click.command()
@state_option
def logout(*, state: State) -> None:
    """Forget a sign-in.

    Commands use your key again. Tokens that were given stay good until they end, within an hour as a rule; to end
    them at once, end the session at the issuer, or have the service's operator take you out of its configuration.
    """
    say("signed out" if forget(state) else "nobody was signed in")


@click.command()
@json_option
@state_option
def whoami(*, as_json: bool, state: State) -> None:
    """Show who you are at each service, and what you may do there."""
    rows: list[dict[str, Json]] = []
    for service in load_trust(state.trust).services:
        bearer = signed_in(state, service, clock=_CLOCK)
        key = load_signing_key(state.owner_key) if state.owner_key.exists() else None
        client = OwnerClient(connect(service), identity=service.identity, key=key, clock=_CLOCK, bearer=bearer)
        who = client.who()
        rows.append(
            {
                "service": service.service,
                "name": who.name,
                "roles": ", ".join(who.roles),
                "by": "sign-in" if bearer else "key",
                "identity": who.identity,
                "key": who.key,
            }
        )
    columns = {"service": "service", "name": "name", "roles": "roles", "by": "by", "identity": "identity"}
    print_records(rows, columns=columns, as_json=as_json)


def _offers(trust: Trust, *, issuer: str | None) -> list[tuple[SignInIssuer, list[TrustedService]]]:
    """Return at which issuers to sign in, each with the services that one sign-in serves."""
    found: list[tuple[SignInIssuer, list[TrustedService]]] = []
    for service in trust.services:
        offer = _chosen(service, issuer=issuer)
        if offer is None:
            continue
        same = next((services for known, services in found if known == offer), None)
        if same is None:
            found.append((offer, [service]))
        else:
            same.append(service)
    if not found:
        raise ConfigurationError(
            "no service of the trust file offers a sign-in" + (f" at {issuer}" if issuer else ""),
            action="use your key (strongroom init), or have an OIDC issuer configured at the services",
        )
    return found


def _chosen(service: TrustedService, *, issuer: str | None) -> SignInIssuer | None:
    answer = connect(service).request("GET", "/strongroom/v1/sign-in").require_success()
    offers: Sequence[SignInIssuer] = SignInOffer.from_json(answer).issuers
    if issuer is not None:
        offers = [offer for offer in offers if offer.issuer == issuer]
    if len(offers) > 1:
        names = ", ".join(offer.issuer for offer in offers)
        raise ConfigurationError(f"there are several issuers: {names}", action="choose one with --issuer URL")
    return offers[0] if offers else None


def _sign_in(offer: SignInIssuer, *, device: bool, no_browser: bool) -> Tokens:
    if device:
        return sign_in_on_device(offer, clock=_CLOCK, show=_show_code)

    def show(url: str) -> None:
        note(f"Sign in at {offer.issuer}, within five minutes:\n  {printable(url)}")
        if not no_browser:
            webbrowser.open(url)

    return sign_in(offer, clock=_CLOCK, show=show)


def _show_code(url: str, code: str) -> None:
    note(f"On any device, open {printable(url)} and type {printable(code)}")


def _who(service: TrustedService, tokens: Tokens) -> WhoYouAre:
    """Ask a service who the tokens mean, before they are kept."""
    client = OwnerClient(
        connect(service),
        identity=service.identity,
        key=None,
        clock=_CLOCK,
        bearer=lambda: tokens.access.reveal().decode(),
    )
    return client.who()
