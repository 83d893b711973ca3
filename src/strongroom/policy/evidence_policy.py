"""Evidence policies: what an attestation service accepts, and what it then says.

The rules of the language are in `evidence_grammar`; here they are evaluated and refusals are explained.
"""

import hashlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, LimitError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.claims import Claim, ClaimIssuer, ClaimValue, ValueType, show, value_type_of
from strongroom.policy.evidence_functions import call
from strongroom.policy.evidence_grammar import (
    Action,
    Call,
    Comparison,
    Condition,
    Expression,
    Operator,
    Property,
    Reference,
    Rule,
    Rules,
    Verb,
    parse_rules,
)

MAX_CLAIMS: Final = 250
_ORDER: Final[Mapping[Operator, Callable[[int, int], bool]]] = {
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}
_Found: TypeAlias = Mapping[str, Sequence[Claim]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a policy that permits says.

    Attributes:
        issued: The claims for the attestation result. The issuer MUST let the names that it sets itself win.
        properties: How the result is to be made; the issuer MUST refuse a property that it does not honour.
        named: The claims that a permit() rule asked for by name and value: what it means, not what it lets pass.
    """

    issued: tuple[Claim, ...]
    named: frozenset[Claim]
    properties: Mapping[str, ClaimValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePolicy:
    """A policy in Azure Attestation's language; made by `parse_evidence_policy`.

    Attributes:
        text: The policy as it was written, whose hash names it.
        rules: The same, parsed.
    """

    text: str
    rules: Rules

    @property
    def hash(self) -> str:
        """The policy's name in results and approvals (`x-ms-policy-hash`)."""
        return evidence_policy_hash(self.text)

    def evaluate(self, claims: Iterable[Claim]) -> Evaluation:
        """Appraise claims.

        1. Run the configuration rules.
        2. Run all authorization rules: at least one must permit, none may deny.
        3. Run the issuance rules.

        Args:
            claims: What the verified evidence says.

        Returns:
            The claims and properties that the policy issues.

        Raises:
            RefusedError: The policy does not permit these claims, or compares values of different types. The
                mismatches are those of the permit() rule that came nearest, or the claims a deny() rule names.
            LimitError: The policy makes more than `MAX_CLAIMS` claims.

        Source: Azure Attestation, "Claim and claim rules", "Policy version 1.1".
        """
        state = State(claims)
        for rule in self.rules.configuration:
            state.run(rule)
        named = _authorize(self.rules.authorization, state)
        for rule in self.rules.issuance:
            state.run(rule)
        return Evaluation(issued=tuple(state.issued), named=named, properties=state.properties)


def parse_evidence_policy(text: str) -> EvidencePolicy:
    """Read a policy of version 1.0, 1.1 or 1.2.

    Args:
        text: The policy.

    Returns:
        The policy; it has permitted nothing yet.

    Raises:
        FormatError: Not such a policy; the message names line, column and what was expected.

    Source: Azure Attestation, "Claim and claim rules", "Policy version 1.0", "1.1" and "1.2".
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("the policy is not Unicode text") from error
    return EvidencePolicy(text=text, rules=parse_rules(text))


def evidence_policy_hash(text: str) -> str:
    """Return `x-ms-policy-hash` of a policy: BASE64URL(SHA256(UTF8(BASE64URL(UTF8(text))))).

    Source: Azure Attestation, "Claim sets".
    """
    return to_b64url(hashlib.sha256(to_b64url(text.encode("utf-8")).encode("ascii")).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class UnmetCondition:
    """A condition that found no claim (or, negated, found one).

    Attributes:
        number: Its place in the rule, from 1.
        mismatches: What it wanted, and what stood there instead.
    """

    number: int
    mismatches: tuple[Mismatch, ...]


class State:
    """The claim sets while rules run; a set holds each claim once.

    Args:
        claims: What the verified evidence says.
    """

    def __init__(self, claims: Iterable[Claim]) -> None:
        self.incoming: dict[Claim, None] = {}
        self._by_type: dict[str, list[Claim]] = {}
        self._add(claims)
        self.issued: dict[Claim, None] = {}
        self.properties: dict[str, ClaimValue] = {}

    def run(self, rule: Rule) -> list[Sequence[Claim]] | None:
        """Run one rule.

        Returns:
            The claims that met each condition, or None when one does not hold.

        Raises:
            RefusedError: The rule cannot be evaluated, or gives a property two values.
            LimitError: There are more than `MAX_CLAIMS` claims.
        """
        matches = _matches(rule.conditions, self._candidates)
        if matches is None:
            return None
        made = _made(rule.action, _named(rule.conditions, matches))
        self._add(made)
        if rule.action.verb is Verb.ISSUE:
            self.issued.update(dict.fromkeys(made))
        if rule.action.verb is Verb.ISSUE_PROPERTY:
            self._set_properties(made)
        if len(self.incoming) > MAX_CLAIMS:
            raise LimitError(f"there are more than {MAX_CLAIMS} claims", step=Step.ATTEST)
        return matches

    def _add(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if claim not in self.incoming:
                self.incoming[claim] = None
                self._by_type.setdefault(claim.type, []).append(claim)

    def _candidates(self, condition: Condition) -> Iterable[Claim]:
        """Return the claims that can meet a condition: those of the type that it names first, or all."""
        match condition.comparisons:
            case [Comparison(property=Property.TYPE, operator=Operator.EQUAL, expected=str(name)), *_]:
                return self._by_type.get(name, ())
            case _:
                return self.incoming

    def _set_properties(self, made: Iterable[Claim]) -> None:
        for claim in made:
            if self.properties.setdefault(claim.type, claim.value) != claim.value:
                raise RefusedError(f"the evidence policy gives {claim.type} two values", step=Step.ATTEST)


def _authorize(rules: Sequence[Rule], state: State) -> frozenset[Claim]:
    """Run the authorization rules; return the claims that a permit() rule asked for by name and value."""
    permitted = False
    named: set[Claim] = set()
    missed: list[tuple[Rule, int]] = []
    for rule in rules:
        matches = state.run(rule)
        if matches is not None:
            if rule.action.verb is Verb.DENY:
                raise _denied(rule, matches)
            if rule.action.verb is Verb.PERMIT:
                permitted = True
                named.update(_asked_for(rule, matches))
        elif rule.action.verb is Verb.PERMIT:
            missed.append((rule, len(state.incoming)))
    if not permitted:
        # To explain costs far more than to evaluate: each rule against the claims that it met, and for refusals only.
        explained = [(rule, _explain(rule, State(itertools.islice(state.incoming, met)))) for rule, met in missed]
        raise _not_permitted(min(explained, key=lambda each: len(each[1]), default=None))
    return frozenset(named)


def _asked_for(rule: Rule, matches: Sequence[Sequence[Claim]]) -> Iterator[Claim]:
    for condition, claims in zip(rule.conditions, matches, strict=True):
        asked = {each.property for each in condition.comparisons if each.operator is Operator.EQUAL}
        if {Property.TYPE, Property.VALUE} <= asked:
            yield from claims


def _matches(
    conditions: Sequence[Condition], candidates: Callable[[Condition], Iterable[Claim]]
) -> list[Sequence[Claim]] | None:
    matches: list[Sequence[Claim]] = []
    for condition in conditions:
        found = _named(conditions, matches)
        matching = [
            claim
            for claim in candidates(condition)
            if all(_holds(claim, each, found) for each in condition.comparisons)
        ]
        if bool(matching) is condition.negated:
            return None
        matches.append(matching)
    return matches


def _named(conditions: Sequence[Condition], matches: Sequence[Sequence[Claim]]) -> _Found:
    """Return the claims that each identifier stands for, of the conditions evaluated so far."""
    evaluated = zip(conditions, matches, strict=False)
    return {condition.identifier: claims for condition, claims in evaluated if condition.identifier is not None}


def _holds(claim: Claim, comparison: Comparison, found: _Found) -> bool:
    actual = _property(claim, comparison.property)
    for expected in _values(comparison.expected, found):
        if value_type_of(actual) is not value_type_of(expected) and comparison.operator is not Operator.EQUAL:
            # Neither answer would be safe: "no" would silence a deny() rule, "yes" would fire a permit() rule.
            raise RefusedError(
                f"the evidence policy compares {claim.type} with a value of another type",
                action="correct the policy: compare integers with integers, strings with strings",
                step=Step.ATTEST,
                mismatches=(
                    Mismatch(name=claim.type, expected=f"{value_type_of(expected)}", actual=f"{value_type_of(actual)}"),
                ),
            )
        if _compare(actual, comparison.operator, expected):
            return True
    return False


def _compare(actual: ClaimValue, sign: Operator, expected: ClaimValue) -> bool:
    """Compare two values; of different types, they are never equal and have no order."""
    same_type = value_type_of(actual) is value_type_of(expected)
    if sign is Operator.EQUAL:
        return same_type and actual == expected
    if sign is Operator.NOT_EQUAL:
        return not same_type or actual != expected
    if value_type_of(actual) is not ValueType.INTEGER or not same_type:
        return False
    return _ORDER[sign](int(actual), int(expected))


def _made(action: Action, found: _Found) -> list[Claim]:
    """Return the claims an action makes: copies, or one new claim for each value."""
    if action.claim is not None:
        return list(found[action.claim])
    if action.type is None or action.value is None:
        return []
    names = set(_values(action.type, found))
    name = names.pop()
    if names or not isinstance(name, str):
        raise RefusedError(
            f"the evidence policy's rule of line {action.line} gives a claim no name, or several", step=Step.ATTEST
        )
    return [Claim(type=name, value=value, issuer=ClaimIssuer.POLICY) for value in _values(action.value, found)]


def _values(expression: Expression, found: _Found) -> list[ClaimValue]:
    if isinstance(expression, Reference):
        return [_property(claim, expression.property) for claim in found.get(expression.identifier, ())]
    if isinstance(expression, Call):
        return call(expression.function, [_values(argument, found) for argument in expression.arguments])
    return [expression]


def _property(claim: Claim, name: Property) -> ClaimValue:
    match name:
        case Property.TYPE:
            return claim.type
        case Property.VALUE:
            return claim.value
        case Property.VALUE_TYPE:
            return str(claim.value_type)
        case Property.ISSUER:
            return str(claim.issuer)


def _not_permitted(nearest: tuple[Rule, tuple[Mismatch, ...]] | None) -> RefusedError:
    if nearest is None:
        return RefusedError(
            "the evidence policy has no permit() rule", action="register a policy that permits", step=Step.ATTEST
        )
    rule, mismatches = nearest
    return RefusedError(
        f"the evidence policy does not permit this evidence; its nearest permit() is in line {rule.action.line}",
        action="compare the measured values with the policy's",
        step=Step.ATTEST,
        mismatches=mismatches,
    )


def _denied(rule: Rule, matches: Iterable[Sequence[Claim]]) -> RefusedError:
    line = rule.action.line
    return RefusedError(
        f"the evidence policy denies this evidence in line {line}",
        action="compare the measured values with the policy's",
        step=Step.ATTEST,
        mismatches=tuple(
            Mismatch(name=claims[0].type, expected=f"not what line {line} denies", actual=show(claims[0].value))
            for claims in matches
            if claims
        ),
    )


def _explain(rule: Rule, state: State) -> tuple[Mismatch, ...]:
    return tuple(mismatch for unmet in unmet_conditions(rule, state) for mismatch in unmet.mismatches)


def unmet_conditions(rule: Rule, state: State) -> tuple[UnmetCondition, ...]:
    """Return what each unmet condition of a rule that did not fire wanted, and what stood there instead."""
    matches: list[Sequence[Claim]] = []
    unmet: list[UnmetCondition] = []
    for number, condition in enumerate(rule.conditions, start=1):
        found = _named(rule.conditions, matches)
        try:
            matches.append([claim for claim in state.incoming if not _failing(claim, condition, found)])
        except RefusedError:  # a function wants values of a condition that found nothing: that one is explained
            matches.append([])
            continue
        if condition.negated and matches[-1]:
            claim = matches[-1][0]
            mismatch = Mismatch(name=claim.type, expected="no such claim", actual=show(claim.value))
            unmet.append(UnmetCondition(number=number, mismatches=(mismatch,)))
        elif not condition.negated and not matches[-1]:
            unmet.append(UnmetCondition(number=number, mismatches=_nearest_claim(condition, state, found)))
    return tuple(unmet)


def _failing(claim: Claim, condition: Condition, found: _Found) -> list[Comparison]:
    return [
        comparison
        for comparison in condition.comparisons
        if not any(
            _compare(_property(claim, comparison.property), comparison.operator, expected)
            for expected in _values(comparison.expected, found)
        )
    ]


def _nearest_claim(condition: Condition, state: State, found: _Found) -> tuple[Mismatch, ...]:
    wanted = " and ".join(_demand(each, found) for each in condition.comparisons)
    names = [each for each in condition.comparisons if each.property is Property.TYPE]
    candidates = [(claim, _failing(claim, condition, found)) for claim in state.incoming]
    meant = [(claim, failing) for claim, failing in candidates if names and not set(names) & set(failing)]
    if not meant:
        name = next((each.expected for each in names if isinstance(each.expected, str)), "a claim")
        return (Mismatch(name=name, expected=wanted, actual="no such claim"),)
    claim, failing = min(meant, key=lambda pair: len(pair[1]))
    return tuple(
        Mismatch(name=claim.type, expected=_demand(each, found), actual=show(_property(claim, each.property)))
        for each in failing
    )


def _demand(comparison: Comparison, found: _Found) -> str:
    expected = comparison.expected
    shown = _shown_values(expected, found) if isinstance(expected, Reference | Call) else show(expected)
    return f"{comparison.property} {comparison.operator} {shown}"


def _shown_values(expression: Reference | Call, found: _Found) -> str:
    values = ", ".join(show(value) for value in _values(expression, found))
    return f"{expression} ({values})" if values else f"{expression} (nothing)"
