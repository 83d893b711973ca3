"""Signatures, sealing and release envelopes: what holds, and every way it must not."""

import json
from pathlib import Path

import pytest

from strongroom.base.encoding import from_any_b64, from_b64url, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError, StrongroomError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead, jose, key_wrap
from strongroom.crypto.keys import Algorithm, ReceivingKey, SigningKey, VerifyingKey

ALGORITHMS: tuple[Algorithm, ...] = ("ES256", "ES384", "Ed25519", "RS256")
TEE = ReceivingKey.generate_rsa()
KEYS = {name: SigningKey.generate(name) for name in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_holds_over_the_exact_bytes(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    token = jose.sign_jws(b"exactly this", key=key, header={"typ": "a+jws"})
    public = VerifyingKey.from_jwk(key.verifying_key.to_jwk())
    assert jose.verify_jws(token, key=public, typ="a+jws").payload == b"exactly this"
    assert SigningKey.from_pem(key.to_pem()).verifying_key.thumbprint == public.thumbprint


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_refuses_every_other_key_and_every_changed_part(algorithm: Algorithm) -> None:
    token = jose.sign_jws(b'{"n":1}', key=KEYS[algorithm])
    header, payload, signature = token.split(".")
    for other in ALGORITHMS:
        if other != algorithm:
            with pytest.raises(VerificationError):
                jose.verify_jws(token, key=KEYS[other].verifying_key)
    with pytest.raises(VerificationError):
        jose.verify_jws(token, key=SigningKey.generate(algorithm).verifying_key)
    other_payload = to_b64url(b'{"n":2}')
    changed = f"{header}.{other_payload}.{signature}"
    with pytest.raises(VerificationError):
        jose.verify_jws(changed, key=KEYS[algorithm].verifying_key)
    with pytest.raises(StrongroomError):
        jose.verify_jws(f"{header}.{payload}.", key=KEYS[algorithm].verifying_key)


def test_algorithm_none_and_key_confusion_are_refused() -> None:
    public = KEYS["RS256"].verifying_key
    payload = to_b64url(b"{}")
    for forged in ({"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}):
        token = f"{to_b64url(json.dumps(forged).encode())}.{payload}.{to_b64url(b'x' * 64)}"
        with pytest.raises(VerificationError):
            jose.verify_jws(token, key=public)


def test_one_kind_of_statement_never_passes_for_another() -> None:
    token = jose.sign_jws(b"{}", key=KEYS["ES256"], header={"typ": "strongroom-keys+jws"})
    with pytest.raises(VerificationError, match="type"):
        jose.verify_jws(token, key=KEYS["ES256"].verifying_key, typ="strongroom-close+jws")


def test_a_critical_header_nobody_knows_is_refused() -> None:
    key = KEYS["ES256"]
    head = to_b64url(b'{"alg":"ES256","crit":["x"],"x":1}')
    body = to_b64url(b"{}")
    token = f"{head}.{body}.{to_b64url(key.sign(f'{head}.{body}'.encode()))}"
    with pytest.raises(VerificationError):
        jose.verify_jws(token, key=key.verifying_key)


def test_text_has_one_spelling() -> None:
    token = jose.sign_jws(b"abc", key=KEYS["ES256"])
    last = token[-1]
    twin = next(c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" if _same_bits(last, c))
    with pytest.raises(FormatError):
        jose.verify_jws(token[:-1] + twin, key=KEYS["ES256"].verifying_key)


def _same_bits(character: str, other: str) -> bool:
    """Whether two last characters of 64 bytes in base64url decode to the same byte."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return character != other and alphabet.index(character) >> 4 == alphabet.index(other) >> 4


def test_a_sealed_secret_opens_only_for_its_key_and_purpose() -> None:
    sealed = jose.seal(SecretBytes(b"k" * 32), recipient_jwk=TEE.public_jwk, context={"run": "1"})
    assert jose.unseal(sealed, key=TEE, context={"run": "1"}).reveal() == b"k" * 32
    with pytest.raises(VerificationError):
        jose.unseal(sealed, key=TEE, context={"run": "2"})
    with pytest.raises(IntegrityError):
        jose.unseal(sealed, key=ReceivingKey.generate_rsa(), context={"run": "1"})
    parts = sealed.split(".")
    parts[3] = to_b64url(bytes([from_b64url(parts[3])[0] ^ 1]) + from_b64url(parts[3])[1:])
    with pytest.raises(IntegrityError):
        jose.unseal(".".join(parts), key=TEE, context={"run": "1"})


def test_each_recipient_reads_the_output_and_nobody_else() -> None:
    first, second, stranger = (ReceivingKey.generate_p256() for _ in range(3))
    sealed = jose.seal_to_recipients(b"report", recipient_jwks=[first.public_jwk, second.public_jwk])
    assert jose.open_as_recipient(sealed, key=first) == jose.open_as_recipient(sealed, key=second) == b"report"
    assert b"report" not in sealed
    with pytest.raises(IntegrityError):
        jose.open_as_recipient(sealed, key=stranger)
    with pytest.raises(FormatError):
        jose.seal_to_recipients(b"report", recipient_jwks=[])
    with pytest.raises(FormatError):
        jose.seal_to_recipients(b"report", recipient_jwks=[TEE.public_jwk])


def test_long_output_and_many_keys_open_again() -> None:
    reader = ReceivingKey.generate_p256()
    for size_bytes in (100_000, LIMITS.sealed_bytes):
        sealed = jose.seal_to_recipients(bytes(size_bytes), recipient_jwks=[reader.public_jwk])
        assert len(jose.open_as_recipient(sealed, key=reader)) == size_bytes
    with pytest.raises(LimitError):
        jose.seal_to_recipients(bytes(LIMITS.sealed_bytes + 1), recipient_jwks=[reader.public_jwk])
    sealed_keys = jose.seal(SecretBytes(bytes(300_000)), recipient_jwk=TEE.public_jwk, context={})
    assert len(jose.unseal(sealed_keys, key=TEE, context={})) == 300_000


def test_aead_binds_key_context_and_every_byte() -> None:
    key = SecretBytes(bytes(range(32)))
    sealed = aead.encrypt(key, b"manifest", context=b"trips 1")
    assert aead.decrypt(key, sealed, context=b"trips 1").reveal() == b"manifest"
    for position in range(1, len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(IntegrityError):
            aead.decrypt(key, bytes(changed), context=b"trips 1")
    for other_key, context in ((key, b"trips 2"), (SecretBytes(bytes(32)), b"trips 1")):
        with pytest.raises(IntegrityError):
            aead.decrypt(other_key, sealed, context=context)
    with pytest.raises(FormatError):
        aead.decrypt(key, b"\x02" + sealed[1:], context=b"trips 1")
    with pytest.raises(FormatError):
        aead.encrypt(SecretBytes(b"short"), b"", context=b"")


@pytest.mark.parametrize("algorithm", ["CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"])
def test_a_released_key_opens_only_for_its_tee(algorithm: str) -> None:
    wrapped = key_wrap.wrap_to_rsa(SecretBytes(b"s" * 48), recipient_jwk=TEE.public_jwk, algorithm=algorithm)
    assert key_wrap.unwrap_with_rsa(wrapped, key=TEE, algorithm=algorithm).reveal() == b"s" * 48
    with pytest.raises(IntegrityError):
        key_wrap.unwrap_with_rsa(wrapped, key=ReceivingKey.generate_rsa(), algorithm=algorithm)
    with pytest.raises(IntegrityError):
        key_wrap.unwrap_with_rsa(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), key=TEE, algorithm=algorithm)
    with pytest.raises(FormatError):
        key_wrap.unwrap_with_rsa(wrapped, key=TEE, algorithm="RSA_AES_KEY_WRAP_512")


def test_microsofts_release_vector_opens(shared: Path) -> None:
    vector = json.loads((shared / "vectors" / "key-release" / "skr_vector.json").read_text())
    key = ReceivingKey.from_pem(SecretBytes(vector["pem"].encode()))
    opened = key_wrap.unwrap_with_rsa(from_any_b64(vector["ct"]), key=key, algorithm="CKM_RSA_AES_KEY_WRAP")
    assert opened.reveal().hex() == vector["exp"]


def test_weak_and_foreign_keys_are_format_errors() -> None:
    for jwk in ({}, {"kty": "EC", "crv": "P-384"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "oct", "k": "AA"}):
        with pytest.raises(FormatError):
            VerifyingKey.from_jwk(jwk)
    with pytest.raises(FormatError):
        VerifyingKey.from_jwk({"kty": "EC", "crv": "P-256", "x": to_b64url(bytes(32)), "y": to_b64url(bytes(32))})


def test_a_token_that_was_verified_before_still_needs_its_own_key_type_and_bytes() -> None:
    key, other = SigningKey.generate("ES256"), SigningKey.generate("ES256")
    token = jose.sign_jws(b"{}", key=key, header={"typ": "a"})
    first = jose.verify_jws(token, key=key.verifying_key, typ="a")
    assert isinstance(first.header, dict)
    first.header["typ"] = "b"  # what a caller does to its answer reaches nobody else
    assert jose.verify_jws(token, key=key.verifying_key, typ="a").header["typ"] == "a"
    with pytest.raises(VerificationError):
        jose.verify_jws(token, key=other.verifying_key, typ="a")
    with pytest.raises(VerificationError):
        jose.verify_jws(token, key=key.verifying_key, typ="b")
    with pytest.raises((VerificationError, FormatError)):
        jose.verify_jws(token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"), key=key.verifying_key, typ="a")
    with pytest.raises(FormatError):
        jose.verify_jws(token, key=key.verifying_key, typ="a", max_bytes=10)
