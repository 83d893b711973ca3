"""Azure's envelope for attestation results: AES-256-GCM under a key that is encrypted to a TPM's RSA key.

RSAES-PKCS1-v1_5 is what Azure's client has the TPM undo. A TPM tells whether a padding was right; that tells those who
can ask it, the guest alone, nothing that the guest may not know.

Source: Azure guest attestation client library, `TpmUnseal.cpp` (`DecryptInnerKey`, `DecryptJwt`).
"""

from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.random import random_bytes, random_secret

_CONTEXT: Final = b"Transport Key"
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What only the TPM opens.

    Attributes:
        encrypted_key: The AES key under the TPM's key.
        nonce: 12 bytes.
        ciphertext: As long as the plaintext.
        tag: 16 bytes.
    """

    encrypted_key: bytes
    nonce: bytes
    ciphertext: bytes
    tag: bytes


def seal_to_tpm(plaintext: bytes, *, recipient: VerifyingKey) -> Envelope:
    """Encrypt to a TPM's RSA key.

    Raises:
        FormatError: Not an RSA key.
    """
    public = recipient.hazmat
    if not isinstance(public, rsa.RSAPublicKey):
        raise FormatError("results are sealed to RSA keys of TPMs")
    key, nonce = random_secret(_KEY_BYTES), random_bytes(_NONCE_BYTES)
    sealed = AESGCM(key.reveal()).encrypt(nonce, plaintext, _CONTEXT)
    return Envelope(
        encrypted_key=public.encrypt(key.reveal(), padding.PKCS1v15()),
        nonce=nonce,
        ciphertext=sealed[:-_TAG_BYTES],
        tag=sealed[-_TAG_BYTES:],
    )


def open_envelope(envelope: Envelope, *, key: SecretBytes) -> bytes:
    """Decrypt what `seal_to_tpm`, or Azure, made.

    Args:
        envelope: What was received.
        key: `envelope.encrypted_key`, decrypted by the TPM; 32 bytes.

    Raises:
        FormatError: A part has another size.
        IntegrityError: Changed, or for another key.
    """
    sizes = (len(key), len(envelope.nonce), len(envelope.tag))
    if sizes != (_KEY_BYTES, _NONCE_BYTES, _TAG_BYTES):
        raise FormatError("not a result that was sealed to a TPM with AES-256-GCM")
    try:
        return AESGCM(key.reveal()).decrypt(envelope.nonce, envelope.ciphertext + envelope.tag, _CONTEXT)
    except InvalidTag as error:
        raise IntegrityError("the sealed result was changed, or is for another TPM") from error
