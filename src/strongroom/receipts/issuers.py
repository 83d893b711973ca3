"""Whose word a run's attestation results are, and the keys that they are verified with: those of the trust file."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from strongroom.attestation.result import AttestationResult, verify_result
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url
from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_header
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, public_key, read_certificate, spki_sha256, verify_leaf
from strongroom.policy.tee_claims import HARDWARE
from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.receipt import ReceiptBody
from strongroom.wire.trust import Anchors, Trust, TrustedService

_ACTION: Final = "do not rely on this run; ask the owner which attestation service was meant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """An attestation service, as somebody pinned it.

    Attributes:
        service: One of ours, or a provider of Azure Attestation.
        party: Whose it is: that party's roots and agents are what it vouches for.
    """

    service: TrustedService | TrustedAzureAttestation
    party: Anchors

    @property
    def is_azure(self) -> bool:
        """Whether it is a provider of Azure Attestation."""
        return isinstance(self.service, TrustedAzureAttestation)

    def verify(self, token: str, body: ReceiptBody, *, now: datetime) -> AttestationResult:
        """Verify an attestation result that a receipt shows.

        1. The receipt shows the certificate of the key that signed it. Ours is certified by the service's pinned
           identity; Azure's is itself one of those that are pinned, and valid at `now`.
        2. The result is signed with that key, by this issuer, and valid at `now`.
        3. Azure Attestation does not say that hardware is real: all that it vouches for is.

        Args:
            token: The result.
            body: The receipt's body.
            now: When the result was used.

        Raises:
            FormatError: A certificate or the result is malformed.
            VerificationError: One of these does not hold.
            RefusedError: Another key of Azure Attestation's than the pinned ones.
        """
        if isinstance(self.service, TrustedAzureAttestation):
            key = _azures_key(self.service, token, body, now=now)
        else:
            key = _our_key(self.service, token, body, now=now)
        result = verify_result(token, issuer=self.service.own_url, verifying_key=key, now=now)
        return replace(result, claims={HARDWARE: "real", **result.claims}) if self.is_azure else result


def find_issuer(trust: Trust, url: str) -> Issuer:
    """Return the attestation service at an address, one's own before partners'.

    Raises:
        RefusedError: The trust file names none there.
    """
    for party in trust.parties():
        ours = [each for each in party.services if each.service == "attestation-service"]
        services: tuple[TrustedService | TrustedAzureAttestation, ...] = (*ours, *party.azure_attestation)
        for service in services:
            if url in (service.url, service.own_url):
                return Issuer(service=service, party=party)
    raise RefusedError(
        "the attestation service of the run is not in the trust file",
        action=_ACTION,
        mismatches=(Mismatch(name="attestation service", expected="one of the trust file's", actual=url),),
    )


def _our_key(service: TrustedService, token: str, body: ReceiptBody, *, now: datetime) -> VerifyingKey:
    """Return the key that signed a result: a run may see several, all certified by one identity."""
    shown = [from_b64url(certificate) for certificate in body.attestation_certificates]
    kid = unverified_header(token).get("kid")
    leaf = next((each for each in shown[:-1] if spki_sha256(each) == kid), None)
    if leaf is None:
        raise _no_certificate()
    identity = spki_sha256(shown[-1])
    pinned = identity if service.identities_until(identity) is not None else service.identity
    return verify_leaf([leaf, shown[-1]], identity=pinned, usage=LeafUsage.SIGNING, now=now).public_key


def _azures_key(provider: TrustedAzureAttestation, token: str, body: ReceiptBody, *, now: datetime) -> VerifyingKey:
    kid = unverified_header(token).get("kid")
    shown = body.attestation_keys.get(kid) if isinstance(kid, str) else None
    if shown is None:
        raise _no_certificate()
    certificate = from_b64url(shown)
    digest = sha256_hex(certificate)
    if digest not in provider.certificates:
        raise RefusedError(
            "a result is signed with a key of Azure Attestation's that the trust file does not name",
            action=f"If the provider published it, take it up and verify again: strongroom trust azure {provider.url}",
            mismatches=(Mismatch(name="signing certificate", expected="one of the trust file's", actual=digest),),
        )
    said = read_certificate(certificate)
    if not said.not_before <= now <= said.not_after:
        raise VerificationError(
            f"the certificate of a signing key of Azure Attestation's is not valid at {to_rfc3339(now)}",
            action=_ACTION,
        )
    return public_key(certificate)


def _no_certificate() -> VerificationError:
    return VerificationError("the receipt holds no certificate of the key that signed a result", action=_ACTION)
