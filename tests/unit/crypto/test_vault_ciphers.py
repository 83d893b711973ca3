import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.vault_ciphers import Encrypted, decrypt, encrypt
from strongroom.crypto.vault_keys import KeyKind, generate_key

RSA = generate_key("RSA", size_bits=2048, curve=None)
AES = {size: generate_key("oct", size_bits=size, curve=None) for size in (128, 192, 256)}
EC = generate_key("EC", size_bits=None, curve="P-256")
VALUE = SecretBytes(b"a value of sixteen and more bytes")
BLOCKS = SecretBytes(bytes(range(32)))


def encrypted(
    kind: KeyKind, key: SecretBytes, value: SecretBytes, algorithm: str, **parameters: bytes | None
) -> Encrypted:
    return encrypt(kind, key, value, algorithm=algorithm, iv=parameters.get("iv"), aad=parameters.get("aad"))


# NIST SP 800-38A, F.2.1, F.2.3 and F.2.5: the first block.
CBC_BLOCK = SecretBytes(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"))
CBC_VECTORS = [
    ("A128CBC", "2b7e151628aed2a6abf7158809cf4f3c", "7649abac8119b246cee98e9b12e9197d"),
    ("A192CBC", "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "4f021db243bc633d7178183a9fa071e8"),
    (
        "A256CBC",
        "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
        "f58c4c04d6e5f1ba779eabfb5f7bfbd6",
    ),
]


@pytest.mark.parametrize(("algorithm", "key", "ciphertext"), CBC_VECTORS)
def test_the_source_vectors_of_cbc(algorithm: str, key: str, ciphertext: str) -> None:
    made = encrypted("oct", SecretBytes(bytes.fromhex(key)), CBC_BLOCK, algorithm, iv=bytes(range(16)))
    assert made == Encrypted(ciphertext=bytes.fromhex(ciphertext), iv=bytes(range(16)))


def test_the_source_vector_of_gcm() -> None:
    # McGrew, Viega: The Galois/Counter Mode of Operation, test case 16.
    key = SecretBytes(bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2))
    made = Encrypted(
        ciphertext=bytes.fromhex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        ),
        iv=bytes.fromhex("cafebabefacedbaddecaf888"),
        tag=bytes.fromhex("76fc6ece0f4e1768cddf8853bb2d551b"),
    )
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    assert decrypt("oct", key, made, algorithm="A256GCM", aad=aad).reveal().hex() == (
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )


@pytest.mark.parametrize("size", [128, 192, 256])
@pytest.mark.parametrize(("mode", "aad"), [("GCM", b"context"), ("GCM", None), ("CBC", None), ("CBCPAD", None)])
def test_opens_what_it_made(size: int, mode: str, aad: bytes | None) -> None:
    value, algorithm = BLOCKS if mode == "CBC" else VALUE, f"A{size}{mode}"
    made = encrypted("oct", AES[size], value, algorithm, aad=aad)
    assert decrypt("oct", AES[size], made, algorithm=algorithm, aad=aad) == value
    again = encrypted("oct", AES[size], value, algorithm, aad=aad)
    assert (again.iv, again.ciphertext) != (made.iv, made.ciphertext)


@pytest.mark.parametrize("algorithm", ["RSA-OAEP", "RSA-OAEP-256"])
def test_rsa_opens_what_it_made(algorithm: str) -> None:
    made = encrypted("RSA", RSA, VALUE, algorithm)
    assert (made.iv, made.tag) == (None, None)
    assert decrypt("RSA", RSA, made, algorithm=algorithm, aad=None) == VALUE
    changed = Encrypted(ciphertext=bytes([made.ciphertext[0] ^ 1]) + made.ciphertext[1:])
    with pytest.raises(FormatError, match="not encrypted"):
        decrypt("RSA", RSA, changed, algorithm=algorithm, aad=None)


