"""TPM 2.0 structures that evidence is made of: what a TPM attests, its keys' public areas, and policies of keys.

Source: TCG TPM 2.0 Library, Part 2: Structures; Part 3: Commands, 23.7 (TPM2_PolicyPCR).
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.attestation.evidence.reader import ByteReader
from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError
from strongroom.crypto.keys import VerifyingKey

ALG_RSA: Final = 0x0001
ALG_SHA256: Final = 0x000B
ALG_NULL: Final = 0x0010
ALG_RSASSA: Final = 0x0014
ALG_RSAES: Final = 0x0015
ALG_OAEP: Final = 0x0017
CC_POLICY_PCR: Final = 0x0000017F
SELECTED_BYTES: Final = 3
"""Size of a selection of registers: a TPM of a PC has 24 of them."""
REGISTERS: Final = SELECTED_BYTES * 8

FIXED_TPM: Final = 1 << 1
FIXED_PARENT: Final = 1 << 4
SENSITIVE_DATA_ORIGIN: Final = 1 << 5
USER_WITH_AUTH: Final = 1 << 6
NO_DA: Final = 1 << 10
RESTRICTED: Final = 1 << 16
DECRYPT: Final = 1 << 17
SIGN: Final = 1 << 18

_MAGIC: Final = b"\xffTCG"
_ST_ATTEST_CERTIFY: Final = 0x8017
_CLOCK: Final = struct.Struct(">QIIB")
_RSA_EXPONENT: Final = 65537
_RSA_BITS: Final = (2048, 3072, 4096)
_SHA256_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestHeader:
    """What every TPMS_ATTEST begins with.

    Attributes:
        qualified_signer: Name of the key that signed.
        extra_data: What the caller gave: the nonce.
        clock: Milliseconds since the TPM was cleared.
        reset_count: How often it was reset.
        restart_count: How often it was suspended since.
        safe: Whether the clock never went back.
        firmware_version: As the TPM's maker writes it.
    """

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmCertification:
    """TPMS_ATTEST of a key that lives in the TPM.

    Attributes:
        header: Who attests, when, for which nonce.
        name: The key's name: the algorithm, then the digest of its public area.
    """

    header: AttestHeader
    name: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmPublic:
    """The public area of an RSA key.

    Attributes:
        name: What certifications call it: the algorithm's number, then SHA-256 of the area.
        attributes: TPMA_OBJECT.
        auth_policy: Digest of the policy that use of the key must meet; empty for none.
        key: The key.
    """

    name: bytes
    attributes: int
    auth_policy: bytes
    key: VerifyingKey


def read_attest_header(reader: ByteReader, *, kind: int, what: str) -> AttestHeader:
    """Read the beginning of a TPMS_ATTEST.

    Args:
        reader: At the first byte.
        kind: TPM_ST_ATTEST_… that it must be.
        what: What that is, for errors.

    Raises:
        FormatError: Another kind, or truncated.

    Source: TCG TPM 2.0 Library, Part 2, 10.12.12 (TPMS_ATTEST).
    """
    if reader.take(4) != _MAGIC or reader.big_endian(2) != kind:
        raise FormatError(f"not {what}")
    qualified_signer, extra_data = sized(reader), sized(reader)
    clock, reset_count, restart_count, safe = _CLOCK.unpack(reader.take(_CLOCK.size))
    if safe > 1:
        raise FormatError(f"{what} says neither yes nor no whether its clock is safe")
    return AttestHeader(
        qualified_signer=qualified_signer,
        extra_data=extra_data,
        clock=clock,
        reset_count=reset_count,
        restart_count=restart_count,
        safe=bool(safe),
        firmware_version=reader.big_endian(8),
    )


def parse_tpm_certification(attest_bytes: bytes) -> TpmCertification:
    """Read what TPM2_Certify returns.

    Args:
        attest_bytes: TPMS_ATTEST, as the TPM signed it; nothing behind it.

    Raises:
        FormatError: Not a certification of a key, truncated, or with bytes behind it.

    Source: TCG TPM 2.0 Library, Part 2, 10.12.3 (TPMS_CERTIFY_INFO).
    """
    reader = ByteReader(attest_bytes, what="the TPM's certification")
    header = read_attest_header(reader, kind=_ST_ATTEST_CERTIFY, what="a TPM's certification of a key")
    name, _qualified_name = sized(reader), sized(reader)
    reader.finish()
    return TpmCertification(header=header, name=name)


def parse_tpm_public(public_bytes: bytes) -> TpmPublic:
    """Read the public area of an RSA key.

    Args:
        public_bytes: TPM2B_PUBLIC; nothing behind it.

    Raises:
        FormatError: Another kind of key or name, truncated, or with bytes behind it.

    Source: TCG TPM 2.0 Library, Part 2, 12.2.4 (TPMT_PUBLIC), 12.2.3.5 (TPMS_RSA_PARMS).
    """
    outer = ByteReader(public_bytes, what="the TPM key's public area")
    area = sized(outer)
    outer.finish()
    reader = ByteReader(area, what="the TPM key's public area")
    if reader.big_endian(2) != ALG_RSA or reader.big_endian(2) != ALG_SHA256:
        raise FormatError("the TPM key is not an RSA key with a SHA-256 name")
    attributes, auth_policy = reader.big_endian(4), sized(reader)
    _skip_symmetric(reader)
    _skip_scheme(reader)
    bits, exponent, modulus = reader.big_endian(2), reader.big_endian(4), sized(reader)
    reader.finish()
    if bits not in _RSA_BITS or len(modulus) * 8 != bits or not modulus[0] & 0x80:
        raise FormatError("the TPM key's modulus is not of the size that it names")
    return TpmPublic(
        name=ALG_SHA256.to_bytes(2, "big") + hashlib.sha256(area).digest(),
        attributes=attributes,
        auth_policy=auth_policy,
        key=_rsa_key(modulus, exponent or _RSA_EXPONENT),
    )


def policy_of_registers(pcrs: Sequence[int], digest: bytes) -> bytes:
    """Return the policy of a key that can be used only while registers of the SHA-256 bank have these values.

    Args:
        pcrs: The registers' numbers.
        digest: SHA-256 over their values, ascending.

    Raises:
        FormatError: No such register.

    Source: TCG TPM 2.0 Library, Part 3, 23.7 (TPM2_PolicyPCR).
    """
    command = CC_POLICY_PCR.to_bytes(4, "big")
    return hashlib.sha256(bytes(_SHA256_BYTES) + command + select(pcrs) + digest).digest()


def select(pcrs: Sequence[int]) -> bytes:
    """Return a TPML_PCR_SELECTION of registers of the SHA-256 bank.

    Raises:
        FormatError: No such register.
    """
    if any(not 0 <= number < REGISTERS for number in pcrs):
        raise FormatError(f"a TPM's registers have the numbers 0 to {REGISTERS - 1}")
    bits = sum(1 << number for number in set(pcrs)).to_bytes(SELECTED_BYTES, "little")
    return struct.pack(">IHB", 1, ALG_SHA256, SELECTED_BYTES) + bits


def sized(reader: ByteReader) -> bytes:
    """Return a TPM2B: bytes behind their length."""
    return reader.take(reader.big_endian(2))


def _skip_symmetric(reader: ByteReader) -> None:
    if reader.big_endian(2) != ALG_NULL:
        reader.take(4)  # key size and mode


def _skip_scheme(reader: ByteReader) -> None:
    match reader.big_endian(2):
        case value if value in (ALG_NULL, ALG_RSAES):
            return
        case value if value in (ALG_RSASSA, ALG_OAEP):
            reader.take(2)  # the hash
        case _:
            raise FormatError("the TPM key is for a scheme that is not known here")


def _rsa_key(modulus: bytes, exponent: int) -> VerifyingKey:
    encoded = exponent.to_bytes((exponent.bit_length() + 7) // 8, "big")
    return VerifyingKey.from_jwk({"kty": "RSA", "n": to_b64url(modulus), "e": to_b64url(encoded)})
