"""Rotating the identity keys of an installation, and the file of rotations that is handed to others."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, ConflictError, FormatError, VerificationError
from strongroom.cli.owner_keys import install_owner_key, load_signing_key, prepare_owner_key
from strongroom.cli.session import owner_client
from strongroom.cli.state import State
from strongroom.clients.seen_log import log_key_of
from strongroom.crypto.keys import SigningKey
from strongroom.datasets.storage import write_file
from strongroom.log.rotation import follow, read_rotation, sign_rotation
from strongroom.services import attestation_service, key_service
from strongroom.services.identity import install_successor, open_identity, prepare_successor
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.rotation import IdentityKind, IdentityRotation, LoggedRotation, Rotations
from strongroom.wire.service import ServiceKind

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


def rotate_service(state: State, kind: ServiceKind, *, clock: Clock) -> tuple[str, str]:
    """Replace a service's identity key. The key service, which runs, logs it; the service takes it at its next start.

    An attested key service has its key to itself: it makes the new one, and its owner only asks for it.

    Returns:
        The old identity and the new one.

    Raises:
        ConfigurationError: The service's state is not here.
        UnavailableError: The key service does not run.
        RefusedError: It has another identity than the folder says, or does not believe this attestation service.
    """
    if trusted_service(load_trust(state.trust), kind).mode == "attested":
        return _rotate_attested(state, kind)
    folder, name, now = *_places(state)[kind], clock.now()
    identity = open_identity(folder, common_name=name, sans=[_HOST], now=now)
    new, certificate_pem = prepare_successor(folder, common_name=name, now=now)

    def sign() -> str:
        return sign_rotation(kind, old=identity.key, new=new, certificate_pem=certificate_pem, now=now)

    old = _logged(state, kind, new, sign)
    install_successor(folder, old=old)
    return old, new.verifying_key.thumbprint


def _rotate_attested(state: State, kind: ServiceKind) -> tuple[str, str]:
    if kind != "key-service":
        raise ConfigurationError(
            "only a key service keeps its own identity key", action="Replace the key where the service runs."
        )
    pinned, client = trusted_service(load_trust(state.trust), kind), owner_client(state)
    try:
        logged = client.rotate_service()
    except ConflictError:  # a crash came between its logging and our writing
        logged = _find(client.rotations(), kind, old=pinned.identity)
    rotation = _keep(state, logged, kind=kind)
    return rotation.old, rotation.new


def _places(state: State) -> dict[ServiceKind, tuple[Path, str]]:
    """Return each service's state folder, and what its certificates call it."""
    return {
        "attestation-service": (state.attestation_service, attestation_service.COMMON_NAME),
        "key-service": (state.key_service, key_service.COMMON_NAME),
    }


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
    token, client = sign(), owner_client(state)
    old = read_rotation(token).old
    try:
        logged = client.rotate(token)
    except ConflictError:  # a crash came between its logging and our writing
        logged = _find(client.rotations(), kind, old=old, new=new.verifying_key.thumbprint)
    return _keep(state, logged, kind=kind).old


def _find(rotations: Rotations, kind: IdentityKind, *, old: str, new: str | None = None) -> LoggedRotation:
    """Return the rotation of an identity that the key service logged before."""
    for each in rotations.rotations:
        rotation = read_rotation(each.statement)
        if (rotation.kind, rotation.old) == (kind, old) and new in {None, rotation.new}:
            return each
    raise ConflictError(
        "this identity was replaced before, by another one than is prepared here",
        action="Restore the state folder as it was; the log has the rotation: strongroom log show --event"
        " identity-rotated",
    )


def _keep(state: State, logged: LoggedRotation, *, kind: IdentityKind) -> IdentityRotation:
    """Verify that a rotation is logged, and add it to the file; nothing is replaced that others could not follow."""
    rotation = read_rotation(logged.statement)
    log = log_key_of(trusted_service(load_trust(state.trust), "key-service").log_key)
    follow([logged], kind=kind, start=rotation.old, log=log)
    if rotation.kind != kind:
        raise VerificationError("the key service logged the rotation of another kind of identity")
    known = read_rotations(state)
    write_file(state.rotations, Rotations(rotations=(*known.rotations, logged)).to_json())
    return rotation
