"""Claims: what a verified piece of evidence says, in the two forms that policies read.

An evidence policy reads `Claim`s (a set of small typed statements); a release policy reads the JSON object
of an attestation result (`Claims`).

Source: Azure Attestation, "Claim and claim rules".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from strongroom.base.encoding import Json

ClaimValue: TypeAlias = str | int | bool
Claims: TypeAlias = Mapping[str, Json]

_SHOWN_CHARACTERS: Final = 160


class ClaimIssuer(StrEnum):
    """Who says it: the service from the evidence, the policy itself, or the attester."""

    SERVICE = "AttestationService"
    POLICY = "AttestationPolicy"
    CUSTOM = "CustomClaim"


class ValueType(StrEnum):
    """The three types a claim's value can have."""

    STRING = "String"
    INTEGER = "Integer"
    BOOLEAN = "Boolean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement about what was attested.

    Attributes:
        type: The claim's name.
        value: A string, an integer or a boolean.
        issuer: Who says it.
        value_type: Follows from the value; part of equality, because Python holds True and 1 for equal.
    """

    type: str
    value: ClaimValue
    issuer: ClaimIssuer
    value_type: ValueType = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_type", value_type_of(self.value))


def value_type_of(value: ClaimValue) -> ValueType:
    """Return the type that a policy gives this value."""
    if isinstance(value, bool):
        return ValueType.BOOLEAN
    return ValueType.INTEGER if isinstance(value, int) else ValueType.STRING


def claims_from_json(claims: Claims, *, issuer: ClaimIssuer) -> tuple[Claim, ...]:
    """Return the claims of a JSON object that an evidence policy can read.

    Args:
        claims: Names and values. An array of scalars becomes one claim for each element; objects, fractions,
            nulls and nested arrays have no form in the policy language and are left out.
        issuer: Who says all of them.

    Returns:
        The claims, in the order of the object.
    """
    return tuple(
        Claim(type=name, value=scalar, issuer=issuer) for name, value in claims.items() for scalar in _scalars(value)
    )


def claims_to_json(claims: Iterable[Claim]) -> dict[str, Json]:
    """Return claims as a JSON object; several values of one name become an array.

    The caller MUST let the names that it sets itself win over these.
    """
    values: dict[str, list[ClaimValue]] = {}
    for claim in claims:
        values.setdefault(claim.type, []).append(claim.value)
    return {name: several[0] if len(several) == 1 else several for name, several in values.items()}


def show(value: Json) -> str:
    """Return a value as policies write it, shortened, for explanations."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = f'"{value}"'
        case int() | float():
            text = str(value)
        case None:
            text = "null"
        case Mapping():
            text = "an object"
        case _:
            text = "an array"
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _scalars(value: Json) -> Iterator[ClaimValue]:
    match value:
        case str() | int():
            yield value
        case Sequence():
            yield from (element for element in value if isinstance(element, str | int))
        case _:
            return
