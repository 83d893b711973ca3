"""P-256 keys in the form hardware writes them: the bare coordinates `x || y`, 32 bytes each, big endian.

Signatures in the same spirit (`r || s`) are what `VerifyingKey.verify` and `SigningKey.sign` already use.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from strongroom.base.errors import FormatError
from strongroom.crypto.keys import VerifyingKey

POINT_BYTES: Final = 64
_COORDINATE_BYTES: Final = 32


def key_from_point(point: bytes) -> VerifyingKey:
    """Read a P-256 public key.

    Args:
        point: x || y, 64 bytes, big endian.

    Raises:
        FormatError: Another size, or the point is not on the curve.

    Source: Intel SGX ECDSA Quote Library Reference, A.4 (ECDSA Attestation Key).
    """
    if len(point) != POINT_BYTES:
        raise FormatError("a P-256 point has 64 bytes")
    try:
        return VerifyingKey(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + point))
    except ValueError as error:
        raise FormatError("the point is not on P-256") from error


def point_of_key(key: VerifyingKey) -> bytes:
    """Return a P-256 public key as x || y, 64 bytes.

    Raises:
        FormatError: The key is of another kind.
    """
    public = key.hazmat
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise FormatError("only P-256 keys have a point")
    numbers = public.public_numbers()
    return b"".join(value.to_bytes(_COORDINATE_BYTES, "big") for value in (numbers.x, numbers.y))


def signature_to_der(signature: bytes) -> bytes:
    """Return an ECDSA signature `r || s` in DER, as X.509 and DSSE's tools have it.

    Source: RFC 3279, section 2.2.3.
    """
    half = len(signature) // 2
    return encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))


def signature_of_any_form(signature: bytes, *, key: VerifyingKey) -> bytes:
    """Return an ECDSA signature as `VerifyingKey.verify` takes it, whether it came so or in DER, as X.509 has it.

    Args:
        signature: `r || s`, or DER.
        key: The P-256 or P-384 key that it is to be checked with.

    Raises:
        FormatError: Neither form, or the key is of another kind.

    Source: RFC 7518, section 3.4; RFC 3279, section 2.2.3.
    """
    if not isinstance(key.hazmat, ec.EllipticCurvePublicKey):
        raise FormatError("only keys on elliptic curves make ECDSA signatures")
    size = (key.hazmat.key_size + 7) // 8
    if len(signature) == 2 * size:
        return signature
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    except (ValueError, OverflowError) as error:
        raise FormatError("not an ECDSA signature") from error
