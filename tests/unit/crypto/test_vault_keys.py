import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.vault_keys import KeyKind, generate_key, import_key, public_jwk, size_bits, unwrap, wrap

OCT = generate_key("oct", size_bits=256, curve=None)
RSA = generate_key("RSA", size_bits=2048, curve=None)
VALUE = SecretBytes(b"v" * 32)


@pytest.mark.parametrize(
    ("kind", "material", "algorithm"),
    [
        ("RSA", RSA, "RSA-OAEP"),
        ("RSA", RSA, "RSA-OAEP-256"),
        ("oct", OCT, "A256KW"),
        ("oct", OCT, "CKM_AES_KEY_WRAP"),
        ("oct", OCT, "CKM_AES_KEY_WRAP_PAD"),
    ],
)
def test_wraps_and_unwraps(kind: KeyKind, material: SecretBytes, algorithm: str) -> None:
    wrapped = wrap(kind, material, VALUE, algorithm=algorithm)
    assert unwrap(kind, material, wrapped, algorithm=algorithm) == VALUE
    changed = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    with pytest.raises(FormatError):
        unwrap(kind, material, changed, algorithm=algorithm)


@pytest.mark.parametrize(
    ("kind", "material", "algorithm"),
    [
        ("RSA", RSA, "RSA1_5"),
        ("RSA", RSA, "A256KW"),
        ("oct", OCT, "RSA-OAEP"),
        ("oct", OCT, "A128KW"),
        ("oct", OCT, "A256GCM"),
        ("oct", OCT, ""),
        ("EC", generate_key("EC", size_bits=None, curve="P-256"), "A256KW"),
    ],
)
def test_refuses_algorithms_that_do_not_go_with_the_key(kind: KeyKind, material: SecretBytes, algorithm: str) -> None:
    with pytest.raises(FormatError):
        wrap(kind, material, VALUE, algorithm=algorithm)
    with pytest.raises(FormatError):
        unwrap(kind, material, bytes(40), algorithm=algorithm)


@pytest.mark.parametrize(("kind", "size", "curve"), [("RSA", 1024, None), ("oct", 64, None), ("EC", None, "P-224")])
def test_refuses_weak_or_unknown_keys(kind: KeyKind, size: int | None, curve: str | None) -> None:
    with pytest.raises(FormatError):
        generate_key(kind, size_bits=size, curve=curve)


@pytest.mark.parametrize(
    ("kind", "size", "curve", "octets"),
    [
        ("RSA", 3072, None, 384),
        ("RSA", None, None, 256),
        ("EC", None, None, 32),
        ("EC", None, "P-384", 48),
        ("EC", None, "P-521", 66),
        ("EC", None, "P-256K", 32),
    ],
)
def test_makes_and_describes_keys(kind: KeyKind, size: int | None, curve: str | None, octets: int) -> None:
    material = generate_key(kind, size_bits=size, curve=curve)
    described = public_jwk(kind, material)
    assert len(from_b64url(described["n" if kind == "RSA" else "x"])) == octets
    assert size_bits(kind, material) == (octets * 8 if kind == "RSA" else None)
    like = generate_key(kind, size_bits=size_bits(kind, material), curve=described.get("crv"))
    assert public_jwk(kind, like).get("crv") == described.get("crv")
    assert like != material


@pytest.mark.parametrize("size", [128, 192, 256])
def test_makes_symmetric_keys(size: int) -> None:
    assert size_bits("oct", generate_key("oct", size_bits=size, curve=None)) == size


def test_the_source_vector_of_key_wrapping_with_padding() -> None:
    # RFC 5649, section 6: 192-bit key, 20-octet and 7-octet data.
    key = SecretBytes(bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8"))
    data = SecretBytes(bytes.fromhex("c37b7e6492584340bed12207808941155068f738"))
    expected = "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"
    assert wrap("oct", key, data, algorithm="CKM_AES_KEY_WRAP_PAD").hex() == expected


def test_imports_what_its_public_part_describes() -> None:
    material = import_key("oct", {"kty": "oct", "k": to_b64url(OCT.reveal())})
    assert material == OCT
    assert public_jwk("oct", OCT) == {}
    described = public_jwk("RSA", RSA)
    assert set(described) == {"n", "e"}
    assert len(from_b64url(described["n"])) == 256


@given(st.dictionaries(st.sampled_from(["k", "n", "e", "d", "p", "q", "dp", "dq", "qi", "crv", "x", "y"]), st.text()))
def test_any_jwk_imports_or_raises_format_error(jwk: dict[str, str]) -> None:
    for kind in ("RSA", "EC", "oct"):
        with contextlib.suppress(FormatError):
            import_key(kind, jwk)


@given(st.binary(max_size=300), st.sampled_from(["RSA-OAEP", "A256KW", "CKM_AES_KEY_WRAP_PAD"]))
def test_any_bytes_unwrap_or_raise_format_error(data: bytes, algorithm: str) -> None:
    for kind, material in (("RSA", RSA), ("oct", OCT)):
        with contextlib.suppress(FormatError):
            unwrap(kind, material, data, algorithm=algorithm)
