"""Following rotated identities in a trust file: from what is pinned, step by step, each proved to be logged."""

from strongroom.clients.seen_log import log_key_of
from strongroom.log.note import NoteKey
from strongroom.log.rotation import follow
from strongroom.submit.services import trusted_service
from strongroom.wire.rotation import IdentityRotation, Rotations
from strongroom.wire.trust import Trust, TrustedService


def follow_rotations(trust: Trust, rotations: Rotations) -> tuple[Trust, tuple[IdentityRotation, ...]]:
    """Return a trust file with the identities that stand in the place of those it pins, and how it came to them.

    What the old identities certified and signed still holds: receipts of old runs are verified with the new file. The
    old identities stay named for that; nothing new is accepted from them by a key service.

    Args:
        trust: What is pinned.
        rotations: What the data owner handed over. It is not trusted.

    Raises:
        ConfigurationError: The trust file has no key service.
        FormatError: A rotation is malformed, or the trust file names no log.
        VerificationError: A rotation does not hold, is not logged, or the chain has a gap.
    """
    log = log_key_of(trusted_service(trust, "key-service").log_key)
    found: list[IdentityRotation] = []
    services: list[TrustedService] = []
    for service in trust.services:
        followed, steps = _follow_service(service, rotations, log=log)
        services.append(followed)
        found += steps
    owners, people = list(trust.owners), []
    for owner in trust.owners:
        steps = follow(rotations.rotations, kind="owner", start=owner, log=log)
        people += [step for step in steps if step not in people]
        owners += [step.new for step in steps if step.new not in owners]
    updated = trust.model_copy(update={"services": tuple(services), "owners": tuple(owners)})
    return Trust.from_json(updated.to_json()), (*found, *people)


def _follow_service(
    service: TrustedService, rotations: Rotations, *, log: NoteKey
) -> tuple[TrustedService, tuple[IdentityRotation, ...]]:
    found = follow(rotations.rotations, kind=service.service, start=service.identity, log=log)
    for rotation in found:
        service = service.model_copy(
            update={
                "identity": rotation.new,
                "certificate_pem": rotation.certificate_pem,
                "predecessors": (*service.predecessors, rotation.old),
            }
        )
    return service, found
