"""Sign-in by OIDC: the issuers whose access tokens a service believes.

Only access tokens count, as JWTs (RFC 9068): an ID token tells a client who signed in, and is no key to a service.
Nothing is believed before the signature holds, and the algorithm is always the key's own.

Source: RFC 9068; RFC 8725 (JSON Web Token Best Current Practices); OpenID Connect Core 1.0 and Discovery 1.0.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.clients.oidc import Issuer
from strongroom.crypto.jose import unverified_header, unverified_payload, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.wire.model import Message, Url
from strongroom.wire.sign_in import SignInIssuer, SignInOffer

_REFRESH: Final = timedelta(minutes=5)
"""So often an issuer's keys are asked for anew: a key that it withdrew is believed for at most so long."""
_REFETCH: Final = timedelta(seconds=10)
"""At most so often a key that is not known makes the service ask: anybody can make a token."""
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash"})
_MAX_SUBJECT: Final = 255

TokenAlgorithm = Literal["RS256", "ES256", "ES384"]


class RolesClaim(Message):
    """A claim of an issuer's tokens that narrows a person's roles.

    Attributes:
        claim: Its name; a list of texts, or texts parted by spaces.
        roles: What its values mean here; others mean nothing.
    """

    claim: str = Field(min_length=1, max_length=255)
    roles: dict[str, tuple[Literal["owner", "approver", "submitter", "auditor"], ...]] = Field(min_length=1)


