"""Public keys: what can be computed with is read, the rest is refused before it is used."""

import pytest

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import seal
from strongroom.crypto.key_wrap import DEFAULT_ALGORITHM, wrap_to_rsa
from strongroom.crypto.keys import SigningKey, VerifyingKey

SECRET = SecretBytes(bytes(32))


def rsa_jwk(*, modulus_bits: int, exponent_bits: int = 17, is_even: bool = False) -> dict[str, str]:
    numbers = {"n": (1 << modulus_bits) - 1 - is_even, "e": (1 << exponent_bits - 1) + 1}
    return {
        "kty": "RSA",
        **{name: to_b64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for name, value in numbers.items()},
    }


@pytest.mark.parametrize(
    ("modulus_bits", "exponent_bits"), [(2047, 17), (16385, 17), (100_000, 17), (2048, 65), (4096, 65), (4096, 4000)]
)
def test_refuses_rsa_keys_that_nothing_can_be_sealed_to(modulus_bits: int, exponent_bits: int) -> None:
    demand_refused(rsa_jwk(modulus_bits=modulus_bits, exponent_bits=exponent_bits))


def test_refuses_rsa_keys_with_an_even_modulus() -> None:
    demand_refused(rsa_jwk(modulus_bits=2112, is_even=True))


def demand_refused(jwk: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        VerifyingKey.from_jwk(jwk)
    with pytest.raises(FormatError):
        seal(SECRET, recipient_jwk=jwk, context={})
    with pytest.raises(FormatError):
        wrap_to_rsa(SECRET, recipient_jwk=jwk, algorithm=DEFAULT_ALGORITHM)


@pytest.mark.parametrize(("modulus_bits", "exponent_bits"), [(2048, 2), (2048, 64), (16384, 17), (16384, 64)])
def test_seals_to_every_rsa_key_that_it_reads(modulus_bits: int, exponent_bits: int) -> None:
    jwk = rsa_jwk(modulus_bits=modulus_bits, exponent_bits=exponent_bits)
    assert VerifyingKey.from_jwk(jwk).algorithm == "RS256"
    assert seal(SECRET, recipient_jwk=jwk, context={})
    assert wrap_to_rsa(SECRET, recipient_jwk=jwk, algorithm=DEFAULT_ALGORITHM)


def test_a_key_that_was_read_before_is_still_its_own_members_key() -> None:
    one, other = (SigningKey.generate("ES256").verifying_key.to_jwk() for _ in range(2))
    first, again = VerifyingKey.from_jwk(one), VerifyingKey.from_jwk({**one, "kid": "what else it says"})
    assert first == again
    assert hash(first) == hash(again)
    assert first.to_jwk() == one
    assert VerifyingKey.from_jwk(other) != first
    with pytest.raises(FormatError):
        VerifyingKey.from_jwk({**one, "y": other["y"]})
    for missing in ("kty", "crv", "x", "y"):
        with pytest.raises(FormatError):
            VerifyingKey.from_jwk({name: value for name, value in one.items() if name != missing})
    for strange in (None, 1, [one["x"]], {}):
        with pytest.raises(FormatError):
            VerifyingKey.from_jwk({**one, "x": strange})


def test_long_spellings_of_a_key_are_read_and_not_kept() -> None:
    jwk = rsa_jwk(modulus_bits=2048)
    short = VerifyingKey.from_jwk(jwk)
    long = {**jwk, "n": to_b64url(bytes(30_000) + from_b64url(jwk["n"]))}
    assert VerifyingKey.from_jwk(long) == short
    assert VerifyingKey.from_jwk(long) is not VerifyingKey.from_jwk(long)
    assert VerifyingKey.from_jwk({**jwk, "crv": "x" * 30_000}) is not short
