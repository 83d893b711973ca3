"""Release policies: which attestation results free a key. Azure Key Vault's grammar, version 1.0.0.

    {"version": "1.0.0", "anyOf": [{"authority": "https://…", "allOf": [{"claim": "a.b", "equals": true}]}]}

Beside `equals` the grammar lists `notEquals`, `less`, `lessOrEquals`, `greater`, `greaterOrEquals` and `exists`. What
its page leaves open is refused when the policy is set: order is between numbers, and `exists` is true, because a claim
that is not there meets no condition.

Source: Azure Key Vault, "Secure key release policy grammar"; Azure Policy, "Conditions".
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import FormatError, Mismatch, RefusedError
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.policy.claims import Claims, show

_VERSION: Final = "1.0.0"
_MAX_DEPTH: Final = 16
_MAX_CONDITIONS: Final = 1000
_ABSENT: Final = "no such claim"

Order: TypeAlias = Literal["less", "lessOrEquals", "greater", "greaterOrEquals"]
_ORDERS: Final[Mapping[Order, Callable[[Any, Any], bool]]] = MappingProxyType(
    {"less": operator.lt, "lessOrEquals": operator.le, "greater": operator.gt, "greaterOrEquals": operator.ge}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimEquals:
    """The claim at a dotted path is this string, number or boolean, and of that type."""

    claim: str
    equals: str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimDiffers:
    """The claim at a dotted path is there, of the type of this value, and another one."""

    claim: str
    differs_from: str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCompares:
    """The claim at a dotted path is a number in this order to another number."""

    claim: str
    order: Order
    bound: int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimExists:
    """There is a claim at a dotted path; any value will do, null too."""

    claim: str


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


ClaimCondition: TypeAlias = ClaimEquals | ClaimDiffers | ClaimCompares | ClaimExists
Condition: TypeAlias = ClaimCondition | AllOf | AnyOf


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
        case {"claim": str(claim), **comparison} if len(comparison) == 1:
            name, wanted = next(iter(comparison.items()))
            return _claim_condition(claim, str(name), wanted)
    raise FormatError('a condition is {"claim", one operator: a value}, {"allOf"} or {"anyOf"}')


def _claim_condition(claim: str, name: str, value: object) -> ClaimCondition:
    if not all(claim.split(".")):
        raise FormatError("a claim's name is empty, or a part of its dotted path is")
    if isinstance(value, float) and not math.isfinite(value):
        raise FormatError("a number of the release policy is too large")
    match name:
        case "equals":
            return ClaimEquals(claim=claim, equals=_scalar(name, value))
        case "notEquals":
            return ClaimDiffers(claim=claim, differs_from=_scalar(name, value))
        case "less" | "lessOrEquals" | "greater" | "greaterOrEquals":
            return ClaimCompares(claim=claim, order=name, bound=_number(name, value))
        case "exists":
            if value is not True:
                raise FormatError('"exists" is true or not there: a claim that is absent meets no condition')
            return ClaimExists(claim=claim)
        case _:
            raise FormatError("the release policy has an operator that is not in the grammar")


def _scalar(name: str, value: object) -> str | int | float | bool:
    if not isinstance(value, str | int | float):
        raise FormatError(f'"{name}" takes a string, a number or a boolean')
    return value


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError(f'"{name}" compares numbers only')
    return value


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
        case AllOf():
            return tuple(mismatch for each in condition.conditions for mismatch in _unmet(each, claims))
        case AnyOf():
            return min((_unmet(each, claims) for each in condition.conditions), key=len)
        case _:
            return _unmet_claim(condition, claims)


def _unmet_claim(condition: ClaimCondition, claims: Claims) -> tuple[Mismatch, ...]:
    value: Json = claims
    for part in condition.claim.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return (Mismatch(name=condition.claim, expected=_wanted(condition), actual=_ABSENT),)
        value = value[part]
    if _holds(condition, value):
        return ()
    return (Mismatch(name=condition.claim, expected=_wanted(condition), actual=show(value)),)


def _holds(condition: ClaimCondition, value: Json) -> bool:
    match condition:
        case ClaimEquals(equals=wanted):
            return _kind(value) == _kind(wanted) and value == wanted
        case ClaimDiffers(differs_from=other):
            return _kind(value) == _kind(other) and value != other
        case ClaimCompares(order=order, bound=bound):
            return _kind(value) == _kind(bound) and _ORDERS[order](value, bound)
        case ClaimExists():
            return True


def _wanted(condition: ClaimCondition) -> str:
    match condition:
        case ClaimEquals(equals=wanted):
            return show(wanted)
        case ClaimDiffers(differs_from=other):
            return f"notEquals {show(other)}"
        case ClaimCompares(order=order, bound=bound):
            return f"{order} {show(bound)}"
        case ClaimExists():
            return "any value"


def _kind(value: Json) -> str:
    """Return the JSON type of a scalar: Python holds True and 1 for equal, JSON does not."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else type(value).__name__