def test_gcm_notices_every_change() -> None:
    made = encrypted("oct", AES[256], VALUE, "A256GCM", aad=b"context")
    iv, tag = made.iv or b"", made.tag or b""
    for changed, aad in (
        (Encrypted(ciphertext=made.ciphertext[:-1], iv=iv, tag=tag), b"context"),
        (Encrypted(ciphertext=made.ciphertext, iv=bytes([iv[0] ^ 1]) + iv[1:], tag=tag), b"context"),
        (Encrypted(ciphertext=made.ciphertext, iv=iv, tag=bytes([tag[0] ^ 1]) + tag[1:]), b"context"),
        (made, b"another"),
        (made, None),
    ):
        with pytest.raises(FormatError, match="not encrypted"):
            decrypt("oct", AES[256], changed, algorithm="A256GCM", aad=aad)


@pytest.mark.parametrize(
    ("kind", "key", "value", "algorithm", "parameters"),
    [
        ("RSA", RSA, VALUE, "RSA1_5", {}),
        ("RSA", RSA, VALUE, "A256GCM", {}),
        ("RSA", RSA, SecretBytes(bytes(300)), "RSA-OAEP", {}),
        ("RSA", RSA, VALUE, "RSA-OAEP", {"iv": bytes(12)}),
        ("RSA", RSA, VALUE, "RSA-OAEP", {"aad": b"a"}),
        ("EC", EC, VALUE, "A256GCM", {}),
        ("EC", EC, VALUE, "RSA-OAEP", {}),
        ("oct", AES[256], VALUE, "A128GCM", {}),
        ("oct", AES[128], VALUE, "A256GCM", {}),
        ("oct", AES[256], VALUE, "A256KW", {}),
        ("oct", AES[256], VALUE, "A256GCM\n", {}),
        ("oct", AES[256], VALUE, "", {}),
        ("oct", AES[256], VALUE, "A256GCM", {"iv": bytes(12)}),
        ("oct", AES[256], BLOCKS, "A256CBC", {"iv": bytes(15)}),
        ("oct", AES[256], BLOCKS, "A256CBC", {"aad": b"a"}),
        ("oct", AES[256], SecretBytes(bytes(17)), "A256CBC", {}),
        ("oct", AES[256], SecretBytes(b""), "A256CBC", {}),
    ],
)
def test_refuses_to_encrypt(
    kind: KeyKind, key: SecretBytes, value: SecretBytes, algorithm: str, parameters: dict[str, Any]
) -> None:
    with pytest.raises(FormatError):
        encrypted(kind, key, value, algorithm, **parameters)


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [
        ("A256GCM", {"iv": bytes(12)}),
        ("A256GCM", {"tag": bytes(16)}),
        ("A256GCM", {"iv": bytes(16), "tag": bytes(16)}),
        ("A256GCM", {"iv": bytes(12), "tag": bytes(12)}),
        ("A256GCM", {"iv": bytes(12), "tag": b""}),
        ("A256CBC", {}),
        ("A256CBC", {"iv": bytes(12)}),
        ("A256CBC", {"iv": bytes(16), "tag": bytes(16)}),
        ("A256CBCPAD", {"iv": bytes(17)}),
    ],
)
def test_refuses_to_decrypt_with_other_parameters_than_the_algorithm_has(
    algorithm: str, parts: dict[str, bytes]
) -> None:
    with pytest.raises(FormatError, match=r"needs|takes"):
        decrypt("oct", AES[256], Encrypted(ciphertext=bytes(32), **parts), algorithm=algorithm, aad=None)


@given(
    st.binary(max_size=300),
    st.sampled_from(["RSA-OAEP", "A256GCM", "A256CBC", "A256CBCPAD", "A128GCM", "RSA1_5"]),
    st.none() | st.binary(min_size=11, max_size=17),
    st.none() | st.binary(min_size=15, max_size=17),
)
def test_any_bytes_decrypt_or_raise_format_error(
    data: bytes, algorithm: str, iv: bytes | None, tag: bytes | None
) -> None:
    for kind, key in (("RSA", RSA), ("oct", AES[256]), ("EC", EC)):
        with contextlib.suppress(FormatError):
            decrypt(kind, key, Encrypted(ciphertext=data, iv=iv, tag=tag), algorithm=algorithm, aad=None)  # type: ignore[arg-type]
