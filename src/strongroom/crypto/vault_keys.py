"""The kinds of keys that Azure Key Vault's contract knows: made, imported, described, and used to wrap.

A key's material is PKCS#8 DER for RSA and EC keys, and the bytes themselves for symmetric ones.

Source: Azure Key Vault REST API (keys); RFC 7517, RFC 7518, section 6; RFC 3394; RFC 5649.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from strongroom.base.encoding import from_any_b64, to_b64url
from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_secret

KeyKind: TypeAlias = Literal["RSA", "EC", "oct"]

_RSA_SIZES: Final = (2048, 3072, 4096)
_OCT_SIZES: Final = (128, 192, 256)
_CURVES: Final[Mapping[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}
_CURVE_NAMES: Final = {curve.name: name for name, curve in _CURVES.items()}
_OAEP: Final[Mapping[str, type[hashes.HashAlgorithm]]] = {"RSA-OAEP": hashes.SHA1, "RSA-OAEP-256": hashes.SHA256}
_AES_KW_BITS: Final[Mapping[str, int | None]] = {"A128KW": 128, "A192KW": 192, "A256KW": 256, "CKM_AES_KEY_WRAP": None}
_AES_KWP: Final = "CKM_AES_KEY_WRAP_PAD"
_RSA_PKCS1: Final = "RSA1_5"
_RSA_EXPONENT: Final = 65537
_PARSED_KEYS: Final = 256
_BYTE: Final = 8


def generate_key(kind: KeyKind, *, size_bits: int | None, curve: str | None) -> SecretBytes:
    """Make a key.

    Args:
        kind: RSA, EC or symmetric.
        size_bits: 2048 (default), 3072 or 4096 for RSA; 128, 192 or 256 (default) for symmetric keys.
        curve: P-256 (default), P-384, P-521 or P-256K (secp256k1) for EC.

    Raises:
        FormatError: Another size or curve.
    """
    match kind:
        case "RSA":
            size = _one_of(size_bits or _RSA_SIZES[0], _RSA_SIZES)
            return _to_pkcs8(rsa.generate_private_key(public_exponent=_RSA_EXPONENT, key_size=size))
        case "EC":
            name = curve or "P-256"
            if name not in _CURVES:
                raise FormatError("the curve is not supported: P-256, P-384, P-521 and P-256K are")
            return _to_pkcs8(ec.generate_private_key(_CURVES[name]))
        case "oct":
            return random_secret(_one_of(size_bits or _OCT_SIZES[-1], _OCT_SIZES) // _BYTE)


def import_key(kind: KeyKind, jwk: Mapping[str, Any]) -> SecretBytes:
    """Read a private JWK.

    Raises:
        FormatError: Not a consistent key of that kind and of a supported size.
    """
    try:
        match kind, jwk:
            case "oct", {"k": str(k)}:
                material = from_any_b64(k)
                _one_of(len(material) * _BYTE, _OCT_SIZES)
                return SecretBytes(material)
            case "RSA", {}:
                n, e, d, p, q, dp, dq, qi = (_number(jwk, name) for name in ("n", "e", "d", "p", "q", "dp", "dq", "qi"))
                _one_of(n.bit_length(), _RSA_SIZES)
                return _to_pkcs8(rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key())
            case "EC", {"crv": str(crv)} if crv in _CURVES:
                x, y, d = (_number(jwk, name) for name in ("x", "y", "d"))
                public = ec.EllipticCurvePublicNumbers(x, y, _CURVES[crv])
                return _to_pkcs8(ec.EllipticCurvePrivateNumbers(d, public).private_key())
            case _:
                raise FormatError("the key is not of its type, or of a curve that is not supported")
    except ValueError as error:
        raise FormatError("the key's numbers do not belong together") from error


def public_jwk(kind: KeyKind, material: SecretBytes) -> dict[str, str]:
    """Return the public members of a key's JWK; none for a symmetric one."""
    if kind == "oct":
        return {}
    private = asymmetric_key(material)
    if isinstance(private, rsa.RSAPrivateKey):
        rsa_numbers = private.public_key().public_numbers()
        return {"n": _text(rsa_numbers.n), "e": _text(rsa_numbers.e)}
    numbers, size = private.public_key().public_numbers(), (private.key_size + _BYTE - 1) // _BYTE
    return {
        "crv": _CURVE_NAMES[private.curve.name],
        "x": to_b64url(numbers.x.to_bytes(size, "big")),
        "y": to_b64url(numbers.y.to_bytes(size, "big")),
    }


def size_bits(kind: KeyKind, material: SecretBytes) -> int | None:
    """Return the size that `generate_key` takes to make a key like this one; None for EC, whose size its curve has."""
    match kind:
        case "RSA":
            return rsa_key(material).key_size
        case "oct":
            return len(material) * _BYTE
        case "EC":
            return None


