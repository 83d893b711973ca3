"""What is made of a key that a vault released."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.released_keys import (
    check_value,
    open_with_rsa,
    rsa_secret,
    seal_to_rsa,
    signing_key_from_seed,
    unwrap_aes,
)


def pkcs8(key: Any) -> SecretBytes:
    return SecretBytes(
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = VerifyingKey(KEY.public_key()).to_jwk()


def test_the_secret_is_the_primes_whatever_order_and_exponent_the_key_was_written_with() -> None:
    secret = rsa_secret(pkcs8(KEY), public_jwk=PUBLIC)
    numbers = KEY.private_numbers()
    larger, smaller = max(numbers.p, numbers.q), min(numbers.p, numbers.q)
    assert secret.reveal() == larger.to_bytes(128, "big") + smaller.to_bytes(128, "big")
    exponent = pow(65537, -1, (numbers.p - 1) * (numbers.q - 1))
    swapped = rsa.RSAPrivateNumbers(
        p=numbers.q,
        q=numbers.p,
        d=exponent,
        dmp1=numbers.dmq1,
        dmq1=numbers.dmp1,
        iqmp=pow(numbers.p, -1, numbers.q),
        public_numbers=numbers.public_numbers,
    ).private_key()
    assert rsa_secret(pkcs8(swapped), public_jwk=PUBLIC) == secret


def test_refuses_another_key_than_the_pinned_one() -> None:
    with pytest.raises(IntegrityError, match="pinned"):
        rsa_secret(pkcs8(OTHER), public_jwk=PUBLIC)


@pytest.mark.parametrize("material", [b"", b"\x30\x00", pkcs8(ec.generate_private_key(ec.SECP256R1())).reveal()])
def test_refuses_what_is_no_rsa_key(material: bytes) -> None:
    with pytest.raises(FormatError):
        rsa_secret(SecretBytes(material), public_jwk=PUBLIC)


def test_what_is_sealed_to_the_public_half_opens_in_its_context_alone() -> None:
    sealed = seal_to_rsa(SecretBytes(b"k" * 32), public_jwk=PUBLIC, context=b"here")
    assert open_with_rsa(sealed, pkcs8=pkcs8(KEY), context=b"here") == SecretBytes(b"k" * 32)
    for key, context, data in (
        (KEY, b"there", sealed),
        (OTHER, b"here", sealed),
        (KEY, b"here", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (KEY, b"here", b""),
    ):
        with pytest.raises(IntegrityError):
            open_with_rsa(data, pkcs8=pkcs8(key), context=context)
    with pytest.raises(FormatError):
        seal_to_rsa(SecretBytes(b"k" * 300), public_jwk=PUBLIC, context=b"here")


def test_symmetric_keys_have_256_bits_and_a_check_value_of_their_own() -> None:
    assert check_value(SecretBytes(b"a" * 32)) == check_value(SecretBytes(b"a" * 32))
    assert check_value(SecretBytes(b"a" * 32)) != check_value(SecretBytes(b"b" * 32))
    for size in (0, 16, 24, 33):
        with pytest.raises(FormatError):
            check_value(SecretBytes(b"a" * size))
    for wrapped in (b"", b"x" * 40):
        with pytest.raises(IntegrityError):
            unwrap_aes(wrapped, key=SecretBytes(b"a" * 32))


def test_a_seed_has_32_bytes() -> None:
    assert signing_key_from_seed(SecretBytes(b"s" * 32)).algorithm == "Ed25519"
    with pytest.raises(FormatError):
        signing_key_from_seed(SecretBytes(b"s" * 31))


def test_microsofts_own_key_gives_a_secret(shared: Path) -> None:
    vector = json.loads((shared / "vectors/key-release/skr_vector.json").read_text())
    key = serialization.load_pem_private_key(vector["pem"].encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    assert len(rsa_secret(pkcs8(key), public_jwk=VerifyingKey(key.public_key()).to_jwk())) == 256
