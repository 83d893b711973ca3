import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, Mismatch, RefusedError
from strongroom.policy.release_policy import AllOf, AnyOf, parse_release_policy

ISSUER = "https://attest.example"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "x-ms-attestation-type": "sgx",
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-svn": 3,
    "x-ms-runtime": {"application": "ab", "keys": [{"kty": "RSA"}], "inner": {"deep": True}},
    "x-ms-runtime.application": "a name with a dot is no path",
}


def equals(claim: str, value: object) -> dict[str, object]:
    return {"claim": claim, "equals": value}


def policy(*conditions: object, selector: str = "allOf", authority: str = ISSUER) -> bytes:
    return document([{"authority": authority, selector: list(conditions)}])


def document(authorities: object, **members: object) -> bytes:
    return json.dumps({"version": "1.0.0", "anyOf": authorities, **members}).encode()


def unmet(json_bytes: bytes, claims: dict[str, Any] = CLAIMS) -> tuple[Mismatch, ...]:
    try:
        parse_release_policy(json_bytes).evaluate(claims)
    except RefusedError as refusal:
        return refusal.mismatches or (Mismatch(name="refused without a reason", expected="", actual=""),)
    return ()


def test_all_conditions_hold() -> None:
    conditions = [equals("x-ms-attestation-type", "sgx"), equals("x-ms-sgx-is-debuggable", False)]  # noqa: FBT003
    assert unmet(policy(*conditions, equals("x-ms-sgx-svn", 3))) == ()


def test_every_unmet_condition_is_named() -> None:
    conditions = [equals("x-ms-attestation-type", "tdxvm"), equals("x-ms-sgx-svn", 3), equals("absent", 1)]
    assert unmet(policy(*conditions)) == (
        Mismatch(name="x-ms-attestation-type", expected='"tdxvm"', actual='"sgx"'),
        Mismatch(name="absent", expected="1", actual="no such claim"),
    )


def test_any_of_needs_one() -> None:
    assert unmet(policy(equals("absent", 1), equals("x-ms-sgx-svn", 3), selector="anyOf")) == ()
    assert len(unmet(policy(equals("absent", 1), equals("x-ms-sgx-svn", 4), selector="anyOf"))) == 1


def test_documented_nesting() -> None:
    def nested(first: int, second: int, third: int, fourth: int) -> bytes:
        inner = {"allOf": [equals("c3", third), equals("c4", fourth)]}
        return policy(equals("c1", first), {"anyOf": [equals("c2", second), inner]})

    claims = {"iss": ISSUER, "c1": 1, "c2": 2, "c3": 3, "c4": 4}
    for good in ((1, 2, 3, 4), (1, 2, 0, 0), (1, 0, 3, 4)):
        assert unmet(nested(*good), claims) == ()
    for bad in ((0, 2, 3, 4), (1, 0, 3, 0), (1, 0, 0, 4)):
        assert unmet(nested(*bad), claims)


def test_dotted_path_walks_objects_only() -> None:
    assert unmet(policy(equals("x-ms-runtime.application", "ab"))) == ()
    assert unmet(policy(equals("x-ms-runtime.inner.deep", True))) == ()  # noqa: FBT003
    assert unmet(policy(equals("x-ms-runtime.application", "a name with a dot is no path")))
    assert unmet(policy(equals("x-ms-runtime.keys.0.kty", "RSA")))[0].actual == "no such claim"
    assert unmet(policy(equals("x-ms-runtime.application.deeper", "ab")))
    assert unmet(policy(equals("x-ms-runtime", "ab")))[0].actual == "an object"


@pytest.mark.parametrize(
    ("claimed", "expected"),
    [(True, 1), (1, True), (False, 0), ("false", False), (False, "false"), ("3", 3), (3, "3")],
    ids=repr,
)
def test_types_are_never_mixed(claimed: object, expected: object) -> None:
    assert unmet(policy(equals("c", expected)), {"iss": ISSUER, "c": claimed})


def test_numbers_are_compared_by_value() -> None:
    assert unmet(policy(equals("c", 3.0)), {"iss": ISSUER, "c": 3}) == ()


@pytest.mark.parametrize("value", [None, [3], {"c": 3}])
def test_null_and_structures_equal_nothing(value: object) -> None:
    assert unmet(policy(equals("c", 3)), {"iss": ISSUER, "c": value})


@pytest.mark.parametrize(
    ("operator", "bound", "holds", "differs"),
    [
        ("notEquals", 3, [2, 3.5], [3, 3.0, "4", True, None, [4], {"c": 4}]),
        ("notEquals", "a", ["b", ""], ["a", 1, False]),
        ("notEquals", True, [False], [True, 0, "false"]),
        ("less", 3, [2, 2.5, -1], [3, 4, "2", False, None]),
        ("lessOrEquals", 3, [3, 3.0, 2], [3.5, 4, "3", True]),
        ("greater", 3, [4, 3.5], [3, 2, "4", True, [4]]),
        ("greaterOrEquals", 3, [3, 4, 3.0], [2.5, "4", True]),
        ("exists", True, [0, False, "", None, [], {"c": 1}], []),
    ],
)
def test_operators_compare_values_of_one_type(
    operator: str, bound: object, holds: list[object], differs: list[object]
) -> None:
    condition = policy({"claim": "c", operator: bound})
    for value in holds:
        assert unmet(condition, {"iss": ISSUER, "c": value}) == (), value
    for value in differs:
        assert unmet(condition, {"iss": ISSUER, "c": value}), value


