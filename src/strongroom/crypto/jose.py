"""JSON Web Signatures and Encryption, with every choice fixed by the caller's key.

The algorithm is never taken from the message: a token is checked with the one algorithm of the key it
must be signed by, so `alg: none` and key confusion cannot arise.

Source: RFC 7515, RFC 7516, RFC 7518, RFC 9864; the library is joserfc.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey

_JWK_CLASS: Final = {"ES256": ECKey, "ES384": ECKey, "Ed25519": OKPKey, "RS256": RSAKey}
_COMPACT_PARTS: Final = 3
_REMEMBERED_BYTES: Final = 8 << 10
"""Up to this length a token that was verified is remembered: approvals, tickets, statements, people's tokens."""


class _Registry(jwe.JWERegistry):
    """The algorithms that are used, and sizes for what is sealed here: the library's default ends at 64 KiB."""

    max_ciphertext_length = LIMITS.sealed_bytes * 4 // 3 + 4
    max_recipients = LIMITS.recipients


_REGISTRY: Final = _Registry(algorithms=["RSA-OAEP-256", "ECDH-ES+A256KW", "A256GCM"], strict_check_header=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedJws:
    """What a signature held for: the protected header and the exact payload bytes."""

    header: Mapping[str, Any]
    payload: bytes


def sign_jws(payload: bytes, *, key: SigningKey, header: Mapping[str, Any] | None = None) -> str:
    """Return a compact JWS over exactly these bytes.

    Args:
        payload: The bytes to sign.
        key: Its algorithm becomes `alg`.
        header: Further protected members (`kid`, `typ`, `x5c`, …).
    """
    protected = {**(header or {}), "alg": key.algorithm}
    jwk = _JWK_CLASS[key.algorithm].import_key(key.hazmat)  # type: ignore[attr-defined]
    return jws.serialize_compact(protected, payload, jwk, algorithms=[key.algorithm])


def insecure_unsigned_jws(payload: bytes) -> str:
    """Return a compact JWS that nobody signed: `alg` none, an empty signature. `verify_jws` refuses all of them.

    Source: RFC 7515, appendix A.5.
    """
    return f"{to_b64url(canonical_json({'alg': 'none'}))}.{to_b64url(payload)}."


def unverified_header(token: str) -> dict[str, Any]:
    """Return a compact JWS's header, unchecked: only to find the key that must have signed it.

    Raises:
        FormatError: Not a compact JWS.
    """
    parts = _split(token)
    return parse_json_object(from_b64url(parts[0]))


def unverified_payload(token: str, *, max_bytes: int = LIMITS.token_bytes) -> bytes:
    """Return a compact JWS's payload, unchecked: for readers whose word nobody has to take.

    Raises:
        FormatError: Not a compact JWS.
    """
    return from_b64url(_split(token, max_bytes=max_bytes)[1])


def verify_jws(
    token: str,
    *,
    key: VerifyingKey,
    typ: str | None = None,
    max_bytes: int = LIMITS.token_bytes,
    remember: bool = True,
) -> VerifiedJws:
    """Check a compact JWS and return its parts.

    Args:
        token: The compact serialization.
        key: The only key and algorithm that is accepted.
        typ: The `typ` the header must carry, so that a statement of one kind never passes for another.
        max_bytes: How long the token may be.
        remember: Whether a short token may be kept in memory; not where it opens something to whoever has it.

    Raises:
        FormatError: Not a compact JWS, too long, or not in its canonical spelling.
        VerificationError: Signed by another key or algorithm, of another type, or changed.
    """
    if not remember or len(token) > min(max_bytes, _REMEMBERED_BYTES):
        return _verify_jws(token, key, typ, max_bytes)
    kept = _remembered(token, key, typ)
    return VerifiedJws(header=dict(kept.header), payload=kept.payload)


def _verify_jws(token: str, key: VerifyingKey, typ: str | None, max_bytes: int) -> VerifiedJws:
    parts = _split(token, max_bytes=max_bytes)
    header, payload, signature = parse_json_object(from_b64url(parts[0])), from_b64url(parts[1]), from_b64url(parts[2])
    if header.get("alg") != key.algorithm or "crit" in header or "b64" in header:
        raise VerificationError("the token is signed with another algorithm than the expected key's")
    if typ is not None and header.get("typ") != typ:
        raise VerificationError("the token is of another type")
    key.verify(f"{parts[0]}.{parts[1]}".encode("ascii"), signature)
    return VerifiedJws(header=header, payload=payload)


@functools.lru_cache(maxsize=1024)
def _remembered(token: str, key: VerifyingKey, typ: str | None) -> VerifiedJws:
    """Verify once: that a signature holds for these bytes does not change. What does not hold is not remembered."""
    return _verify_jws(token, key, typ, LIMITS.token_bytes)


def seal(secret: SecretBytes, *, recipient_jwk: Mapping[str, Any], context: Mapping[str, str]) -> str:
    """Encrypt a secret to one RSA public key (JWE compact, RSA-OAEP-256, A256GCM).

    Args:
        secret: What only the recipient may read.
        recipient_jwk: An RSA public JWK.
        context: What this is for; authenticated, readable by anyone.

    Raises:
        FormatError: Not an RSA key of at least 2048 bits.
    """
    public = VerifyingKey.from_jwk(recipient_jwk)
    if not isinstance(public.hazmat, rsa.RSAPublicKey):
        raise FormatError("secrets are sealed to RSA keys")
    header = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": public.thumbprint, "context": dict(context)}
    return jwe.encrypt_compact(header, secret.reveal(), RSAKey.import_key(public.hazmat), registry=_REGISTRY)


def unseal(token: str, *, key: ReceivingKey, context: Mapping[str, str]) -> SecretBytes:
    """Decrypt what `seal` made for this key and this context.

    Raises:
        FormatError: Not such a JWE.
        VerificationError: Sealed for another context.
        IntegrityError: Sealed to another key, or changed.
    """
    if not isinstance(key.hazmat, rsa.RSAPrivateKey):
        raise FormatError("secrets are sealed to RSA keys")
    try:
        opened = jwe.decrypt_compact(token, RSAKey.import_key(key.hazmat), registry=_REGISTRY)
    except (JoseError, ValueError) as error:
        raise IntegrityError("the sealed value was changed, or is for another key") from error
    protected = opened.protected
    if protected.get("context") != dict(context) or protected.get("enc") != "A256GCM" or opened.plaintext is None:
        raise VerificationError("the sealed value is for another purpose")
    return SecretBytes(opened.plaintext)


def seal_to_recipients(plaintext: bytes, *, recipient_jwks: Sequence[Mapping[str, Any]]) -> bytes:
    """Encrypt to several P-256 keys (JWE general JSON, ECDH-ES+A256KW, A256GCM), any of which opens it.

    Raises:
        FormatError: No recipient, or a key that is not P-256.
        LimitError: More bytes or recipients than can be opened again.
    """
    if not recipient_jwks:
        raise FormatError("there is no recipient")
    if len(plaintext) > LIMITS.sealed_bytes or len(recipient_jwks) > LIMITS.recipients:
        raise LimitError("the text is too long, or has too many recipients, to be sealed")
    message = jwe.GeneralJSONEncryption({"enc": "A256GCM"}, plaintext)
    for jwk in recipient_jwks:
        public = VerifyingKey.from_jwk(jwk)
        if public.algorithm != "ES256":
            raise FormatError("recipients have P-256 keys")
        message.add_recipient({"alg": "ECDH-ES+A256KW", "kid": public.thumbprint}, ECKey.import_key(public.hazmat))  # type: ignore[arg-type]
    return canonical_json(jwe.encrypt_json(message, None, registry=_REGISTRY))  # type: ignore[arg-type]


def open_as_recipient(sealed: bytes, *, key: ReceivingKey) -> bytes:
    """Decrypt what `seal_to_recipients` made, as one of the recipients.

    Raises:
        FormatError: Not such a message.
        IntegrityError: For other recipients, or changed.
    """
    message = parse_json_object(sealed)
    kid = key.public_jwk["kid"]
    recipients = message.get("recipients")
    mine = [item for item in recipients if _kid(item) == kid] if isinstance(recipients, list) else []
    if len(mine) != 1:
        raise IntegrityError("the text is not sealed to this key")
    try:
        opened = jwe.decrypt_json(
            {**message, "recipients": mine},  # type: ignore[arg-type]
            ECKey.import_key(key.hazmat),  # type: ignore[arg-type]
            registry=_REGISTRY,
        )
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError("the sealed text was changed, or is for another key") from error
    if opened.plaintext is None:
        raise FormatError("the sealed text is empty")
    return opened.plaintext


def _kid(recipient: object) -> object:
    match recipient:
        case {"header": {"kid": kid}}:
            return kid
        case _:
            return None


def _split(token: str, *, max_bytes: int = LIMITS.token_bytes) -> list[str]:
    parts = token.split(".")
    if len(parts) != _COMPACT_PARTS or len(token) > max_bytes:
        raise FormatError("not a compact JWS")
    return parts
