"""Why an evidence policy permits or refuses: rule by rule, with what each wanted and what it found.

The outcome is always the evaluator's own (`EvidencePolicy.evaluate`); what is told here about single rules comes from
running the same rules on the same claims, beyond the first one that denies.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import LimitError, Mismatch, RefusedError
from strongroom.policy.claims import Claim, claims_to_json
from strongroom.policy.evidence_grammar import Rule, Section, Verb
from strongroom.policy.evidence_policy import Evaluation, EvidencePolicy, State, UnmetCondition, unmet_conditions

_PLACE: Final = re.compile(r"\bline (\d+)(?:, column (\d+))?")
_SHOWN_BEFORE: Final = 100
_SHOWN_BEHIND: Final = 40


class Outcome(StrEnum):
    """What became of a rule."""

    FIRED = "fired"
    NEARLY_FIRED = "nearly fired"
    DID_NOT_FIRE = "did not fire"
    FAILED = "failed"
    NOT_REACHED = "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleExplanation:
    """One rule and what became of it.

    Attributes:
        section: Where it stands.
        line: The line of its action.
        verb: What it would do.
        outcome: Whether it did. Of the permit() rules that did not fire, the nearest one nearly fired, where none did.
        unmet: The conditions that did not hold.
        found: The claims that met its conditions, where it fired.
        made: The claims that it added or issued.
        reason: Why it could not be evaluated; empty otherwise.
    """

    section: Section
    line: int
    verb: Verb
    outcome: Outcome
    unmet: tuple[UnmetCondition, ...] = ()
    found: tuple[Claim, ...] = ()
    made: tuple[Claim, ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Json]:
        """Return it for other programs."""
        return {
            "section": self.section,
            "line": self.line,
            "verb": self.verb,
            "outcome": self.outcome,
            "unmet": [
                {"condition": each.number, "name": found.name, "expected": found.expected, "actual": found.actual}
                for each in self.unmet
                for found in each.mismatches
            ],
            "found": claims_to_json(self.found),
            "made": claims_to_json(self.made),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A policy's outcome for some claims, and how it came about.

    Attributes:
        rules: Every rule, in the order of evaluation.
        evaluation: What the policy says; None where it refuses.
        refusal: Why it refuses, in one sentence; empty where it permits.
        mismatches: What a refusal is about: of the nearest permit() rule, or of the deny() rule that fired.
    """

    rules: tuple[RuleExplanation, ...]
    evaluation: Evaluation | None
    refusal: str
    mismatches: tuple[Mismatch, ...]

    @property
    def permitted(self) -> bool:
        """Whether the policy permits."""
        return self.evaluation is not None

    def to_json(self) -> dict[str, Json]:
        """Return it for other programs."""
        evaluation = self.evaluation
        return {
            "permitted": self.permitted,
            "refusal": self.refusal,
            "mismatches": [
                {"name": each.name, "expected": each.expected, "actual": each.actual} for each in self.mismatches
            ],
            "rules": [rule.to_json() for rule in self.rules],
            "issued": None if evaluation is None else claims_to_json(evaluation.issued),
            "properties": None if evaluation is None else dict(evaluation.properties),
        }


def explain(policy: EvidencePolicy, claims: Iterable[Claim]) -> Explanation:
    """Say what a policy makes of claims, rule by rule.

    1. Evaluate the policy: that alone decides the outcome.
    2. Run the configuration and authorization rules again, also those behind a deny(), and note what became of each.
    3. Where evidence is permitted, run the issuance rules.

    Args:
        policy: The policy.
        claims: What the evidence says.

    Returns:
        The outcome and its explanation; a refusal is no error here.
    """
    claims = tuple(claims)
    # 1.
    evaluation, refusal, mismatches = _evaluate(policy, claims)
    # 2.
    state = State(claims)
    rules = policy.rules
    told = _run(rules.configuration, Section.CONFIGURATION, state)
    is_sound = not _failed(told)
    told += _run(rules.authorization, Section.AUTHORIZATION, state, is_reached=is_sound)
    # 3.
    is_permitted = is_sound and not _failed(told) and _fired(told, Verb.PERMIT) and not _fired(told, Verb.DENY)
    told += _run(rules.issuance, Section.ISSUANCE, state, is_reached=is_permitted)
    return Explanation(
        rules=tuple(told if _fired(told, Verb.PERMIT) else _with_nearest(told)),
        evaluation=evaluation,
        refusal=refusal,
        mismatches=mismatches,
    )


