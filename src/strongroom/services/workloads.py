"""Workload identity: the clusters whose service accounts' tokens the key service believes, and what a token must be.

A cluster projects such a token into a pod, for one key service and ten minutes. Who administers the cluster can make
any; so a token says who a pod is, and never what runs in it. It is read here once, and neither stored nor logged.

Source: Kubernetes, "Managing service accounts", bound service account tokens; RFC 7519; RFC 8725.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import Field, model_validator

from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import AuthenticationError, ConfigurationError, FormatError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_header, unverified_payload, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.services.sign_in import TokenAlgorithm, signing_key_of
from strongroom.wire.model import Message, Url
from strongroom.wire.pod import token_audience
from strongroom.wire.workload import Workload

_MAX_KEY_SET: Final = 256 << 10
_ACCOUNT: Final = "system:serviceaccount:{namespace}:{name}"


class WorkloadIssuerSettings(Message):
    """A cluster whose tokens are believed.

    Its keys are part of the configuration, not asked for: whoever could exchange them would name any pod's account.

    Attributes:
        issuer: The cluster, exactly as its tokens say it (`iss`); `kubectl get --raw /.well-known/openid-configuration`
            shows it.
        jwks: Its public keys, a JSON Web Key Set as text (`kubectl get --raw /openid/v1/jwks`). Either this,
        jwks_file: or a file that holds it, read when the service starts.
        algorithms: How its tokens may be signed; keys of other kinds are passed over.
        max_token_lifetime_s: Tokens that live longer are refused, in seconds.
    """

    issuer: Url
    jwks: str | None = Field(default=None, max_length=_MAX_KEY_SET)
    jwks_file: str | None = None
    algorithms: tuple[TokenAlgorithm, ...] = Field(default=("RS256", "ES256"), min_length=1)
    max_token_lifetime_s: int = Field(default=3600, ge=60, le=24 * 3600)

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if (self.jwks is None) == (self.jwks_file is None):
            raise ValueError("a cluster's keys stand in the configuration, or in a file that it names")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedWorkload:
    """A pod, by a token that held.

    Attributes:
        token_id: Names the token: SHA-256 of what is signed in it.
        expires_at: When it ends, Unix seconds.
    """

    workload: Workload
    token_id: str
    expires_at: int


class WorkloadIssuers:
    """Verifies service accounts' tokens. Threads may share it.

    Args:
        issuers: The clusters that are believed, with their keys (`with_key_sets`); none: no token counts.
        key_service: The identity of this key service, which tokens are for.
        clock: For the validity of tokens.

    Raises:
        ConfigurationError: A cluster is named twice, or has no usable key.
    """

    def __init__(self, issuers: Sequence[WorkloadIssuerSettings], *, key_service: str, clock: Clock) -> None:
        self._settings = {each.issuer: each for each in issuers}
        if len(self._settings) != len(issuers):
            raise ConfigurationError("a cluster is configured twice", action="Name each issuer once.")
        self._keys = {each.issuer: _keys_of(each) for each in issuers}
        self._audience = token_audience(key_service)
        self._clock = clock

    def knows(self, issuer: str) -> bool:
        """Return whether tokens of this cluster are believed."""
        return issuer in self._settings

    def verify(self, token: str) -> VerifiedWorkload:
        """Verify a service account's token.

        1. Find the cluster that the token says it is from, among those that are configured.
        2. Its header has an allowed algorithm; the cluster's key of its `kid` signed it.
        3. `iss` and `aud` are this cluster and this key service alone.
        4. It lives now, and not for too long.
        5. It is bound to a pod, and to the service account that it names.
        The caller MUST compare the workload with what an approval names, and MUST refuse the token a second time.

        Raises:
            FormatError: Not such a token.
            AuthenticationError: Of another cluster, audience or time.
            VerificationError: Of another key, or changed.
        """
        claimed = parse_json_object(unverified_payload(token)).get("iss")  # 1
        settings = self._settings.get(claimed) if isinstance(claimed, str) else None
        if settings is None:
            raise AuthenticationError("the service account's token is of a cluster that this key service does not know")
        header = unverified_header(token)
        kid = header.get("kid")
        key = self._keys[settings.issuer].get(kid) if isinstance(kid, str) else None
        if header.get("alg") not in settings.algorithms or key is None:  # 2
            raise VerificationError("the service account's token is not signed with a key of its cluster")
        payload = verify_jws(token, key=key, remember=False).payload
        claims = parse_json_object(payload)
        if claims.get("iss") != settings.issuer or claims.get("aud") not in (self._audience, [self._audience]):  # 3
            raise AuthenticationError("the service account's token is for another service, or for others too")
        expires_at = _demand_time(claims, settings, now=self._clock.now().timestamp())  # 4
        return VerifiedWorkload(  # 5
            workload=_workload(claims, settings.issuer), token_id=sha256_hex(payload), expires_at=expires_at
        )


def with_key_sets(issuers: Iterable[WorkloadIssuerSettings]) -> tuple[WorkloadIssuerSettings, ...]:
    """Return the settings with every cluster's keys in them: what a file says is read once, and used as it was read.

    Raises:
        ConfigurationError: A file cannot be read.
    """
    return tuple(map(_with_key_set, issuers))


def pinned_workload_issuers(issuers: Iterable[WorkloadIssuerSettings]) -> dict[str, Json]:
    """Return whose tokens are believed, as part of what the configuration digest covers; nothing where nobody's are.

    Args:
        issuers: The clusters, with their keys.

    Raises:
        ConfigurationError: A cluster has no usable key.
    """
    said: list[Json] = [
        {
            "issuer": each.issuer,
            "algorithms": sorted(each.algorithms),
            "keys": {kid: key.thumbprint for kid, key in _keys_of(each).items()},
            "max_token_lifetime_s": each.max_token_lifetime_s,
        }
        for each in sorted(issuers, key=lambda each: each.issuer)
    ]
    return {"workload_issuers": said} if said else {}


def _with_key_set(settings: WorkloadIssuerSettings) -> WorkloadIssuerSettings:
    if settings.jwks_file is None:
        return settings
    try:
        with Path(settings.jwks_file).open("rb") as file:
            text = file.read(_MAX_KEY_SET).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the keys of the cluster {settings.issuer} cannot be read") from error
    return settings.model_copy(update={"jwks": text, "jwks_file": None})


def _keys_of(settings: WorkloadIssuerSettings) -> dict[str, VerifyingKey]:
    """Return a cluster's keys of the allowed algorithms by their names; others are passed over."""
    found: dict[str, VerifyingKey] = {}
    for jwk in _published(settings):
        kid, key = jwk.get("kid"), signing_key_of(jwk)
        if key is None or not isinstance(kid, str) or key.algorithm not in settings.algorithms:
            continue
        if kid in found:
            raise ConfigurationError(f"the cluster {settings.issuer} has two keys of one name")
        found[kid] = key
    if not found:
        raise ConfigurationError(
            f"the cluster {settings.issuer} has no key that its tokens may be signed with",
            action="Take its keys from: kubectl get --raw /openid/v1/jwks",
        )
    return found