class OidcIssuerSettings(Message):
    """An OIDC issuer whose access tokens are believed.

    Attributes:
        issuer: Its address, exactly as its tokens say it (`iss`); the configuration is discovered below it.
        audience: What its tokens for this service name (`aud`), alone: an address that stands for this service and no
            other, so that nobody who receives a token of yours can use it here.
        clients: Through which clients people may sign in (`client_id` or `azp`); the command line uses the first.
        scopes: What the command line asks for beside `openid offline_access`.
        algorithms: How tokens may be signed; keys of other kinds are passed over.
        token_type: The header's `typ`. Issuers that do not follow RFC 9068 say `JWT`.
        subject_claim: Which claim names people: one that never changes and is never given to anybody else.
        roles: Which claim narrows people's roles; None: they have the configured ones.
        max_token_lifetime_s: Tokens that live longer are refused, in seconds.
        keys_without_issuer_s: While the issuer does not answer, its keys are believed for so long, in seconds.
        authorities_pem: Whose certificates are accepted there; None for the authorities that this machine trusts.
    """

    issuer: Url
    audience: str = Field(min_length=1, max_length=255)
    clients: tuple[str, ...] = Field(min_length=1, max_length=16)
    scopes: tuple[str, ...] = Field(default=(), max_length=16)
    algorithms: tuple[TokenAlgorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    token_type: Literal["at+jwt", "JWT"] = "at+jwt"  # noqa: S105 - a media type
    subject_claim: Literal["sub", "oid"] = "sub"
    roles: RolesClaim | None = None
    max_token_lifetime_s: int = Field(default=3600, ge=60, le=24 * 3600)
    keys_without_issuer_s: int = Field(default=3600, ge=0, le=7 * 24 * 3600)
    authorities_pem: str | None = None

    @model_validator(mode="after")
    def _id_tokens_are_told_apart(self) -> Self:
        if self.audience in self.clients:
            raise ValueError("the audience is not a client: ID tokens name those")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """What an access token that held says.

    Attributes:
        issuer: Who says it.
        subject: Whom it means, in that issuer's words.
        roles: The roles that the issuer grants; None where it has no say.
    """

    issuer: str
    subject: str
    roles: frozenset[str] | None


class TokenIssuers:
    """Verifies access tokens. Threads may share it.

    Args:
        issuers: The issuers that are believed; none: nobody signs in.
        clock: For the validity of tokens and of what is remembered.

    Raises:
        ConfigurationError: An issuer is named twice, or its authorities cannot be read.
    """

    def __init__(self, issuers: Sequence[OidcIssuerSettings], *, clock: Clock) -> None:
        self._clock = clock
        self._settings = {each.issuer: each for each in issuers}
        if len(self._settings) != len(issuers):
            raise ConfigurationError("an OIDC issuer is configured twice", action="Name each issuer once.")
        self._keys = {each.issuer: _IssuerKeys(each) for each in issuers}

    def offer(self) -> SignInOffer:
        """Return how people sign in here."""
        return SignInOffer(
            issuers=tuple(
                SignInIssuer(
                    issuer=each.issuer,
                    client=each.clients[0],
                    audience=each.audience,
                    scopes=each.scopes,
                    authorities_pem=each.authorities_pem,
                )
                for each in self._settings.values()
            )
        )

    def verify(self, token: str) -> SignedIn:
        """Verify an access token.

        1. Find the issuer that the token says it is from, among those that are configured.
        2. The header has the configured type and an allowed algorithm; the issuer's key of its `kid` signed it.
        3. `iss` and `aud` are this issuer and this service alone; it was given to a client that may ask (`client_id`,
           `azp`).
        4. It lives now and not for too long; it is no ID token and not bound to a key (`cnf`) whose proof nobody asks
           for.
        The caller MUST still find the person whom issuer and subject mean together.

        Raises:
            FormatError: Not a JWT.
            AuthenticationError: Of another issuer, client, audience or time.
            VerificationError: Of another key or type, or changed.
            UnavailableError: The issuer's keys are needed, and it does not answer.
        """
        claimed = parse_json_object(unverified_payload(token)).get("iss")  # 1
        settings = self._settings.get(claimed) if isinstance(claimed, str) else None
        if settings is None:
            raise AuthenticationError(
                "the token is not of an issuer that this service trusts",
                action="Sign in at a configured issuer: strongroom login",
            )
        now = self._clock.now()
        header = unverified_header(token)
        _demand_header(header, settings)  # 2
        key = self._keys[settings.issuer].find(str(header["kid"]), now=now)
        claims = parse_json_object(verify_jws(token, key=key).payload)
        _demand_meant_for_us(claims, settings)  # 3
        _demand_time(claims, settings, now=now.timestamp())  # 4
        _demand_bearer_access_token(claims)
        return SignedIn(
            issuer=settings.issuer, subject=_text(claims, settings.subject_claim), roles=_roles(claims, settings.roles)
        )


class _IssuerKeys:
    """An issuer's keys: fetched when they are needed, remembered for a while, never believed for ever."""

    def __init__(self, settings: OidcIssuerSettings) -> None:
        self._issuer = Issuer(settings.issuer, authorities_pem=settings.authorities_pem)
        self._algorithms = frozenset(settings.algorithms)
        self._keep = timedelta(seconds=settings.keys_without_issuer_s)
        self._keys: Mapping[str, VerifyingKey] = {}
        self._fetched_at: datetime | None = None
        self._tried_at: datetime | None = None
        self._lock = threading.Lock()

    def find(self, kid: str, *, now: datetime) -> VerifyingKey:
        """Return the key of this name.

        Raises:
            VerificationError: The issuer publishes none.
            UnavailableError: The keys are unknown or too old, and the issuer does not answer.
        """
        age = None if self._fetched_at is None else abs(now - self._fetched_at)
        if age is None or age >= _REFRESH or kid not in self._keys:
            self._fetch(now, demanded=age is None or age >= _REFRESH + self._keep)
        key = self._keys.get(kid)
        if key is None:
            raise VerificationError("the token is signed with a key that its issuer does not publish")
        return key

    def _fetch(self, now: datetime, *, demanded: bool) -> None:
        """Ask for the keys; who comes while somebody asks goes on with the old ones, if they may be used."""
        if not self._lock.acquire(blocking=demanded):
            return
        try:
            if self._tried_at is not None and abs(now - self._tried_at) < _REFETCH:
                if demanded and not self._is_recent(now):
                    raise _no_keys(self._issuer.url)
                return
            self._tried_at = now
            self._keys, self._fetched_at = self._published(), now
        except StrongroomError as error:
            if demanded:
                raise _no_keys(self._issuer.url) from error
        finally:
            self._lock.release()

    def _is_recent(self, now: datetime) -> bool:
        return self._fetched_at is not None and abs(now - self._fetched_at) < _REFRESH + self._keep

    def _published(self) -> dict[str, VerifyingKey]:
        """Return the published signing keys of the allowed algorithms; what else is published is passed over."""
        found: dict[str, VerifyingKey] = {}
        for jwk in self._issuer.published_keys():
            kid, key = jwk.get("kid"), signing_key_of(jwk)
            if not isinstance(kid, str) or key is None or key.algorithm not in self._algorithms:
                continue
            if kid in found:
                raise FormatError("an issuer publishes two keys of one name")
            found[kid] = key
        return found


def signing_key_of(jwk: Mapping[str, Any]) -> VerifyingKey | None:
    """Return a published key if it is a public key that signs; a secret one (`oct`) never is."""
    if jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    try:
        key = VerifyingKey.from_jwk(jwk)
    except FormatError:
        return None
    return key if jwk.get("alg", key.algorithm) == key.algorithm else None


def _no_keys(issuer: str) -> UnavailableError:
    return UnavailableError(
        f"the issuer {issuer} does not answer, and its keys are not known or too old",
        action="Try again later, or use your key instead of signing in.",
    )


def _demand_header(header: Mapping[str, Any], settings: OidcIssuerSettings) -> None:
    typ, kid = header.get("typ"), header.get("kid")
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") != settings.token_type.lower():
        raise VerificationError("the token is no access token: its type is another")
    if header.get("alg") not in settings.algorithms:
        raise VerificationError("the token is signed with an algorithm that is not allowed")
    if not isinstance(kid, str):
        raise VerificationError("the token does not name its key")


def _demand_meant_for_us(claims: Mapping[str, Json], settings: OidcIssuerSettings) -> None:
    if claims.get("iss") != settings.issuer:
        raise AuthenticationError("the token is of another issuer")
    audience = claims.get("aud")
    if audience not in (settings.audience, [settings.audience]):
        raise AuthenticationError(
            "the token is for another service, or for others too",
            action=f"Ask the issuer for a token whose audience is {settings.audience} alone.",
        )
    clients = [claims[name] for name in ("client_id", "azp") if name in claims]
    if not clients or any(client not in settings.clients for client in clients):
        raise AuthenticationError(
            "the token was given to another client", action="Sign in with a client that the service names."
        )


def _demand_time(claims: Mapping[str, Json], settings: OidcIssuerSettings, *, now: float) -> None:
    issued, expires = _moment(claims, "iat"), _moment(claims, "exp")
    begins = max(issued, _moment(claims, "nbf") if "nbf" in claims else issued)
    if not 0 < expires - issued <= settings.max_token_lifetime_s:
        raise AuthenticationError(
            "the token lives for too long",
            action=f"Have the issuer give tokens for at most {settings.max_token_lifetime_s} seconds.",
        )
    if now >= expires:
        raise AuthenticationError("the token is expired", action="Sign in again: strongroom login")
    if now < begins - LIMITS.clock_skew_s:
        raise AuthenticationError("the token is not yet valid", action="Check the clocks of issuer and service.")


def _demand_bearer_access_token(claims: Mapping[str, Json]) -> None:
    if not _ID_TOKEN_CLAIMS.isdisjoint(claims):
        raise VerificationError("the token is an ID token, not an access token")
    if "cnf" in claims:
        raise VerificationError("the token is bound to a key, whose proof is not understood here")


def _moment(claims: Mapping[str, Json], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f"the token's {name} is not a time")
    return float(value)


def _text(claims: Mapping[str, Json], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_SUBJECT:
        raise FormatError(f"the token's {name} names nobody")
    return value


def _roles(claims: Mapping[str, Json], settings: RolesClaim | None) -> frozenset[str] | None:
    """Return the roles that a token grants; a claim that is missing or of another form grants none."""
    if settings is None:
        return None
    match claims.get(settings.claim):
        case str(text):
            values: Sequence[object] = text.split()
        case [*listed]:
            values = listed
        case _:
            values = ()
    return frozenset(role for value in values if isinstance(value, str) for role in settings.roles.get(value, ()))
