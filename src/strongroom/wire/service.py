"""What a service says about itself, for the client that must trust it first."""

from typing import Literal

from strongroom.wire.model import B64Url, Hex32, Message

ServiceKind = Literal["attestation-service", "key-service"]
Mode = Literal["owner-operated", "attested"]


class ServiceStatement(Message):
    """A service's identity, keys and configuration.

    Attributes:
        identity: SHA-256 of the identity key's SubjectPublicKeyInfo.
        mode: Who is trusted: the operator, who is the owner; or the measured service itself.
        tls_key, signing_key, statement_key: SHA-256 of those SubjectPublicKeyInfos (statement_key: key service only).
        configuration: SHA-256 of the effective configuration, canonical JSON.
        nonce: The client's, so that the statement is fresh.
    """

    version: Literal[1] = 1
    service: ServiceKind
    identity: Hex32
    mode: Mode
    tls_key: Hex32
    signing_key: Hex32
    statement_key: Hex32 | None
    configuration: Hex32
    nonce: str


class ServiceEvidence(Message):
    """Answer to `GET /strongroom/v1/evidence?nonce=`.

    Attributes:
        statement: The exact bytes of the `ServiceStatement`, base64url; also signed by the identity key.
        signature: The identity key's signature over those bytes, base64url.
        quote: On an attested or simulated platform: a quote whose report data is the statement's SHA-256.
        endorsements: The collateral that verifies the quote, JSON text.
        identity_certificate: DER, base64url.
    """

    version: Literal[1] = 1
    statement: B64Url
    signature: B64Url
    quote: B64Url | None
    endorsements: str | None
    identity_certificate: B64Url
