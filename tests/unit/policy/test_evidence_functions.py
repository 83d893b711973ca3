"""Policy version 1.2: functions and the absence of claims, as Azure Attestation documents them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import LimitError, RefusedError
from strongroom.policy.claims import Claim, ClaimIssuer, ClaimValue
from strongroom.policy.evidence_functions import ARGUMENTS, MAX_TEXT, Function, call
from strongroom.policy.evidence_policy import parse_evidence_policy

EVENTS = {
    "Events": [
        {
            "EventSeq": 3,
            "EventTypeString": "EV_EFI_VARIABLE_DRIVER_CONFIG",
            "PcrIndex": 7,
            "ProcessedData": {
                "VariableGuid": "8BE4DF61-93CA-11D2-AA0D-00E098032B8C",
                "UnicodeName": "SecureBoot",
                "VariableData": "AQ",
            },
        },
        {
            "EventSeq": 9,
            "EventTypeString": "EV_EVENT_TAG",
            "PcrIndex": 12,
            "ProcessedData": {
                "EVENT_TRUSTBOUNDARY": {
                    "EVENT_BOOTDEBUGGING": False,
                    "EVENT_LOADEDMODULE_AGGREGATION": [
                        {"EVENT_IMAGEVALIDATED": True, "EVENT_FILEPATH": "\\Windows\\System32\\Drivers\\WdBoot.sys"}
                    ],
                }
            },
        },
    ]
}
SECURE_BOOT, BOOT_DEBUGGING = (
    Path(__file__).with_name(f"{name}.policy").read_text(encoding="utf-8") for name in ("secure_boot", "boot_debugging")
)


def issued(policy: str, *claims: Claim) -> dict[str, ClaimValue]:
    return {claim.type: claim.value for claim in parse_evidence_policy(policy).evaluate(claims).issued}


def said(name: str, value: ClaimValue) -> Claim:
    return Claim(type=name, value=value, issuer=ClaimIssuer.SERVICE)


def test_the_documented_policy_about_secure_boot() -> None:
    assert issued(SECURE_BOOT, said("events", json.dumps(EVENTS))) == {"secureBootEnabled": True}
    off = json.loads(json.dumps(EVENTS).replace('"AQ"', '"AA"'))
    assert issued(SECURE_BOOT, said("events", json.dumps(off))) == {"secureBootEnabled": False}
    assert issued(SECURE_BOOT) == {"secureBootEnabled": False}


def test_the_documented_policies_about_debugging_and_early_launch_drivers() -> None:
    assert issued(BOOT_DEBUGGING, said("events", json.dumps(EVENTS))) == {
        "bootDebuggingDisabled": True,
        "elamDriverLoaded": True,
    }
    watched = json.loads(json.dumps(EVENTS).replace("false", "true"))
    assert issued(BOOT_DEBUGGING, said("events", json.dumps(watched)))["bootDebuggingDisabled"] is False


@pytest.mark.parametrize(
    ("document", "query", "found"),
    [
        ('{"foo": "bar"}', "foo", '"bar"'),
        ('{"values": [0,1,2,3,4]}', "values[2]", "2"),
        ('{"values": [0,1,2,3,4]}', "values", "[0,1,2,3,4]"),
        ("{}", "nothing", "null"),
        ("true", "@", "true"),
    ],
)
def test_jmespath_finds_json(document: str, query: str, found: str) -> None:
    assert call(Function.JMES_PATH, [[document], [query]]) == [found]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("100", [100]),
        ("true", [True]),
        ('"abc"', ["abc"]),
        ('[0, "abc", true]', [0, "abc", True]),
        ("[null, 1]", [1]),
        ("null", []),
        ("[]", []),
    ],
)
def test_json_becomes_claim_values(text: str, values: list[ClaimValue]) -> None:
    found = call(Function.JSON_TO_CLAIM_VALUE, [[text]])
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize(
    ("function", "arguments", "value"),
    [
        (Function.IS_SUBSET_OF, [["abc", 100], [True, "abc", 100]], True),
        (Function.IS_SUBSET_OF, [["abc", 1], [True, "abc", 100]], False),
        (Function.IS_SUBSET_OF, [[], ["abc"]], True),
        (Function.IS_SUBSET_OF, [[], []], True),
        (Function.APPEND_STRING, [["abc"], ["xyz"]], "abcxyz"),
        (Function.APPEND_STRING, [[""], [""]], ""),
        (Function.NEGATE_BOOL, [[True]], False),
        (Function.CONTAINS_ONLY_VALUE, [[100, 101], [100]], False),
        (Function.CONTAINS_ONLY_VALUE, [[100, 100], [100]], True),
        (Function.CONTAINS_ONLY_VALUE, [[], [100]], False),
        (Function.CONTAINS_ONLY_VALUE, [[True], [1]], False),
    ],
)
def test_functions_do_what_is_documented(function: Function, arguments: list[list[ClaimValue]], value: object) -> None:
    assert call(function, arguments) == [value]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (Function.JMES_PATH, [["{}"], ["foo["]]),
        (Function.JMES_PATH, [["{}"], [""]]),
        (Function.JMES_PATH, [[""], ["foo"]]),
        (Function.JMES_PATH, [["not JSON"], ["foo"]]),
        (Function.JMES_PATH, [["{}", "[]"], ["foo"]]),
        (Function.JMES_PATH, [[], ["foo"]]),
        (Function.JMES_PATH, [[1], ["foo"]]),
        (Function.JMES_PATH, [["{}"], ["length(@.x)"]]),
        (Function.JMES_PATH, [["{}"], ["nosuchfunction(@)"]]),
        (Function.JSON_TO_CLAIM_VALUE, [["{}"]]),
        (Function.JSON_TO_CLAIM_VALUE, [["[[1]]"]]),
        (Function.JSON_TO_CLAIM_VALUE, [["[{}]"]]),
        (Function.JSON_TO_CLAIM_VALUE, [["1.5"]]),
        (Function.JSON_TO_CLAIM_VALUE, [[str(1 << 64)]]),
        (Function.JSON_TO_CLAIM_VALUE, [["NaN"]]),
        (Function.APPEND_STRING, [["a"], [1]]),
        (Function.APPEND_STRING, [["a", "b"], ["c"]]),
        (Function.NEGATE_BOOL, [["true"]]),
        (Function.NEGATE_BOOL, [[1]]),
        (Function.CONTAINS_ONLY_VALUE, [[1], [1, 2]]),
    ],
)
def test_what_a_function_cannot_take_is_a_refusal(function: Function, arguments: list[list[ClaimValue]]) -> None:
    with pytest.raises(RefusedError, match=function) as refused:
        call(function, arguments)
    assert refused.value.action


@pytest.mark.parametrize(
    ("document", "query"),
    [("1e400", "@"), ("1", "ceil(`1e400`)"), ("1", "floor(`-1e400`)"), ("[1, 1" + "0" * 400 + "]", "avg(@)")],
)
def test_numbers_beyond_all_bounds_are_a_refusal(document: str, query: str) -> None:
    with pytest.raises(RefusedError):
        call(Function.JMES_PATH, [[document], [query]])


def test_texts_have_a_limit() -> None:
    long = "a" * (MAX_TEXT // 2 + 1)
    with pytest.raises(LimitError):
        call(Function.APPEND_STRING, [[long], [long]])
    rules = "\n".join(
        f'c:[type=="t{n}"] => add(type="t{n + 1}", value=AppendString(c.value, c.value));' for n in range(40)
    )
    policy = f"version=1.2;authorizationrules{{=> permit();}};issuancerules{{{rules}}};"
    with pytest.raises(LimitError):
        parse_evidence_policy(policy).evaluate([said("t0", "ab")])


@given(
    st.sampled_from(Function),
    st.lists(st.lists(st.text(max_size=12) | st.integers() | st.booleans(), max_size=3), min_size=2, max_size=2),
)
def test_any_values_give_values_or_a_refusal(function: Function, arguments: list[list[ClaimValue]]) -> None:
    try:
        made = call(function, arguments[: ARGUMENTS[function]])
    except RefusedError:
        return
    assert all(isinstance(value, bool | int | str) for value in made)


def test_an_absent_claim_can_be_demanded_and_the_refusal_says_that_it_stood_there() -> None:
    policy = parse_evidence_policy('version=1.2;authorizationrules{![type=="debug", value==true] => permit();};')
    policy.evaluate([said("debug", value=False)])
    policy.evaluate([])
    with pytest.raises(RefusedError, match="does not permit") as refused:
        policy.evaluate([said("debug", value=True)])
    (mismatch,) = refused.value.mismatches
    assert (mismatch.name, mismatch.expected, mismatch.actual) == ("debug", "no such claim", "true")


def test_an_absent_claim_can_be_denied() -> None:
    policy = parse_evidence_policy('version=1.2;authorizationrules{=> permit(); ![type=="signed"] => deny();};')
    policy.evaluate([said("signed", value=1)])
    with pytest.raises(RefusedError, match="denies this evidence in line 1"):
        policy.evaluate([])


def test_a_value_is_compared_with_a_functions_and_the_refusal_shows_both() -> None:
    policy = parse_evidence_policy(
        'version=1.2;authorizationrules{c:[type=="pcrs"] && [type=="pcr0", value==JsonToClaimValue(JmesPath(c.value, '
        '"PCRs[? Index == `0`].Digest | @[0]"))] => permit();};'
    )
    pcrs = said("pcrs", json.dumps({"PCRs": [{"Index": 0, "Digest": "aa"}]}))
    policy.evaluate([pcrs, said("pcr0", "aa")])
    with pytest.raises(RefusedError) as refused:
        policy.evaluate([pcrs, said("pcr0", "bb")])
    (mismatch,) = refused.value.mismatches
    assert mismatch.name == "pcr0"
    assert '"aa"' in mismatch.expected
    assert mismatch.actual == '"bb"'
    with pytest.raises(RefusedError) as without:
        policy.evaluate([said("pcr0", "aa")])
    assert [each.name for each in without.value.mismatches] == ["pcrs"]
