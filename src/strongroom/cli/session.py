"""Connections of the person at the command line to the services of the trust file."""

from strongroom.base.clock import SystemClock
from strongroom.base.errors import ConfigurationError
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.state import State
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.owner import OwnerClient, person_token
from strongroom.crypto.keys import SigningKey
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect, trusted_service


def owner_client(state: State) -> OwnerClient:
    """Return the owner's connection to the key service.

    Raises:
        ConfigurationError: There is no trust file, or this person has no owner's key.
    """
    service = trusted_service(load_trust(state.trust), "key-service")
    return OwnerClient(connect(service), identity=service.identity, key=owner_key(state), clock=SystemClock())


def attestation_client(state: State) -> tuple[AttestationClient, str]:
    """Return the owner's connection to the attestation service, and a bearer token for it.

    Raises:
        ConfigurationError: There is no trust file, or this person has no owner's key.
    """
    service = trusted_service(load_trust(state.trust), "attestation-service")
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
            action="make one with `strongroom init`, or name the owner's installation with --state",
        )
    return load_signing_key(state.owner_key)
