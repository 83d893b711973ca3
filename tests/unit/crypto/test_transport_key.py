"""Results sealed to a TPM's key."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.transport_key import Envelope, open_envelope, seal_to_tpm

KEY = SigningKey.generate("RS256", rsa_bits=2048)


def unwrap(envelope: Envelope) -> SecretBytes:
    """What a TPM does with TPM2_RSA_Decrypt and RSAES."""
    private = KEY.hazmat
    assert isinstance(private, rsa.RSAPrivateKey)
    return SecretBytes(private.decrypt(envelope.encrypted_key, padding.PKCS1v15()))


def test_what_is_sealed_opens_with_the_tpms_key() -> None:
    envelope = seal_to_tpm(b"a.b.c", recipient=KEY.verifying_key)
    assert open_envelope(envelope, key=unwrap(envelope)) == b"a.b.c"
    assert b"a.b.c" not in envelope.ciphertext
    assert seal_to_tpm(b"a.b.c", recipient=KEY.verifying_key).encrypted_key != envelope.encrypted_key


@pytest.mark.parametrize("part", ["nonce", "ciphertext", "tag"])
def test_a_flipped_bit_is_noticed(part: str) -> None:
    envelope = seal_to_tpm(b"a.b.c", recipient=KEY.verifying_key)
    value = getattr(envelope, part)
    flipped = replace(envelope, **{part: bytes([value[0] ^ 1]) + value[1:]})
    with pytest.raises(IntegrityError):
        open_envelope(flipped, key=unwrap(envelope))
    with pytest.raises(IntegrityError):
        open_envelope(envelope, key=SecretBytes(bytes(32)))


def test_other_sizes_and_kinds_of_keys_are_format_errors() -> None:
    envelope = seal_to_tpm(b"a.b.c", recipient=KEY.verifying_key)
    with pytest.raises(FormatError):
        open_envelope(envelope, key=SecretBytes(bytes(16)))
    for changed in (replace(envelope, tag=b""), replace(envelope, nonce=bytes(11))):
        with pytest.raises(FormatError):
            open_envelope(changed, key=unwrap(envelope))
    with pytest.raises(FormatError):
        seal_to_tpm(b"", recipient=SigningKey.generate("ES256").verifying_key)
