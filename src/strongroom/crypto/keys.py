"""Key pairs: for signing (ES256, ES384, Ed25519, RS256) and for receiving secrets (RSA-OAEP, ECDH-ES).

Source: RFC 7518 (JWA), RFC 9864 (Ed25519), RFC 7517 (JWK).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from typing_extensions import override

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError, VerificationError
from strongroom.base.secret import SecretBytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

Algorithm: TypeAlias = Literal["ES256", "ES384", "Ed25519", "RS256"]
_PrivateKey: TypeAlias = "ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey"
_PublicKey: TypeAlias = "ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey"

RSA_BITS: Final = 3072
_RSA_MIN_BITS: Final = 2048
_RSA_MAX_BITS: Final = 16384
_RSA_MAX_EXPONENT_BITS: Final = 64
"""What OpenSSL computes with; it reads larger keys, and such with an even modulus, and then cannot encrypt to them."""
_CURVES: Final[Mapping[Algorithm, tuple[type[ec.EllipticCurve], str, int, type[hashes.HashAlgorithm]]]] = {
    "ES256": (ec.SECP256R1, "P-256", 32, hashes.SHA256),
    "ES384": (ec.SECP384R1, "P-384", 48, hashes.SHA384),
}
"""By algorithm: the curve, its name in a JWK, the size of a coordinate in bytes, the hash."""
_JWK_MEMBERS: Final = ("kty", "crv", "x", "y", "n", "e")
"""What a public JWK's key is made of; other members say something about it, and are not read."""
_PARSED_KEYS: Final = 512
_REMEMBERED_CHARACTERS: Final = 4096
"""Longer ones than an RSA key of 16384 bits are not remembered, so that nobody fills the memory with zeros."""