def point_at(text: str, problem: str) -> str:
    """Return the line of a policy that a problem names, with a caret under the column where it names one.

    Args:
        text: The policy.
        problem: What is wrong; it names a line as `line 3` or `line 3, column 7`, counted from 1.

    Returns:
        The line, and the caret below it; empty where no such line is named.
    """
    place, lines = _PLACE.search(problem), text.split("\n")
    if place is None or not 0 < int(place[1]) <= len(lines):
        return ""
    line = "".join(max(character, " ") for character in lines[int(place[1]) - 1]).rstrip()
    if place[2] is None:
        return line[: _SHOWN_BEFORE + _SHOWN_BEHIND]
    column = max(int(place[2]) - 1, 0)
    start = max(column - _SHOWN_BEFORE, 0)
    return f"{line[start : column + _SHOWN_BEHIND]}\n{' ' * (column - start)}^"


def _evaluate(policy: EvidencePolicy, claims: Sequence[Claim]) -> tuple[Evaluation | None, str, tuple[Mismatch, ...]]:
    try:
        return policy.evaluate(claims), "", ()
    except (RefusedError, LimitError) as refusal:
        return None, refusal.message, refusal.mismatches


def _run(rules: Sequence[Rule], section: Section, state: State, *, is_reached: bool = True) -> list[RuleExplanation]:
    told: list[RuleExplanation] = []
    for rule in rules:
        known = RuleExplanation(
            section=section, line=rule.action.line, verb=rule.action.verb, outcome=Outcome.NOT_REACHED
        )
        told.append(_become(known, rule, state) if is_reached and not _failed(told) else known)
    return told


def _become(known: RuleExplanation, rule: Rule, state: State) -> RuleExplanation:
    before = set(state.incoming), set(state.issued)
    try:
        matches = state.run(rule)
        unmet = unmet_conditions(rule, state) if matches is None else ()
    except (RefusedError, LimitError) as error:
        return replace(known, outcome=Outcome.FAILED, reason="; ".join([error.message, *map(str, error.mismatches)]))
    if matches is None:
        return replace(known, outcome=Outcome.DID_NOT_FIRE, unmet=unmet)
    return replace(
        known,
        outcome=Outcome.FIRED,
        found=tuple(claim for claims in matches for claim in claims),
        made=tuple(dict.fromkeys([*_new(state.incoming, before[0]), *_new(state.issued, before[1])])),
    )


def _new(claims: Iterable[Claim], before: set[Claim]) -> list[Claim]:
    return [claim for claim in claims if claim not in before]


def _failed(told: Iterable[RuleExplanation]) -> bool:
    return any(rule.outcome is Outcome.FAILED for rule in told)


def _fired(told: Iterable[RuleExplanation], verb: Verb) -> bool:
    return any(rule.outcome is Outcome.FIRED and rule.verb is verb for rule in told)


def _with_nearest(told: Sequence[RuleExplanation]) -> list[RuleExplanation]:
    """Mark the permit() rule that came nearest: the first one with the fewest differences."""
    missed = [rule for rule in told if rule.verb is Verb.PERMIT and rule.outcome is Outcome.DID_NOT_FIRE]
    nearest = min(missed, key=lambda rule: sum(len(each.mismatches) for each in rule.unmet), default=None)
    return [replace(rule, outcome=Outcome.NEARLY_FIRED) if rule is nearest else rule for rule in told]
