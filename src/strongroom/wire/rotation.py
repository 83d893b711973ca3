"""The replacement of an identity key: what the old key says of the new one, and that the log holds it."""

from typing import Final, Literal

from pydantic import Field

from strongroom.wire.key_service import LogProof
from strongroom.wire.model import B64Url, CompactJws, Hex32, Message, Timestamp

ROTATION_TYP: Final = "strongroom-rotation+jws"
ROTATION_CONTEXT: Final = b"strongroom identity rotation 1\n"

IdentityKind = Literal["attestation-service", "key-service", "owner"]


class IdentityRotation(Message):
    """What an old identity key signs: from now on, this key stands in its place.

    Attributes:
        kind: Whose identity.
        old: SHA-256 of the old key's SubjectPublicKeyInfo.
        new: The same of the new key.
        key: The new key, a public JWK.
        accepted: The new key's signature over `ROTATION_CONTEXT`, kind, old and new: who names it has it.
        certificate_pem: A service's new identity certificate; None for a person.
    """

    version: Literal[1] = 1
    kind: IdentityKind
    old: Hex32
    new: Hex32
    key: dict[str, str]
    accepted: B64Url
    certificate_pem: str | None = Field(default=None, max_length=16 << 10)
    issued_at: Timestamp


class RotationRequest(Message):
    """An owner has a rotation logged."""

    statement: CompactJws


class LoggedRotation(Message):
    """A rotation, and its leaf of the key service's log."""

    statement: CompactJws
    proof: LogProof


class Rotations(Message):
    """Rotations, oldest first, to be handed to everybody who pinned one of the old identities."""

    version: Literal[1] = 1
    rotations: tuple[LoggedRotation, ...] = Field(max_length=256)
