"""The TPM's commands against a software TPM, and against channels that answer wrongly."""

import hashlib
import os
import struct
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.support.swtpm import SocketTpm, boot, extend, provision_ak, swtpm

from strongroom.attestation.attester.azure_vtpm import AK_HANDLE
from strongroom.attestation.attester.tpm import DeviceTpm, Tpm, TpmChannel
from strongroom.attestation.evidence.azure_vtpm import parse_tpm_quote
from strongroom.attestation.evidence.tcg_log import parse_event_log, replay
from strongroom.attestation.evidence.tpm import parse_tpm_certification, parse_tpm_public, policy_of_registers
from strongroom.base.errors import FormatError, NotFoundError, StrongroomError, UnavailableError
from strongroom.crypto.keys import VerifyingKey

INDEX = 0x01500001
PCRS = tuple(range(8))


@pytest.fixture(scope="module")
def channel() -> Iterator[SocketTpm]:
    with swtpm() as running:
        yield running


@pytest.fixture(scope="module")
def tpm(channel: SocketTpm) -> Tpm:
    return Tpm(channel)


@pytest.fixture(scope="module")
def ak(tpm: Tpm) -> VerifyingKey:
    return provision_ak(tpm)


def digest_of(values: dict[int, bytes]) -> bytes:
    return hashlib.sha256(b"".join(values.values())).digest()


@pytest.mark.needs_swtpm
def test_writes_reads_and_resizes_nv_indices(tpm: Tpm) -> None:
    with pytest.raises(NotFoundError):
        tpm.nv_read(INDEX)
    for content in (os.urandom(64), os.urandom(64), os.urandom(1300), b"x"):
        tpm.nv_write(INDEX, content)
        assert (tpm.nv_size(INDEX), tpm.nv_read(INDEX)) == (len(content), content)
    assert INDEX in tpm.handles("nv")


@pytest.mark.needs_swtpm
def test_reads_and_quotes_registers(tpm: Tpm, ak: VerifyingKey) -> None:
    extend(tpm, 16, b"\x01" * 32)
    values = tpm.pcr_values(range(24))
    assert list(values) == list(range(24))
    assert values[16] == hashlib.sha256(bytes(32) + b"\x01" * 32).digest()
    quote = tpm.quote(AK_HANDLE, pcrs=(23, 16, 0), nonce=b"nonce")
    ak.verify(quote.attest, quote.signature)
    parsed = parse_tpm_quote(quote.attest)
    assert (parsed.extra_data, parsed.pcrs) == (b"nonce", (0, 16, 23))
    assert parsed.pcr_digest == digest_of({pcr: values[pcr] for pcr in (0, 16, 23)})


@pytest.mark.needs_swtpm
def test_a_boot_leads_where_its_log_says() -> None:
    with swtpm() as channel:
        tpm = Tpm(channel)
        log = boot(tpm)
        assert replay(parse_event_log(log), pcrs=PCRS) == tpm.pcr_values(PCRS)


@pytest.mark.needs_swtpm
def test_makes_certifies_and_uses_a_key_that_works_in_one_state_only(tpm: Tpm, ak: VerifyingKey) -> None:
    values = tpm.pcr_values(PCRS)
    policy = policy_of_registers(PCRS, digest_of(values))
    key = tpm.create_decryption_key(policy=policy)
    again = tpm.create_decryption_key(policy=policy)
    assert key.public == again.public
    tpm.flush(again.handle)
    public = parse_tpm_public(key.public)
    assert public.auth_policy == policy
    attested = tpm.certify(key.handle, key=AK_HANDLE, nonce=b"nonce")
    ak.verify(attested.attest, attested.signature)
    parsed = parse_tpm_certification(attested.attest)
    assert (parsed.name, parsed.header.extra_data) == (public.name, b"nonce")

    rsa_key = public.key.hazmat
    assert isinstance(rsa_key, rsa.RSAPublicKey)
    ciphertext = rsa_key.encrypt(b"secret", padding.PKCS1v15())
    assert tpm.rsa_decrypt(key.handle, ciphertext, pcrs=PCRS).reveal() == b"secret"
    with pytest.raises(UnavailableError):
        tpm.rsa_decrypt(key.handle, ciphertext, pcrs=(0,))  # another policy
    extend(tpm, 5, b"\x02" * 32)
    with pytest.raises(UnavailableError):
        tpm.rsa_decrypt(key.handle, ciphertext, pcrs=PCRS)
    tpm.flush(key.handle)
    assert tpm.handles("transient") == ()


@pytest.mark.needs_swtpm
def test_reads_the_attestation_key_and_names_what_is_missing(tpm: Tpm, ak: VerifyingKey) -> None:
    assert parse_tpm_public(tpm.read_public(AK_HANDLE)).key.thumbprint == ak.thumbprint
    assert AK_HANDLE in tpm.handles("persistent")
    for absent in (lambda: tpm.read_public(0x81000004), lambda: tpm.quote(0x81000004, pcrs=(0,), nonce=b"")):
        with pytest.raises(NotFoundError, match="no such key"):
            absent()


