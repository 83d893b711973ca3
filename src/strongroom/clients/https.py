"""HTTPS to servers whose word nobody has to take, such as vendors': small answers, bounded in size and in time.

Certificates are checked, redirects are not followed, no proxy and no environment is asked. What comes back is signed
by somebody else, and verified by whoever uses it.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from strongroom.base.errors import (
    ConfigurationError,
    LimitError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS

_CONNECT_S: Final = 5.0
_TOTAL_S: Final = 20.0
_OK: Final = 200
_FIRST_ERROR: Final = 300
_ABSENT: Final = frozenset({400, 404, 410})
"""What vendors answer where a document does not exist, or no longer: bad request, not found, gone."""
_LATER: Final = frozenset({429, 503})
"""What servers answer that want to be asked again: too many requests, and too busy."""
_WAITS: Final = 3
_LONGEST_WAIT_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A successful answer.

    Attributes:
        body: Its bytes.
        headers: By their names in lower case; of several with one name the first.
    """

    body: bytes
    headers: Mapping[str, str]

    @property
    def age_s(self) -> int:
        """For how long caches on the way have had it (RFC 9111, section 5.1); 0 where none says so."""
        text = self.headers.get("age", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else 0  # noqa: PLR2004 - 2**31 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """An answer of any status.

    Attributes:
        body: Its bytes.
        headers: By their names in lower case; of several with one name the first.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        """Whether the server did what it was asked; a redirect is none."""
        return _OK <= self.status < _FIRST_ERROR

    @property
    def retry_after_s(self) -> int | None:
        """After how many seconds the server wants to be asked again; None where it does not say so in seconds."""
        text = self.headers.get("retry-after", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else None  # noqa: PLR2004 - 11 days


class Https:
    """A server.

    Args:
        url: Its address; requests name paths below it.
        service: What to call it in errors.
        authorities_pem: Whose certificates are accepted; None for the authorities that this machine trusts.
        connect_s: How long connecting, the TLS handshake, and each wait for further bytes may take, in seconds.
        total_s: How long an answer may take, from its request to its last byte, in seconds.
        insecure_plain_http: Accept `http:`. Only for addresses that never leave the machine.

    Raises:
        ConfigurationError: Not such an address, or not certificates.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str,
        authorities_pem: str | None = None,
        connect_s: float = _CONNECT_S,
        total_s: float = _TOTAL_S,
        insecure_plain_http: bool = False,
    ) -> None:
        self.url = url.rstrip("/")
        self._service = service
        self._connect_s, self._total_s = connect_s, total_s
        try:
            parts = urlsplit(self.url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigurationError(f"{url} is not an address", action="Write it as https://HOST:PORT.") from error
        if parts.scheme != "https" and not (insecure_plain_http and parts.scheme == "http"):
            raise ConfigurationError(f"{url} is not an https: address", action="Write it as https://HOST:PORT.")
        if not self._host or parts.username is not None or parts.query or parts.fragment:
            raise ConfigurationError(f"{url} is not a plain address", action="Write it as https://HOST:PORT/PATH.")
        self._prefix = parts.path
        self._context = _tls_context(authorities_pem) if parts.scheme == "https" else None

    def get(
        self, path: str, *, headers: Mapping[str, str] | None = None, max_bytes: int = LIMITS.endorsement_bytes
    ) -> Fetched:
        """Fetch one document.

        Args:
            path: Path and query, from "/"; empty for the address itself.
            headers: Further headers.
            max_bytes: How large the answer may be.

        Raises:
            NotFoundError: The server says that there is no such document.
            VerificationError: What answers is not the server that was asked.
            LimitError: The answer is too large.
            UnavailableError: No answer, too slow, cut off, a redirect, or any other status.
        """
        answered = self._ask("GET", path, None, headers, max_bytes=max_bytes, any_status=False)
        return Fetched(body=answered.body, headers=answered.headers)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = LIMITS.endorsement_bytes,
    ) -> Answered:
        """Send one request, and return its answer whatever its status; nothing is repeated.

        Args:
            method: The HTTP method.
            path: Path and query, from "/"; empty for the address itself.
            body: The request's body.
            headers: Further headers.
            max_bytes: How large the answer may be.

        Raises:
            VerificationError: What answers is not the server that was asked.
            LimitError: The answer is too large.
            UnavailableError: No answer, too slow, or cut off.
        """
        return self._ask(method, path, body, headers, max_bytes=max_bytes, any_status=True)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        *,
        max_bytes: int,
        any_status: bool,
    ) -> Answered:
        connection = self._connection()
        late = threading.Event()
        try:
            connection.connect()
            with _at_most(self._total_s, connection.sock, late):
                connection.request(method, self._prefix + path or "/", body=body, headers=dict(headers or {}))
                answer = connection.getresponse()
                if answer.status != _OK and not any_status:
                    raise self._refused(answer)
                content = answer.read(max_bytes + 1)
        except ssl.SSLCertVerificationError as error:
            raise VerificationError(
                f"what answers at {self.url} is not {self._service}: {error.verify_message}",
                action="Check the address, and the certificate authority that is configured for it.",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise self._too_slow() if late.is_set() else self._no_answer(error) from error
        finally:
            connection.close()
        if late.is_set():
            raise self._too_slow()
        if len(content) > max_bytes:
            raise LimitError(f"the answer of {self._service} is larger than {max_bytes} bytes")
        if answer.length:
            raise UnavailableError(f"the answer of {self._service} at {self.url} was cut off", action="Try again.")
        named = {name.lower(): value for name, value in reversed(answer.getheaders())}
        return Answered(status=answer.status, body=content, headers=named)

    def _connection(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._connect_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._connect_s, context=self._context)

    def _refused(self, answer: http.client.HTTPResponse) -> StrongroomError:
        if answer.status in _ABSENT:
            return NotFoundError(f"{self._service} does not have this document (status {answer.status})")
        wait = answer.headers.get("retry-after", "")
        later = f" and wants to be asked again in {wait} s" if wait.isascii() and wait.isdigit() else ""
        return UnavailableError(
            f"{self._service} answered with status {answer.status}{later}",
            action=f"Look at {self._service} ({self.url}), or try again later.",
        )

    def _too_slow(self) -> UnavailableError:
        return UnavailableError(
            f"{self._service} at {self.url} took longer than {self._total_s:g} s to answer",
            action="Look at the network and the server.",
        )

    def _no_answer(self, error: Exception) -> UnavailableError:
        reason = f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
        return UnavailableError(
            f"{self._service} does not answer at {self.url}{reason}",
            action="Check the address and the network.",
        )


def patiently(ask: Callable[[], Answered], *, wait: Callable[[float], None] = time.sleep) -> Answered:
    """Ask a server, and ask again where it says when: three times at most, and never after more than ten seconds.

    Args:
        ask: Sends the request.
        wait: Waits some seconds.

    Returns:
        The last answer, whatever its status.
    """
    answer = ask()
    for _ in range(_WAITS):
        later = answer.retry_after_s
        if answer.status not in _LATER or later is None or later > _LONGEST_WAIT_S:
            break
        wait(later)
        answer = ask()
    return answer


def _tls_context(authorities_pem: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities_pem is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(cadata=authorities_pem)
    except (ssl.SSLError, ValueError, TypeError) as error:
        raise ConfigurationError(
            "the certificate of a server is not in PEM form", action="Give the PEM text of the authority's certificate."
        ) from error
    return context


@contextlib.contextmanager
def _at_most(total_s: float, connected: socket.socket, late: threading.Event) -> Iterator[None]:
    """Cut a connection off after a time: a socket's own time-out bounds each read, and not how many there are."""

    def cut_off() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)  # of TLS sockets too: the layer below

    timer = threading.Timer(total_s, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
