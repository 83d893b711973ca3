"""How the explanation of an evidence policy is printed."""

from strongroom.cli.evidence import print_claims
from strongroom.cli.terminal import printable, say
from strongroom.policy.claims import claims_to_json, show
from strongroom.policy.explanation import Explanation, Outcome, RuleExplanation


def print_explanation(explanation: Explanation) -> None:
    """Print each rule and what became of it, then the outcome and what is issued."""
    section = ""
    for rule in explanation.rules:
        if rule.section != section:
            section = rule.section
            say()
            say(section)
        _print_rule(rule)
    evaluation = explanation.evaluation
    if evaluation is None:
        say()
        say(printable(f"REFUSED: {explanation.refusal}"))
        for mismatch in explanation.mismatches:
            say(printable(f"  {mismatch}"))
        return
    if evaluation.issued:
        print_claims(claims_to_json(evaluation.issued), title="issued claims")
    for name, value in evaluation.properties.items():
        say(printable(f"  property {name}: {show(value)}"))
    say()
    say("PERMITTED")


def _print_rule(rule: RuleExplanation) -> None:
    say(f"  line {rule.line:<4} {rule.verb + '()':<16} {rule.outcome}")
    if rule.reason:
        say(printable(f"      {rule.reason}"))
    for condition in rule.unmet:
        for mismatch in condition.mismatches:
            wanted = f"wanted {mismatch.expected}, found {mismatch.actual}"
            say(printable(f"      condition {condition.number}: {mismatch.name}: {wanted}"))
    if rule.outcome is Outcome.FIRED:
        for claim in rule.found:
            say(printable(f"      found {claim.type} = {show(claim.value)}"))
        for claim in rule.made:
            say(printable(f"      made  {claim.type} = {show(claim.value)}"))
