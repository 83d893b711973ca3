"""Rotations of identity keys: made with the old key, and followed only as far as each is proved to be logged."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json, from_b64url, from_hex, parse_json_object, to_b64url
from strongroom.base.errors import VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_header, verify_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import parse_pem_chain, spki_sha256
from strongroom.log.checkpoint import parse_and_verify_checkpoint
from strongroom.log.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from strongroom.log.note import NoteKey
from strongroom.wire.rotation import ROTATION_CONTEXT, ROTATION_TYP, IdentityKind, IdentityRotation, LoggedRotation

EVENT: Final = "identity-rotated"


def sign_rotation(
    kind: IdentityKind, *, old: SigningKey, new: SigningKey, certificate_pem: str | None = None, now: datetime
) -> str:
    """Return the old key's statement that the new one stands in its place.

    Args:
        kind: Whose identity.
        old: The key that others have pinned.
        new: The key that takes its place.
        certificate_pem: A service's new identity certificate.
        now: The present time.
    """
    named = (old.verifying_key.thumbprint, new.verifying_key.thumbprint)
    rotation = IdentityRotation(
        kind=kind,
        old=named[0],
        new=named[1],
        key=new.verifying_key.to_jwk(),
        accepted=to_b64url(new.sign(_acceptance(kind, *named))),
        certificate_pem=certificate_pem,
        issued_at=to_rfc3339(now),
    )
    return sign_jws(rotation.to_json(), key=old, header={"typ": ROTATION_TYP, "jwk": old.verifying_key.to_jwk()})


def read_rotation(token: str) -> IdentityRotation:
    """Check a rotation as such; whether it is logged, and whose identities these are, is the caller's to check.

    1. The old key signed it, and is the one that it names.
    2. The new key is another one, is the one that it names, and accepted.
    3. A service's new certificate is the new key's; a person has none.

    Raises:
        FormatError: Not a rotation.
        VerificationError: One of the steps does not hold.
    """
    match unverified_header(token):
        case {"jwk": dict(jwk)}:
            old = VerifyingKey.from_jwk(jwk)
        case _:
            raise VerificationError("the rotation names no old key")
    rotation = IdentityRotation.from_json(verify_jws(token, key=old, typ=ROTATION_TYP).payload)  # 1
    new = VerifyingKey.from_jwk(rotation.key)
    if old.thumbprint != rotation.old:
        raise VerificationError("the rotation is not signed by the key that it replaces")
    if new.thumbprint != rotation.new or rotation.new == rotation.old:  # 2
        raise VerificationError("the rotation's new key is not the one that it names")
    new.verify(_acceptance(rotation.kind, rotation.old, rotation.new), from_b64url(rotation.accepted))
    if (rotation.certificate_pem is None) != (rotation.kind == "owner"):  # 3
        raise VerificationError("a service's rotation carries its new certificate, a person's does not")
    if rotation.certificate_pem is not None:
        chain = parse_pem_chain(rotation.certificate_pem.encode())
        if len(chain) != 1 or spki_sha256(chain[0]) != rotation.new:
            raise VerificationError("the rotation's certificate is not the new key's")
    return rotation


def follow(
    rotations: Sequence[LoggedRotation], *, kind: IdentityKind, start: str, log: NoteKey
) -> tuple[IdentityRotation, ...]:
    """Follow an identity to the newest that stands in its place.

    1. Rotations of others, and those before `start`, are passed over.
    2. Each further one begins where the one before ended.
    3. Each is in the log of the key service, under a checkpoint that the pinned log key signed.

    Args:
        rotations: Oldest first.
        kind: Whose identity.
        start: The identity that is pinned.
        log: The pinned key of the key service's log.

    Returns:
        The rotations from `start` on; none if it was not replaced.

    Raises:
        FormatError: A rotation is malformed.
        VerificationError: One does not hold, is not logged, or does not begin where the one before ended.
    """
    found: list[IdentityRotation] = []
    here = start
    for logged in rotations:
        rotation = read_rotation(logged.statement)
        if rotation.kind != kind or (not found and rotation.old != start):  # 1
            continue
        if rotation.old != here:  # 2
            raise VerificationError(
                "the rotations have a gap: one does not begin with the identity that the one before ended with",
                action="Ask the data owner for the whole file of rotations.",
            )
        _demand_logged(logged, log=log)  # 3
        found.append(rotation)
        here = rotation.new
    return tuple(found)


def rotation_leaf(rotation: IdentityRotation, token: str) -> dict[str, str]:
    """Return what the log says of a rotation."""
    return {
        "kind": rotation.kind,
        "old": rotation.old,
        "new": rotation.new,
        "statement": sha256_hex(token.encode("ascii")),
    }


def _demand_logged(logged: LoggedRotation, *, log: NoteKey) -> None:
    proof = logged.proof
    checkpoint = parse_and_verify_checkpoint(proof.checkpoint, origin=log.name, key=log.key)
    verify_inclusion(
        leaf_hash(proof.leaf.encode()),
        index=proof.index,
        size=checkpoint.size,
        proof=tuple(from_hex(node, size_bytes=HASH_BYTES) for node in proof.path),
        root=checkpoint.root,
    )
    leaf = parse_json_object(proof.leaf)
    expected = {"event": EVENT, **rotation_leaf(read_rotation(logged.statement), logged.statement)}
    if {name: leaf.get(name) for name in expected} != expected:
        raise VerificationError("the log's entry is not about this rotation")


def _acceptance(kind: str, old: str, new: str) -> bytes:
    return ROTATION_CONTEXT + canonical_json({"kind": kind, "old": old, "new": new})
