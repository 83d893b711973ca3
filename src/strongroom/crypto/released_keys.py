"""What a TEE does with a key that a vault released into it: make sure that it is the right one, derive, open.

Source: PKCS #8; RFC 3394; RFC 8017, section 7.1.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import SigningKey, VerifyingKey

CHECKED_VALUE: Final = hashlib.sha256(b"strongroom/1 key check value").digest()
"""What a symmetric key wraps, so that its owner can say which key it is without having it: 32 bytes that nobody keeps
secret and that are no key."""
_KEY_BYTES: Final = 32
_SEED_BYTES: Final = 32


def check_value(key: SecretBytes) -> str:
    """Return what identifies a symmetric key: SHA-256 of AES-KW(key, `CHECKED_VALUE`), 64 hexadecimal digits.

    A vault that keeps the key wraps the value itself (`wrapkey`, A256KW). Another key with the same result would be a
    collision of SHA-256, or a second key that wraps a given value to given 40 bytes.

    Raises:
        FormatError: The key has not 32 bytes.
    """
    return check_value_of(keywrap.aes_key_wrap(_aes_key(key), CHECKED_VALUE))


def check_value_of(wrapped: bytes) -> str:
    """Return the check value of the key that wrapped `CHECKED_VALUE`, as a vault answered it."""
    return hashlib.sha256(wrapped).hexdigest()


def rsa_secret(pkcs8: SecretBytes, *, public_jwk: Mapping[str, object]) -> SecretBytes:
    """Return what of an RSA private key others are derived from, once it is shown to be the right one.

    Args:
        pkcs8: The private key, DER.
        public_jwk: The public half that it must have.

    Returns:
        Its two primes, the larger one first, each big-endian and as long as half the modulus. They follow from the
        modulus, while the private exponent, which Microsoft's sidecar takes, has several correct values.

    Raises:
        FormatError: Not an RSA key with two primes of equal length.
        IntegrityError: Another key.
    """
    private = _rsa(pkcs8)
    if VerifyingKey(private.public_key()).thumbprint != VerifyingKey.from_jwk(public_jwk).thumbprint:
        raise IntegrityError("the released key is not the private half of the key that was pinned")
    numbers = private.private_numbers()
    size = private.key_size // 16
    try:
        return SecretBytes(b"".join(p.to_bytes(size, "big") for p in sorted((numbers.p, numbers.q), reverse=True)))
    except OverflowError as error:
        raise FormatError("the released key's primes are not of equal length") from error


def pkcs8_of(pem: SecretBytes) -> SecretBytes:
    """Return an RSA private key from its PEM text as a vault releases it: PKCS #8, DER.

    Raises:
        FormatError: Not such a key.
    """
    try:
        key = serialization.load_pem_private_key(pem.reveal(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError("this is not a private key in PEM form without a password") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FormatError("this is not an RSA key")
    form = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return SecretBytes(key.private_bytes(*form))


def seal_to_rsa(secret: SecretBytes, *, public_jwk: Mapping[str, object], context: bytes) -> bytes:
    """Encrypt a key to an RSA public key: RSAES-OAEP with SHA-256, and the context as its label.

    Raises:
        FormatError: Not an RSA key, or the secret is too long for it.
    """
    public = VerifyingKey.from_jwk(public_jwk).hazmat
    if not isinstance(public, rsa.RSAPublicKey):
        raise FormatError("the vault's key is not an RSA key")
    try:
        return public.encrypt(secret.reveal(), _oaep(context))
    except ValueError as error:
        raise FormatError("the secret is too long for the key") from error


def open_with_rsa(sealed: bytes, *, pkcs8: SecretBytes, context: bytes) -> SecretBytes:
    """Open what `seal_to_rsa` made.

    Raises:
        FormatError: Not an RSA key.
        IntegrityError: For another key, of another context, or changed.
    """
    try:
        return SecretBytes(_rsa(pkcs8).decrypt(sealed, _oaep(context)))
    except ValueError as error:
        raise IntegrityError("the wrapped key was changed, or belongs to another key or place") from error


def unwrap_aes(wrapped: bytes, *, key: SecretBytes) -> SecretBytes:
    """Open what a vault wrapped with a symmetric key (`wrapkey`, A256KW).

    Raises:
        FormatError: The key has not 32 bytes.
        IntegrityError: Under another key, or changed.
    """
    try:
        return SecretBytes(keywrap.aes_key_unwrap(_aes_key(key), wrapped))
    except (ValueError, keywrap.InvalidUnwrap) as error:
        raise IntegrityError("the wrapped key was changed, or belongs to another key") from error


def signing_key_from_seed(seed: SecretBytes) -> SigningKey:
    """Return the Ed25519 key with this private value.

    Raises:
        FormatError: It has not 32 bytes.

    Source: RFC 8032, section 5.1.5.
    """
    if len(seed) != _SEED_BYTES:
        raise FormatError("an Ed25519 private key has 32 bytes")
    return SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed.reveal()))


def _rsa(pkcs8: SecretBytes) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_der_private_key(pkcs8.reveal(), password=None)  # checks that its numbers agree
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError("the released key is not a private key in PKCS #8 form") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FormatError("the released key is not an RSA key")
    return key


def _oaep(context: bytes) -> padding.OAEP:
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=context)


def _aes_key(key: SecretBytes) -> bytes:
    if len(key) != _KEY_BYTES:
        raise FormatError("a vault's symmetric key must have 256 bits")
    return key.reveal()
