"""What Azure Key Vault's `encrypt` and `decrypt` do with a vault's key.

RSA keys encrypt with OAEP; symmetric ones with AES in GCM, and in CBC with or without padding. GCM's nonces are always
made here, because a nonce that comes twice gives the authentication away. CBC authenticates nothing: that is the
contract's, and who may call `decrypt` can find out what a changed value opens to.

Source: Azure Key Vault REST API, `encrypt`, `decrypt`; NIST SP 800-38A, 800-38D; RFC 5652, section 6.3.
"""

import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_bytes
from strongroom.crypto.vault_keys import KeyKind, rsa_key, rsa_padding

_AES: Final = re.compile(r"A(128|192|256)(GCM|CBC|CBCPAD)\Z")
_GCM_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_BLOCK_BYTES: Final = 16
_BYTE: Final = 8
_NOT_OPENED: Final = "the value was not encrypted with this key, this algorithm and these parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypted:
    """A ciphertext, and what decryption needs beside the key; None where the algorithm has no such thing."""

    ciphertext: bytes
    iv: bytes | None = None
    tag: bytes | None = None


def encrypt(
    kind: KeyKind, material: SecretBytes, plaintext: SecretBytes, *, algorithm: str, iv: bytes | None, aad: bytes | None
) -> Encrypted:
    """Encrypt a value.

    Args:
        kind: RSA or symmetric.
        material: The key.
        plaintext: The value: of whole blocks for CBC without padding, at most as long as the padding leaves for RSA.
        algorithm: RSA-OAEP, RSA-OAEP-256; A128GCM … A256GCM, A128CBC … A256CBC, A128CBCPAD … A256CBCPAD.
        iv: For CBC, 16 bytes; made here where it is None.
        aad: For GCM: what is authenticated and not encrypted.

    Raises:
        FormatError: The algorithm does not go with the key, the value or the parameters.
    """
    mode = _mode(kind, material, algorithm)
    if mode == "RSA":
        _demand_absent(iv=iv, aad=aad)
        return Encrypted(ciphertext=_rsa_encrypt(material, plaintext, algorithm))
    if mode == "GCM":
        _demand_absent(iv=iv)
        nonce = random_bytes(_GCM_NONCE_BYTES)
        sealed = AESGCM(material.reveal()).encrypt(nonce, plaintext.reveal(), aad)
        return Encrypted(ciphertext=sealed[:-_TAG_BYTES], iv=nonce, tag=sealed[-_TAG_BYTES:])
    _demand_absent(aad=aad)
    vector = random_bytes(_BLOCK_BYTES) if iv is None else _sized(iv, _BLOCK_BYTES, "iv")
    blocks = _padded(plaintext.reveal()) if mode == "CBCPAD" else _whole_blocks(plaintext.reveal())
    encryptor = Cipher(algorithms.AES(material.reveal()), modes.CBC(vector)).encryptor()
    return Encrypted(ciphertext=encryptor.update(blocks) + encryptor.finalize(), iv=vector)


def decrypt(
    kind: KeyKind, material: SecretBytes, encrypted: Encrypted, *, algorithm: str, aad: bytes | None
) -> SecretBytes:
    """Open what `encrypt` made.

    Raises:
        FormatError: The algorithm does not go with the key or the parameters, or the value was not encrypted so; not
            said which part differed.
    """
    mode = _mode(kind, material, algorithm)
    if mode == "RSA":
        _demand_absent(iv=encrypted.iv, tag=encrypted.tag, aad=aad)
        try:
            return SecretBytes(rsa_key(material).decrypt(encrypted.ciphertext, rsa_padding(algorithm)))
        except ValueError as error:
            raise FormatError(_NOT_OPENED) from error
    if mode == "GCM":
        nonce, tag = _sized(encrypted.iv, _GCM_NONCE_BYTES, "iv"), _sized(encrypted.tag, _TAG_BYTES, "tag")
        try:
            return SecretBytes(AESGCM(material.reveal()).decrypt(nonce, encrypted.ciphertext + tag, aad))
        except InvalidTag as error:
            raise FormatError(_NOT_OPENED) from error
    _demand_absent(aad=aad, tag=encrypted.tag)
    vector = _sized(encrypted.iv, _BLOCK_BYTES, "iv")
    decryptor = Cipher(algorithms.AES(material.reveal()), modes.CBC(vector)).decryptor()
    blocks = decryptor.update(_whole_blocks(encrypted.ciphertext)) + decryptor.finalize()
    return SecretBytes(_unpadded(blocks) if mode == "CBCPAD" else blocks)


def _mode(kind: KeyKind, material: SecretBytes, algorithm: str) -> str:
    found = _AES.match(algorithm)
    if kind == "RSA" and found is None:
        rsa_padding(algorithm)  # refuses what RSA keys do not have
        return "RSA"
    if kind != "oct" or found is None:
        raise FormatError("the algorithm is not supported for this kind of key")
    if int(found[1]) != len(material) * _BYTE:
        raise FormatError("the algorithm is for a key of another size")
    return found[2]


def _rsa_encrypt(material: SecretBytes, plaintext: SecretBytes, algorithm: str) -> bytes:
    try:
        return rsa_key(material).public_key().encrypt(plaintext.reveal(), rsa_padding(algorithm))
    except ValueError as error:
        raise FormatError("the value is too long for this key and algorithm") from error


def _demand_absent(**parameters: bytes | None) -> None:
    for name, value in parameters.items():
        if value is not None:
            raise FormatError(f"the algorithm takes no {name} here")


def _sized(value: bytes | None, size_bytes: int, name: str) -> bytes:
    if value is None or len(value) != size_bytes:
        raise FormatError(f"the algorithm needs {name}, {size_bytes} bytes")
    return value


def _whole_blocks(data: bytes) -> bytes:
    if not data or len(data) % _BLOCK_BYTES:
        raise FormatError(f"the value does not have a multiple of {_BLOCK_BYTES} bytes")
    return data


def _padded(data: bytes) -> bytes:
    padder = padding.PKCS7(_BLOCK_BYTES * _BYTE).padder()
    return padder.update(data) + padder.finalize()


def _unpadded(data: bytes) -> bytes:
    unpadder = padding.PKCS7(_BLOCK_BYTES * _BYTE).unpadder()
    try:
        return unpadder.update(data) + unpadder.finalize()
    except ValueError as error:
        raise FormatError(_NOT_OPENED) from error
