"""The decision's parsers. The decisions themselves are attacked in `tests/attacks/test_release.py`."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.keys.release import open_member_request, read_attested_tee, verify_ticket
from strongroom.wire.key_service import Evidence, JoinRequest
from strongroom.wire.ticket import TICKET_TYP, RunTicket

KEY = SigningKey.generate("ES256")
HEADER = {"typ": TICKET_TYP, "jwk": KEY.verifying_key.to_jwk()}


def ticket() -> RunTicket:
    return RunTicket(
        run_id="0" * 32,
        application="1" * 64,
        datasets={"trips": 1},
        max_executors=1,
        not_after="2026-03-01T12:00:00Z",
        submitter=KEY.verifying_key.thumbprint,
        checkpoints={},
    )


def test_reads_a_ticket_that_its_submitter_signed() -> None:
    verified = verify_ticket(sign_jws(ticket().to_json(), key=KEY, header=HEADER))
    assert verified.ticket == ticket()


def test_refuses_a_ticket_in_another_spelling_because_its_digest_names_the_run() -> None:
    with pytest.raises(FormatError, match="canonical"):
        verify_ticket(sign_jws(ticket().to_json() + b" ", key=KEY, header=HEADER))


@pytest.mark.parametrize("header", [{"typ": TICKET_TYP}, {**HEADER, "jwk": {}}, {**HEADER, "jwk": {"kty": "oct"}}])
def test_refuses_a_ticket_without_its_submitters_key(header: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        verify_ticket(sign_jws(ticket().to_json(), key=KEY, header=header))


def test_refuses_another_statement_as_a_ticket() -> None:
    with pytest.raises(VerificationError):
        verify_ticket(sign_jws(ticket().to_json(), key=KEY, header={**HEADER, "typ": "JWT"}))


def test_a_ticket_that_was_verified_before_lets_no_other_through() -> None:
    token = sign_jws(ticket().to_json(), key=KEY, header=HEADER)
    assert verify_ticket(token) == verify_ticket(token)
    header, payload, signature = token.split(".")
    other = SigningKey.generate("ES256")
    for changed in (
        f"{header}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}",
        sign_jws(ticket().to_json(), key=other, header=HEADER),
        sign_jws(ticket().to_json(), key=other, header={**HEADER, "jwk": other.verifying_key.to_jwk()}),
    ):
        for _ in range(2):
            with pytest.raises(VerificationError):
                verify_ticket(changed)


SEGMENTS = st.binary(max_size=60).map(to_b64url)
TOKENS = st.text(max_size=60) | st.tuples(SEGMENTS, SEGMENTS, SEGMENTS).map(".".join)


@given(TOKENS)
def test_any_text_is_a_ticket_or_raises_an_error_of_ours(token: str) -> None:
    with contextlib.suppress(FormatError, VerificationError):
        verify_ticket(token)


@given(TOKENS)
def test_any_text_is_no_members_request(token: str) -> None:
    with pytest.raises((FormatError, VerificationError)):
        open_member_request(token, [], typ="x")


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_any_evidence_is_read_or_raises_an_error_of_ours(quote: bytes, runtime_data: bytes) -> None:
    evidence = Evidence(kind="sgx", quote=to_b64url(quote), runtime_data=to_b64url(runtime_data))
    request = JoinRequest(ticket="a.b.c", result="a.b.c", evidence=evidence)
    with pytest.raises((FormatError, VerificationError)):
        read_attested_tee(request, claims={})
