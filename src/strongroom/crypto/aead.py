"""Authenticated encryption: AES-256-GCM with its context bound.

A sealed value is `version (1 byte, 0x01) | nonce (12) | ciphertext | tag (16)`.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_bytes

_VERSION = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_BYTES = 32


def encrypt(key: SecretBytes, plaintext: bytes, *, context: bytes) -> bytes:
    """Encrypt under a 256-bit key.

    Args:
        key: 32 bytes; used for fewer than 2**32 calls.
        plaintext: What to protect.
        context: Public bytes that say what this is; decryption needs the same ones.

    Returns:
        The sealed value, 29 bytes longer than the plaintext.

    Source: NIST SP 800-38D, section 8.2.2 (random nonces).
    """
    if len(key) != _KEY_BYTES:
        raise FormatError("an AES-256 key has 32 bytes")
    nonce = random_bytes(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key.reveal()).encrypt(nonce, plaintext, _VERSION + context)


def decrypt(key: SecretBytes, sealed: bytes, *, context: bytes) -> SecretBytes:
    """Decrypt what `encrypt` made.

    Raises:
        FormatError: Too short, or of another version.
        IntegrityError: Another key, another context, or changed bytes.
    """
    if len(key) != _KEY_BYTES or len(sealed) < 1 + _NONCE_BYTES + _TAG_BYTES or sealed[:1] != _VERSION:
        raise FormatError("not a sealed value of version 1")
    nonce, ciphertext = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    try:
        return SecretBytes(AESGCM(key.reveal()).decrypt(nonce, ciphertext, _VERSION + context))
    except InvalidTag as error:
        raise IntegrityError("the sealed value was changed, or belongs to another key or place") from error