@pytest.mark.parametrize("operator", ["notEquals", "less", "lessOrEquals", "greater", "greaterOrEquals"])
def test_a_claim_that_is_absent_meets_no_operator(operator: str) -> None:
    assert unmet(policy({"claim": "a.b", operator: 3}), {"iss": ISSUER, "a": 1}) == (
        Mismatch(name="a.b", expected=f"{operator} 3", actual="no such claim"),
    )
    assert unmet(policy({"claim": "a.b", "exists": True}), {"iss": ISSUER, "a": {}})[0].expected == "any value"


def test_authority_tolerates_a_trailing_slash_and_nothing_else() -> None:
    held = equals("x-ms-sgx-svn", 3)
    assert unmet(policy(held, authority=ISSUER + "/")) == ()
    assert unmet(policy(held), CLAIMS | {"iss": ISSUER + "/"}) == ()
    for other in (ISSUER + "//", ISSUER + ".evil", "http://attest.example", ISSUER.upper(), "/"):
        assert unmet(policy(held, authority=other))[0].name == "iss"
    assert unmet(policy(held), {"x-ms-sgx-svn": 3})[0] == Mismatch(name="iss", expected=f'"{ISSUER}"', actual="null")


def test_conditions_of_one_authority_do_not_help_another() -> None:
    authorities = [
        {"authority": "https://other.example", "allOf": [equals("x-ms-sgx-svn", 3)]},
        {"authority": ISSUER, "allOf": [equals("x-ms-sgx-svn", 4), equals("absent", 1)]},
    ]
    assert [mismatch.name for mismatch in unmet(document(authorities))] == ["iss"]
    authorities[0]["authority"] = ISSUER
    assert unmet(document(authorities)) == ()


def test_policy_keeps_its_exact_bytes() -> None:
    data = b" " + policy(equals("c", 1)) + b"\n"
    assert parse_release_policy(data).data == data


def deep(levels: int) -> bytes:
    condition: dict[str, object] = equals("c", 1)
    for _ in range(levels):
        condition = {"allOf": [condition]}
    return policy(condition)


@pytest.mark.parametrize(
    "json_bytes",
    [
        b"",
        b"[]",
        b"{}",
        document([]),
        document({}),
        document("x"),
        document([{}]),
        document([{"authority": ISSUER}]),
        document([{"authority": "", "allOf": [equals("c", 1)]}]),
        document([{"authority": 1, "allOf": [equals("c", 1)]}]),
        document([{"authority": ISSUER, "claim": "c", "equals": 1}]),
        document([{"authority": ISSUER, "allOf": []}]),
        document([{"authority": ISSUER, "allOf": [equals("c", 1)], "anyOf": [equals("c", 1)]}]),
        document([{"authority": ISSUER, "allof": [equals("c", 1)]}]),
        document([{"authority": ISSUER, "allOf": [equals("c", 1)]}], extra=1),
        document([{"authority": ISSUER, "allOf": [equals("c", 1)]}], version="1.0"),
        policy(equals("c", 1)).replace(b'"version": "1.0.0", ', b""),
        policy({"claim": "c", "equals": 1, "greater": 1}),
        policy({"claim": "c", "in": [1]}),
        policy({"claim": "c", "notIn": [1]}),
        policy({"claim": "c", "like": "a*"}),
        policy({"claim": "c", "match": "a"}),
        policy({"claim": "c", "contains": "a"}),
        policy({"claim": "c", "Equals": 1}),
        policy({"claim": "c", "greater": "1"}),
        policy({"claim": "c", "less": True}),
        policy({"claim": "c", "lessOrEquals": None}),
        policy({"claim": "c", "greaterOrEquals": [1]}),
        policy({"claim": "c", "notEquals": None}),
        policy({"claim": "c", "notEquals": [1]}),
        policy({"claim": "c", "exists": False}),
        policy({"claim": "c", "exists": "true"}),
        policy({"claim": "c", "exists": 1}),
        policy({"not": equals("c", 1)}),
        policy({"claim": "c"}),
        policy({"equals": 1}),
        policy({"anyOf": []}),
        policy({"anyOf": [equals("c", 1)], "allOf": [equals("c", 1)]}),
        policy(equals("", 1)),
        policy(equals("a..b", 1)),
        policy(equals(".a", 1)),
        policy(equals("c", None)),
        policy(equals("c", [1])),
        policy(equals("c", {})),
        policy("c"),
        policy(equals("c", 1)).replace(b'"equals": 1', b'"equals": 1e999'),
        policy(equals("c", 1)).replace(b'"equals": 1', b'"equals": NaN'),
        policy(equals("c", 1)).replace(b'"equals": 1', b'"equals": 1, "equals": 2'),
        deep(20),
        b'{"version":"1.0.0","anyOf":' + b"[" * 100_000,
        b" " * (1 << 20) + policy(equals("c", 1)),
    ],
)
def test_refuses_whatever_the_grammar_does_not_name(json_bytes: bytes) -> None:
    with pytest.raises(FormatError):
        parse_release_policy(json_bytes)


def test_moderate_nesting_parses() -> None:
    assert unmet(deep(10), {"iss": ISSUER, "c": 1}) == ()


@pytest.mark.parametrize("kind", [AllOf, AnyOf])
def test_an_empty_list_cannot_be_made(kind: type[AllOf | AnyOf]) -> None:
    with pytest.raises(FormatError):
        kind(conditions=())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "anyOf", "allOf", "authority", "claim", "equals", "less", "exists", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    st.binary(max_size=60)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | _JSON.map(policy)
    | _JSON.map(document)
)
def test_any_bytes_parse_or_raise_format_error(json_bytes: bytes) -> None:
    with contextlib.suppress(FormatError, RefusedError):
        parse_release_policy(json_bytes).evaluate(CLAIMS)
