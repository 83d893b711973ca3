"""One statement, several people's signatures: each signs the very same bytes, in any order, at any time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from strongroom.base.encoding import parse_canonical_json, to_b64url
from strongroom.base.errors import FormatError, Mismatch, VerificationError
from strongroom.crypto.jose import unverified_header, unverified_payload, verify_jws
from strongroom.crypto.keys import VerifyingKey

Signers: TypeAlias = Mapping[str, VerifyingKey | None]
"""Who may sign, by key thumbprint; None where the key is taken from the signature's header, by its thumbprint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A statement whose signatures all hold.

    Attributes:
        payload: The exact bytes that were signed.
        signers: Whose signatures they are, each person once, in the order of their thumbprints.
    """

    payload: bytes
    signers: tuple[str, ...]


def detach(token: str) -> str:
    """Return a compact JWS without its payload (RFC 7515, appendix F).

    Raises:
        FormatError: Not a compact JWS.
    """
    match token.split("."):
        case [header, _, signature]:
            return f"{header}..{signature}"
        case _:
            raise FormatError("not a compact JWS")


def attach(signature: str, payload: bytes) -> str:
    """Return the compact JWS that a detached signature over these bytes stands for.

    Raises:
        FormatError: Not a detached JWS.
    """
    match signature.split("."):
        case [header, "", value]:
            return f"{header}.{to_b64url(payload)}.{value}"
        case _:
            raise FormatError("not a detached signature")


def signer_of(token: str) -> str:
    """Return who claims to have signed a JWS, by key thumbprint (`kid`), unchecked.

    Raises:
        FormatError: It does not say.
    """
    kid = unverified_header(token).get("kid")
    if not isinstance(kid, str):
        raise FormatError("the signature names no key (kid)")
    return kid


def read_signed(statement: str, signatures: Sequence[str], *, typ: str, signers: Signers) -> Signed:
    """Check every signature of a statement. Whether they are enough is the caller's to say.

    1. The payload is canonical JSON: what a person read is the only thing that these bytes can mean.
    2. Each signature is over exactly these bytes, of this type, by one of those who may sign.
    3. Nobody signed twice: a second signature of one person is no second person.

    Args:
        statement: A compact JWS, the first signature.
        signatures: Further ones, detached.
        typ: The `typ` that each must carry.
        signers: Who may sign.

    Raises:
        FormatError: Not such a statement.
        VerificationError: A signature does not hold, is somebody else's, or is there twice.
    """
    payload = unverified_payload(statement)
    parse_canonical_json(payload)
    found: list[str] = []
    for token in (statement, *(attach(signature, payload) for signature in signatures)):
        signer = signer_of(token)
        key = _key_of(token, signer, signers)
        verify_jws(token, key=key, typ=typ)
        if signer in found:
            raise VerificationError(
                "one person's signature is there twice",
                mismatches=(Mismatch(name="signer", expected="another person", actual=signer),),
            )
        found.append(signer)
    return Signed(payload=payload, signers=tuple(sorted(found)))


def _key_of(token: str, signer: str, signers: Signers) -> VerifyingKey:
    if signer not in signers:
        raise VerificationError(
            "it is signed by nobody who may sign it",
            mismatches=(Mismatch(name="signer", expected=" or ".join(sorted(signers)) or "nobody", actual=signer),),
        )
    known = signers[signer]
    if known is not None:
        return known
    match unverified_header(token).get("jwk"):
        case dict(jwk):
            key = VerifyingKey.from_jwk(jwk)
        case _:
            raise FormatError("the signature carries no public key (jwk)")
    if key.thumbprint != signer:
        raise VerificationError("the signature carries another key than it names")
    return key
