"""Explanations: rule by rule, and never another outcome than the evaluator's."""

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.base.errors import LimitError, Mismatch, RefusedError
from strongroom.policy.claims import Claim, ClaimIssuer, ClaimValue
from strongroom.policy.evidence_grammar import Section
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.policy.explanation import Explanation, Outcome, explain, point_at

POLICY = """version=1.1;
configurationrules{
    => issueproperty(type="report_validity_in_minutes", value=60);
};
authorizationrules{
    [type=="debug", value==false] && [type=="svn", value>=3] => permit();
    [type=="debug", value==false] && [type=="svn", value>=9] && [type=="product", value==7] => permit();
    [type=="revoked", value==true] => deny();
};
issuancerules{
    c:[type=="signer"] => add(type="who", value=c.value);
    c:[type=="who"] => issue(claim=c);
    [type=="nothing"] => issue(type="x", value=1);
};
"""


def claims(values: dict[str, ClaimValue]) -> list[Claim]:
    return [Claim(type=name, value=value, issuer=ClaimIssuer.SERVICE) for name, value in values.items()]


def explained(values: dict[str, ClaimValue], text: str = POLICY) -> Explanation:
    return explain(parse_evidence_policy(text), claims(values))


def outcomes(explanation: Explanation) -> list[tuple[int, str]]:
    return [(rule.line, str(rule.outcome)) for rule in explanation.rules]


GOOD: dict[str, ClaimValue] = {"debug": False, "svn": 3, "signer": "ab"}


def test_tells_which_rules_fired_and_what_they_made() -> None:
    explanation = explained(GOOD)
    assert explanation.permitted
    assert outcomes(explanation) == [
        (3, "fired"),
        (6, "fired"),
        (7, "did not fire"),
        (8, "did not fire"),
        (11, "fired"),
        (12, "fired"),
        (13, "did not fire"),
    ]
    permit, made, issued = explanation.rules[1], explanation.rules[4], explanation.rules[5]
    assert [claim.type for claim in permit.found] == ["debug", "svn"]
    assert [(claim.type, claim.value) for claim in made.made] == [("who", "ab")]
    assert [(claim.type, claim.value) for claim in issued.made] == [("who", "ab")]
    assert explanation.evaluation is not None
    assert explanation.evaluation.properties == {"report_validity_in_minutes": 60}


def test_tells_what_each_condition_wanted_and_the_nearest_permit() -> None:
    explanation = explained({"debug": True, "svn": 9, "signer": "ab"})
    assert not explanation.permitted
    assert outcomes(explanation) == [
        (3, "fired"),
        (6, "nearly fired"),
        (7, "did not fire"),
        (8, "did not fire"),
        (11, "not reached"),
        (12, "not reached"),
        (13, "not reached"),
    ]
    nearest, other = explanation.rules[1:3]
    assert [each.number for each in nearest.unmet] == [1]
    assert nearest.unmet[0].mismatches == (Mismatch(name="debug", expected="value == false", actual="true"),)
    assert [each.number for each in other.unmet] == [1, 3]
    assert other.unmet[1].mismatches[0].actual == "no such claim"
    assert explanation.mismatches == nearest.unmet[0].mismatches
    assert "line 6" in explanation.refusal


def test_a_deny_rule_refuses_and_the_others_are_told_all_the_same() -> None:
    explanation = explained({**GOOD, "revoked": True})
    assert not explanation.permitted
    assert outcomes(explanation)[1:4] == [(6, "fired"), (7, "did not fire"), (8, "fired")]
    assert outcomes(explanation)[4:] == [(11, "not reached"), (12, "not reached"), (13, "not reached")]
    assert "denies" in explanation.refusal


def test_a_rule_that_cannot_be_evaluated_ends_the_telling() -> None:
    explanation = explained({**GOOD, "svn": "three"})
    assert not explanation.permitted
    assert outcomes(explanation)[1:3] == [(6, "failed"), (7, "not reached")]
    assert "another type" in explanation.rules[1].reason
    assert "another type" in explanation.refusal


