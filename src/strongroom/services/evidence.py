"""What a service shows a client that must trust it first: a fresh, signed statement of its keys and configuration."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.attestation.attester import QuoteDevice, SimulatedDevice, collect_evidence
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements, EndorsementSource
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.pck import platform_kind
from strongroom.base.encoding import Json, canonical_json, to_b64url
from strongroom.base.errors import FormatError
from strongroom.services.identity import ServiceIdentity
from strongroom.wire.model import Message
from strongroom.wire.service import MasterKeyHolder, Mode, ServiceEvidence, ServiceKind, ServiceStatement

_CONFIG_ID_BYTES: Final = 64
MAX_NONCE: Final = 256


class PlatformSettings(Message):
    """The (simulated) platform a service runs on.

    Attributes:
        socket: Path of the platform's Unix socket.
        endorsements: Folder with the platform's collateral.
    """

    socket: str
    endorsements: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Where a service's own evidence and its endorsements come from."""

    device: QuoteDevice
    endorsements: EndorsementSource

    def quote(self, statement: bytes) -> tuple[str, str]:
        """Return a quote over a statement's SHA-256, base64url, and the endorsements it verifies with, JSON text.

        Raises:
            UnavailableError: The platform does not answer.
        """
        evidence = collect_evidence(self.device, runtime_data=statement)
        kind = platform_kind(parse_sgx_quote(evidence.quote))
        endorsements = self.endorsements.get(fmspc=kind.fmspc, ca=kind.ca)
        return to_b64url(evidence.quote), endorsements.to_json().decode("utf-8")


def configuration_digest(effective: Json) -> str:
    """Return the SHA-256 of a service's effective configuration, canonical JSON, as hexadecimal text.

    Args:
        effective: What decides whom the service believes and what it answers; no paths, no secrets.
    """
    return hashlib.sha256(canonical_json(effective)).hexdigest()


def launch_platform(settings: PlatformSettings | None, *, configuration: str) -> Platform | None:
    """Bind this process to its platform: its CONFIG_ID becomes the configuration's digest.

    Args:
        settings: Where the platform is; None for a service outside any TEE.
        configuration: From `configuration_digest`.

    Raises:
        UnavailableError: The platform does not answer.
    """
    if settings is None:
        return None
    device = SimulatedDevice(Path(settings.socket))
    device.launch(bytes.fromhex(configuration).ljust(_CONFIG_ID_BYTES, b"\0"))
    return Platform(device=device, endorsements=DirectoryEndorsements(Path(settings.endorsements)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceEvidenceSource:
    """Makes a service's evidence.

    Attributes:
        service: Which service this is.
        mode: Who is trusted.
        identity: The service's keys.
        configuration: From `configuration_digest`.
        signing_key: Returns the thumbprint of the key that signs now: it may be another one tomorrow.
        has_statement_key: Whether the service signs statements (the key service does).
        platform: Its platform, or None.
        master_key: How the key service's master key is held; None for other services.
        log_key: The key service's log's verification key; None for other services.
    """

    service: ServiceKind
    mode: Mode
    identity: ServiceIdentity
    configuration: str
    signing_key: Callable[[], str]
    has_statement_key: bool
    platform: Platform | None
    master_key: MasterKeyHolder | None = None
    log_key: str | None = None

    def answer(self, nonce: str) -> ServiceEvidence:
        """Return evidence over the statement that holds this nonce.

        Raises:
            FormatError: The nonce is empty or too long.
            UnavailableError: The platform does not answer.
        """
        if not 0 < len(nonce) <= MAX_NONCE:
            raise FormatError(f"a nonce has 1 to {MAX_NONCE} characters")
        statement = ServiceStatement(
            service=self.service,
            identity=self.identity.identity,
            mode=self.mode,
            tls_key=self.identity.tls.thumbprint,
            signing_key=self.signing_key(),
            statement_key=self.identity.statement.thumbprint if self.has_statement_key else None,
            configuration=self.configuration,
            nonce=nonce,
            master_key=self.master_key,
            log_key=self.log_key,
        ).to_json()
        quote, endorsements = (None, None) if self.platform is None else self.platform.quote(statement)
        return ServiceEvidence(
            statement=to_b64url(statement),
            signature=to_b64url(self.identity.key.sign(statement)),
            quote=quote,
            endorsements=endorsements,
            identity_certificate=to_b64url(self.identity.certificate_der),
        )
