"""The tokens of policies and policy certificates: every form that Azure's clients send, and nothing else."""

import base64
import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.support.attestation_service import POLICY, certificate, signed

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import AuthenticationError, FormatError, LimitError, StrongroomError
from strongroom.crypto.ecdsa import signature_of_any_form
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import to_x5c
from strongroom.services.policy_tokens import (
    certificate_of,
    demand_empty,
    policy_text,
    read_policy_token,
    token_of_body,
    unsigned_policy,
)

P256, P384 = SigningKey.generate("ES256"), SigningKey.generate("ES384")
RSA = SigningKey.generate("RS256", rsa_bits=2048)
PAYLOAD = json.dumps({"AttestationPolicy": to_b64url(POLICY.encode())}).encode()


def token(key: SigningKey, header: dict[str, Any], *, payload: bytes = PAYLOAD, der: bool = False) -> str:
    """A token as other people's programs make it: any header, the signature in JOSE's form or in DER."""
    signing_input = f"{to_b64url(json.dumps(header).encode())}.{to_b64url(payload)}"
    private = key.hazmat
    if der:
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        algorithm = hashes.SHA256() if key.algorithm == "ES256" else hashes.SHA384()
        signature = private.sign(signing_input.encode(), ec.ECDSA(algorithm))
    else:
        signature = key.sign(signing_input.encode())
    return f"{signing_input}.{to_b64url(signature)}"


def x5c(key: SigningKey) -> list[str]:
    return to_x5c([certificate(key)])


@pytest.mark.parametrize(
    ("key", "algorithm", "der"),
    [
        (RSA, "RS256", False),
        (RSA, "RSA256", False),
        (P256, "ES256", False),
        (P256, "ES256", True),
        (P256, "ECDH256", True),
        (P256, "ECDH256", False),
        (P384, "ES384", False),
        (P384, "ES384", True),
    ],
    ids=lambda value: getattr(value, "algorithm", str(value)),
)
@pytest.mark.parametrize("place", ["x5c", "jwk.x5c"])
def test_reads_every_form_of_a_signature(key: SigningKey, algorithm: str, place: str, *, der: bool) -> None:
    carried: dict[str, Any] = {"x5c": x5c(key)} if place == "x5c" else {"jwk": {"x5c": x5c(key)}}
    read = read_policy_token(token(key, {"alg": algorithm, **carried}, der=der))
    assert read.certificate_der == certificate(key) or read.signer is not None
    assert read.signer is not None
    assert read.signer["kid"] == key.verifying_key.thumbprint
    assert policy_text(read.payload) == POLICY


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA, name) for name in ("ES256", "PS256", "HS256", None, ["RS256"])),
        (P256, "RS256"),
        (P256, "ES384"),
        (P384, "ECDH256"),
    ],
)
def test_refuses_an_algorithm_that_is_not_the_keys(key: SigningKey, algorithm: Any) -> None:
    with pytest.raises(AuthenticationError):
        read_policy_token(token(key, {"alg": algorithm, "x5c": x5c(key)}))


def test_refuses_the_signature_of_another_key_or_of_another_payload() -> None:
    with pytest.raises(AuthenticationError, match="does not hold"):
        read_policy_token(token(P256, {"alg": "ES256", "x5c": x5c(SigningKey.generate("ES256"))}))
    header, _, signature = token(P256, {"alg": "ES256", "x5c": x5c(P256)}).split(".")
    with pytest.raises(AuthenticationError, match="does not hold"):
        read_policy_token(f"{header}.{to_b64url(b'{}')}.{signature}")
    with pytest.raises(AuthenticationError, match="does not hold"):
        read_policy_token(f"{header}.{to_b64url(PAYLOAD)}.")


@pytest.mark.parametrize(
    "header", [{}, {"alg": "RS256"}, {"alg": "RS256", "x5c": []}, {"alg": "RS256", "jwk": {"n": ""}}]
)
def test_refuses_a_signature_without_a_certificate(header: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError, match="certificate"):
        read_policy_token(token(RSA, header))


def test_an_unsigned_token_has_no_signature() -> None:
    unsigned = unsigned_policy(POLICY)
    assert read_policy_token(unsigned).certificate_der is None
    with pytest.raises(FormatError, match="unsigned"):
        read_policy_token(unsigned + "AA")