def _published(settings: WorkloadIssuerSettings) -> list[dict[str, Any]]:
    try:
        keys = parse_json_object(settings.jwks or "").get("keys")
    except FormatError as error:
        raise ConfigurationError(f"the keys of the cluster {settings.issuer} are not a JSON Web Key Set") from error
    if not isinstance(keys, list):
        raise ConfigurationError(f"the keys of the cluster {settings.issuer} are not a JSON Web Key Set")
    return [each for each in keys if isinstance(each, dict)]


def _demand_time(claims: Mapping[str, Any], settings: WorkloadIssuerSettings, *, now: float) -> int:
    issued, begins, expires = (_seconds(claims, name) for name in ("iat", "nbf", "exp"))
    if not 0 < expires - issued <= settings.max_token_lifetime_s:
        raise AuthenticationError("the service account's token lives for too long")
    if now >= expires:
        raise AuthenticationError("the service account's token is expired")
    if now < max(issued, begins) - LIMITS.clock_skew_s:
        raise AuthenticationError("the service account's token is not yet valid")
    return expires


def _workload(claims: Mapping[str, Any], issuer: str) -> Workload:
    match claims:
        case {
            "sub": str(subject),
            "kubernetes.io": {
                "namespace": str(namespace),
                "serviceaccount": {"name": str(name)},
                "pod": {"name": str(pod), "uid": str(uid)},
            },
        } if subject == _ACCOUNT.format(namespace=namespace, name=name):
            return Workload.from_object({"issuer": issuer, "subject": subject, "pod": pod, "pod_uid": uid})
        case _:
            raise FormatError("the token is not a pod's, of the service account that it names")


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"the service account's token has no whole number in {name}")
    return value
