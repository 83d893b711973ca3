import base64
from datetime import UTC, datetime

import pytest

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.log.checkpoint import Checkpoint, sign_checkpoint
from strongroom.log.cosignature import cosign, verify_cosignatures, witness_key
from strongroom.log.merkle import EMPTY_ROOT
from strongroom.log.note import COSIGNATURE, ED25519, NoteKey, key_id, signature_line, verification_key

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LOG = SigningKey.generate("Ed25519")
FIRST, SECOND = SigningKey.generate("Ed25519"), SigningKey.generate("Ed25519")
CHECKPOINT = Checkpoint(origin="log.example", size=7, root=EMPTY_ROOT)
NOTE = sign_checkpoint(CHECKPOINT, key=LOG)


def known(name: str, key: SigningKey) -> NoteKey:
    return witness_key(verification_key(name, key.verifying_key, kind=COSIGNATURE))


ONE, TWO = known("w.example/1", FIRST), known("w.example/2", SECOND)


def by(key: NoteKey, signer: SigningKey, *, now: datetime = NOW, text: str = CHECKPOINT.text) -> str:
    return cosign(text, name=key.name, key=signer, now=now)


def test_names_the_known_witnesses_and_when_they_signed() -> None:
    unknown = cosign(CHECKPOINT.text, name="w.example/3", key=SigningKey.generate("Ed25519"), now=NOW)
    found = verify_cosignatures(NOTE + by(TWO, SECOND) + unknown + by(ONE, FIRST), witnesses=[ONE, TWO])
    assert [(each.witness, each.signed_at) for each in found] == [("w.example/1", NOW), ("w.example/2", NOW)]
    assert verify_cosignatures(NOTE, witnesses=[ONE]) == ()


def test_what_is_signed_is_the_specifications_text() -> None:
    line = by(ONE, FIRST)
    signed = base64.b64decode(line.split(" ")[2])
    message = f"cosignature/v1\ntime {int(NOW.timestamp())}\n{CHECKPOINT.text}".encode()
    assert signed[:4] == key_id(ONE.name, ONE.key, kind=COSIGNATURE)
    assert int.from_bytes(signed[4:12], "big") == int(NOW.timestamp())
    FIRST.verifying_key.verify(message, signed[12:])


def test_refuses_a_cosignature_of_another_text_or_another_key() -> None:
    other = Checkpoint(origin="log.example", size=8, root=EMPTY_ROOT)
    with pytest.raises(VerificationError):
        verify_cosignatures(NOTE + by(ONE, FIRST, text=other.text), witnesses=[ONE])
    forged = FIRST.sign(CHECKPOINT.text.encode())  # a log's signature in the place of a witness's
    line = signature_line(ONE.name, key_id(ONE.name, ONE.key, kind=COSIGNATURE) + bytes(7) + b"\x01" + forged)
    with pytest.raises(VerificationError):
        verify_cosignatures(NOTE + line, witnesses=[ONE])


def test_the_time_is_signed() -> None:
    signed = base64.b64decode(by(ONE, FIRST).split(" ")[2])
    later = (int.from_bytes(signed[4:12], "big") + 1).to_bytes(8, "big")
    with pytest.raises(VerificationError):
        verify_cosignatures(NOTE + signature_line(ONE.name, signed[:4] + later + signed[12:]), witnesses=[ONE])


@pytest.mark.parametrize("seconds", [0, 253_402_300_800, 2**64 - 1])
def test_refuses_a_time_that_is_none(seconds: int) -> None:
    message = f"cosignature/v1\ntime {seconds}\n{CHECKPOINT.text}".encode()
    signed = key_id(ONE.name, ONE.key, kind=COSIGNATURE) + seconds.to_bytes(8, "big") + FIRST.sign(message)
    with pytest.raises(VerificationError, match="no time"):
        verify_cosignatures(NOTE + signature_line(ONE.name, signed), witnesses=[ONE])


def test_one_key_under_two_names_counts_once() -> None:
    again = known("w.example/again", FIRST)
    note = NOTE + by(ONE, FIRST) + by(again, FIRST)
    assert len(verify_cosignatures(note, witnesses=[ONE, again])) == 1


def test_a_witness_that_signed_twice_counts_once_with_its_latest_time() -> None:
    earlier = datetime(2026, 2, 1, tzinfo=UTC)
    (found,) = verify_cosignatures(NOTE + by(ONE, FIRST) + by(ONE, FIRST, now=earlier), witnesses=[ONE])
    assert found.signed_at == NOW


def test_a_logs_key_is_no_witnesss_and_lines_have_one_spelling() -> None:
    with pytest.raises(FormatError):
        witness_key(verification_key("log.example", LOG.verifying_key, kind=ED25519))
    for line in (
        "",
        ONE.name,
        ONE.line + "=",
        ONE.line.replace("+", "+0", 1),
        ONE.line.replace("w.example", "v.example"),
    ):
        with pytest.raises(FormatError):
            witness_key(line)