@pytest.mark.parametrize("member", ["crit", "b64"])
def test_refuses_header_members_that_change_what_a_signature_means(member: str) -> None:
    with pytest.raises(FormatError, match="not understood"):
        read_policy_token(token(RSA, {"alg": "RS256", "x5c": x5c(RSA), member: ["x"]}))


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_takes_standard_and_url_safe_base64_padded_or_not(encode: Any, *, padded: bool) -> None:
    def text(data: bytes) -> str:
        written = encode(data).decode()
        return str(written if padded else written.rstrip("="))

    policy = "version= 1.0; // ÿþýü\nauthorizationrules{=> permit();};issuancerules{};"
    payload = json.dumps({"AttestationPolicy": text(policy.encode())}).encode()
    header = json.dumps({"alg": "RS256", "x5c": [text(certificate(RSA))]}).encode()
    signing_input = f"{text(header)}.{text(payload)}"
    read = read_policy_token(f"{signing_input}.{text(RSA.sign(signing_input.encode()))}")
    assert policy_text(read.payload) == policy


def test_the_body_is_a_token_bare_or_in_quotes() -> None:
    assert token_of_body(b" a.b.c\n") == "a.b.c"
    assert token_of_body(b'"a.b.c"') == "a.b.c"
    for body in (b'"a', b'"a"b', b"\xff", b'"\\u00'):
        with pytest.raises(FormatError):
            token_of_body(body)


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b'{"AttestationPolicy":1}', b'{"AttestationPolicy":"AA","x":1}', b'{"AttestationPolicy":"gA"}'],
)
def test_refuses_payloads_without_exactly_a_policy(payload: bytes) -> None:
    with pytest.raises(FormatError):
        policy_text(payload)


def test_refuses_a_policy_that_is_too_large() -> None:
    with pytest.raises(LimitError):
        policy_text(json.dumps({"AttestationPolicy": to_b64url(b" " * 65537)}).encode())


def test_a_reset_says_nothing() -> None:
    demand_empty(b"")
    demand_empty(b"{}")
    for payload in (PAYLOAD, b"[]", b"1"):
        with pytest.raises(FormatError):
            demand_empty(payload)


@pytest.mark.parametrize("claim", ["policyCertificate", "maa-policyCertificate", "aas-policyCertificate"])
def test_reads_a_policy_certificate_whatever_key_type_stands_beside_it(claim: str) -> None:
    assert certificate_of(json.dumps({claim: {"kty": "RSA", "x5c": x5c(P256)}}).encode())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"policyCertificate": {"x5c": []}},
        {"policyCertificate": {"x5c": ["AA"]}},
        {"policyCertificate": {"x5c": x5c(P256) * 2}},
        {"policyCertificate": {"x5c": x5c(P256)}, "maa-policyCertificate": {"x5c": x5c(P256)}},
        {"policyCertificate": {"x5c": x5c(SigningKey.generate("Ed25519"))}},
    ],
)
def test_refuses_other_policy_certificates(body: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        certificate_of(json.dumps(body).encode())


SEGMENTS = st.binary(max_size=80).map(to_b64url)
HEADERS = st.sampled_from(["none", "RS256", "ES256"]).map(
    lambda name: to_b64url(json.dumps({"alg": name, "x5c": x5c(RSA)}).encode())
)


@given(st.text(max_size=80) | st.tuples(HEADERS | SEGMENTS, SEGMENTS, SEGMENTS).map(".".join))
def test_any_text_reads_or_raises_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(FormatError, AuthenticationError):
        read_policy_token(text)


@given(
    st.binary(max_size=200)
    | st.binary(max_size=60).map(lambda data: json.dumps({"AttestationPolicy": to_b64url(data)}).encode())
)
def test_any_payload_reads_or_raises_an_error_of_ours(payload: bytes) -> None:
    for read in (policy_text, demand_empty, certificate_of, token_of_body):
        with contextlib.suppress(StrongroomError):
            read(payload)


@given(st.binary(max_size=120))
def test_any_signature_has_a_form_or_is_refused(signature: bytes) -> None:
    for key in (P256, P384):
        with contextlib.suppress(FormatError):
            assert len(signature_of_any_form(signature, key=key.verifying_key)) in {64, 96}


def test_only_elliptic_keys_have_such_signatures() -> None:
    with pytest.raises(FormatError):
        signature_of_any_form(b"", key=RSA.verifying_key)


def test_a_signed_token_is_what_the_owner_sends() -> None:
    assert read_policy_token(signed({"a": 1}, key=P256)).payload == b'{"a":1}'
