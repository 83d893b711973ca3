import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, sign_checkpoint
from strongroom.log.merkle import EMPTY_ROOT
from strongroom.log.note import sign_note

ORIGIN = "strongroom.example/log"
KEY = SigningKey.generate("Ed25519")


def read(note: str, origin: str = ORIGIN) -> Checkpoint:
    return parse_and_verify_checkpoint(note, origin=origin, key=KEY.verifying_key)


def signed(text: str) -> str:
    return sign_note(text, name=ORIGIN, key=KEY)


def test_text_is_that_of_the_specifications_example() -> None:
    root = base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    checkpoint = Checkpoint(origin="example.com/behind-the-sofa", size=20852163, root=root)
    expected = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert checkpoint.text == expected


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32))
def test_signed_checkpoints_are_read_back(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=root)
    assert read(sign_checkpoint(checkpoint, key=KEY)) == checkpoint


def test_refuses_another_logs_checkpoint() -> None:
    other = sign_checkpoint(Checkpoint(origin="other", size=0, root=EMPTY_ROOT), key=KEY)
    with pytest.raises(VerificationError):
        read(other)
    disguised = sign_note(Checkpoint(origin="other", size=0, root=EMPTY_ROOT).text, name=ORIGIN, key=KEY)
    with pytest.raises(VerificationError):
        read(disguised)


def test_refuses_a_checkpoint_of_another_key() -> None:
    forged = sign_checkpoint(Checkpoint(origin=ORIGIN, size=0, root=EMPTY_ROOT), key=SigningKey.generate("Ed25519"))
    with pytest.raises(VerificationError):
        read(forged)


@pytest.mark.parametrize("size", ["01", "-1", "+1", "1 ", "", "1.0", "1_0", "\u0661", "9" * 20, "0x1"])
def test_refuses_other_spellings_of_the_size(size: str) -> None:
    with pytest.raises(FormatError):
        read(signed(f"{ORIGIN}\n{size}\n{'A' * 43}=\n"))


@pytest.mark.parametrize("root", ["", "AAAA", "A" * 43, "A" * 42 + "B=", "A" * 44, "é" * 44, "-" * 43 + "="])
def test_refuses_other_spellings_of_the_root(root: str) -> None:
    with pytest.raises(FormatError):
        read(signed(f"{ORIGIN}\n1\n{root}\n"))


def test_refuses_extension_lines() -> None:
    with pytest.raises(FormatError):
        read(signed(f"{ORIGIN}\n1\n{'A' * 43}=\nextension\n"))


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint(origin="", size=0, root=EMPTY_ROOT),
        Checkpoint(origin="a b", size=0, root=EMPTY_ROOT),
        Checkpoint(origin="a\nb", size=0, root=EMPTY_ROOT),
        Checkpoint(origin=ORIGIN, size=-1, root=EMPTY_ROOT),
        Checkpoint(origin=ORIGIN, size=1, root=b"short"),
    ],
)
def test_does_not_sign_what_nobody_could_read(checkpoint: Checkpoint) -> None:
    with pytest.raises(FormatError):
        sign_checkpoint(checkpoint, key=KEY)


@given(st.text() | st.builds("{}\n{}\n{}\n".format, st.text(), st.text(), st.text()))
def test_any_signed_text_parses_or_raises_format_error(text: str) -> None:
    try:
        note = signed(text)
    except FormatError:
        return
    with pytest.raises((FormatError, VerificationError)):
        read(note)
