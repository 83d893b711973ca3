"""Azure Key Vault's release envelope: a key wrapped to the TEE's RSA key.

`ciphertext = RSA-OAEP(public key, random AES-256 key) || AES-KWP(AES key, secret)`.

Source: PKCS #11 v3.0, CKM_RSA_AES_KEY_WRAP; RFC 5649; Azure Key Vault REST API, `release`.
"""

from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import ReceivingKey, VerifyingKey
from strongroom.crypto.random import random_bytes

DEFAULT_ALGORITHM: Final = "CKM_RSA_AES_KEY_WRAP"
_HASHES: Final[dict[str, type[hashes.HashAlgorithm]]] = {
    DEFAULT_ALGORITHM: hashes.SHA1,  # what PKCS #11 fixes for this name; OAEP does not rest on collision resistance
    "RSA_AES_KEY_WRAP_256": hashes.SHA256,
    "RSA_AES_KEY_WRAP_384": hashes.SHA384,
}


def wrap_to_rsa(secret: SecretBytes, *, recipient_jwk: Mapping[str, Any], algorithm: str) -> bytes:
    """Wrap a secret to an RSA public key.

    Args:
        secret: PKCS#8 DER of an asymmetric key, or the bytes of a symmetric one.
        recipient_jwk: An RSA public JWK of at least 2048 bits.
        algorithm: `CKM_RSA_AES_KEY_WRAP`, `RSA_AES_KEY_WRAP_256` or `RSA_AES_KEY_WRAP_384`.

    Raises:
        FormatError: Unknown algorithm, or not such a key.
    """
    public = VerifyingKey.from_jwk(recipient_jwk).hazmat
    if not isinstance(public, rsa.RSAPublicKey):
        raise FormatError("keys are released to RSA keys")
    aes_key = random_bytes(32)
    return public.encrypt(aes_key, _oaep(algorithm)) + keywrap.aes_key_wrap_with_padding(aes_key, secret.reveal())


def unwrap_with_rsa(ciphertext: bytes, *, key: ReceivingKey, algorithm: str) -> SecretBytes:
    """Open what `wrap_to_rsa`, or Azure, made for this key.

    Raises:
        FormatError: Unknown algorithm, or too short.
        IntegrityError: For another key, or changed.
    """
    private = key.hazmat
    if not isinstance(private, rsa.RSAPrivateKey):
        raise FormatError("keys are released to RSA keys")
    size = private.key_size // 8
    try:
        aes_key = private.decrypt(ciphertext[:size], _oaep(algorithm))
        return SecretBytes(keywrap.aes_key_unwrap_with_padding(aes_key, ciphertext[size:]))
    except (ValueError, keywrap.InvalidUnwrap) as error:
        raise IntegrityError("the released key was changed, or is for another TEE") from error


def _oaep(algorithm: str) -> padding.OAEP:
    hash_class = _HASHES.get(algorithm)
    if hash_class is None:
        raise FormatError("unknown release algorithm")
    return padding.OAEP(mgf=padding.MGF1(hash_class()), algorithm=hash_class(), label=None)
