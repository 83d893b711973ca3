import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, LimitError, Mismatch, RefusedError
from strongroom.policy.claims import Claim, ClaimIssuer, ClaimValue
from strongroom.policy.evidence_policy import MAX_CLAIMS, evidence_policy_hash, parse_evidence_policy

SGX: dict[str, ClaimValue] = {
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-product-id": 7,
    "x-ms-sgx-svn": 3,
    "x-ms-sgx-mrsigner": "ab" * 32,
    "x-ms-sgx-mrenclave": "cd" * 32,
    "x-ms-attestation-type": "sgx",
}
PERMIT = "authorizationrules { => permit(); };"

# Microsoft's documents: "Examples of an attestation policy", with values in the place of <…>.
CUSTOM_SGX = """version= 1.0;
authorizationrules
{
       [ type=="x-ms-sgx-is-debuggable", value==false ]
        && [ type=="x-ms-sgx-product-id", value==7 ]
        && [ type=="x-ms-sgx-svn", value>= 0 ]
        && [ type=="x-ms-sgx-mrsigner", value=="abababababababababababababababababababababababababababababababab"]
    => permit();
};
issuancerules {
c:[type=="x-ms-sgx-mrsigner"] => issue(type="custom-name", value=c.value);
};
"""
DEFAULT_SGX = """version= 1.1;
configurationrules{
\t=> issueproperty(type="x-ms-sgx-tcbidentifier", value="azuredefault");
};
authorizationrules{
\t=> permit();
};
issuancerules{
\tc:[type=="x-ms-sgx-is-debuggable"] => issue(type="is-debuggable", value=c.value);
\tc:[type=="x-ms-sgx-mrsigner"] => issue(type="sgx-mrsigner", value=c.value);
\tc:[type=="x-ms-sgx-mrenclave"] => issue(type="sgx-mrenclave", value=c.value);
\tc:[type=="x-ms-sgx-product-id"] => issue(type="product-id", value=c.value);
\tc:[type=="x-ms-sgx-svn"] => issue(type="svn", value=c.value);
\tc:[type=="x-ms-attestation-type"] => issue(type="tee", value=c.value);
};
"""
# "How to author an attestation policy": single "=", no semicolon after the rules.
AUTHORED = """version=1.0;
authorizationrules
{
   c:[type="secureBootEnabled", issuer=="AttestationService"]=> permit()
};

issuancerules
{
  c:[type="secureBootEnabled", issuer=="AttestationService"]=> issue(claim=c)
  c:[type="notSafeMode", issuer=="AttestationService"]=> issue(claim=c)
};
"""
# "Attestation policy version 1.0" and "1.1": samples for TPM.
TPM_1_0 = """version=1.0;

authorizationrules {
    => permit();
};


issuancerules
{
[type=="aikValidated", value==true]&&
[type=="secureBootEnabled", value==true] &&
[type=="bootDebuggingDisabled", value==true] &&
[type=="notSafeMode", value==true] => issue(type="PlatformAttested", value=true);
};
"""
TPM_1_1 = TPM_1_0.replace("version=1.0;", "version=1.1;").replace(
    "authorizationrules",
    """configurationrules{
=> issueproperty(type = "required_pcr_mask", value = 15);
=> issueproperty(type = "require_valid_aik_cert", value = false);
};

authorizationrules""",
)
# The policy of the documented unsigned policy token, whose hash stands in Microsoft's example of a result.
DOCUMENTED_TOKEN_PAYLOAD = (
    "eyJBdHRlc3RhdGlvblBvbGljeSI6ICJkbVZ5YzJsdmJqMGdNUzR3TzJGMWRHaHZjbWw2WVhScGIyNXlkV3hsYzN0ak9sdDBlWEJsUFQwaUpHbHpMV1Js"
    "WW5WbloyRmliR1VpWFNBOVBpQndaWEp0YVhRb0tUdDlPMmx6YzNWaGJtTmxjblZzWlhON1l6cGJkSGx3WlQwOUlpUnBjeTFrWldKMVoyZGhZbXhsSWwwZ1BU"
    "NGdhWE56ZFdVb2RIbHdaVDBpYVhNdFpHVmlkV2RuWVdKc1pTSXNJSFpoYkhWbFBXTXVkbUZzZFdVcE8yTTZXM1I1Y0dVOVBTSWtjMmQ0TFcxeWMybG5ibVZ5"
    "SWwwZ1BUNGdhWE56ZFdVb2RIbHdaVDBpYzJkNExXMXljMmxuYm1WeUlpd2dkbUZzZFdVOVl5NTJZV3gxWlNrN1l6cGJkSGx3WlQwOUlpUnpaM2d0YlhKbGJt"
    "TnNZWFpsSWwwZ1BUNGdhWE56ZFdVb2RIbHdaVDBpYzJkNExXMXlaVzVqYkdGMlpTSXNJSFpoYkhWbFBXTXVkbUZzZFdVcE8yTTZXM1I1Y0dVOVBTSWtjSEp2"
    "WkhWamRDMXBaQ0pkSUQwLUlHbHpjM1ZsS0hSNWNHVTlJbkJ5YjJSMVkzUXRhV1FpTENCMllXeDFaVDFqTG5aaGJIVmxLVHRqT2x0MGVYQmxQVDBpSkhOMmJp"
    "SmRJRDAtSUdsemMzVmxLSFI1Y0dVOUluTjJiaUlzSUhaaGJIVmxQV011ZG1Gc2RXVXBPMk02VzNSNWNHVTlQU0lrZEdWbElsMGdQVDRnYVhOemRXVW9kSGx3"
    "WlQwaWRHVmxJaXdnZG1Gc2RXVTlZeTUyWVd4MVpTazdmVHMifQ"
)
DOCUMENTED_HASH = "egjnANIzEpS2WgpE4Nk-QEwM69XRCgTs42_G0qLlbnk"


