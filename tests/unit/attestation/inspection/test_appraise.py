"""A policy's test refuses what the service refuses, also on claims that somebody recorded."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.attestation.claims import ISOLATION, SAFE_CLAIMS
from strongroom.attestation.inspection.appraise import appraise
from strongroom.policy.evidence_policy import parse_evidence_policy
from strongroom.policy.explanation import Explanation

KIND = "x-ms-attestation-type"


def appraised(claims: dict[str, Any], rule: str = "", *, is_verified: bool = False) -> Explanation:
    policy = parse_evidence_policy(f"version=1.0;authorizationrules{{{rule} => permit();}};")
    return appraise(policy, claims, is_verified=is_verified)


@pytest.mark.parametrize("kind", SAFE_CLAIMS)
def test_safe_claims_are_left_to_the_policy(kind: str) -> None:
    assert appraised({KIND: kind}).permitted
    assert appraised({KIND: kind, **SAFE_CLAIMS[kind]}, is_verified=True).permitted
    assert appraised({KIND: "azurevm", ISOLATION: {KIND: kind}}).permitted


UNSAFE: dict[str, tuple[str, Any, str]] = {
    "sgx": ("x-ms-sgx-is-debuggable", True, "true"),
    "tdxvm": ("tdx_td_attributes_septve_disable", False, "false"),
    "sevsnpvm": ("x-ms-sevsnpvm-is-debuggable", True, "true"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_what_is_not_safe_must_be_named(kind: str) -> None:
    name, value, written = UNSAFE[kind]
    for claims, path in (
        ({KIND: kind, name: value}, name),
        ({KIND: "azurevm", ISOLATION: {KIND: kind, name: value}}, f"{ISOLATION}.{name}"),
    ):
        refused = appraised(claims)
        assert not refused.permitted
        assert [each.name for each in refused.mismatches] == [path]
        assert appraised(claims, f'[type=="{path}", value=={written}]').permitted


def test_a_policys_own_refusal_comes_first() -> None:
    refused = appraised({KIND: "sgx", "x-ms-sgx-is-debuggable": True}, '[type=="other"]')
    assert "nearest permit()" in refused.refusal


def test_claims_of_a_kind_that_has_no_word_for_safety_are_left_to_the_policy() -> None:
    assert appraised({KIND: "tpm", "secureBootEnabled": True}).permitted
    assert appraised({}).permitted


json_values = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
claim_names = st.sampled_from([KIND, "x-ms-ver", *(name for safe in SAFE_CLAIMS.values() for name in safe)])
kinds = st.sampled_from([*SAFE_CLAIMS, "azurevm"])


@given(
    st.dictionaries(claim_names, json_values | kinds), st.dictionaries(claim_names, json_values | kinds) | json_values
)
def test_any_recorded_claims_are_appraised(claims: dict[str, Any], inside: Any) -> None:
    appraised({**claims, ISOLATION: inside})
