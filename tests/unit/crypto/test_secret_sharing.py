import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret
from strongroom.crypto.secret_sharing import combine_shares, split_secret


@given(st.binary(min_size=32, max_size=32), st.data())
@settings(max_examples=30)
def test_any_threshold_of_shares_gives_the_secret_back(secret: bytes, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(2, 6))
    shares = split_secret(SecretBytes(secret), threshold=threshold, shares=data.draw(st.integers(threshold, 8)))
    chosen = data.draw(st.lists(st.sampled_from(sorted(shares)), min_size=threshold, max_size=threshold, unique=True))
    assert combine_shares({number: shares[number] for number in chosen}) == SecretBytes(secret)


def test_fewer_shares_or_mixed_ones_give_other_bytes() -> None:
    secret = random_secret()
    shares, others = (split_secret(secret, threshold=3, shares=5) for _ in range(2))
    for numbers in itertools.combinations(shares, 2):
        assert combine_shares({number: shares[number] for number in numbers}) != secret
    mixed = {1: shares[1], 2: shares[2], 3: others[3]}
    assert combine_shares(mixed) != secret


def test_both_halves_have_polynomials_of_their_own() -> None:
    half = bytes(range(16))
    shares = split_secret(SecretBytes(half + half), threshold=2, shares=3)
    assert all(share.reveal()[:16] != share.reveal()[16:] for share in shares.values())


@pytest.mark.parametrize(("threshold", "shares", "size"), [(1, 3, 32), (0, 3, 32), (4, 3, 32), (2, 3, 31), (2, 3, 33)])
def test_refuses_numbers_and_sizes_that_make_no_sense(threshold: int, shares: int, size: int) -> None:
    with pytest.raises(FormatError):
        split_secret(SecretBytes(bytes(size)), threshold=threshold, shares=shares)


@pytest.mark.parametrize("shares", [{}, {1: 32}, {1: 32, 2: 31}])
def test_refuses_too_few_shares_and_other_sizes(shares: dict[int, int]) -> None:
    with pytest.raises(FormatError):
        combine_shares({number: SecretBytes(bytes(size)) for number, size in shares.items()})
