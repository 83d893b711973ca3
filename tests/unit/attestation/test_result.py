import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.attestation.result import verify_result
from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey

ISSUER = "https://attest.example"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
KEY = SigningKey.generate("RS256")
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "iat": AT,
    "nbf": AT,
    "exp": AT + 28800,
    "jti": "ab" * 32,
    "x-ms-ver": "1.0",
    "x-ms-attestation-type": "sgx",
    "x-ms-policy-hash": "egjnANIzEpS2WgpE4Nk-QEwM69XRCgTs42_G0qLlbnk",
    "x-ms-runtime": {"application": "ab"},
}


def token(
    *, key: SigningKey = KEY, header: dict[str, object] | None = None, changes: dict[str, object] | None = None
) -> str:
    claims = {name: value for name, value in (CLAIMS | (changes or {})).items() if value is not ...}
    protected = {name: value for name, value in ({"typ": "JWT"} | (header or {})).items() if value is not ...}
    return sign_jws(json.dumps(claims).encode(), key=key, header=protected)


def verify(text: str, *, now: datetime = NOW, issuer: str = ISSUER, key: SigningKey = KEY) -> Any:
    return verify_result(text, issuer=issuer, verifying_key=key.verifying_key, now=now)


def test_result_of_the_known_service() -> None:
    text = token()
    result = verify(text)
    assert result.token == text
    assert result.issuer == ISSUER
    assert result.claims == CLAIMS
    assert result.policy_hash == CLAIMS["x-ms-policy-hash"]
    assert result.runtime == {"application": "ab"}
    assert result.expires_at == AT + 28800


def test_result_made_by_another_implementation() -> None:
    text = jwt.encode(CLAIMS, KEY.to_pem().reveal(), algorithm="RS256", headers={"kid": "k"})
    assert verify(text).claims == CLAIMS


def test_refuses_another_key() -> None:
    with pytest.raises(VerificationError):
        verify(token(key=SigningKey.generate("RS256")))


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519"])
def test_refuses_other_algorithms_even_of_a_trusted_key(algorithm: Any) -> None:
    key = SigningKey.generate(algorithm)
    with pytest.raises(VerificationError, match="RS256"):
        verify(token(key=key), key=key)


def forged(header: dict[str, Any], signature: bytes) -> str:
    payload = json.dumps(CLAIMS).encode()
    return f"{to_b64url(json.dumps(header).encode())}.{to_b64url(payload)}.{to_b64url(signature)}"


OTHER = SigningKey.generate("RS256")
UNSIGNED: dict[str, Callable[[], str]] = {
    "none": lambda: forged({"alg": "none", "typ": "JWT"}, b""),
    "no algorithm": lambda: forged({"typ": "JWT"}, b""),
    "empty signature": lambda: forged({"alg": "RS256", "typ": "JWT"}, b""),
    "shared secret": lambda: jwt.encode(CLAIMS, "x" * 64, algorithm="HS256"),
    "public key as the secret": lambda: jwt.encode(CLAIMS, KEY.verifying_key.spki.hex(), algorithm="HS256"),
    "key in the header": lambda: token(key=OTHER, header={"jwk": OTHER.verifying_key.to_jwk()}),
    "key behind a link": lambda: token(key=OTHER, header={"jku": "https://evil.example/certs"}),
    "critical extension": lambda: forged({"alg": "RS256", "typ": "JWT", "crit": ["b64"], "b64": False}, b"x"),
}


@pytest.mark.parametrize("how", UNSIGNED)
def test_refuses_tokens_that_the_service_did_not_sign(how: str) -> None:
    with pytest.raises(VerificationError):
        verify(UNSIGNED[how]())


@pytest.mark.parametrize("typ", ["jwt", "strongroom-approval+jws", "", ...])
def test_refuses_another_type_of_statement(typ: object) -> None:
    with pytest.raises(VerificationError):
        verify(token(header={"typ": typ}))


@pytest.mark.parametrize("issuer", ["https://attest.example/", "https://other.example", 1, None, ...])
def test_refuses_another_issuer(issuer: object) -> None:
    with pytest.raises(VerificationError) as refused:
        verify(token(changes={"iss": issuer}))
    assert refused.value.mismatches[0].name == "iss"


@pytest.mark.parametrize("seconds", [28800, 28801, 10**9])
def test_refuses_expired_results(seconds: int) -> None:
    with pytest.raises(VerificationError, match="expired"):
        verify(token(), now=NOW + timedelta(seconds=seconds))


def test_valid_until_the_last_second_and_from_a_little_before() -> None:
    verify(token(), now=NOW + timedelta(seconds=28799))
    verify(token(), now=NOW - timedelta(seconds=60))
    with pytest.raises(VerificationError, match="not valid yet"):
        verify(token(), now=NOW - timedelta(seconds=61))


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", [..., None, True, "1800000000", 1.8e9])
def test_times_are_whole_numbers(name: str, value: object) -> None:
    with pytest.raises(FormatError):
        verify(token(changes={name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-ms-policy-hash", ...),
        ("x-ms-policy-hash", 1),
        ("x-ms-runtime", ...),
        ("x-ms-runtime", "{}"),
        ("x-ms-runtime", []),
    ],
)
def test_policy_hash_and_runtime_data_are_needed(name: str, value: object) -> None:
    with pytest.raises(FormatError):
        verify(token(changes={name: value}))


def test_duplicate_claims_are_refused() -> None:
    payload = json.dumps(CLAIMS)[:-1] + ',"iss":"https://attest.example"}'
    with pytest.raises(FormatError):
        verify(sign_jws(payload.encode(), key=KEY, header={"typ": "JWT"}))


@given(st.integers(min_value=0), st.characters(categories=["L", "N", "P"]))
def test_no_edited_token_verifies(position: int, character: str) -> None:
    good = token()
    at = position % len(good)
    edited = good[:at] + character + good[at + 1 :]
    if edited != good:
        with pytest.raises((VerificationError, FormatError)):
            verify(edited)


@given(st.text() | st.binary(max_size=60).map(lambda payload: sign_jws(payload, key=KEY, header={"typ": "JWT"})))
def test_any_text_verifies_or_raises_our_errors(text: str) -> None:
    with contextlib.suppress(FormatError, VerificationError):
        verify(text)
