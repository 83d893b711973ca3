"""Trusting the services before using them (step 2)."""

import hashlib
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import quote

from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSgx, verify_sgx
from strongroom.base.clock import Clock
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    Mismatch,
    RefusedError,
    VerificationError,
    differences,
)
from strongroom.base.workflow import Step
from strongroom.clients.attestation import published_keys
from strongroom.clients.https import Https
from strongroom.clients.pinned import PinnedHttp
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import parse_pem_chain, public_key
from strongroom.wire.azure_attestation import AzureAttestationAddress, TrustedAzureAttestation
from strongroom.wire.service import ServiceEvidence, ServiceKind, ServiceStatement
from strongroom.wire.trust import Anchors, Trust, TrustedService

_GOOD_PLATFORMS: Final = frozenset(
    {"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"}
)
"""What a vendor says of platforms that need no update (hardening is the measured software's own matter)."""
_NAMES = {"attestation-service": "the attestation service", "key-service": "the key service"}


def connect(service: TrustedService) -> PinnedHttp:
    """Return a connection pinned to a service of the trust file."""
    return PinnedHttp(service.url, service.certificate_pem, service.identity, service=_NAMES[service.service])


def trusted_service(trust: Anchors, kind: ServiceKind) -> TrustedService:
    """Return the trust file's only service of a kind.

    Raises:
        ConfigurationError: There is none, or several.
    """
    found = [service for service in trust.services if service.service == kind]
    if len(found) != 1:
        raise ConfigurationError(
            f"the trust file names {len(found)} services of kind {kind}", action="write it again with: strongroom up"
        )
    return found[0]


def party_named(trust: Trust, partner: str | None) -> Anchors:
    """Return the anchors of a partner; one's own without a name.

    Raises:
        ConfigurationError: The trust file has no partner of this name.
    """
    if partner is None:
        return trust
    found = trust.partner(partner)
    if found is None:
        known = ", ".join(each.name for each in trust.partners) or "none"
        raise ConfigurationError(
            f"the trust file has no partner {partner} (it has {known})",
            action=f"add that owner's trust file: strongroom trust add {partner} FILE",
        )
    return found.anchors


def attesting_service(trust: Trust, named: str | None) -> TrustedService | TrustedAzureAttestation:
    """Return who appraises a run's TEEs.

    Args:
        trust: The trust file.
        named: A partner, whose attestation service it is; or the address of a provider of Azure Attestation; None for
            one's own attestation service.

    Raises:
        ConfigurationError: The trust file names no such partner or provider, or no attestation service.
    """
    if named is None or not named.startswith("https://"):
        return trusted_service(party_named(trust, named), "attestation-service")
    found = [each for party in trust.parties() for each in party.azure_attestation if each.url == named]
    if not found:
        raise ConfigurationError(
            f"the trust file does not name {named} as a provider of Azure Attestation",
            action=f"Take it up: strongroom trust azure {named}",
        )
    return found[0]


def published_certificates(address: AzureAttestationAddress) -> tuple[bytes, ...]:
    """Return the certificates, DER, of the keys that a provider of Azure Attestation publishes now.

    Raises:
        FormatError: Not such an answer.
        VerificationError: What answers is not the provider.
        UnavailableError: It does not answer.
    """
    https = Https(address.url, service="Azure Attestation", authorities_pem=address.authorities_pem)
    found = tuple(dict.fromkeys(chain[0] for chain in published_keys(https.get("/certs").body).values()))
    if not found:
        raise FormatError(f"{address.url} publishes no keys", action="Check the address: it is a provider's own.")
    return found


def verify_azure_attestation(provider: TrustedAzureAttestation) -> None:
    """Check that a provider signs with keys that were pinned: no receipt of a run would hold with another one.

    Raises:
        RefusedError: It publishes a key that was not pinned; the mismatches name each.
        StrongroomError: As `published_certificates`.
    """
    published = [sha256_hex(each) for each in published_certificates(provider.address)]
    mismatches = tuple(
        Mismatch(name="signing certificate", expected="one of the trust file's", actual=digest)
        for digest in published
        if digest not in provider.certificates
    )
    if mismatches:
        raise RefusedError(
            f"{provider.url} signs with keys that the trust file does not name",
            action=f"Azure replaces keys now and then. Take the new ones up: strongroom trust azure {provider.url}",
            step=Step.POLICY,
            mismatches=mismatches,
        )


def trusted_roots(trust: Anchors) -> TrustedRoots:
    """Return the hardware roots of one party."""
    if trust.hardware == "real" and any(root.simulated for root in trust.roots):
        raise ConfigurationError("the trust file says real hardware and names a simulated root")
    return TrustedRoots(
        roots=tuple(
            TrustedRoot(certificate_der=parse_pem_chain(root.certificate_pem.encode())[0], simulated=root.simulated)
            for root in trust.roots
        )
    )


