"""What a trust file says of services whose keys and configurations their owner made; nothing is their own word."""

from strongroom.services import key_service
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.services.identity import ServiceIdentity
from strongroom.services.key_service import KeyServiceSettings
from strongroom.services.master_key import holder_of
from strongroom.wire.trust import TrustedService


def pinned_attestation_service(
    config: AttestationServiceConfig, identity: ServiceIdentity, *, measurement: str | None, address: str | None = None
) -> TrustedService:
    """Return an attestation service as a trust file pins it.

    Args:
        config: Its configuration.
        identity: Its keys.
        measurement: What its code measures; None where it runs outside any TEE.
        address: Where this client reaches it; None: where its configuration says.
    """
    return TrustedService(
        service="attestation-service",
        url=address or config.url,
        cluster_url=_unless_same(config.url, address),
        identity=identity.identity,
        certificate_pem=identity.certificate_pem,
        mode=config.mode,
        measurement=measurement,
        configuration=config.digest(),
        log_key=None,
        predecessors=identity.predecessors,
    )


def pinned_key_service(
    config: KeyServiceSettings, identity: ServiceIdentity, *, measurement: str | None, address: str | None = None
) -> TrustedService:
    """Return a key service as a trust file pins it; the arguments are those of `pinned_attestation_service`.

    Raises:
        ConfigurationError: The custodians' roster cannot be read.
    """
    return TrustedService(
        service="key-service",
        url=address or config.url,
        cluster_url=_unless_same(config.url, address),
        identity=identity.identity,
        certificate_pem=identity.certificate_pem,
        mode=config.mode,
        measurement=measurement,
        configuration=key_service.configuration_of(config),
        log_key=key_service.log_key(identity),
        master_key=holder_of(config.master_key),
        witnesses=tuple(each.key for each in config.witnesses),
        witnesses_required=config.witnesses_required,
        predecessors=identity.predecessors,
    )


def _unless_same(url: str, address: str | None) -> str | None:
    return url if address is not None and address != url else None
