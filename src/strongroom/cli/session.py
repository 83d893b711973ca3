"""Connections of the person at the command line to the services of the trust file."""

from strongroom.base.clock import SystemClock
from strongroom.base.errors import ConfigurationError
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.sign_in import signed_in
from strongroom.cli.state import State
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.owner import OwnerClient, person_token
from strongroom.crypto.keys import SigningKey
from strongroom.submit.run import load_trust
from strongroom.submit.seen_logs import fetch_checkpoint
from strongroom.submit.services import connect, trusted_service


def owner_client(state: State) -> OwnerClient:
    """Return this person's connection to the key service, whose log extends everything that was seen of it.

    The person is signed in where he did that, otherwise known by his key.

    Raises:
        ConfigurationError: There is no trust file, or this person has neither signed in nor a key.
        InconsistentLogError: The key service's log was forked, rewritten or rolled back.
    """
    service = trusted_service(load_trust(state.trust), "key-service")
    bearer, http = signed_in(state, service, clock=SystemClock()), connect(service)
    key = owner_key(state) if bearer is None or state.owner_key.exists() else None
    fetch_checkpoint(service, http, file=state.seen_logs)
    return OwnerClient(
        http,
        identity=service.identity,
        key=key,
        clock=SystemClock(),
        bearer=bearer,
        predecessors=service.predecessors,
    )


def attestation_client(state: State) -> tuple[AttestationClient, str]:
    """Return this person's connection to the attestation service, and a bearer token for it.

    Raises:
        ConfigurationError: There is no trust file, or this person has neither signed in nor a key.
    """
    service = trusted_service(load_trust(state.trust), "attestation-service")
    bearer = signed_in(state, service, clock=SystemClock())
    if bearer is not None:
        return AttestationClient(connect(service)), bearer()
    token = person_token(owner_key(state), audience=service.identity, clock=SystemClock())
    return AttestationClient(connect(service)), token


def owner_key(state: State) -> SigningKey:
    """Return the owner's signing key.

    Raises:
        ConfigurationError: There is none, or its file is not this person's alone.
    """
    if not state.owner_key.exists():
        raise ConfigurationError(
            f"there is no owner's key in {state.owner}",
            action="make one with `strongroom init`, name the owner's installation with --state, or: strongroom login",
        )
    return load_signing_key(state.owner_key)
