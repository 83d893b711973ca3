"""The tokens in which people send evidence policies and policy certificates, as Azure Attestation's clients make them.

Those clients use names of algorithms that no standard has, put the certificate in either of two places, and write
signatures in either of two forms. What is read here is checked with the key of the certificate that the token
itself carries: whose certificate that is, is the caller's question.

Source: Azure Attestation REST API 2025-06-01, `Policy_Set`, `Policy_Reset`, `PolicyCertificates_Add`; the client
library azure-security-attestation 1.0.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json, parse_json_object, to_b64url
from strongroom.base.errors import AuthenticationError, FormatError, LimitError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.crypto.ecdsa import signature_of_any_form
from strongroom.crypto.jose import insecure_unsigned_jws
from strongroom.crypto.keys import Algorithm
from strongroom.crypto.x509 import public_key, to_x5c

_NAMES: Final[Mapping[Algorithm, frozenset[str]]] = {
    "RS256": frozenset({"RS256", "RSA256"}),
    "ES256": frozenset({"ES256", "ECDH256"}),
    "ES384": frozenset({"ES384"}),
}
"""By a key's algorithm: what tokens call it. `RSA256` and `ECDH256` are Azure's Python client's."""
_CERTIFICATE_CLAIMS: Final = ("policyCertificate", "maa-policyCertificate", "aas-policyCertificate")
"""Azure's name for the certificate in a token, and two older ones."""
_PARTS: Final = 3
_MAX_SIGNER_CERTIFICATES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyToken:
    """A token whose signature, if it has one, holds for the certificate it carries.

    Attributes:
        jws: The token, as it came.
        payload: What it says.
        certificate_der: Whose key signed it; None where nobody did.
    """

    jws: str
    payload: bytes
    certificate_der: bytes | None

    @property
    def signer(self) -> dict[str, Json] | None:
        """The signer's JWK as Azure's answers show it, or None."""
        return None if self.certificate_der is None else certificate_jwk(self.certificate_der)


def token_of_body(body: bytes) -> str:
    """Return the token in a request's body: bare, or as a JSON string in quotes.

    Raises:
        FormatError: The body is something else.
    """
    try:
        text = body.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise FormatError("the body is not ASCII text") from error
    if not text.startswith('"'):
        return text
    match parse_json(text):
        case str(token):
            return token
        case _:
            raise FormatError("the body is not a token")


def read_policy_token(jws: str) -> PolicyToken:
    """Read a token and check its signature with the certificate that it carries.

    1. Split it; each part is base64url or base64, padded or not.
    2. Without a signature, `alg` is none and the signature is empty.
    3. Otherwise the signature holds for the first certificate of `x5c` or `jwk.x5c`, with that key's own algorithm.
    The caller MUST check that the certificate, or its absence, is acceptable.

    Raises:
        FormatError: Not such a token.
        AuthenticationError: It carries no certificate, or the signature does not hold.
    """
    parts = jws.split(".")  # 1
    if len(parts) != _PARTS or len(jws) > LIMITS.token_bytes or not jws.isascii():
        raise FormatError("not a compact JWS")
    header, payload, signature = parse_json_object(from_any_b64(parts[0])), *map(from_any_b64, parts[1:])
    if "crit" in header or "b64" in header:
        raise FormatError("the token has header members that are not understood here")
    if header.get("alg") == "none":  # 2
        if signature:
            raise FormatError("the token says it is unsigned, and has a signature")
        return PolicyToken(jws=jws, payload=payload, certificate_der=None)
    certificate = _carried_certificate(header)  # 3
    key = public_key(certificate)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in _NAMES.get(key.algorithm, frozenset()):
        raise AuthenticationError("the token's algorithm is not that of its certificate's key")
    try:
        signed = f"{parts[0]}.{parts[1]}".encode("ascii")
        key.verify(signed, signature if key.algorithm == "RS256" else signature_of_any_form(signature, key=key))
    except (VerificationError, FormatError) as error:
        raise AuthenticationError("the token's signature does not hold") from error
    return PolicyToken(jws=jws, payload=payload, certificate_der=certificate)


def policy_text(payload: bytes) -> str:
    """Return the policy of a token that sets one: `{"AttestationPolicy": base64url(text)}`.

    Raises:
        FormatError: The token holds no policy.
        LimitError: The policy is too large.
    """
    match parse_json_object(payload):
        case {"AttestationPolicy": str(encoded), **more} if not more:
            text = from_any_b64(encoded)
        case _:
            raise FormatError("the token holds no AttestationPolicy, or more than that")
    if len(text) > LIMITS.policy_text_bytes:
        raise LimitError("the policy is too large")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("the policy is not UTF-8 text") from error


def demand_empty(payload: bytes) -> None:
    """Refuse a token that resets a policy and says anything.

    Raises:
        FormatError: The payload is neither nothing nor an empty object.
    """
    if payload and parse_json_object(payload):
        raise FormatError("a token that resets a policy has an empty body")


def certificate_of(payload: bytes) -> bytes:
    """Return the certificate of a token that adds or removes one: `{"policyCertificate": {"x5c": [...], ...}}`.

    The key type beside it is ignored: Azure's Python client writes RSA whatever it is.

    Returns:
        The certificate, DER, with a key that can sign policies.

    Raises:
        FormatError: The token holds no such certificate.
    """
    body = parse_json_object(payload)
    match [body[name] for name in _CERTIFICATE_CLAIMS if name in body]:
        case [{"x5c": [str(encoded)]}]:
            certificate = from_any_b64(encoded)
        case _:
            raise FormatError("the token holds no policyCertificate with exactly one certificate (x5c)")
    if public_key(certificate).algorithm not in _NAMES:
        raise FormatError("a policy certificate's key is RSA, P-256 or P-384")
    return certificate


def certificate_jwk(certificate_der: bytes) -> dict[str, Json]:
    """Return a certificate and its public key as a JWK."""
    key = public_key(certificate_der)
    named: dict[str, Json] = {
        "alg": key.algorithm,
        "use": "sig",
        "kid": key.thumbprint,
        "x5c": to_x5c([certificate_der]),
    }
    return {**key.to_jwk(), **named}


def unsigned_policy(text: str) -> str:
    """Return a policy's token that nobody signed."""
    return insecure_unsigned_jws(canonical_json({"AttestationPolicy": to_b64url(text.encode())}))


def _carried_certificate(header: Mapping[str, Any]) -> bytes:
    match header:
        case {"x5c": [str(first), *more]} | {"jwk": {"x5c": [str(first), *more]}} if (
            len(more) < _MAX_SIGNER_CERTIFICATES
        ):
            return from_any_b64(first)
        case _:
            raise AuthenticationError(
                "the token carries no signing certificate (x5c)", action="sign it with a policy signer's key"
            )