class VerifyingKey:
    """A public key. It never changes; two of the same value are equal.

    Attributes:
        algorithm: The one JOSE algorithm this key is used with.
    """

    __slots__ = ("_key", "_spki", "algorithm")

    def __init__(self, key: PublicKeyTypes) -> None:
        self._key: _PublicKey
        self._spki: bytes | None = None
        self.algorithm: Algorithm
        if isinstance(key, ec.EllipticCurvePublicKey):
            self._key, self.algorithm = key, _ecdsa_algorithm(key)
        elif isinstance(key, ed25519.Ed25519PublicKey):
            self._key, self.algorithm = key, "Ed25519"
        elif isinstance(key, rsa.RSAPublicKey) and _is_usable_rsa(key):
            self._key, self.algorithm = key, "RS256"
        else:
            raise FormatError("a public key must be P-256, P-384, Ed25519 or RSA of 2048 to 16384 bits")

    @classmethod
    def from_spki(cls, spki_der: bytes) -> VerifyingKey:
        """Read a DER SubjectPublicKeyInfo.

        Raises:
            FormatError: Not such a key.
        """
        try:
            return cls(serialization.load_der_public_key(spki_der))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError("not a public key in DER form") from error

    @classmethod
    def from_raw_ed25519(cls, raw: bytes) -> VerifyingKey:
        """Read the 32 bytes of an Ed25519 public key.

        Raises:
            FormatError: Not 32 bytes.
        """
        try:
            return cls(ed25519.Ed25519PublicKey.from_public_bytes(raw))
        except ValueError as error:
            raise FormatError("an Ed25519 public key has 32 bytes") from error

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, object]) -> VerifyingKey:
        """Read a public JWK of type EC, OKP (Ed25519) or RSA; members other than the key's own are ignored.

        Raises:
            FormatError: Not such a key.
        """
        found = (jwk.get(name) for name in _JWK_MEMBERS)
        members = tuple(value if isinstance(value, str) else "" for value in found)
        is_short = sum(map(len, members)) <= _REMEMBERED_CHARACTERS
        return _remembered_key(*members) if is_short else _key_of_jwk(*members)

    def to_jwk(self) -> dict[str, str]:
        """Return the public JWK: the key's own members only."""
        if isinstance(self._key, ec.EllipticCurvePublicKey):
            numbers = self._key.public_numbers()
            _, name, size, _ = _CURVES[self.algorithm]
            x, y = (to_b64url(value.to_bytes(size, "big")) for value in (numbers.x, numbers.y))
            return {"kty": "EC", "crv": name, "x": x, "y": y}
        if isinstance(self._key, ed25519.Ed25519PublicKey):
            return {"kty": "OKP", "crv": "Ed25519", "x": to_b64url(self.raw)}
        rsa_numbers = self._key.public_numbers()
        n, e = (
            to_b64url(value.to_bytes((value.bit_length() + 7) // 8, "big")) for value in (rsa_numbers.n, rsa_numbers.e)
        )
        return {"kty": "RSA", "n": n, "e": e}

    @property
    def spki(self) -> bytes:
        """The DER SubjectPublicKeyInfo."""
        if self._spki is None:
            form = serialization.PublicFormat.SubjectPublicKeyInfo
            self._spki = self._key.public_bytes(serialization.Encoding.DER, form)
        return self._spki

    def to_pem(self) -> str:
        """Return the SubjectPublicKeyInfo as PEM text."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")

    @property
    def raw(self) -> bytes:
        """The 32 bytes of an Ed25519 key.

        Raises:
            FormatError: The key is of another kind.
        """
        if not isinstance(self._key, ed25519.Ed25519PublicKey):
            raise FormatError("only Ed25519 keys have a raw form")
        return self._key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, 64 hexadecimal digits: how keys are named everywhere."""
        return hashlib.sha256(self.spki).hexdigest()

    @property
    def hazmat(self) -> _PublicKey:
        """The library's key, for the modules of this package."""
        return self._key

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and self.spki == other.spki

    @override
    def __hash__(self) -> int:
        return hash(self.spki)

    def verify(self, data: bytes, signature: bytes) -> None:
        """Check a signature made by `SigningKey.sign`.

        Raises:
            VerificationError: The signature does not hold.
        """
        try:
            if isinstance(self._key, ec.EllipticCurvePublicKey):
                _, _, size, hashed_by = _CURVES[self.algorithm]
                if len(signature) != 2 * size:
                    raise VerificationError(f"an {self.algorithm} signature has {2 * size} bytes")
                r, s = (int.from_bytes(half, "big") for half in (signature[:size], signature[size:]))
                self._key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashed_by()))
            elif isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, data)
            else:
                self._key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise VerificationError("the signature does not hold") from error


class SigningKey:
    """A private key that signs.

    Attributes:
        algorithm: The one JOSE algorithm this key is used with.
    """

    __slots__ = ("_key", "_public", "algorithm")

    def __init__(self, key: PrivateKeyTypes) -> None:
        self._public = VerifyingKey(key.public_key())
        self.algorithm: Algorithm = self._public.algorithm
        self._key = cast("_PrivateKey", key)

    @classmethod
    def generate(cls, algorithm: Algorithm, *, rsa_bits: int = RSA_BITS) -> SigningKey:
        """Make a key: P-256, P-384, Ed25519, or RSA."""
        match algorithm:
            case "ES256" | "ES384":
                return cls(ec.generate_private_key(_CURVES[algorithm][0]()))
            case "Ed25519":
                return cls(ed25519.Ed25519PrivateKey.generate())
            case "RS256":
                return cls(rsa.generate_private_key(public_exponent=65537, key_size=rsa_bits))

    @classmethod
    def from_pem(cls, pem: SecretBytes) -> SigningKey:
        """Read an unencrypted PKCS#8 PEM.

        Raises:
            FormatError: Not such a key.
        """
        return cls(_load_private_pem(pem))

    def to_pem(self) -> SecretBytes:
        """Return the unencrypted PKCS#8 PEM, for an owner-only file."""
        return _private_pem(self._key)

    @property
    def verifying_key(self) -> VerifyingKey:
        """The public half."""
        return self._public

    @property
    def hazmat(self) -> _PrivateKey:
        """The library's key, for the modules of this package."""
        return self._key

    def sign(self, data: bytes) -> bytes:
        """Sign, in JOSE's form: ES256 and ES384 as `r || s`, Ed25519 as 64 bytes, RS256 as PKCS#1 v1.5."""
        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            _, _, size, hashed_by = _CURVES[self.algorithm]
            r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(hashed_by())))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(data)
        return self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())


