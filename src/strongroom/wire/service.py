"""What a service says about itself, for the client that must trust it first."""

from typing import Final, Literal

from strongroom.wire.model import B64Url, Hex32, Message

ServiceKind = Literal["attestation-service", "key-service"]
Mode = Literal["owner-operated", "attested"]
MasterKeyHolder = Literal["file", "pkcs11", "vault", "https", "custody"]
"""How a key service's master key is held: the scheme of its address."""
HOLDERS_WHEN_ATTESTED: Final[frozenset[MasterKeyHolder]] = frozenset({"pkcs11", "vault", "https", "custody"})
"""Those that an attested key service may have: a file is its operator's to read."""


class ServiceStatement(Message):
    """A service's identity, keys and configuration.

    Attributes:
        identity: SHA-256 of the identity key's SubjectPublicKeyInfo.
        mode: Who is trusted: the operator, who is the owner; or the measured service itself.
        tls_key, signing_key, statement_key: SHA-256 of those SubjectPublicKeyInfos (statement_key: key service only).
        configuration: SHA-256 of the effective configuration, canonical JSON.
        nonce: The client's, so that the statement is fresh.
        master_key: How the master key is held (key service only).
        log_key: The log's verification key, a C2SP vkey line (key service only).
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
    master_key: MasterKeyHolder | None = None
    log_key: str | None = None


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
