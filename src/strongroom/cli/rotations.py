"""Rotating the identity keys of an installation, and the file of rotations that is handed to others."""

from collections.abc import Callable
from typing import Final

from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, ConflictError, FormatError
from strongroom.cli.owner_keys import install_owner_key, load_signing_key, prepare_owner_key
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.clients.seen_log import log_key_of
from strongroom.crypto.keys import SigningKey
from strongroom.datasets.storage import write_file
from strongroom.log.rotation import follow, read_rotation, sign_rotation
from strongroom.services import key_service
from strongroom.services.identity import has_sealed_identity, install_successor, open_identity, prepare_successor
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.rotation import IdentityKind, Rotations

_HOST: Final = "127.0.0.1"


def read_rotations(state: State) -> Rotations:
    """Return the installation's rotations; none where nothing was rotated.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    try:
        return Rotations.from_json(state.rotations.read_bytes())
    except FileNotFoundError:
        return Rotations(rotations=())
    except OSError as error:
        raise ConfigurationError(f"{state.rotations} cannot be read: {error.strerror}") from error
    except FormatError as error:
        raise ConfigurationError(f"{state.rotations} is {error.message}", action="Restore it.") from error


def former_owners(state: State) -> tuple[str, ...]:
    """Return the keys that owners had before, oldest first: what they signed is still verified."""
    found = [read_rotation(each.statement) for each in read_rotations(state).rotations]
    return tuple(each.old for each in found if each.kind == "owner")


def rotate_key_service(state: State, *, clock: Clock) -> tuple[str, str]:
    """Replace the identity key of the key service, which runs: it logs that, and takes the new one at its next start.

    Returns:
        The old identity and the new one.

    Raises:
        ConfigurationError: The key service is attested.
        UnavailableError: The key service does not run.
        RefusedError: It has another identity than the folder says.
    """
    folder, now = state.key_service, clock.now()
    if has_sealed_identity(folder):
        raise ConfigurationError(
            "the identity of an attested key service is sealed: its operator cannot replace it",
            action="Set up a new service, and approve for it.",
        )
    identity = open_identity(folder, common_name=key_service.COMMON_NAME, sans=[_HOST], now=now)
    new, certificate_pem = prepare_successor(folder, common_name=key_service.COMMON_NAME, now=now)

    def sign() -> str:
        return sign_rotation("key-service", old=identity.key, new=new, certificate_pem=certificate_pem, now=now)

    old = _logged(state, "key-service", new, sign)
    install_successor(folder, old=old)
    return old, new.verifying_key.thumbprint


def rotate_owner(state: State, *, clock: Clock) -> tuple[str, str]:
    """Replace the owner's key. The key service knows the new one when it is configured: at the next start.

    Returns:
        The old key's thumbprint and the new one's.

    Raises:
        UnavailableError: The key service does not run.
    """
    old_key, now = load_signing_key(state.owner_key), clock.now()
    new = prepare_owner_key(state)
    old = _logged(state, "owner", new, lambda: sign_rotation("owner", old=old_key, new=new, now=now))
    install_owner_key(state)
    return old, new.verifying_key.thumbprint


def _logged(state: State, kind: IdentityKind, new: SigningKey, sign: Callable[[], str]) -> str:
    """Have a rotation logged and kept in the file, unless a crash came after that; return the old identity."""
    known = read_rotations(state)
    for each in known.rotations:
        rotation = read_rotation(each.statement)
        if (rotation.kind, rotation.new) == (kind, new.verifying_key.thumbprint):
            return rotation.old
    token = sign()
    try:
        logged = owner_client(state).rotate(token)
    except ConflictError as error:
        raise ConflictError(
            "this identity was replaced before, and its rotation is not in the file",
            action=f"Restore {state.rotations}; the log has the rotation: strongroom log show --event identity-rotated",
        ) from error
    old = read_rotation(token).old
    log = log_key_of(trusted_service(load_trust(state.trust), "key-service").log_key)
    follow([logged], kind=kind, start=old, log=log)  # nothing is replaced that others could not follow
    write_file(state.rotations, Rotations(rotations=(*known.rotations, logged)).to_json())
    return old
