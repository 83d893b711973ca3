"""HTTPS to a service: one that is pinned by its identity key, or one that certificate authorities vouch for.

Neither a proxy nor the environment is asked.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import urllib3

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    Mismatch,
    StrongroomError,
    UnavailableError,
    VerificationError,
    error_for_code,
)
from strongroom.base.workflow import Step
from strongroom.crypto.x509 import parse_pem_chain, spki_sha256

_CONNECT_S: Final = 5.0
_READ_S: Final = 60.0
_MAX_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 16
_FIRST_ERROR: Final = 400
_CUT: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""The connection ended within the handshake: nobody has shown a certificate that could be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An HTTP answer."""

    status: int
    body: bytes

    def require_success(self) -> bytes:
        """Return the body of a successful answer.

        Raises:
            StrongroomError: The error that the service answered, rebuilt; `FormatError` if it answered something else.
        """
        if self.status < _FIRST_ERROR:
            return self.body
        raise _rebuild_error(self)


class ServiceHttp:
    """One service's HTTPS connections, kept alive. Threads may share it.

    Args:
        url: The service's address; requests name paths below it.
        authorities_pem: The only issuers of its certificate that are accepted; None for those this machine trusts.
        service: What to call the service in errors.
        read_s: How long each wait for further bytes may take, in seconds.

    Raises:
        ConfigurationError: The authorities are not certificates.
    """

    _meant = ": no accepted authority vouches for it"
    _if_not_meant = "Check the service's address and the certificate authorities that are configured."
    _if_silent = "Start it: strongroom up. (On Kubernetes: see that its pod runs, and that this address leads to it.)"

    def __init__(
        self, url: str, *, authorities_pem: str | None, service: str = "the service", read_s: float = _READ_S
    ) -> None:
        self._url = url.rstrip("/")
        self._service = service
        self._pool = urllib3.PoolManager(
            ssl_context=self._tls_context(authorities_pem),
            timeout=urllib3.Timeout(connect=min(_CONNECT_S, read_s), read=read_s),
            retries=False,
        )

    def _tls_context(self, authorities_pem: str | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if authorities_pem is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(cadata=authorities_pem)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"the certificate authorities of {self._service} cannot be read") from error
        return context

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send one request.

        Args:
            method: The HTTP method.
            path: Path and query, from "/".
            body: The request's body.
            content_type: The body's media type.
            headers: Further headers.

        Returns:
            The answer, whatever its status.

        Raises:
            UnavailableError: The service does not answer.
            VerificationError: What answers is not the pinned service.
            LimitError: The answer is too large.
        """
        sent = dict(headers or {})
        if content_type is not None:
            sent["content-type"] = content_type
        try:
            answer = self._pool.request(
                method, self._url + path, body=body, headers=sent, redirect=False, preload_content=False
            )
            try:
                return Response(status=answer.status, body=self._read(answer))
            finally:
                answer.release_conn()
        except urllib3.exceptions.SSLError as error:
            if isinstance(error.args[0], _CUT):
                raise self._no_answer() from error
            raise VerificationError(
                f"what answers at {self._url} is not {self._service}{self._meant}", action=self._if_not_meant
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._no_answer() from error

    def _no_answer(self) -> UnavailableError:
        return UnavailableError(f"{self._service} does not answer at {self._url}", action=self._if_silent)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _read(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        body = bytearray()
        for chunk in answer.stream(_CHUNK_BYTES):
            body += chunk
            if len(body) > _MAX_BYTES:
                answer.close()
                raise LimitError(f"the answer of {self._service} is too large")
        return bytes(body)


class PinnedHttp(ServiceHttp):
    """Connections to a service that is pinned by its identity key: no certificate authority counts.

    Args:
        url: The service's address.
        certificate_pem: The service's identity certificate: the only issuer that is accepted.
        identity: SHA-256 of that certificate's SubjectPublicKeyInfo, which the caller pinned.
        service: What to call the service in errors.

    Raises:
        VerificationError: The certificate is not that identity's.
    """

    _meant = " that was pinned"
    _if_not_meant = (
        "Compare the service's identity with the one in the trust file. (An attested key service that was started anew"
        " shows none until its custodians unlock it: strongroom custody status.)"
    )

    def __init__(self, url: str, certificate_pem: str, identity: str, *, service: str = "the service") -> None:
        if [spki_sha256(each) for each in parse_pem_chain(certificate_pem.encode())] != [identity]:
            raise VerificationError(f"the certificate of {service} is not the pinned identity's")
        super().__init__(url, authorities_pem=certificate_pem, service=service)


def _rebuild_error(response: Response) -> StrongroomError:
    """Rebuild the error of an answer: our own shape, which also rides inside Azure's (`innererror`)."""
    try:
        content = parse_json_object(response.body).get("error")
    except FormatError:
        content = None
    outer: dict[str, Any] = content if isinstance(content, dict) else {}
    inner = outer.get("innererror")
    shown = {**outer, **inner} if isinstance(inner, dict) else outer
    match shown:
        case {"code": str(code), "message": str(message)}:
            pass
        case _:
            return FormatError(f"the service answered {response.status} without saying why")
    step, action, found = shown.get("step"), shown.get("action"), shown.get("mismatches")
    return error_for_code(code)(
        message,
        action=action if isinstance(action, str) else "",
        step=Step.from_slug(step) if isinstance(step, str) else None,
        mismatches=tuple(
            mismatch for item in (found if isinstance(found, list) else []) if (mismatch := _mismatch(item))
        ),
    )


def _mismatch(item: object) -> Mismatch | None:
    match item:
        case {"name": str(name), "expected": str(expected), "actual": str(actual)}:
            return Mismatch(name=name, expected=expected, actual=actual)
        case _:
            return None
