"""Several people's signatures over one statement."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.policy.signatures import Signers, attach, detach, read_signed, signer_of

TYP = "statement+jws"
ALICE, BOB, CAROL = (SigningKey.generate("ES256") for _ in range(3))
PAYLOAD = canonical_json({"a": 1, "b": 2})
KNOWN: Signers = {key.verifying_key.thumbprint: key.verifying_key for key in (ALICE, BOB)}


def token(key: SigningKey, payload: bytes = PAYLOAD, *, typ: str = TYP, **header: object) -> str:
    public = key.verifying_key
    fields = {"typ": typ, "kid": public.thumbprint, "jwk": public.to_jwk(), **header}
    return sign_jws(payload, key=key, header={name: value for name, value in fields.items() if value is not None})


def read(first: str, *others: str, signers: Signers = KNOWN) -> tuple[str, ...]:
    return read_signed(first, [detach(other) for other in others], typ=TYP, signers=signers).signers


def test_order_does_not_matter() -> None:
    assert read(token(ALICE), token(BOB)) == read(token(BOB), token(ALICE)) == tuple(sorted(KNOWN))


def test_keys_that_are_known_by_thumbprint_alone_are_taken_from_the_header() -> None:
    by_thumbprint: Signers = dict.fromkeys(KNOWN)
    assert read(token(ALICE), token(BOB), signers=by_thumbprint) == tuple(sorted(KNOWN))
    other = token(CAROL, kid=ALICE.verifying_key.thumbprint)
    with pytest.raises(VerificationError, match="another key"):
        read(other, signers=by_thumbprint)
    with pytest.raises(FormatError):
        read(token(ALICE, jwk=None), signers=by_thumbprint)


@pytest.mark.parametrize(
    "tokens",
    [
        [token(CAROL)],
        [token(ALICE), token(CAROL)],
        [token(ALICE), token(ALICE)],
        [token(ALICE), token(BOB, canonical_json({"a": 1, "b": 3}))],
        [token(ALICE), token(BOB, typ="another+jws")],
        [token(ALICE, typ="another+jws")],
        [token(CAROL, kid=ALICE.verifying_key.thumbprint)],
    ],
)
def test_refuses_every_signature_that_is_not_another_persons_over_these_bytes(tokens: list[str]) -> None:
    with pytest.raises(VerificationError):
        read(*tokens)


@pytest.mark.parametrize(
    "payload", [b'{"b":2,"a":1}', b'{"a": 1}', b'{"a":1,"a":1}', b"[", json.dumps({"é": 1}).encode()]
)
def test_refuses_bytes_that_are_not_canonical(payload: bytes) -> None:
    with pytest.raises(FormatError):
        read(token(ALICE, payload))


def test_a_detached_signature_is_put_back_over_its_payload() -> None:
    whole = token(ALICE)
    assert attach(detach(whole), PAYLOAD) == whole
    for text in ("", "a.b", "a.b.c", "a..b.c"):
        with pytest.raises(FormatError):
            attach(text, PAYLOAD)
    with pytest.raises(FormatError):
        detach("a.b")


@given(st.text(max_size=80))
def test_any_text_is_read_or_raises_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(FormatError, VerificationError):
        read_signed(text, [text], typ=TYP, signers=KNOWN)
    with contextlib.suppress(FormatError):
        signer_of(text)
