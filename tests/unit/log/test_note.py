import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.log.note import key_id, parse_note, sign_note, verify_note

# The key and note of Go's own tests (golang.org/x/mod/sumdb/note, note_test.go).
NAME = "PeterNeumann"
SIGNING = SigningKey(
    Ed25519PrivateKey.from_private_bytes(base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:])
)
VERIFYING = VerifyingKey.from_raw_ed25519(base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:])
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
ENOCH_NAME = "EnochRoot"
ENOCH_KEY = VerifyingKey.from_raw_ed25519(base64.b64decode("ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop")[1:])
ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
NOTE = f"{TEXT}\n{PETER}"


def test_published_key_id() -> None:
    assert key_id(NAME, VERIFYING).hex() == "c74f20a3"
    assert key_id(ENOCH_NAME, ENOCH_KEY).hex() == "af0cfe78"


def test_signs_the_published_note_byte_for_byte() -> None:
    assert sign_note(TEXT, name=NAME, key=SIGNING) == NOTE


def test_verifies_the_published_notes() -> None:
    assert verify_note(NOTE, name=NAME, key=VERIFYING) == TEXT
    assert verify_note(NOTE + ENOCH, name=ENOCH_NAME, key=ENOCH_KEY) == TEXT
    assert verify_note(NOTE + ENOCH, name=NAME, key=VERIFYING) == TEXT


def test_text_may_have_empty_lines() -> None:
    text = "a\n\nb\n\n"
    assert verify_note(sign_note(text, name=NAME, key=SIGNING), name=NAME, key=VERIFYING) == text


@pytest.mark.parametrize(
    "note",
    [
        f"{TEXT}\n{ENOCH}",
        NOTE.replace("PeterNeumann", "CarmenSandiego"),
        NOTE.replace("x08g", "xxxx"),
        NOTE.replace("cryptography", "cryptographY"),
        NOTE.replace("\n\n", "\nmore\n\n"),
        NOTE.replace("x08go/ZJ", "x08go/ZK"),
        NOTE + PETER.replace("x08go/ZJ", "x08go/ZK"),
    ],
)
def test_refuses_notes_that_the_known_key_did_not_sign(note: str) -> None:
    with pytest.raises(VerificationError):
        verify_note(note, name=NAME, key=VERIFYING)


def test_refuses_another_key_of_the_same_name() -> None:
    with pytest.raises(VerificationError):
        verify_note(NOTE, name=NAME, key=ENOCH_KEY)


@pytest.mark.parametrize(
    "note",
    [
        "",
        TEXT,
        TEXT + "\n",
        NOTE[:-1],
        "\x01" + NOTE,
        NOTE.replace("\n", "\r\n"),
        "\ud800" + NOTE,
        f"{TEXT}\n— Bad Name {PETER.split(' ')[2]}",
        f"{TEXT}\n—  {PETER.split(' ')[2]}",
        f"{TEXT}\n— a+b {PETER.split(' ')[2]}",
        NOTE + "Unexpected line.\n",
        NOTE.replace("—", "-"),
        NOTE.replace("BwJnAM=", "BwJnAM"),
        NOTE.replace("BwJnAM=", "BwJnAN="),
        NOTE.replace("x08go/", "x08go_"),
        f"{TEXT}\n— {NAME} AAAA\n",
        TEXT + "\n" + PETER * 101,
        "x" * (1 << 20) + NOTE,
        f"\n{PETER}"[1:],
    ],
)
def test_refuses_malformed_notes(note: str) -> None:
    with pytest.raises(FormatError):
        verify_note(note, name=NAME, key=VERIFYING)


def test_accepts_many_signatures() -> None:
    assert len(parse_note(TEXT + "\n" + PETER * 100).signatures) == 100


@pytest.mark.parametrize(
    ("text", "name"), [("no newline", NAME), ("tab\t\n", NAME), (TEXT, ""), (TEXT, "a b"), (TEXT, "a+b"), (TEXT, "a\n")]
)
def test_does_not_sign_what_is_no_note(text: str, name: str) -> None:
    with pytest.raises(FormatError):
        sign_note(text, name=name, key=SIGNING)


def test_only_ed25519_signs_notes() -> None:
    with pytest.raises(FormatError):
        sign_note(TEXT, name=NAME, key=SigningKey.generate("ES256"))


@given(st.text() | st.builds(f"{TEXT}\n— {{}} {{}}\n".format, st.text(), st.text()) | st.text().map(NOTE.__add__))
def test_any_text_parses_or_raises_format_error(note: str) -> None:
    with contextlib.suppress(FormatError):
        parse_note(note)


@given(st.integers(0, len(NOTE) - 1), st.characters(codec="utf-8"))
def test_no_edited_note_verifies(position: int, character: str) -> None:
    edited = NOTE[:position] + character + NOTE[position + 1 :]
    if edited != NOTE:
        with pytest.raises((VerificationError, FormatError)):
            verify_note(edited, name=NAME, key=VERIFYING)