def wrap(kind: KeyKind, material: SecretBytes, value: SecretBytes, *, algorithm: str) -> bytes:
    """Wrap a key under a vault's key.

    Args:
        kind: RSA or symmetric.
        material: The wrapping key.
        value: The key to wrap.
        algorithm: RSA-OAEP, RSA-OAEP-256; A128KW, A192KW, A256KW, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_PAD.

    Raises:
        FormatError: The algorithm does not go with the key or the value.
    """
    try:
        if kind == "RSA":
            return rsa_key(material).public_key().encrypt(value.reveal(), rsa_padding(algorithm))
        if kind == "oct" and algorithm == _AES_KWP:
            return keywrap.aes_key_wrap_with_padding(material.reveal(), value.reveal())
        return keywrap.aes_key_wrap(_aes_key(kind, material, algorithm), value.reveal())
    except ValueError as error:
        raise FormatError("the value cannot be wrapped with this key and algorithm") from error


def unwrap(kind: KeyKind, material: SecretBytes, wrapped: bytes, *, algorithm: str) -> SecretBytes:
    """Open what `wrap` made.

    Raises:
        FormatError: The algorithm does not go with the key, or the value was not wrapped by it; not said which
            part differed.
    """
    try:
        if kind == "RSA":
            return SecretBytes(rsa_key(material).decrypt(wrapped, rsa_padding(algorithm)))
        if kind == "oct" and algorithm == _AES_KWP:
            return SecretBytes(keywrap.aes_key_unwrap_with_padding(material.reveal(), wrapped))
        return SecretBytes(keywrap.aes_key_unwrap(_aes_key(kind, material, algorithm), wrapped))
    except (ValueError, keywrap.InvalidUnwrap) as error:
        raise FormatError("the value was not wrapped by this key with this algorithm") from error


def _aes_key(kind: KeyKind, material: SecretBytes, algorithm: str) -> bytes:
    if kind != "oct" or algorithm not in _AES_KW_BITS:
        raise FormatError("the algorithm is not supported for this kind of key")
    if _AES_KW_BITS[algorithm] not in {None, len(material) * _BYTE}:
        raise FormatError("the algorithm is for a key of another size")
    return material.reveal()


def rsa_padding(algorithm: str) -> padding.OAEP:
    """Return the padding of an algorithm that encrypts to an RSA key.

    Raises:
        FormatError: RSA1_5, or none that RSA keys have.
    """
    if algorithm == _RSA_PKCS1:
        raise FormatError("RSA1_5 is refused: who sees which values it opens can read them; use RSA-OAEP-256")
    hash_class = _OAEP.get(algorithm)
    if hash_class is None:
        raise FormatError("the algorithm is not supported for this kind of key")
    return padding.OAEP(mgf=padding.MGF1(hash_class()), algorithm=hash_class(), label=None)


def rsa_key(material: SecretBytes) -> rsa.RSAPrivateKey:
    """Return the private key of an RSA key's material.

    Raises:
        IntegrityError: It is damaged.
    """
    return cast("rsa.RSAPrivateKey", asymmetric_key(material))


def _to_pkcs8(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> SecretBytes:
    return SecretBytes(
        key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def asymmetric_key(material: SecretBytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """Return the private key of an RSA or EC key's material.

    Raises:
        IntegrityError: It is damaged, or of another kind.
    """
    return _parsed(_Material(digest=hashlib.sha256(material.reveal()).digest(), secret=material))


@dataclass(frozen=True, slots=True)
class _Material:
    digest: bytes
    secret: SecretBytes = field(compare=False)


def forget_parsed_keys() -> None:
    """Let go of every key that is kept parsed, after one was destroyed."""
    _parsed.cache_clear()


# Half of what an RSA key's first use costs comes once for each parsed key. Whoever reads this process's memory has the
# store's own key, and with it all of these.
@functools.lru_cache(maxsize=_PARSED_KEYS)
def _parsed(of: _Material) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    material = of.secret
    try:
        # The material was made or checked here and comes from authenticated encryption: checking an RSA key's primes
        # again takes longer than everything else that is done with it.
        key = serialization.load_der_private_key(material.reveal(), password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IntegrityError("the stored key is damaged") from error
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise IntegrityError("the stored key is of another kind")
    return key


def _number(jwk: Mapping[str, Any], name: str) -> int:
    value = jwk.get(name)
    if not isinstance(value, str) or not value:
        raise FormatError(f"the key's member {name} is missing")
    return int.from_bytes(from_any_b64(value), "big")


def _text(number: int) -> str:
    return to_b64url(number.to_bytes((number.bit_length() + _BYTE - 1) // _BYTE, "big"))


def _one_of(size: int, sizes: tuple[int, ...]) -> int:
    if size not in sizes:
        raise FormatError(f"the key size {size} is not supported: {', '.join(map(str, sizes))} are")
    return size
