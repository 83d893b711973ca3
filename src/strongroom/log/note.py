"""Signed notes: text that ends with one line for each signature.

Source: C2SP signed-note (https://c2sp.org/signed-note), signature type 0x01 (Ed25519).
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey, VerifyingKey

MAX_SIGNATURES: Final = 100
MAX_NOTE_CHARACTERS: Final = 1 << 20
_ED25519: Final = b"\x01"
_KEY_ID_BYTES: Final = 4
_SIGNATURE_PARTS: Final = 3
_DASH: Final = "\N{EM DASH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who claims to have signed, and with what."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedNote:
    """A note as it came; the text MUST be ignored until a trusted key's signature is verified."""

    text: str
    signatures: tuple[NoteSignature, ...]


def key_id(name: str, key: VerifyingKey) -> bytes:
    """Return the four bytes that, together with the name, say which key signed.

    Raises:
        FormatError: Not an Ed25519 key.

    Source: C2SP signed-note, "Ed25519 signatures".
    """
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:_KEY_ID_BYTES]


def verification_key(name: str, key: VerifyingKey) -> str:
    """Return a log's verification key as one line, for other people's tools and trust files.

    Raises:
        FormatError: Not an Ed25519 key.

    Source: C2SP signed-note, "Verification keys".
    """
    return f"{name}+{key_id(name, key).hex()}+{base64.b64encode(_ED25519 + key.raw).decode('ascii')}"


def sign_note(text: str, *, name: str, key: SigningKey) -> str:
    """Return a note: the text with one signature.

    Args:
        text: Ends with a newline; has no other control characters.
        name: The key's name, without spaces and plus signs.
        key: An Ed25519 key.

    Raises:
        FormatError: Text, name or key are not of that form.
    """
    signed = key_id(_checked_name(name), key.verifying_key) + key.sign(_checked_text(text))
    return f"{text}\n{_DASH} {name} {base64.b64encode(signed).decode('ascii')}\n"


def parse_note(note: str) -> UnverifiedNote:
    """Read a note without verifying it.

    Args:
        note: The whole note, at most `MAX_NOTE_CHARACTERS`.

    Returns:
        Text and signatures, in the note's order.

    Raises:
        FormatError: Not a signed note.

    Source: C2SP signed-note, "Format".
    """
    if len(note) > MAX_NOTE_CHARACTERS:
        raise FormatError("the note is too long")
    body, blank, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not blank or lines.pop() or not 1 <= len(lines) <= MAX_SIGNATURES:
        raise FormatError("a note is text, an empty line and signature lines")
    text = body + "\n"
    _checked_text(text)
    return UnverifiedNote(text=text, signatures=tuple(_signature(line) for line in lines))


def verify_note(note: str, *, name: str, key: VerifyingKey) -> str:
    """Check that one key signed a note.

    1. Parse the note.
    2. Keep the signatures with this key's name and id; ignore others, as the specification demands.
    3. There is at least one, and every one of them holds.

    Args:
        note: The whole note.
        name: The trusted key's name.
        key: The trusted Ed25519 key.

    Returns:
        The note's text, which ends with a newline.

    Raises:
        FormatError: Not a signed note, or not an Ed25519 key.
        VerificationError: The key did not sign this text.

    Source: C2SP signed-note, "Signatures".
    """
    unverified = parse_note(note)  # 1
    trusted = (name, key_id(_checked_name(name), key))
    own = [each for each in unverified.signatures if (each.name, each.key_id) == trusted]  # 2
    if not own:  # 3
        raise VerificationError(f"the note is not signed by the known key of {name}")
    for each in own:
        key.verify(unverified.text.encode(), each.signature)
    return unverified.text


def _signature(line: str) -> NoteSignature:
    parts = line.split(" ")
    if len(parts) != _SIGNATURE_PARTS or parts[0] != _DASH:
        raise FormatError("a signature line is a dash, a name and a signature")
    try:
        signed = base64.b64decode(parts[2].encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError("a note's signature is not base64 text") from error
    if base64.b64encode(signed).decode("ascii") != parts[2] or len(signed) <= _KEY_ID_BYTES:
        raise FormatError("a note's signature is not base64 text in its canonical spelling, or too short")
    return NoteSignature(name=_checked_name(parts[1]), key_id=signed[:_KEY_ID_BYTES], signature=signed[_KEY_ID_BYTES:])


def _checked_name(name: str) -> str:
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise FormatError("a key's name has no spaces and no plus signs")
    _encoded(name)
    return name


def _checked_text(text: str) -> bytes:
    if not text.endswith("\n") or any(character < " " and character != "\n" for character in text):
        raise FormatError("a note's text ends with a newline and has no other control characters")
    return _encoded(text)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("a note is UTF-8 text") from error