@pytest.mark.needs_swtpm
def test_the_device_is_read_and_written_like_the_kernels(channel: SocketTpm) -> None:
    """A pseudo-terminal stands for `/dev/tpmrm0`: one write a command, one read a response."""
    leader, follower = os.openpty()
    tty.setraw(leader)
    tty.setraw(follower)

    def relay() -> None:
        for _ in range(2):
            os.write(leader, channel.transact(os.read(leader, 4096)))

    worker = threading.Thread(target=relay)
    worker.start()
    device = DeviceTpm(Path(os.ttyname(follower)))
    assert len(Tpm(device).pcr_values(range(16))) == 16
    worker.join()
    device.close()
    os.close(leader)
    os.close(follower)


def test_a_device_that_is_not_there_or_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be opened"):
        DeviceTpm(tmp_path / "tpmrm0")
    leader, follower = os.openpty()
    device = DeviceTpm(Path(os.ttyname(follower)))
    os.close(follower)
    os.close(leader)
    with pytest.raises(UnavailableError, match="does not answer"):
        device.transact(b"command")
    device.close()


# --- channels that answer wrongly ------------------------------------------------------------------------------------


class Canned(TpmChannel):
    """Answers the same again and again, or its answers one after the other."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = list(responses)
        self.commands: list[bytes] = []

    def transact(self, command: bytes) -> bytes:
        self.commands.append(command)
        return self.responses.pop(0) if len(self.responses) > 1 else self.responses[0]


def response(body: bytes = b"", code: int = 0, tag: int = 0x8001) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def test_asks_again_while_the_tpm_is_busy_but_not_for_ever() -> None:
    handles = response(b"\0" + struct.pack(">II", 1, 0))
    channel = Canned(response(code=0x922), response(code=0x908), handles)
    assert Tpm(channel).handles("nv") == ()
    assert len(set(channel.commands)) == 1
    with pytest.raises(UnavailableError, match="busy"):
        Tpm(Canned(response(code=0x922))).handles("nv")


def test_a_refusal_names_command_and_code() -> None:
    with pytest.raises(UnavailableError, match=r"0x173 with code 0x921"):
        Tpm(Canned(response(code=0x921))).read_public(AK_HANDLE)


@pytest.mark.parametrize("answer", [b"", b"\x80\x01", response()[:-1] + b"\1", response() + b"x", response(b"\0")])
def test_malformed_responses_are_format_errors(answer: bytes) -> None:
    for ask in (lambda tpm: tpm.handles("nv"), lambda tpm: tpm.nv_size(INDEX), lambda tpm: tpm.pcr_values((0,))):
        with pytest.raises(StrongroomError) as refused:
            ask(Tpm(Canned(answer)))
        assert isinstance(refused.value, FormatError | UnavailableError)


def test_a_response_of_another_size_than_it_says_is_a_format_error() -> None:
    handles = response(b"\0" + struct.pack(">II", 1, 0))
    assert Tpm(Canned(handles)).handles("nv") == ()
    with pytest.raises(FormatError, match="another size"):
        Tpm(Canned(handles + b"\0")).handles("nv")


@pytest.mark.parametrize("chunk", [b"", b"short", b"longer than it is"])
def test_an_index_that_returns_less_or_more_than_it_holds_is_refused(chunk: bytes) -> None:
    area = struct.pack(">IHIHH", INDEX, 11, 0, 0, 8)
    public = response(struct.pack(">H", len(area)) + area)
    part = response(struct.pack(">IH", 2 + len(chunk), len(chunk)) + chunk, tag=0x8002)
    with pytest.raises(FormatError, match="another part"):
        Tpm(Canned(public, part)).nv_read(INDEX)


def test_registers_of_another_bank_are_refused() -> None:
    sha1 = struct.pack(">IIHB", 0, 1, 4, 3) + b"\1\0\0" + struct.pack(">I", 1) + struct.pack(">H", 20) + bytes(20)
    none = struct.pack(">IIHB", 0, 1, 11, 3) + b"\0\0\0" + struct.pack(">I", 0)
    for body in (sha1, none):
        with pytest.raises(FormatError, match="SHA-256 bank"):
            Tpm(Canned(response(body))).pcr_values((0,))


def test_registers_that_were_not_asked_for_are_refused() -> None:
    """They would be read again and again."""
    other = struct.pack(">IIHB", 0, 1, 11, 3) + b"\0\1\0" + struct.pack(">IH", 1, 32) + bytes(32)
    with pytest.raises(FormatError, match="SHA-256 bank"):
        Tpm(Canned(response(other))).pcr_values((0,))


@given(st.binary(max_size=80))
def test_any_response_is_an_answer_or_one_of_our_errors(body: bytes) -> None:
    for code in (0, 0x18B):
        tpm = Tpm(Canned(response(body, code)))
        for ask in (
            lambda tpm=tpm: tpm.handles("nv"),
            lambda tpm=tpm: tpm.read_public(AK_HANDLE),
            lambda tpm=tpm: tpm.pcr_values((0,)),
            lambda tpm=tpm: tpm.quote(AK_HANDLE, pcrs=(0,), nonce=b""),
            lambda tpm=tpm: tpm.certify(1, key=AK_HANDLE, nonce=b""),
            lambda tpm=tpm: tpm.create_decryption_key(policy=bytes(32)),
            lambda tpm=tpm: tpm.rsa_decrypt(1, b"", pcrs=(0,)),
        ):
            try:
                ask()
            except StrongroomError:
                continue
