"""Key derivation."""

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from strongroom.base.secret import SecretBytes


def hkdf_sha256(secret: SecretBytes, *, salt: bytes, info: bytes, size_bytes: int = 32) -> SecretBytes:
    """Derive a secret with HKDF-SHA256.

    Args:
        secret: Input keying material.
        salt: Public salt.
        info: What the derived secret is for; two uses never share it.
        size_bytes: Length of the result.

    Returns:
        The derived secret.

    Source: RFC 5869.
    """
    hkdf = HKDF(algorithm=hashes.SHA256(), length=size_bytes, salt=salt, info=info)
    return SecretBytes(hkdf.derive(secret.reveal()))


def sha256_hex(data: bytes) -> str:
    """Return SHA-256 as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