def service(claims: dict[str, ClaimValue]) -> list[Claim]:
    return [Claim(type=name, value=value, issuer=ClaimIssuer.SERVICE) for name, value in claims.items()]


def evaluate(text: str, claims: list[Claim]) -> list[tuple[str, ClaimValue]]:
    return [(claim.type, claim.value) for claim in parse_evidence_policy(text).evaluate(claims).issued]


def issuance(rules: str, claims: list[Claim]) -> list[tuple[str, ClaimValue]]:
    return evaluate(f"version=1.0;{PERMIT}issuancerules{{{rules}}};", claims)


def authorization(rules: str, claims: list[Claim]) -> None:
    parse_evidence_policy(f"version=1.0;authorizationrules{{{rules}}};").evaluate(claims)


def refusal(rules: str, claims: list[Claim]) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        authorization(rules, claims)
    return refused.value


def test_documented_custom_sgx_policy_permits_and_issues() -> None:
    assert evaluate(CUSTOM_SGX, service(SGX)) == [("custom-name", "ab" * 32)]


def test_documented_default_sgx_policy_issues_the_deprecated_names() -> None:
    evaluation = parse_evidence_policy(DEFAULT_SGX).evaluate(service(SGX))
    assert [(claim.type, claim.value) for claim in evaluation.issued] == [
        ("is-debuggable", False),
        ("sgx-mrsigner", "ab" * 32),
        ("sgx-mrenclave", "cd" * 32),
        ("product-id", 7),
        ("svn", 3),
        ("tee", "sgx"),
    ]
    assert evaluation.properties == {"x-ms-sgx-tcbidentifier": "azuredefault"}


def test_documented_policy_with_single_equals_and_without_semicolons() -> None:
    claims = service({"secureBootEnabled": True, "notSafeMode": True})
    assert evaluate(AUTHORED, claims) == [("secureBootEnabled", True), ("notSafeMode", True)]


def test_documented_tpm_policies() -> None:
    good: dict[str, ClaimValue] = dict.fromkeys(
        ("aikValidated", "secureBootEnabled", "bootDebuggingDisabled", "notSafeMode"), True
    )
    assert evaluate(TPM_1_0, service(good)) == [("PlatformAttested", True)]
    assert evaluate(TPM_1_0, service(good | {"notSafeMode": False})) == []
    properties = parse_evidence_policy(TPM_1_1).evaluate(service(good)).properties
    assert properties == {"required_pcr_mask": 15, "require_valid_aik_cert": False}


def test_documented_hash_of_the_documented_policy() -> None:
    payload = json.loads(base64.urlsafe_b64decode(DOCUMENTED_TOKEN_PAYLOAD + "=="))
    text = base64.urlsafe_b64decode(payload["AttestationPolicy"] + "==").decode()
    policy = parse_evidence_policy(text)
    assert policy.hash == evidence_policy_hash(text) == DOCUMENTED_HASH
    with pytest.raises(RefusedError):  # it wants $is-debuggable, which is an alias the service offers
        policy.evaluate(service(SGX))
    assert [claim.type for claim in policy.evaluate(service({"$is-debuggable": False})).issued] == ["is-debuggable"]


