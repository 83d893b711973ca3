import contextlib
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.encoding import from_b64url
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.vault_keys import KeyKind, generate_key, import_key
from strongroom.crypto.vault_signatures import sign, verify

RSA = generate_key("RSA", size_bits=2048, curve=None)
OCT = generate_key("oct", size_bits=256, curve=None)
CURVES = {name: generate_key("EC", size_bits=None, curve=name) for name in ("P-256", "P-384", "P-521", "P-256K")}
HASHES = {"256": "sha256", "384": "sha384", "512": "sha512", "256K": "sha256"}
CASES: list[tuple[KeyKind, SecretBytes, str, int]] = [
    *(("RSA", RSA, name, 256) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    ("EC", CURVES["P-256"], "ES256", 64),
    ("EC", CURVES["P-384"], "ES384", 96),
    ("EC", CURVES["P-521"], "ES512", 132),
    ("EC", CURVES["P-256K"], "ES256K", 64),
    ("oct", OCT, "HS256", 32),
    ("oct", OCT, "HS384", 48),
    ("oct", OCT, "HS512", 64),
]


def digest_of(algorithm: str, value: bytes = b"a value") -> bytes:
    return hashlib.new(HASHES[algorithm[2:]], value).digest()


@pytest.mark.parametrize(("kind", "key", "algorithm", "size"), CASES)
def test_verifies_what_it_signed_and_nothing_else(kind: KeyKind, key: SecretBytes, algorithm: str, size: int) -> None:
    digest = digest_of(algorithm)
    signature = sign(kind, key, digest, algorithm=algorithm)
    assert len(signature) == size
    assert verify(kind, key, digest, signature, algorithm=algorithm)
    assert not verify(kind, key, digest_of(algorithm, b"another"), signature, algorithm=algorithm)
    changed = signature[:-1] + bytes([signature[-1] ^ 1])
    for other in (changed, signature[:-1], signature + b"\0", b"", bytes(size)):
        assert not verify(kind, key, digest, other, algorithm=algorithm)


def test_the_source_vector_of_es256() -> None:
    # RFC 7515, appendix A.3.
    jwk = {
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    }
    signed = (
        b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290"
        b"Ijp0cnVlfQ"
    )
    signature = from_b64url("DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q")
    assert verify("EC", import_key("EC", jwk), hashlib.sha256(signed).digest(), signature, algorithm="ES256")


def test_symmetric_keys_authenticate_the_digest_itself() -> None:
    digest = digest_of("HS384")
    assert sign("oct", OCT, digest, algorithm="HS384") == hmac.digest(OCT.reveal(), digest, "sha384")


@pytest.mark.parametrize(
    ("kind", "key", "algorithm", "size"),
    [
        ("RSA", RSA, "RSNULL", 32),
        ("RSA", RSA, "ES256", 32),
        ("RSA", RSA, "HS256", 32),
        ("RSA", RSA, "RS257", 32),
        ("RSA", RSA, "", 32),
        ("EC", CURVES["P-256"], "ES384", 48),
        ("EC", CURVES["P-256"], "ES256K", 32),
        ("EC", CURVES["P-256K"], "ES256", 32),
        ("EC", CURVES["P-256"], "RS256", 32),
        ("oct", OCT, "RS256", 32),
        ("RSA", RSA, "RS256", 31),
        ("RSA", RSA, "PS512", 32),
        ("EC", CURVES["P-521"], "ES512", 32),
        ("oct", OCT, "HS256", 64),
    ],
)
def test_refuses_what_does_not_go_together(kind: KeyKind, key: SecretBytes, algorithm: str, size: int) -> None:
    with pytest.raises(FormatError):
        sign(kind, key, bytes(size), algorithm=algorithm)
    with pytest.raises(FormatError):
        verify(kind, key, bytes(size), bytes(64), algorithm=algorithm)


@given(st.binary(max_size=300), st.sampled_from([name for _, _, name, _ in CASES]))
def test_any_bytes_are_a_verdict_or_a_format_error(signature: bytes, algorithm: str) -> None:
    for kind, key in (("RSA", RSA), ("EC", CURVES["P-521"]), ("EC", CURVES["P-256K"]), ("oct", OCT)):
        with contextlib.suppress(FormatError):
            assert not verify(kind, key, digest_of(algorithm), signature, algorithm=algorithm)  # type: ignore[arg-type]
