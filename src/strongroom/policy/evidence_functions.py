"""The functions of evidence policies, from version 1.2 of the language on.

Each takes sets of values, as an identifier stands for all claims that a condition found, and returns a set.

Source: Azure Attestation, "Claim rule functions supported in policy version 1.2+"; JMESPath specification.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import jmespath
from jmespath import functions
from jmespath.exceptions import JMESPathError

from strongroom.base.encoding import parse_json
from strongroom.base.errors import FormatError, LimitError, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.claims import ClaimValue, value_type_of

MAX_TEXT: Final = 1 << 20
"""Characters of a JSON text or a string that a function takes or makes."""
_INTEGER_BITS: Final = 63
_ACTION: Final = "correct the policy: see the functions of policy version 1.2"

Values: TypeAlias = Sequence[ClaimValue]


class Function(StrEnum):
    """The functions, as policies spell them."""

    JMES_PATH = "JmesPath"
    JSON_TO_CLAIM_VALUE = "JsonToClaimValue"
    IS_SUBSET_OF = "IsSubsetOf"
    APPEND_STRING = "AppendString"
    NEGATE_BOOL = "NegateBool"
    CONTAINS_ONLY_VALUE = "ContainsOnlyValue"


def call(function: Function, arguments: Sequence[Values]) -> list[ClaimValue]:
    """Evaluate a function.

    Args:
        function: Which one.
        arguments: The values of each argument; as many arguments as `ARGUMENTS` says.

    Returns:
        Its values: one, none (a JSON null), or those of a JSON array.

    Raises:
        RefusedError: A value is of a kind that the function does not take.
        LimitError: A text is longer than `MAX_TEXT`.
    """
    return _FUNCTIONS[function].evaluate(*arguments)


def _jmes_path(documents: Values, queries: Values) -> list[ClaimValue]:
    name = Function.JMES_PATH
    document, query = _string(documents, name), _string(queries, name)
    try:
        found = jmespath.search(query, _json(document, name), options=_OPTIONS)
        text = json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (JMESPathError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _refused(name, "the query is no JMESPath, or does not fit the document") from error
    return [_limited(text, name)]


def _json_to_claim_value(texts: Values) -> list[ClaimValue]:
    name = Function.JSON_TO_CLAIM_VALUE
    value = _json(_string(texts, name), name)
    elements = value if isinstance(value, list) else [value]
    return [_primitive(element, name) for element in elements if element is not None]


def _is_subset_of(subset: Values, superset: Values) -> list[ClaimValue]:
    return [_typed(subset) <= _typed(superset)]


def _append_string(heads: Values, tails: Values) -> list[ClaimValue]:
    name = Function.APPEND_STRING
    return [_limited(_string(heads, name) + _string(tails, name), name)]


def _negate_bool(values: Values) -> list[ClaimValue]:
    value = _single(values, Function.NEGATE_BOOL)
    if not isinstance(value, bool):
        raise _refused(Function.NEGATE_BOOL, "it takes a boolean")
    return [not value]


def _contains_only_value(values: Values, wanted: Values) -> list[ClaimValue]:
    only = _single(wanted, Function.CONTAINS_ONLY_VALUE)
    return [_typed(values) == _typed([only])]


@dataclass(frozen=True, slots=True)
class _Implementation:
    arguments: int
    evaluate: Callable[..., list[ClaimValue]]


_FUNCTIONS: Final[Mapping[Function, _Implementation]] = {
    Function.JMES_PATH: _Implementation(2, _jmes_path),
    Function.JSON_TO_CLAIM_VALUE: _Implementation(1, _json_to_claim_value),
    Function.IS_SUBSET_OF: _Implementation(2, _is_subset_of),
    Function.APPEND_STRING: _Implementation(2, _append_string),
    Function.NEGATE_BOOL: _Implementation(1, _negate_bool),
    Function.CONTAINS_ONLY_VALUE: _Implementation(2, _contains_only_value),
}
ARGUMENTS: Final[Mapping[Function, int]] = {name: each.arguments for name, each in _FUNCTIONS.items()}
"""How many arguments each function takes."""


class _AzureFunctions(functions.Functions):  # type: ignore[misc]  # the library has no types
    """JMESPath's own functions, and the one that Azure's documents use beside them."""

    @functions.signature({"types": ["string", "null"]}, {"types": ["string", "null"]})  # type: ignore[untyped-decorator]
    def _func_equals_ignore_case(self, left: str | None, right: str | None) -> bool:
        if left is None or right is None:
            return left is right
        return left.casefold() == right.casefold()


_OPTIONS: Final = jmespath.Options(custom_functions=_AzureFunctions())


def _single(values: Values, name: Function) -> ClaimValue:
    if len(values) != 1:
        raise _refused(name, f"an argument has {len(values)} values, and one is needed")
    return values[0]


def _string(values: Values, name: Function) -> str:
    value = _single(values, name)
    if not isinstance(value, str):
        raise _refused(name, "it takes strings")
    return _limited(value, name)


def _json(text: str, name: Function) -> Any:  # noqa: ANN401 - JSON is of any type
    try:
        return parse_json(text)
    except FormatError as error:
        raise _refused(name, "its argument is no JSON text") from error


def _primitive(value: object, name: Function) -> ClaimValue:
    match value:
        case bool() | str():
            return value
        case int() if value.bit_length() <= _INTEGER_BITS:
            return value
        case _:
            raise _refused(name, "objects, nested arrays, fractions and larger integers have no claim value")


def _typed(values: Values) -> set[tuple[str, ClaimValue]]:
    """Return a set in which true and 1 differ, as they do in policies."""
    return {(value_type_of(value), value) for value in values}


def _limited(text: str, name: Function) -> str:
    if len(text) > MAX_TEXT:
        raise LimitError(f"{name} in the evidence policy takes or makes too long a text", step=Step.ATTEST)
    return text


def _refused(name: Function, reason: str) -> RefusedError:
    return RefusedError(
        f"{name} in the evidence policy cannot be evaluated: {reason}", action=_ACTION, step=Step.ATTEST
    )
