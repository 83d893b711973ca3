"""Sign-ins of the person at the command line: done once with a browser or another device, kept, refreshed.

One sign-in serves every service that offers the same issuer, client and audience. Files hold tokens: nobody else may
read them, and a command that refreshes one holds its lock, because issuers take each refresh token once.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field
from typing_extensions import override

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.errors import AuthenticationError, ConfigurationError, FormatError
from strongroom.base.lock import exclusive
from strongroom.base.secret import SecretBytes
from strongroom.cli.owner_keys import read_private, replace_private
from strongroom.cli.state import State
from strongroom.clients.oidc import SignIn, Tokens
from strongroom.crypto.derive import sha256_hex
from strongroom.services.files import prepare_folder
from strongroom.wire.model import Hex32, Message, Timestamp
from strongroom.wire.sign_in import SignInIssuer
from strongroom.wire.trust import TrustedService

_EARLY: Final = timedelta(seconds=30)
"""A token that ends sooner is replaced before it is used."""
_WAIT_S: Final = 300.0
_PATH: Final = "/signed-in"
_DONE: Final = "Signed in. You may close this window and go back to the command line.\n"


class StoredSignIn(Message):
    """A sign-in as it lies in its file.

    Attributes:
        services: The identities of the services that offered this issuer.
        offer: The issuer, as they named it.
    """

    version: int = Field(default=1, ge=1, le=1)
    services: tuple[Hex32, ...] = Field(min_length=1)
    offer: SignInIssuer
    expires_at: Timestamp
    access_token: str = Field(repr=False)
    refresh_token: str | None = Field(repr=False)

    @property
    def tokens(self) -> Tokens:
        """The tokens."""
        return Tokens(
            access=SecretBytes(self.access_token.encode()),
            expires_at=datetime.fromisoformat(self.expires_at).astimezone(UTC),
            refresh=SecretBytes(self.refresh_token.encode()) if self.refresh_token is not None else None,
        )


def sign_in(offer: SignInIssuer, *, clock: Clock, show: Callable[[str], None]) -> Tokens:
    """Have a person sign in with a browser on this machine (authorization code with PKCE, loopback redirect).

    Args:
        offer: The issuer.
        clock: The time.
        show: Told the address at which the person signs in.

    Raises:
        AuthenticationError: Refused, or not within five minutes.
        UnavailableError: The issuer does not answer.
    """
    session = SignIn(offer, clock=clock)
    with _Redirect() as redirect:
        begun = session.begin(redirect.uri)
        show(begun.url)
        return session.redeem(begun, redirect.wait())


def sign_in_on_device(offer: SignInIssuer, *, clock: Clock, show: Callable[[str, str], None]) -> Tokens:
    """Have a person sign in on another device (device code).

    Args:
        offer: The issuer.
        clock: The time.
        show: Told the address, and the code to type there.

    Raises:
        ConfigurationError: The issuer has no such sign-in.
        AuthenticationError: Refused, or not in time.
        UnavailableError: The issuer does not answer.
    """
    session = SignIn(offer, clock=clock)
    begun = session.begin_on_device()
    show(begun.url, begun.user_code)
    return session.wait_for_device(begun, sleep=time.sleep)


def keep(state: State, offer: SignInIssuer, tokens: Tokens, *, services: tuple[str, ...]) -> None:
    """Keep a sign-in for these services, in the place of one at the same issuer.

    Raises:
        ConfigurationError: The folder cannot be used.
    """
    prepare_folder(state.owner)
    prepare_folder(state.sign_in)
    path = _file(state, offer)
    with _locked(path):
        replace_private(path, _stored(offer, tokens, services=services))


def signed_in(state: State, service: TrustedService, *, clock: Clock) -> Callable[[], str] | None:
    """Return what gives this person's bearer token for a service; None where he did not sign in for it.

    The function refreshes the token where it is about to end; it raises what `SignIn.refresh` raises.

    Raises:
        ConfigurationError: A file may be read by others, or is damaged.
    """
    for path in _files(state):
        if service.identity in _read(path).services:
            return lambda: _fresh(path, clock=clock)
    return None


def forget(state: State) -> int:
    """Forget every sign-in, and return how many there were. Tokens that were given stay good until they end."""
    files = _files(state)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    return len(files)


def _fresh(path: Path, *, clock: Clock) -> str:
    with _locked(path):
        stored = _read(path)
        tokens = stored.tokens
        if clock.now() >= tokens.expires_at - _EARLY:
            tokens = SignIn(stored.offer, clock=clock).refresh(tokens)
            replace_private(path, _stored(stored.offer, tokens, services=stored.services))
    return tokens.access.reveal().decode()


def _stored(offer: SignInIssuer, tokens: Tokens, *, services: tuple[str, ...]) -> SecretBytes:
    stored = StoredSignIn(
        services=services,
        offer=offer,
        expires_at=to_rfc3339(tokens.expires_at),
        access_token=tokens.access.reveal().decode(),
        refresh_token=tokens.refresh.reveal().decode() if tokens.refresh else None,
    )
    return SecretBytes(stored.to_json())


def _read(path: Path) -> StoredSignIn:
    try:
        return StoredSignIn.from_json(read_private(path).reveal())
    except FormatError as error:
        raise ConfigurationError(
            f"the sign-in in {path} is damaged", action="sign in again: strongroom login"
        ) from error


def _file(state: State, offer: SignInIssuer) -> Path:
    return state.sign_in / f"{sha256_hex(offer.to_json())[:32]}.json"


def _files(state: State) -> list[Path]:
    return sorted(state.sign_in.glob("*.json")) if state.sign_in.is_dir() else []


def _locked(path: Path) -> contextlib.AbstractContextManager[None]:
    return exclusive(
        path.with_suffix(".lock"),
        failed=lambda error: ConfigurationError(f"{path.parent} cannot be used: {error.strerror}"),
    )


class _Redirect:
    """A web server on loopback that waits for one browser to come back."""

    def __enter__(self) -> Self:
        self._answers: list[Mapping[str, str]] = []
        answers = self._answers

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                is_answer = parts.path == _PATH
                if is_answer:
                    answers.append(dict(parse_qsl(parts.query)))
                body = _DONE.encode() if is_answer else b""
                self.send_response(200 if is_answer else 404)
                self.send_header("content-type", "text/plain; charset=utf-8")
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(body)

            @override
            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: requests hold codes."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.server_close()

    @property
    def uri(self) -> str:
        """Where the browser comes back to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{_PATH}"

    def wait(self) -> Mapping[str, str]:
        """Return what the browser brought back.

        Raises:
            AuthenticationError: Nobody came back in time.
        """
        deadline = time.monotonic() + _WAIT_S
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                raise AuthenticationError("nobody signed in in time", action="try again: strongroom login")
            self._server.timeout = left
            self._server.handle_request()
        return self._answers[0]
