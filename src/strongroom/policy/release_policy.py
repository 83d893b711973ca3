"""Release policies: which attestation results free a key. Azure Key Vault's grammar, version 1.0.0.

    {"version": "1.0.0", "anyOf": [{"authority": "https://…", "allOf": [{"claim": "a.b", "equals": true}]}]}

Source: Azure Key Vault, "Secure key release policy grammar".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError, Mismatch, RefusedError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.policy.claims import Claims, show

_VERSION: Final = "1.0.0"
_MAX_DEPTH: Final = 16
_MAX_CONDITIONS: Final = 1000
_ABSENT: Final = "no such claim"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimEquals:
    """The claim at a dotted path is this string, number or boolean, and of that type."""

    claim: str
    equals: str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    """Every one of these, of which there is at least one."""

    conditions: "tuple[Condition, ...]"

    def __post_init__(self) -> None:
        _demand_any(self.conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """At least one of these."""

    conditions: "tuple[Condition, ...]"

    def __post_init__(self) -> None:
        _demand_any(self.conditions)


Condition: TypeAlias = ClaimEquals | AllOf | AnyOf


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Whose results are believed, and what they must say."""

    issuer: str
    condition: AllOf | AnyOf


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """What must be attested before a key leaves; made by `parse_release_policy`.

    Attributes:
        data: The policy's exact bytes, as they were given.
        authorities: Any of these suffices; at least one.
    """

    data: bytes
    authorities: tuple[Authority, ...]

    def __post_init__(self) -> None:
        _demand_any(self.authorities)

    def evaluate(self, claims: Claims) -> None:
        """Compare the claims of a verified attestation result with the policy.

        Args:
            claims: The result's claims; its signature, times and issuer are already verified.

        Raises:
            RefusedError: No authority's conditions hold. The mismatches are those of the authority that came nearest.
        """
        mismatches = min((_unmet_authority(each, claims) for each in self.authorities), key=len)
        if mismatches:
            raise RefusedError(
                "the attestation result does not meet the key's release policy",
                action="compare what was attested with what the owner approved",
                step=Step.RELEASE,
                mismatches=mismatches,
            )


def parse_release_policy(json_bytes: bytes) -> ReleasePolicy:
    """Read a release policy.

    Args:
        json_bytes: The policy as JSON (what Key Vault carries as `release_policy.data`, decoded).

    Returns:
        The policy.

    Raises:
        FormatError: Another version, an unknown member or operator, an empty list, or not such JSON at all.

    Source: Azure Key Vault, "Secure key release policy grammar".
    """
    if len(json_bytes) > LIMITS.policy_text_bytes:
        raise FormatError("the release policy is too long")
    policy = parse_json_object(json_bytes)
    if policy.keys() != {"version", "anyOf"} or policy["version"] != _VERSION:
        raise FormatError(f'a release policy has exactly the members "version" ({_VERSION}) and "anyOf"')
    authorities = tuple(_authority(each) for each in _list(policy["anyOf"]))
    return ReleasePolicy(data=json_bytes, authorities=authorities)


def _authority(value: object) -> Authority:
    match value:
        case {"authority": str(issuer), **members} if issuer and len(members) == 1:
            condition = _condition(members, depth=1)
            if isinstance(condition, AllOf | AnyOf):
                return Authority(issuer=issuer, condition=condition)
    raise FormatError('an authority has exactly the members "authority" and one of "allOf" and "anyOf"')


def _condition(value: object, *, depth: int) -> Condition:
    if depth > _MAX_DEPTH:
        raise FormatError(f"the release policy's conditions are nested more than {_MAX_DEPTH} deep")
    match value:
        case {"allOf": members, **others} if not others:
            return AllOf(conditions=tuple(_condition(each, depth=depth + 1) for each in _list(members)))
        case {"anyOf": members, **others} if not others:
            return AnyOf(conditions=tuple(_condition(each, depth=depth + 1) for each in _list(members)))
        case {"claim": str(claim), "equals": str() | int() | float() as equals, **others} if not others:
            return _claim_equals(claim, equals)
    raise FormatError('a condition is {"claim", "equals": a string, number or boolean}, {"allOf"} or {"anyOf"}')


def _claim_equals(claim: str, equals: str | float) -> ClaimEquals:
    if not all(claim.split(".")):
        raise FormatError("a claim's name is empty, or a part of its dotted path is")
    if isinstance(equals, float) and not math.isfinite(equals):
        raise FormatError("a number of the release policy is too large")
    return ClaimEquals(claim=claim, equals=equals)


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or not value or len(value) > _MAX_CONDITIONS:
        raise FormatError(f'"allOf" and "anyOf" hold 1 to {_MAX_CONDITIONS} conditions')
    return value


def _demand_any(members: Sequence[object]) -> None:
    if not members:
        raise FormatError("an empty list of conditions would hold for everything or nothing")


def _unmet_authority(authority: Authority, claims: Claims) -> tuple[Mismatch, ...]:
    issuer = claims.get("iss")
    unmet = _unmet(authority.condition, claims)
    if isinstance(issuer, str) and issuer.removesuffix("/") == authority.issuer.removesuffix("/"):
        return unmet
    return (Mismatch(name="iss", expected=show(authority.issuer), actual=show(issuer)), *unmet)


def _unmet(condition: Condition, claims: Claims) -> tuple[Mismatch, ...]:
    """Return what a condition lacks; nothing when it holds."""
    match condition:
        case ClaimEquals():
            return _unmet_claim(condition, claims)
        case AllOf():
            return tuple(mismatch for each in condition.conditions for mismatch in _unmet(each, claims))
        case AnyOf():
            return min((_unmet(each, claims) for each in condition.conditions), key=len)


def _unmet_claim(condition: ClaimEquals, claims: Claims) -> tuple[Mismatch, ...]:
    value: Json = claims
    for part in condition.claim.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return (Mismatch(name=condition.claim, expected=show(condition.equals), actual=_ABSENT),)
        value = value[part]
    if _kind(value) == _kind(condition.equals) and value == condition.equals:
        return ()
    return (Mismatch(name=condition.claim, expected=show(condition.equals), actual=show(value)),)


def _kind(value: Json) -> str:
    """Return the JSON type of a scalar: Python holds True and 1 for equal, JSON does not."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__
