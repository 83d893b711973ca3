from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.platform import NOW

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import RefusedError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.keys.nonce import make_nonce, verify_nonce

KEY = SecretBytes(b"n" * 32)


def test_a_nonce_holds_for_two_minutes_at_most() -> None:
    nonce, expires_at = make_nonce(KEY, now=NOW)
    assert expires_at - NOW.timestamp() == LIMITS.nonce_lifetime_s == 120
    assert verify_nonce(KEY, nonce, now=NOW + timedelta(seconds=119)) == expires_at
    with pytest.raises(RefusedError):
        verify_nonce(KEY, nonce, now=NOW + timedelta(seconds=120))


def test_nonces_differ_and_are_of_one_key() -> None:
    nonce, _ = make_nonce(KEY, now=NOW)
    assert make_nonce(KEY, now=NOW)[0] != nonce
    with pytest.raises(RefusedError):
        verify_nonce(SecretBytes(b"x" * 32), nonce, now=NOW)


def test_every_byte_of_a_nonce_matters() -> None:
    good = from_b64url(make_nonce(KEY, now=NOW)[0])
    for position in range(len(good)):
        bad = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        with pytest.raises(RefusedError):
            verify_nonce(KEY, to_b64url(bad), now=NOW)


@given(st.text(max_size=120) | st.binary(max_size=80).map(to_b64url))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        verify_nonce(KEY, text, now=NOW)
