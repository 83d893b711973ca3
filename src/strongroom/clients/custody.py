"""Client of a key service whose identity is not known yet: it is locked, or nobody has pinned it."""

import ssl
import warnings
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from typing_extensions import override
from urllib3.exceptions import InsecureRequestWarning

from strongroom.clients.pinned import Response, ServiceHttp
from strongroom.wire.custody import CustodyEvidence, CustodyProgress, GivenShare
from strongroom.wire.service import ServiceEvidence

_PREFIX: Final = "/strongroom/v1"
_HEALTH: Final = "/healthz"


class UnsafeHttp(ServiceHttp):
    """HTTPS to a peer whose certificate nobody vouches for.

    What it answers is believed for its evidence alone, and whoever answers there can read what is sent: only what is
    sealed to an attested key may be sent.

    Args:
        url: The peer's address.
        service: What to call it in errors.
    """

    def __init__(self, url: str, *, service: str = "the key service") -> None:
        super().__init__(url, authorities_pem=None, service=service)

    @override
    def _tls_context(self, authorities_pem: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    @override
    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request (see `ServiceHttp`), without the library's warning that nobody vouches for the peer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            return super().request(method, path, body=body, content_type=content_type, headers=headers)


class CustodyClient:
    """What custodians ask of a key service. Nothing that it returns is verified.

    Args:
        http: Connections to it.
    """

    def __init__(self, http: ServiceHttp) -> None:
        self._http = http

    def is_locked(self) -> bool:
        """Return whether the service says that it waits for its custodians.

        Raises:
            UnavailableError: It does not answer.
        """
        status = self._http.request("GET", _HEALTH).status
        return status == 503  # noqa: PLR2004 - Service Unavailable

    def evidence(self, nonce: str) -> CustodyEvidence:
        """Return a locked service's evidence.

        Raises:
            FormatError: Not such evidence.
            UnavailableError: The service does not answer.
        """
        answer = self._http.request("GET", f"{_PREFIX}/custody?nonce={quote(nonce)}")
        return CustodyEvidence.from_json(answer.require_success())

    def give(self, sealed: str) -> CustodyProgress:
        """Give a share that is sealed to the service's attested key.

        Raises:
            VerificationError: It is not the share that the roster names, or sealed to another start of the service.
            ConflictError: It is there already.
        """
        answer = self._http.request(
            "POST", f"{_PREFIX}/custody", body=GivenShare(sealed=sealed).to_json(), content_type="application/json"
        )
        return CustodyProgress.from_json(answer.require_success())

    def service_evidence(self, nonce: str) -> ServiceEvidence:
        """Return an unlocked service's evidence.

        Raises:
            FormatError: Not such evidence.
            UnavailableError: The service is locked, or does not answer.
        """
        answer = self._http.request("GET", f"{_PREFIX}/evidence?nonce={quote(nonce)}")
        return ServiceEvidence.from_json(answer.require_success())
