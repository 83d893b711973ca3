"""The attestation services whose results the key service believes: pinned by identity, their signing keys fetched."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from strongroom.attestation.result import AttestationResult, verify_result
from strongroom.base.clock import Clock
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import StrongroomError, VerificationError
from strongroom.base.workflow import Step
from strongroom.clients.attestation import published_key, published_keys
from strongroom.clients.pinned import PinnedHttp, ServiceHttp
from strongroom.crypto.jose import unverified_header, unverified_payload
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, public_key, verify_leaf
from strongroom.policy.back_ends import BackEnd
from strongroom.policy.tee_claims import HARDWARE
from strongroom.wire.model import Hex32, Message, Url

_REFETCH: Final = timedelta(seconds=10)
"""At most so often an unknown key id makes the service ask for the keys again."""


KeySource: TypeAlias = Callable[[Mapping[str, Any], datetime], VerifyingKey]
"""Returns the key that an issuer signs with at a time, under the `kid` of a token's header, of which nothing is to be
believed; raises `VerificationError` if there is none."""


class AttestationServiceSettings(Message):
    """An attestation service, as the owner pins it: `url` is also the issuer its results name."""

    url: Url
    identity: Hex32
    certificate_pem: str


class AzureAttestationSettings(Message):
    """Azure Attestation: its keys are whatever its address publishes, on the word of certificate authorities.

    Attributes:
        url: Its address, also the issuer that its results name.
        authorities_pem: Whose certificates are accepted there; None for the authorities that this machine trusts.
    """

    kind: Literal["azure-attestation"]
    url: Url
    authorities_pem: str | None = None


class TrustedIssuers:
    """Verifies attestation results. Threads may share it.

    Args:
        key_sources: For each issuer, by its address: where its signing keys are; nobody else's word counts.
        clock: For the validity of results and certificates.
        azure: Which of them are Azure Attestation.
    """

    def __init__(
        self, key_sources: Mapping[str, KeySource], *, clock: Clock, azure: Collection[str] = frozenset()
    ) -> None:
        self._clock = clock
        self._key_sources = {url.rstrip("/"): source for url, source in key_sources.items()}
        self._azure = frozenset(url.rstrip("/") for url in azure)

    def back_end(self, url: str) -> BackEnd:
        """Return which attestation service is at this address: it decides what an approval can demand."""
        return BackEnd.AZURE_ATTESTATION if url.rstrip("/") in self._azure else BackEnd.STRONGROOM

    def knows(self, url: str) -> bool:
        """Return whether results of the attestation service at this address are believed."""
        return url.rstrip("/") in self._key_sources

    def verify(self, token: str) -> AttestationResult:
        """Verify an attestation result.

        1. Find the pinned service that the token says it is from, and that service's key of the token's `kid`.
        2. Verify the token with that key, as that issuer's, now.
        3. Azure Attestation does not say that hardware is real: all that it vouches for is.
        The caller MUST still evaluate a release policy.

        Raises:
            FormatError: Not a result.
            VerificationError: Of another issuer, of another key, expired, or changed.
            UnavailableError: The attestation service's keys are needed, and it does not answer.
        """
        header = unverified_header(token)
        claimed = parse_json_object(unverified_payload(token)).get("iss")
        source = self._key_sources.get(claimed.rstrip("/")) if isinstance(claimed, str) else None
        if source is None or not isinstance(claimed, str) or not isinstance(header.get("kid"), str):
            raise VerificationError(
                "the attestation result is not of an attestation service that this key service trusts",
                action="Configure the attestation service's address and identity at the key service.",
                step=Step.RELEASE,
            )
        now = self._clock.now()
        result = verify_result(token, issuer=claimed, verifying_key=source(header, now), now=now)
        if self.back_end(claimed) is BackEnd.AZURE_ATTESTATION:
            return replace(result, claims={HARDWARE: "real", **result.claims})
        return result


def configured_issuers(
    services: Sequence[AttestationServiceSettings | AzureAttestationSettings], *, clock: Clock
) -> TrustedIssuers:
    """Believe the attestation services that the owner configured; their keys are fetched from them when needed.

    Raises:
        ConfigurationError: Certificate authorities cannot be read.
        VerificationError: A certificate is not the pinned identity's.
    """
    azure = {each.url for each in services if isinstance(each, AzureAttestationSettings)}
    return TrustedIssuers({each.url: _published_keys(each) for each in services}, clock=clock, azure=azure)


def _published_keys(settings: AttestationServiceSettings | AzureAttestationSettings) -> KeySource:
    if isinstance(settings, AzureAttestationSettings):
        http = ServiceHttp(settings.url, authorities_pem=settings.authorities_pem, service="Azure Attestation")
        return _PublishedKeys(http, identity=None)
    pinned = PinnedHttp(settings.url, settings.certificate_pem, settings.identity, service="the attestation service")
    return _PublishedKeys(pinned, identity=settings.identity)


class _PublishedKeys:
    """The keys that an attestation service publishes; those of a pinned one are certified by its identity.

    A key that is not known yet makes the service ask for the keys again: at once if the token shows that the identity
    certified it (the service has a new key), otherwise not too often, because anybody can make a token.

    Args:
        http: Connections to the service.
        identity: The pinned identity; None takes what its address publishes.
    """

    def __init__(self, http: ServiceHttp, *, identity: str | None) -> None:
        self._identity = identity
        self._http = http
        self._keys: Mapping[str, VerifyingKey] = {}
        self._looked_for: set[str] = set()
        self._fetched_at: datetime | None = None
        self._lock = threading.Lock()

    def __call__(self, header: Mapping[str, Any], now: datetime) -> VerifyingKey:
        kid = str(header["kid"])
        with self._lock:
            if kid not in self._keys and (self._may_refetch(now) or self._is_new(header, kid, now)):
                self._keys = self._fetch(now)
                self._fetched_at = now
            if kid not in self._keys:
                raise VerificationError(
                    "the attestation result is signed with a key that its service does not publish", step=Step.RELEASE
                )
            return self._keys[kid]

    def _may_refetch(self, now: datetime) -> bool:
        return self._fetched_at is None or not abs(now - self._fetched_at) < _REFETCH

    def _is_new(self, header: Mapping[str, Any], kid: str, now: datetime) -> bool:
        """Return whether the identity certified the token's key, and it was not looked for before."""
        if self._identity is None or kid in self._looked_for:
            return False
        try:
            key = self._key(published_key(header)[1], now)
        except StrongroomError:
            return False
        if key.thumbprint != kid:
            return False
        self._looked_for.add(kid)  # few: the identity certified each of them
        return True

    def _fetch(self, now: datetime) -> dict[str, VerifyingKey]:
        published = published_keys(self._http.request("GET", "/certs").require_success())
        return {kid: self._key(chain, now) for kid, chain in published.items()}

    def _key(self, chain_der: Sequence[bytes], now: datetime) -> VerifyingKey:
        """Return the key of the first certificate; of a pinned service it must be one that the identity certified."""
        if self._identity is None:
            return public_key(chain_der[0])
        chain = list(chain_der)
        return verify_leaf(chain, identity=self._identity, usage=LeafUsage.SIGNING, now=now).public_key