def test_documented_identifiers_in_later_conditions() -> None:
    both = [
        Claim(type="OSName", value="Linux", issuer=ClaimIssuer.CUSTOM),
        Claim(type="OSName", value="Linux", issuer=ClaimIssuer.SERVICE),
        Claim(type="OSName", value="Other", issuer=ClaimIssuer.SERVICE),
    ]
    rule = (
        'F1:[type=="OSName", issuer=="CustomClaim"] && '
        'C2:[type=="OSName", issuer=="AttestationService", value== F1.value] => issue(claim = C2);'
    )
    assert issuance(rule, both) == [("OSName", "Linux")]
    assert issuance(rule, both[:1] + both[2:]) == []


def test_keywords_in_either_case_and_comments() -> None:
    policy = 'Version= 1.0; // words\nAuthorizationRules { [TYPE=="a", Value==TRUE] => Permit(); };\n// the end'
    assert evaluate(policy, service({"a": True})) == []


def test_value_type_and_escaped_strings() -> None:
    claims = service({"n": 5, "s": 'a"b\\c'})
    assert issuance('c:[valueType=="Integer"] => issue(type="found", value=c.type);', claims) == [("found", "n")]
    assert issuance(r'[value=="a\"b\\c"] => issue(type="same", value=true);', claims) == [("same", True)]


