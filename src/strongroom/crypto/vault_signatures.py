"""What Azure Key Vault's `sign` and `verify` do with a vault's key: over a digest that the caller made.

ECDSA signatures are `r || s`, as JOSE has them. With a symmetric key the digest itself is authenticated (HMAC over it).

Source: Azure Key Vault REST API, `sign`, `verify`; RFC 7518, sections 3.2 to 3.5; RFC 8812, section 3.2 (ES256K).
"""

import hmac
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature

from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.vault_keys import KeyKind, asymmetric_key

_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
_FAMILIES: Final[Mapping[str, KeyKind]] = {"RS": "RSA", "PS": "RSA", "ES": "EC", "HS": "oct"}
_ALGORITHMS: Final[Mapping[str, tuple[KeyKind, hashes.HashAlgorithm]]] = {
    **{family + size: (kind, chosen) for family, kind in _FAMILIES.items() for size, chosen in _HASHES.items()},
    "ES256K": ("EC", hashes.SHA256()),
}
_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1", "ES256K": "secp256k1"}
_BYTE: Final = 8


def sign(kind: KeyKind, material: SecretBytes, digest: bytes, *, algorithm: str) -> bytes:
    """Sign a digest.

    Args:
        kind: RSA, EC or symmetric.
        material: The key.
        digest: As many bytes as the algorithm's hash has.
        algorithm: RS256, RS384, RS512, PS256, PS384, PS512; ES256, ES384, ES512, ES256K; HS256, HS384, HS512.

    Raises:
        FormatError: The algorithm does not go with the key, or the digest with the algorithm.
    """
    chosen = _hash_of(kind, algorithm, digest)
    if kind == "oct":
        return hmac.digest(material.reveal(), digest, chosen.name)
    key = asymmetric_key(material)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = _scalar_bytes(key.curve, algorithm)
        r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(chosen))))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    return key.sign(digest, _padding(algorithm, chosen), Prehashed(chosen))


def verify(kind: KeyKind, material: SecretBytes, digest: bytes, signature: bytes, *, algorithm: str) -> bool:
    """Return whether a signature over a digest is this key's. The contract's answer is this verdict; callers act on it.

    Raises:
        FormatError: The algorithm does not go with the key, or the digest with the algorithm.
    """
    chosen = _hash_of(kind, algorithm, digest)
    if kind == "oct":
        return hmac.compare_digest(signature, hmac.digest(material.reveal(), digest, chosen.name))
    public = asymmetric_key(material).public_key()
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, digest, _padding(algorithm, chosen), Prehashed(chosen))
            return True
        size = _scalar_bytes(public.curve, algorithm)
        if len(signature) != 2 * size:
            return False
        numbers = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        public.verify(encode_dss_signature(*numbers), digest, ec.ECDSA(Prehashed(chosen)))
    except InvalidSignature:
        return False
    return True


def _hash_of(kind: KeyKind, algorithm: str, digest: bytes) -> hashes.HashAlgorithm:
    if algorithm == "RSNULL":
        raise FormatError("RSNULL is refused: it signs whatever a caller encodes")
    of_kind, chosen = _ALGORITHMS.get(algorithm, (None, None))
    if of_kind != kind or chosen is None:
        raise FormatError("the algorithm is not supported for this kind of key")
    if len(digest) != chosen.digest_size:
        raise FormatError(f"{algorithm} signs a digest of {chosen.digest_size} bytes, not of {len(digest)}")
    return chosen


def _scalar_bytes(curve: ec.EllipticCurve, algorithm: str) -> int:
    if curve.name != _CURVES[algorithm]:
        raise FormatError("the algorithm is for a key on another curve")
    return (curve.key_size + _BYTE - 1) // _BYTE


def _padding(algorithm: str, chosen: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if algorithm.startswith("PS"):
        return padding.PSS(mgf=padding.MGF1(chosen), salt_length=chosen.digest_size)
    return padding.PKCS1v15()