class ReceivingKey:
    """A private key to which others seal: RSA (a TEE's, as Azure's key release wants it) or P-256 (a recipient's)."""

    __slots__ = ("_key",)

    def __init__(self, key: PrivateKeyTypes) -> None:
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
            raise FormatError("a receiving key is RSA or P-256")
        self._key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = key

    @classmethod
    def generate_rsa(cls) -> ReceivingKey:
        """Make an RSA key with 3072 bits."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS))

    @classmethod
    def generate_p256(cls) -> ReceivingKey:
        """Make a P-256 key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: SecretBytes) -> ReceivingKey:
        """Read an unencrypted PKCS#8 PEM.

        Raises:
            FormatError: Not such a key.
        """
        return cls(_load_private_pem(pem))

    def to_pem(self) -> SecretBytes:
        """Return the unencrypted PKCS#8 PEM, for an owner-only file."""
        return _private_pem(self._key)

    @property
    def public_jwk(self) -> dict[str, object]:
        """The public JWK with `kid` (thumbprint) and `key_ops: ["encrypt"]`, as Azure's key release looks for it."""
        public = VerifyingKey(self._key.public_key())
        return {**public.to_jwk(), "kid": public.thumbprint, "key_ops": ["encrypt"]}

    @property
    def hazmat(self) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
        """The library's key, for the modules of this package."""
        return self._key


def _key_of_jwk(kty: str, crv: str, x: str, y: str, n: str, e: str) -> VerifyingKey:
    match kty, crv:
        case "EC", "P-256" | "P-384":
            curve, size = next((curve, size) for curve, named, size, _ in _CURVES.values() if named == crv)
            coordinates = (from_b64url(x), from_b64url(y))
            if any(len(coordinate) != size for coordinate in coordinates):
                raise FormatError(f"a {crv} coordinate has {size} bytes")
            try:
                point = b"\x04" + b"".join(coordinates)
                return VerifyingKey(ec.EllipticCurvePublicKey.from_encoded_point(curve(), point))
            except ValueError as error:
                raise FormatError(f"the point is not on {crv}") from error
        case "OKP", "Ed25519":
            return VerifyingKey.from_raw_ed25519(from_b64url(x))
        case "RSA", _:
            modulus, exponent = int.from_bytes(from_b64url(n), "big"), int.from_bytes(from_b64url(e), "big")
            try:
                return VerifyingKey(rsa.RSAPublicNumbers(exponent, modulus).public_key())
            except ValueError as error:
                raise FormatError("not an RSA public key") from error
        case _:
            raise FormatError("a JWK must be EC P-256 or P-384, OKP Ed25519 or RSA")


# Which key these very texts are does not change, and that they are one says nothing of whom to believe: a hit is as
# good as reading them again. What is no key raises, and is not remembered.
_remembered_key: Final = functools.lru_cache(maxsize=_PARSED_KEYS)(_key_of_jwk)


def _ecdsa_algorithm(key: ec.EllipticCurvePublicKey) -> Algorithm:
    for algorithm, (curve, *_) in _CURVES.items():
        if isinstance(key.curve, curve):
            return algorithm
    raise FormatError("an EC key must be on P-256 or P-384")


def _is_usable_rsa(key: rsa.RSAPublicKey) -> bool:
    numbers = key.public_numbers()
    fits = _RSA_MIN_BITS <= key.key_size <= _RSA_MAX_BITS and numbers.e.bit_length() <= _RSA_MAX_EXPONENT_BITS
    return fits and bool(numbers.n % 2)


def _load_private_pem(pem: SecretBytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError("not an unencrypted private key in PEM form") from error


def _private_pem(key: _PrivateKey) -> SecretBytes:
    return SecretBytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
