"""OIDC issuers: their published keys, and signing in at them as a public client on a person's own machine.

Source: OpenID Connect Discovery 1.0; RFC 6749, RFC 7636 (PKCE), RFC 8252 (native apps), RFC 8628 (device grant),
RFC 8707 (resource indicators), RFC 9207 (issuer identification).
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from strongroom.base.clock import Clock
from strongroom.base.encoding import parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.clients.https import Https
from strongroom.clients.pinned import Response, ServiceHttp
from strongroom.crypto.random import random_bytes
from strongroom.wire.sign_in import SignInIssuer

_DISCOVERY: Final = "/.well-known/openid-configuration"
_FORM: Final = "application/x-www-form-urlencoded"
_SCOPES: Final = ("openid", "offline_access")
_DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_FIRST_ERROR: Final = 400
_RANDOM_BYTES: Final = 32
_DEFAULT_LIFETIME_S: Final = 300
_DEFAULT_INTERVAL_S: Final = 5
_MAX_DEVICE_S: Final = 1800
_AGAIN: Final = "Sign in again: strongroom login"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What an issuer says about itself.

    Attributes:
        jwks_uri: Where its keys are.
        authorization_endpoint, token_endpoint: Where people sign in, where tokens come from; None: not there.
        device_authorization_endpoint: Where a device asks for a code; None: it has no device grant.
        names_itself: Whether its answers to the redirect name it (RFC 9207), so that a missing name is an attack.
    """

    jwks_uri: str
    authorization_endpoint: str | None
    token_endpoint: str | None
    device_authorization_endpoint: str | None
    names_itself: bool


class Issuer:
    """An issuer's published words.

    Args:
        url: Its address, exactly as its tokens say it.
        authorities_pem: Whose certificates are accepted; None for the authorities that this machine trusts.

    Raises:
        ConfigurationError: Not an https: address, or not certificates.
    """

    def __init__(self, url: str, *, authorities_pem: str | None) -> None:
        self.url = url
        self._authorities_pem = authorities_pem
        self._https = self._server(url)

    def metadata(self) -> Metadata:
        """Discover the issuer's configuration.

        Raises:
            UnavailableError: It does not answer.
            VerificationError: What answers is not the issuer, or speaks for another one.
            FormatError: The answer is not such a configuration.
        """
        found = parse_json_object(self._https.get(_DISCOVERY).body)
        if found.get("issuer") != self.url:
            raise VerificationError(
                f"what is published at {self.url} is the configuration of another issuer",
                action="Write the issuer exactly as it calls itself.",
            )
        endpoints = {
            name: _address(found.get(name))
            for name in ("jwks_uri", "authorization_endpoint", "token_endpoint", "device_authorization_endpoint")
        }
        keys = endpoints.pop("jwks_uri")
        if keys is None:
            raise FormatError(f"the issuer {self.url} does not say where its keys are")
        return Metadata(
            jwks_uri=keys,
            names_itself=found.get("authorization_response_iss_parameter_supported") is True,
            **endpoints,
        )

    def published_keys(self) -> list[Mapping[str, Any]]:
        """Return the issuer's published keys (JWKs), whatever they are for.

        Raises:
            UnavailableError: It does not answer.
            VerificationError: What answers is not the issuer.
            FormatError: The answer is not a JSON Web Key Set.
        """
        match parse_json_object(self._server(self.metadata().jwks_uri).get("").body):
            case {"keys": [*jwks]} if all(isinstance(jwk, dict) for jwk in jwks):
                return list(jwks)
            case _:
                raise FormatError(f"the issuer {self.url} does not publish its keys as a JSON Web Key Set")

    def _server(self, url: str) -> Https:
        return Https(url, service=f"the issuer {self.url}", authorities_pem=self._authorities_pem)


