"""Cosignatures: a witness's dated statement that it saw a log at a checkpoint, and nothing that contradicts it.

Source: C2SP tlog-cosignature (https://c2sp.org/tlog-cosignature), "cosignature/v1".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.log.note import (
    COSIGNATURE,
    NoteKey,
    NoteSignature,
    key_id,
    parse_note,
    parse_verification_key,
    signature_line,
)

_HEADER: Final = "cosignature/v1"
_TIME_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_LAST_TIME: Final = 253_402_300_799
"""The last second of the year 9999: what lies beyond has no name as a date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosignature:
    """A cosignature that holds.

    Attributes:
        witness: The witness's name.
        signed_at: When it signed, by its own clock.
    """

    witness: str
    signed_at: datetime


def witness_key(line: str) -> NoteKey:
    """Read a witness's verification key line.

    Raises:
        FormatError: Not such a line, or a log's key.
    """
    found = parse_verification_key(line)
    if found.kind != COSIGNATURE:
        raise FormatError(f"the verification key of {found.name} is a log's, not a witness's")
    return found


def cosign(text: str, *, name: str, key: SigningKey, now: datetime) -> str:
    """Return a cosignature as a note's signature line.

    The caller MUST have checked that the checkpoint extends every earlier one that this key cosigned.

    Args:
        text: A checkpoint's text.
        name: The witness's name.
        key: Its Ed25519 key.
        now: The present time.
    """
    seconds = int(now.timestamp())
    signed = seconds.to_bytes(_TIME_BYTES, "big") + key.sign(_message(text, seconds))
    return signature_line(name, key_id(name, key.verifying_key, kind=COSIGNATURE) + signed)


def verify_cosignatures(note: str, *, witnesses: Iterable[NoteKey]) -> tuple[Cosignature, ...]:
    """Return which of the known witnesses cosigned a checkpoint.

    1. Keep the signatures with the name and key id of a known witness; others are ignored, as the specification says.
    2. Every one of them holds. A witness counts once, and so does a key: what is signed does not hold the name.
    The caller MUST have verified the log's own signature.

    Args:
        note: The signed checkpoint.
        witnesses: The witnesses' keys.

    Returns:
        One for each witness that signed, in the order of `witnesses`.

    Raises:
        FormatError: Not a signed note.
        VerificationError: A signature with a known witness's name and key id does not hold.
    """
    unverified = parse_note(note)
    found: list[Cosignature] = []
    for witness in {each.key.raw: each for each in witnesses}.values():
        named = (witness.name, key_id(witness.name, witness.key, kind=COSIGNATURE))
        own = [each for each in unverified.signatures if (each.name, each.key_id) == named]  # 1
        moments = [_verify(each, unverified.text, witness) for each in own]  # 2
        if moments:
            found.append(Cosignature(witness=witness.name, signed_at=max(moments)))
    return tuple(found)


def _verify(signature: NoteSignature, text: str, witness: NoteKey) -> datetime:
    if len(signature.signature) != _TIME_BYTES + _SIGNATURE_BYTES:
        raise VerificationError(f"the cosignature of {witness.name} has another size")
    seconds = int.from_bytes(signature.signature[:_TIME_BYTES], "big")
    if not 0 < seconds <= _LAST_TIME:
        raise VerificationError(f"the cosignature of {witness.name} names no time")
    witness.key.verify(_message(text, seconds), signature.signature[_TIME_BYTES:])
    return datetime.fromtimestamp(seconds, tz=UTC)


def _message(text: str, seconds: int) -> bytes:
    return f"{_HEADER}\ntime {seconds}\n{text}".encode()