def test_a_policy_without_permit_has_no_nearest_rule() -> None:
    explanation = explained({}, 'version=1.0;authorizationrules{[type=="a"] => deny();};')
    assert outcomes(explanation) == [(1, "did not fire")]
    assert "no permit() rule" in explanation.refusal


def test_negated_conditions_are_explained() -> None:
    text = 'version=1.2;authorizationrules{\n![type=="revoked", value==true] => permit();\n};'
    (rule,) = explained({"revoked": True}, text).rules
    assert rule.outcome is Outcome.NEARLY_FIRED
    assert rule.unmet[0].mismatches == (Mismatch(name="revoked", expected="no such claim", actual="true"),)


def test_has_a_form_for_programs() -> None:
    told = explained(GOOD).to_json()
    assert told["permitted"] is True
    assert told["issued"] == {"who": "ab"}
    assert told["properties"] == {"report_validity_in_minutes": 60}
    assert isinstance(told["rules"], list)
    assert told["rules"][0]["section"] == Section.CONFIGURATION
    refused = explained({"debug": True}).to_json()
    assert (refused["permitted"], refused["issued"]) == (False, None)


conditions = st.builds(
    lambda name, operator, value: f'[type=="{name}", value{operator}{value}]',
    st.sampled_from("abc"),
    st.sampled_from(["==", "!=", ">", "<="]),
    st.sampled_from(["1", "2", "true", '"x"']),
).filter(lambda text: not (("true" in text or '"x"' in text) and ("value>" in text or "value<" in text)))
rules = st.builds(
    lambda found, action: f"{' && '.join(found)} => {action};\n",
    st.lists(conditions, max_size=3),
    st.sampled_from(["permit()", "deny()", 'add(type="a", value=1)', 'add(type="b", value=true)']),
)
values = st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, 2, True, "x"]))


@settings(max_examples=200, deadline=None)
@given(st.lists(rules, min_size=1, max_size=5), values)
def test_the_outcome_is_the_evaluators(texts: list[str], given_claims: dict[str, ClaimValue]) -> None:
    policy = parse_evidence_policy(f"version=1.0;authorizationrules{{{''.join(texts)}}};")
    explanation = explain(policy, claims(given_claims))
    told = {(rule.verb.value, rule.outcome) for rule in explanation.rules}
    failed = any(outcome is Outcome.FAILED for _, outcome in told)
    assert len(explanation.rules) == len(texts)
    refusal = refusal_of(policy, claims(given_claims))
    assert explanation.permitted == (refusal is None)
    assert explanation.mismatches == (() if refusal is None else refusal.mismatches)
    permits = ("permit", Outcome.FIRED) in told and ("deny", Outcome.FIRED) not in told and not failed
    assert explanation.permitted == permits


def refusal_of(policy: EvidencePolicy, given_claims: list[Claim]) -> RefusedError | LimitError | None:
    try:
        policy.evaluate(given_claims)
    except (RefusedError, LimitError) as refusal:
        return refusal
    return None


def test_points_at_what_is_wrong() -> None:
    text = "version=1.0;\n\tauthorizationrules{ ??? };\n"
    assert point_at(text, "line 2, column 22: expected =>") == (" authorizationrules{ ??? };\n" + " " * 21 + "^")
    assert point_at(text, "the rule of line 1: no") == "version=1.0;"
    for nowhere in ("line 9, column 1: no", "line 0: no", "the policy is too long"):
        assert point_at(text, nowhere) == ""
    long = "x" * 500
    shown, caret = point_at(long, "line 1, column 400: no").split("\n")
    assert len(shown) < 200
    assert caret.index("^") == 100


@given(st.text(max_size=100), st.integers(-1, 10), st.integers(-1, 200))
def test_pointing_never_fails(text: str, line: int, column: int) -> None:
    assert point_at(text, f"line {line}, column {column}: no").count("\n") <= 1
