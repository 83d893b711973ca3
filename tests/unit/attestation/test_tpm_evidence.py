"""TPM structures in evidence, and the message that carries them."""

import contextlib
import functools
import hashlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.simulated_guest import ATTRIBUTES, sized, tpm_certification, tpm_public

from strongroom.attestation.evidence.azure_guest import parse_attestation_info
from strongroom.attestation.evidence.tpm import parse_tpm_certification, parse_tpm_public, policy_of_registers, select
from strongroom.base.errors import FormatError, LimitError, RefusedError
from strongroom.crypto.keys import SigningKey


@functools.cache
def public() -> bytes:
    key = SigningKey.generate("RS256", rsa_bits=2048)
    return tpm_public(key.verifying_key, attributes=ATTRIBUTES, policy=bytes(32))


@functools.cache
def certification() -> bytes:
    return tpm_certification(public(), signer=parse_tpm_public(public()).key, nonce=b"nonce")


def test_reads_a_public_area_and_names_it() -> None:
    read = parse_tpm_public(public())
    assert (read.attributes, read.auth_policy) == (ATTRIBUTES, bytes(32))
    assert read.name == b"\x00\x0b" + hashlib.sha256(public()[2:]).digest()
    assert read.key.to_jwk()["e"] == "AQAB"


def test_reads_a_certification() -> None:
    read = parse_tpm_certification(certification())
    assert read.name == parse_tpm_public(public()).name
    assert (read.header.extra_data, read.header.reset_count, read.header.restart_count) == (b"nonce", 1, 0)
    assert read.header.safe


def test_bytes_behind_a_certification_and_other_attestations_are_format_errors() -> None:
    for data in (certification() + b"\0", certification()[:-1], b"\xffTCG\x80\x18" + certification()[6:]):
        with pytest.raises(FormatError):
            parse_tpm_certification(data)


def area(
    scheme: bytes = b"\0\x10", bits: int = 2048, modulus: bytes = b"\xff" * 256, kind: int = 1, name: int = 11
) -> bytes:
    return sized(
        struct.pack(">HHIH", kind, name, 0, 0) + b"\0\x10" + scheme + struct.pack(">HI", bits, 3) + sized(modulus)
    )


@pytest.mark.parametrize("scheme", [b"\0\x10", b"\0\x15", b"\0\x14\0\x0b", b"\0\x17\0\x0b"])
def test_reads_every_scheme_that_rsa_keys_have_here(scheme: bytes) -> None:
    assert parse_tpm_public(area(scheme)).key.to_jwk()["e"] == "Aw"


@pytest.mark.parametrize(
    "data",
    [
        area(kind=0x23),  # ECC
        area(name=4),  # named by SHA-1
        area(b"\0\x16\0\x0b"),  # RSAPSS
        area(bits=1024, modulus=b"\xff" * 128),
        area(modulus=b"\xff" * 255),
        area(modulus=b"\x7f" + b"\xff" * 255),
        area(modulus=b""),
        area() + b"\0",
        area()[:-1],
    ],
)
def test_other_keys_are_format_errors(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_tpm_public(data)


def test_selects_registers_and_names_their_policy() -> None:
    """The policy is what TPM2_PolicyPCR computes; the tests of the attester compare it with a TPM's own."""
    assert select((0, 7, 23)).hex() == "00000001000b03810080"
    digest = hashlib.sha256(bytes(32)).digest()
    command = bytes.fromhex("0000017f")
    assert policy_of_registers((0,), digest) == hashlib.sha256(bytes(32) + command + select((0,)) + digest).digest()
    for wrong in ((24,), (-1,)):
        with pytest.raises(FormatError):
            select(wrong)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    for parse in (parse_tpm_public, parse_tpm_certification):
        with contextlib.suppress(FormatError):
            parse(data)
    with contextlib.suppress(FormatError, LimitError, RefusedError):
        parse_attestation_info(data)


@given(st.integers(0, 330), st.binary(max_size=4), st.integers(0, 8))
def test_edited_structures_parse_or_raise_format_error(at: int, inserted: bytes, removed: int) -> None:
    for parse, data in ((parse_tpm_public, public()), (parse_tpm_certification, certification())):
        with contextlib.suppress(FormatError):
            parse(data[:at] + inserted + data[at + removed :])


MESSAGE = {
    "AttestationProtocolVersion": "2.0",
    "OSType": "TGludXg=",
    "OSDistro": "VWJ1bnR1",
    "OSBuild": "",
    "OSVersionMajor": 24,
    "OSVersionMinor": 4,
    "TcgLogs": "",
    "ClientPayload": None,
    "TpmInfo": {
        **dict.fromkeys(("AikCert", "AikPub", "PcrQuote", "PcrSignature", "EncKeyPub"), "AAAA"),
        **dict.fromkeys(("EncKeyCertifyInfo", "EncKeyCertifyInfoSignature"), "AAAA"),
        "PcrSet": [0],
        "PCRs": [{"Index": 0, "Digest": "AAAA"}],
    },
    "IsolationInfo": {"Type": "Tdx", "Evidence": {"Proof": "AAAA", "RunTimeData": "e30="}},
}
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.lists(st.integers(), max_size=2)
)


@given(st.sampled_from(sorted(MESSAGE)), VALUES)
def test_messages_with_any_value_anywhere_parse_or_raise_our_errors(name: str, value: object) -> None:
    with contextlib.suppress(FormatError, LimitError, RefusedError):
        parse_attestation_info(json.dumps(MESSAGE | {name: value}).encode())


@given(st.sampled_from(sorted(MESSAGE["TpmInfo"])), VALUES)  # type: ignore[arg-type]
def test_tpm_parts_with_any_value_parse_or_raise_our_errors(name: str, value: object) -> None:
    tpm = MESSAGE["TpmInfo"] | {name: value}  # type: ignore[operator]
    with contextlib.suppress(FormatError, LimitError, RefusedError):
        parse_attestation_info(json.dumps(MESSAGE | {"TpmInfo": tpm}).encode())