@pytest.mark.parametrize("operator", ["==", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("svn", [2, 3, 4])
def test_integer_comparisons(operator: str, svn: int) -> None:
    expected = {"==": svn == 3, "!=": svn != 3, "<": svn < 3, "<=": svn <= 3, ">": svn > 3, ">=": svn >= 3}[operator]
    issued = issuance(f'[type=="svn", value {operator} 3] => issue(type="yes", value=1);', service({"svn": svn}))
    assert bool(issued) == expected


def test_identifier_stands_for_every_matching_claim() -> None:
    claims = [Claim(type="advisory", value=value, issuer=ClaimIssuer.SERVICE) for value in ("A", "B")]
    assert issuance('c:[type=="advisory"] => issue(type="a", value=c.value);', claims) == [("a", "A"), ("a", "B")]
    assert issuance('c:[type=="advisory"] => issue(claim=c);', claims) == [("advisory", "A"), ("advisory", "B")]


def test_added_claims_are_seen_by_later_rules_but_not_issued() -> None:
    rules = '=> add(type="x", value=1); c:[type=="x", issuer=="AttestationPolicy"] => issue(type="y", value=c.value);'
    assert issuance(rules, []) == [("y", 1)]
    authorization('=> add(type="ok", value=true); [type=="ok", value==true] => permit();', [])


def test_issued_copies_keep_their_issuer() -> None:
    policy = parse_evidence_policy(f'version=1.0;{PERMIT}issuancerules{{c:[type=="a"] => issue(claim=c);}};')
    assert [claim.issuer for claim in policy.evaluate(service({"a": 1})).issued] == [ClaimIssuer.SERVICE]


def test_nothing_permits() -> None:
    assert "no permit() rule" in refusal("", service(SGX)).message
    assert "no permit() rule" in refusal('=> add(type="x", value=1);', service(SGX)).message


def test_one_deny_outweighs_every_permit() -> None:
    rules = '=> permit();\n[type=="x-ms-sgx-is-debuggable", value==true] => deny();'
    authorization(rules, service(SGX))
    refused = refusal(rules, service(SGX | {"x-ms-sgx-is-debuggable": True}))
    assert "line 2" in refused.message
    assert refused.mismatches == (
        Mismatch(name="x-ms-sgx-is-debuggable", expected="not what line 2 denies", actual="true"),
    )


def test_unconditional_deny() -> None:
    assert refusal("=> deny(); => permit();", service(SGX)).mismatches == ()


def test_refusal_names_the_nearest_permit_and_every_difference() -> None:
    rules = """
[type=="x-ms-attestation-type", value=="tdxvm"] && [type=="a"] && [type=="b"] => permit();
[type=="x-ms-sgx-is-debuggable", value==false] && [type=="x-ms-sgx-svn", value>=5] && [type=="absent"] => permit();
"""
    refused = refusal(rules, service(SGX))
    assert "line 3" in refused.message
    assert refused.mismatches == (
        Mismatch(name="x-ms-sgx-svn", expected="value >= 5", actual="3"),
        Mismatch(name="absent", expected='type == "absent"', actual="no such claim"),
    )


def test_refusal_explains_a_reference_to_claims_that_were_not_found() -> None:
    refused = refusal('c:[type=="wanted"] && [type=="svn", value==c.value] => permit();', service({"svn": 3}))
    assert [mismatch.name for mismatch in refused.mismatches] == ["wanted", "svn"]
    assert refused.mismatches[1].expected == "value == c.value (nothing)"


@pytest.mark.parametrize("name", sorted(SGX))
def test_each_demanded_claim_matters(name: str) -> None:
    rule = " && ".join(f'[type=="{each}", value=={json.dumps(value)}]' for each, value in SGX.items())
    authorization(f"{rule} => permit();", service(SGX))
    for wrong in ("other", 99, True):
        refused = refusal(f"{rule} => permit();", service(SGX | {name: wrong}))
        assert [mismatch.name for mismatch in refused.mismatches] == [name]
    without = {each: value for each, value in SGX.items() if each != name}
    assert [mismatch.name for mismatch in refusal(f"{rule} => permit();", service(without)).mismatches] == [name]


def test_true_is_not_one_and_not_a_string() -> None:
    for value in ("1", '"true"'):
        refusal(f'[type=="debug", value=={value}] => permit();', service({"debug": True}))
    refusal('[type=="svn", value==true] => permit();', service({"svn": 1}))


@pytest.mark.parametrize("rule", ['[type=="debug", value!="true"] => permit();', '[type=="svn", value<3] => deny();'])
def test_comparing_values_of_different_types_refuses(rule: str) -> None:
    refused = refusal(f"=> permit(); {rule}", service({"debug": True, "svn": "2"}))
    assert "another type" in refused.message


def test_values_are_compared_only_on_the_claims_a_condition_means() -> None:
    authorization('[value>=3, type=="svn"] => permit();', service({"name": "x", "svn": 3}))


def test_property_with_two_values_is_refused() -> None:
    rules = '=> issueproperty(type="p", value=1); => issueproperty(type="p", value=2);'
    with pytest.raises(RefusedError, match="two values"):
        issuance(rules, [])


def test_a_new_claim_has_one_name() -> None:
    with pytest.raises(RefusedError, match="no name, or several"):
        issuance('c:[valueType=="Integer"] => issue(type=c.type, value=1);', service({"a": 1, "b": 2}))
    with pytest.raises(RefusedError, match="no name, or several"):
        issuance('c:[type=="a"] => issue(type=c.value, value=1);', service({"a": 1}))


def test_claims_do_not_multiply_without_bound() -> None:
    copies = "".join(f'c:[type!="none"] => add(type="t{i}", value=c.type);' for i in range(40))
    claims = service({f"c{i}": i for i in range(MAX_CLAIMS - 10)})
    with pytest.raises(LimitError):
        issuance(copies, claims)
    assert issuance('c:[type!="none"] => add(claim=c);' * 50, claims[: MAX_CLAIMS // 2]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with version"),
        ("authorizationrules{=>permit();};", "begins with version"),
        ("version=1.3;authorizationrules{=> permit();};", "1.3 does not exist: 1.0, 1.1 and 1.2 do"),
        ('version=1.1;authorizationrules{![type=="x"] => permit();};', "! needs policy version 1.2"),
        ('version=1.2;authorizationrules{!c:[type=="x"] => permit();};', "claims that are not there"),
        (
            "version=1.0;authorizationrules{[value==NegateBool(true)] => permit();};",
            "functions need policy version",
        ),
        (
            'version=1.1;authorizationrules{=> add(type="x", value=NegateBool(true));};',
            "functions need policy version",
        ),
        ('version=1.2;authorizationrules{=> add(type="x", value=NegateBool());};', "NegateBool takes 1 argument"),
        (
            'version=1.2;authorizationrules{=> add(type="x", value=AppendString("a"));};',
            "AppendString takes 2",
        ),
        ('version=1.2;authorizationrules{=> add(type="x", value=AppendString("a", c.value));};', "c is not defined"),
        ('version=1.2;authorizationrules{=> add(type="x", value=Negate(true));};', "column 55: Negate is no function"),
        ("version=1.2;authorizationrules{[value==" + "NegateBool(" * 30 + "true" + ")" * 30 + "]=>permit();};", "deep"),
        ("version=9.0;authorizationrules{=>permit();};", "does not exist"),
        ("version=1.0", "expected ;"),
        ("version=1.0;", "no authorizationrules"),
        (f"version=1.0;{PERMIT}{PERMIT}", "stands twice"),
        ("version=1.0;configurationrules{};" + PERMIT, "need policy version 1.1"),
        ("version=1.0;\nauthorizationrules { => permit() }", "line 2, column 34: expected ;"),
        ("version=1.0;authorizationrules { => permit(); };\nsurprise", "line 2, column 1"),
        ('version=1.0;authorizationrules { => issue(type="a", value=1); };', "not allowed in authorizationrules"),
        (f"version=1.0;{PERMIT}issuancerules{{=> permit();}};", "not allowed in issuancerules"),
        (f"version=1.0;{PERMIT}issuancerules{{=> deny();}};", "not allowed in issuancerules"),
        ("version=1.1;configurationrules{=> permit();};" + PERMIT, "not allowed in configurationrules"),
        ('version=1.0;authorizationrules{=> permit(type="a", value=1);};', "takes no arguments"),
        ('version=1.0;authorizationrules{=> add(type="a");};', "takes type and value, or claim"),
        ('version=1.0;authorizationrules{=> add(type="a", value=1, type="b");};', "stands twice"),
        ('version=1.0;authorizationrules{c:[type=="a"] => add(claim=c, type="a", value=1);};', "takes type and value"),
        ("version=1.0;authorizationrules{=> add(type=1, value=1);};", "a claim's type is a string"),
        ("version=1.0;authorizationrules{=> add(claim=c);};", "c is not defined"),
        ('version=1.0;authorizationrules{[value==c.value] && c:[type=="a"] => permit();};', "c is not defined"),
        ("version=1.0;authorizationrules{c:[value==c.value] => permit();};", "c is not defined"),
        ('version=1.0;authorizationrules{c:[type=="a"] && c:[type=="b"] => permit();};', "c is defined twice"),
        ('version=1.0;authorizationrules{[type<"a"] => permit();};', "only integers"),
        ("version=1.0;authorizationrules{[value>true] => permit();};", "only integers"),
        ("version=1.0;authorizationrules{[type==1] => permit();};", "type is compared with a string"),
        ("version=1.0;authorizationrules{[issuer==true] => permit();};", "issuer is compared with a string"),
        ("version=1.0;authorizationrules{[] => permit();};", "expected type, value"),
        ("version=1.0;authorizationrules{[type==”x”] => permit();};", "line 1, column 39"),
        ("version=1.0;authorizationrules{[value==9223372036854775808] => permit();};", "more than 64 bits"),
        ("version=1.0;authorizationrules{[value==99999999999999999999] => permit();};", "expected"),
        ('version=1.0;authorizationrules{[type=="a\nb"] => permit();};', "expected"),
        ('version=1.0;authorizationrules{[type=="a\\n"] => permit();};', "expected"),
        ("version=1.0;authorizationrules{" + "=> permit();" * 501 + "};", "more than 500 rules"),
        ('version=1.0;authorizationrules{[type=="\ud800"] => permit();};', "not Unicode"),
        ("version=1.0;" + " " * (1 << 20), "too long"),
    ],
)
def test_malformed_policies_say_where_and_what_was_expected(text: str, said: str) -> None:
    with pytest.raises(FormatError) as refused:
        parse_evidence_policy(text)
    assert said in refused.value.message


_WORDS = st.sampled_from(
    [
        *(
            "version=1.0;",
            "version",
            "=",
            "1.1",
            "authorizationrules",
            "issuancerules",
            "permit",
            "deny",
            "issue",
            "add",
        ),
        *("claim", "type", "value", "issuer", "c", '"a"', "7", "true", "==", "!=", "<", "=>", "&&", "!", "//", "\n"),
        *("{", "}", "[", "]", "(", ")", ":", ";", ".", ",", " ", "\\", "é"),
    ]
)


@given(
    st.lists(_WORDS, max_size=40).map("".join) | st.text(max_size=60) | st.builds("version=1.0;{}".format, st.text())
)
def test_any_text_parses_or_raises_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        parse_evidence_policy(text)


@given(st.integers(min_value=0, max_value=len(CUSTOM_SGX) - 1), st.characters(codec="utf-8"))
def test_any_edit_of_a_policy_changes_its_hash(position: int, character: str) -> None:
    edited = CUSTOM_SGX[:position] + character + CUSTOM_SGX[position + 1 :]
    assert (evidence_policy_hash(edited) == evidence_policy_hash(CUSTOM_SGX)) == (edited == CUSTOM_SGX)
