"""Signed notes: text that ends with one line for each signature.

Source: C2SP signed-note (https://c2sp.org/signed-note), signature types 0x01 (Ed25519) and 0x04 (cosignature).
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey, VerifyingKey

MAX_SIGNATURES: Final = 100
MAX_NOTE_CHARACTERS: Final = 1 << 20
ED25519: Final = 0x01
COSIGNATURE: Final = 0x04
"""Signature types: a note's own signature, and a witness's timestamped one (`log.cosignature`)."""
_KEY_ID_BYTES: Final = 4
_SIGNATURE_PARTS: Final = 3
_DASH: Final = "\N{EM DASH}"
_CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NOT_IN_NAMES: Final = re.compile(r"[\s\x00-\x1f+]")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """A key as a verification key line names it.

    Attributes:
        name: The key's name.
        kind: The signature type, `ED25519` or `COSIGNATURE`.
        key: An Ed25519 key.
    """

    name: str
    kind: int
    key: VerifyingKey

    @property
    def line(self) -> str:
        """The verification key line."""
        return verification_key(self.name, self.key, kind=self.kind)


def key_id(name: str, key: VerifyingKey, *, kind: int = ED25519) -> bytes:
    """Return the four bytes that, together with the name, say which key signed.

    Raises:
        FormatError: Not an Ed25519 key.

    Source: C2SP signed-note, "Ed25519 signatures"; C2SP tlog-cosignature, "Format".
    """
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + key.raw).digest()[:_KEY_ID_BYTES]


def verification_key(name: str, key: VerifyingKey, *, kind: int = ED25519) -> str:
    """Return a log's or a witness's verification key as one line, for other people's tools and trust files.

    Raises:
        FormatError: Not an Ed25519 key.

    Source: C2SP signed-note, "Verification keys".
    """
    material = base64.b64encode(bytes([kind]) + key.raw).decode("ascii")
    return f"{_checked_name(name)}+{key_id(name, key, kind=kind).hex()}+{material}"


def parse_verification_key(line: str) -> NoteKey:
    """Read a verification key line.

    Raises:
        FormatError: Not such a line, of an unknown signature type, or its key id is another key's.

    Source: C2SP signed-note, "Verification keys".
    """
    name, _, rest = line.partition("+")
    identifier, _, material = rest.partition("+")
    try:
        decoded = base64.b64decode(material.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError("a verification key is a name, a key id and a key as base64 text") from error
    if not decoded or decoded[0] not in {ED25519, COSIGNATURE}:
        raise FormatError("the verification key is of an unknown type")
    found = NoteKey(name=name, kind=decoded[0], key=VerifyingKey.from_raw_ed25519(decoded[1:]))
    if found.line != line or not identifier:
        raise FormatError("the verification key's id is not its key's")
    return found


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
    return f"{text}\n{signature_line(name, signed)}"


def signature_line(name: str, signed: bytes) -> str:
    """Return a signature as its line of a note: `signed` is the key's id and what the key made."""
    return f"{_DASH} {name} {base64.b64encode(signed).decode('ascii')}\n"


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
    return UnverifiedNote(text=text, signatures=tuple(parse_signature(line) for line in lines))


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


def parse_signature(line: str) -> NoteSignature:
    """Read one signature line, without its newline.

    Raises:
        FormatError: Not a signature line.
    """
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
    if not name or _NOT_IN_NAMES.search(name):
        raise FormatError("a key's name has no spaces and no plus signs")
    _encoded(name)
    return name


def _checked_text(text: str) -> bytes:
    if not text.endswith("\n") or _CONTROL.search(text):
        raise FormatError("a note's text ends with a newline and has no other control characters")
    return _encoded(text)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError("a note is UTF-8 text") from error