def verify_services(trust: Anchors, *, clock: Clock, only: Collection[str] | None = None) -> None:
    """Verify a party's services before anything is asked of them, with that party's own anchors.

    Args:
        trust: The party.
        clock: The time.
        only: The identities of the services that are needed; all of them if None.

    Raises:
        UnavailableError: A service does not answer.
        VerificationError: Its evidence or signature does not hold.
        RefusedError: Its identity, mode, code or configuration is not what was pinned; all mismatches are named.
    """
    for service in trust.services:
        if only is not None and service.identity not in only:
            continue
        nonce = to_b64url(random_bytes(24))
        answer = connect(service).request("GET", f"/strongroom/v1/evidence?nonce={quote(nonce)}").require_success()
        verify_service_evidence(
            ServiceEvidence.from_json(answer), service=service, trust=trust, nonce=nonce, clock=clock
        )


def verify_service_evidence(
    evidence: ServiceEvidence, *, service: TrustedService, trust: Anchors, nonce: str, clock: Clock
) -> ServiceStatement:
    """Verify what a service says about itself.

    1. The identity certificate is the pinned one, and its key signed the statement.
    2. Where a measurement is pinned: the quote verifies under the trusted roots, binds the statement, and its
       measurement is the pinned one.
    3. The statement is fresh and says what was pinned; a service that says it is attested runs in a TEE whose platform
       is not out of date, and its master key is in no file.

    Raises:
        VerificationError: A signature or the evidence does not hold.
        RefusedError: Something pinned differs.
    """
    name = _NAMES[service.service]
    statement_bytes = from_b64url(evidence.statement)
    certificate = from_b64url(evidence.identity_certificate)
    key = public_key(certificate)
    _verify_signature(key, statement_bytes, evidence, service)  # 1
    statement = ServiceStatement.from_json(statement_bytes)
    found = list(_differences(statement, service, nonce))  # 3
    if service.measurement is not None:  # 2
        if evidence.quote is None or evidence.endorsements is None:
            raise VerificationError(f"{name} shows no evidence although its code is pinned", step=Step.POLICY)
        verified = verify_sgx(
            UnverifiedEvidence(kind="sgx", quote=from_b64url(evidence.quote), runtime_data=statement_bytes),
            trusted_roots=trusted_roots(trust),
            endorsements=parse_endorsements(evidence.endorsements.encode()),
            now=clock.now(),
        )
        measurement = verified.quote.report.mrenclave.hex()
        if measurement != service.measurement:
            found.append(Mismatch(name="code (mrenclave)", expected=service.measurement, actual=measurement))
        if statement.mode == "attested":
            found.extend(platform_differences(verified))
    if found:
        raise RefusedError(
            f"{name} is not the one that was pinned",
            action="compare it with the operator; to trust the new one, write the trust file again with: strongroom up"
            " (on Kubernetes: strongroom chart trust; for an attested key service: strongroom custody pin)",
            step=Step.POLICY,
            mismatches=tuple(found),
        )
    return statement


def platform_differences(verified: VerifiedSgx) -> tuple[Mismatch, ...]:
    """Return what speaks against a platform that only its hardware protects: flaws that its vendor has mended since."""
    if verified.tcb_status in _GOOD_PLATFORMS:
        return ()
    return (Mismatch(name="platform (TCB status)", expected="not out of date", actual=verified.tcb_status),)


def _verify_signature(key: VerifyingKey, statement: bytes, evidence: ServiceEvidence, service: TrustedService) -> None:
    if hashlib.sha256(key.spki).hexdigest() != service.identity:
        raise VerificationError(
            f"{_NAMES[service.service]} shows another identity than the pinned one", step=Step.POLICY
        )
    key.verify(statement, from_b64url(evidence.signature))


def _differences(statement: ServiceStatement, service: TrustedService, nonce: str) -> Iterable[Mismatch]:
    pinned = {
        "service": (service.service, statement.service),
        "identity": (service.identity, statement.identity),
        "mode": (service.mode, statement.mode),
        "configuration": (service.configuration, statement.configuration),
        "nonce": (nonce, statement.nonce),
    }
    if service.master_key is not None:
        pinned["master key"] = (service.master_key, statement.master_key or "not said")
    yield from differences(pinned)
    if statement.mode == "attested" and service.measurement is None:
        yield Mismatch(name="measurement of an attested service", expected="pinned", actual="none")
    if statement.mode == "attested" and statement.master_key == "file":
        yield Mismatch(name="master key of an attested service", expected="in no file", actual="file")