class _IssuerHttp(ServiceHttp):
    """Connections to an issuer's endpoints."""

    _if_silent = "Try again later, or use your key instead of signing in."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What an issuer gave.

    Attributes:
        access: The access token, for one service.
        expires_at: When it ends.
        refresh: What gets the next one; None: the person signs in again.
    """

    access: SecretBytes
    expires_at: datetime
    refresh: SecretBytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """A sign-in that was begun.

    Attributes:
        url: Where the person signs in.
        redirect_uri: Where the browser comes back to, on this machine.
        state: What must come back with it.
        verifier: Proves that the code was asked for here (PKCE).
    """

    url: str
    redirect_uri: str
    state: SecretBytes = field(repr=False)
    verifier: SecretBytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """A sign-in that is finished on another device.

    Attributes:
        url: Where the person goes.
        user_code: What the person types there.
        code: What this machine asks with.
        interval_s: At least so long between two questions, in seconds.
        expires_at: When it ends.
    """

    url: str
    user_code: str
    code: SecretBytes
    interval_s: int
    expires_at: datetime


class SignIn:
    """A person's sign-in at one issuer, for one service.

    Args:
        offer: The issuer, as the (pinned) service named it.
        clock: For the tokens' times.
    """

    def __init__(self, offer: SignInIssuer, *, clock: Clock) -> None:
        self._offer = offer
        self._clock = clock
        self._metadata = Issuer(offer.issuer, authorities_pem=offer.authorities_pem).metadata()

    @property
    def has_device_code(self) -> bool:
        """Whether the issuer lets people sign in on another device."""
        return self._metadata.device_authorization_endpoint is not None

    def begin(self, redirect_uri: str) -> Authorization:
        """Begin a sign-in with a browser on this machine.

        Args:
            redirect_uri: Where the browser comes back to: a loopback address that this process listens on.

        Raises:
            ConfigurationError: The issuer has no such sign-in.
        """
        endpoint = self._metadata.authorization_endpoint
        if endpoint is None:
            raise ConfigurationError(f"nobody signs in with a browser at {self._offer.issuer}")
        state, verifier = (to_b64url(random_bytes(_RANDOM_BYTES)) for _ in range(2))
        asked = {
            "response_type": "code",
            "client_id": self._offer.client,
            "redirect_uri": redirect_uri,
            "scope": self._scope(),
            "state": state,
            "code_challenge": to_b64url(hashlib.sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "resource": self._offer.audience,
            "prompt": "consent",  # without it issuers grant no offline access
        }
        return Authorization(
            url=f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(asked)}",
            redirect_uri=redirect_uri,
            state=SecretBytes(state.encode()),
            verifier=SecretBytes(verifier.encode()),
        )

    def redeem(self, begun: Authorization, answer: Mapping[str, str]) -> Tokens:
        """Exchange what the browser brought back for tokens.

        1. It belongs to this sign-in (`state`), and comes from this issuer (`iss`).
        2. The issuer did not refuse.
        3. The code is exchanged, with the proof that it was asked for here.

        Args:
            begun: The sign-in.
            answer: The query of the redirect.

        Raises:
            AuthenticationError: Of another sign-in, or refused.
            UnavailableError: The issuer does not answer.
        """
        if not hmac.compare_digest(answer.get("state", "").encode(), begun.state.reveal()):  # 1
            raise AuthenticationError("what came back belongs to another sign-in", action=_AGAIN)
        if answer.get("iss", "" if self._metadata.names_itself else self._offer.issuer) != self._offer.issuer:
            raise AuthenticationError("what came back is another issuer's answer", action=_AGAIN)
        if "error" in answer or "code" not in answer:  # 2
            raise _refused(answer)
        return self._ask(  # 3
            {
                "grant_type": "authorization_code",
                "code": answer["code"],
                "redirect_uri": begun.redirect_uri,
                "code_verifier": begun.verifier.reveal().decode(),
            }
        )

    def begin_on_device(self) -> DeviceCode:
        """Begin a sign-in that is finished on another device.

        Raises:
            ConfigurationError: The issuer has no such sign-in.
            UnavailableError: The issuer does not answer.
        """
        endpoint = self._metadata.device_authorization_endpoint
        if endpoint is None:
            raise ConfigurationError(
                f"{self._offer.issuer} has no sign-in on another device",
                action="Sign in with a browser: strongroom login",
            )
        asked = {"client_id": self._offer.client, "scope": self._scope(), "resource": self._offer.audience}
        answer = _accepted(self._post(endpoint, asked))
        match answer:
            case {"device_code": str(code), "user_code": str(user_code), "verification_uri": str(url)}:
                pass
            case _:
                raise FormatError("the issuer's answer has no device code")
        return DeviceCode(
            url=str(answer.get("verification_uri_complete", url)),
            user_code=user_code,
            code=SecretBytes(code.encode()),
            interval_s=max(1, _seconds(answer, "interval", _DEFAULT_INTERVAL_S)),
            expires_at=self._clock.now() + timedelta(seconds=min(_seconds(answer, "expires_in", 0), _MAX_DEVICE_S)),
        )

    def wait_for_device(self, begun: DeviceCode, *, sleep: Callable[[float], None]) -> Tokens:
        """Ask until the person has signed in on the other device.

        Args:
            begun: The sign-in.
            sleep: Waits for so many seconds.

        Raises:
            AuthenticationError: Refused, or not in time.
            UnavailableError: The issuer does not answer.
        """
        interval_s = begun.interval_s
        asked = {"grant_type": _DEVICE_GRANT, "device_code": begun.code.reveal().decode()}
        while self._clock.now() < begun.expires_at:
            sleep(interval_s)
            response = self._post(self._token_endpoint(), self._with_client(asked))
            match _error_of(response):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval_s += _DEFAULT_INTERVAL_S
                case _:
                    return self._tokens(_accepted(response))
        raise AuthenticationError("nobody signed in in time", action=_AGAIN)

    def refresh(self, tokens: Tokens) -> Tokens:
        """Return fresh tokens for ones that end.

        Raises:
            AuthenticationError: The sign-in is over, or was revoked.
            UnavailableError: The issuer does not answer.
        """
        if tokens.refresh is None:
            raise AuthenticationError("the sign-in is over", action=_AGAIN)
        fresh = self._ask({"grant_type": "refresh_token", "refresh_token": tokens.refresh.reveal().decode()})
        # An issuer that does not replace refresh tokens does not repeat them either.
        return (
            fresh if fresh.refresh else Tokens(access=fresh.access, expires_at=fresh.expires_at, refresh=tokens.refresh)
        )

    def _scope(self) -> str:
        return " ".join(dict.fromkeys((*_SCOPES, *self._offer.scopes)))

    def _with_client(self, asked: Mapping[str, str]) -> dict[str, str]:
        return {**asked, "client_id": self._offer.client, "resource": self._offer.audience}

    def _token_endpoint(self) -> str:
        if self._metadata.token_endpoint is None:
            raise ConfigurationError(f"{self._offer.issuer} gives no tokens")
        return self._metadata.token_endpoint

    def _ask(self, asked: Mapping[str, str]) -> Tokens:
        return self._tokens(_accepted(self._post(self._token_endpoint(), self._with_client(asked))))

    def _tokens(self, answer: Mapping[str, Any]) -> Tokens:
        match answer:
            case {"access_token": str(access), "token_type": str(kind)} if kind.lower() == "bearer" and access:
                pass
            case _:
                raise FormatError("the issuer's answer has no bearer token")
        refresh = answer.get("refresh_token")
        lifetime = timedelta(seconds=_seconds(answer, "expires_in", _DEFAULT_LIFETIME_S))
        return Tokens(
            access=SecretBytes(access.encode()),
            expires_at=self._clock.now() + lifetime,
            refresh=SecretBytes(refresh.encode()) if isinstance(refresh, str) and refresh else None,
        )

    def _post(self, endpoint: str, asked: Mapping[str, str]) -> Response:
        parts = urlsplit(endpoint)
        path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
        http = _IssuerHttp(
            f"{parts.scheme}://{parts.netloc}",
            authorities_pem=self._offer.authorities_pem,
            service=f"the issuer {self._offer.issuer}",
        )
        try:
            return http.request("POST", path, body=urlencode(asked).encode(), content_type=_FORM)
        finally:
            http.close()


def _address(value: object) -> str | None:
    """Return an endpoint's address; None where there is none.

    Raises:
        FormatError: It is not an https: address.
    """
    if value is None:
        return None
    if not isinstance(value, str) or urlsplit(value).scheme != "https" or not urlsplit(value).hostname:
        raise FormatError("an issuer's endpoint is not an https: address")
    return value


def _accepted(response: Response) -> dict[str, Any]:
    answer = parse_json_object(response.body)
    if response.status >= _FIRST_ERROR or "error" in answer:
        raise _refused(answer)
    return answer


def _error_of(response: Response) -> object:
    return parse_json_object(response.body).get("error") if response.status >= _FIRST_ERROR else None


def _refused(answer: Mapping[str, Any]) -> AuthenticationError | UnavailableError:
    error, more = answer.get("error"), answer.get("error_description")
    if error in {"temporarily_unavailable", "server_error"}:
        return UnavailableError("the issuer cannot sign anybody in at the moment", action="Try again later.")
    said = f": {error}" if isinstance(error, str) else ""
    said += f" ({more})" if isinstance(more, str) else ""
    return AuthenticationError(f"the issuer refused{said}", action=_AGAIN)


def _seconds(answer: Mapping[str, Any], name: str, otherwise: int) -> int:
    value = answer.get(name, otherwise)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 366 * 24 * 3600:
        raise FormatError(f"the issuer's {name} is not a time in seconds")
    return value
