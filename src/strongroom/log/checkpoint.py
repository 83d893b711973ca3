"""Checkpoints: a log's signed statement of its size and root.

Source: C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint).
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.log.merkle import HASH_BYTES
from strongroom.log.note import sign_note, verify_note

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_LINES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A log at one size.

    Attributes:
        origin: Which log; also the name of its signing key.
        size: The number of entries.
        root: The Merkle tree's root at that size, 32 bytes.
        extensions: Further lines, which our own logs never have: no monitor can audit them.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note's text."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode("ascii"), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def sign_checkpoint(checkpoint: Checkpoint, *, key: SigningKey) -> str:
    """Return the checkpoint as a note, signed with the log's Ed25519 key.

    The caller MUST never sign two checkpoints of which one does not extend the other.

    Raises:
        FormatError: The origin is no key name, size or root are impossible, or the key is of another kind.
    """
    if checkpoint.extensions or parse_checkpoint_text(checkpoint.text) != checkpoint:
        raise FormatError("the checkpoint has no text form")
    return sign_note(checkpoint.text, name=checkpoint.origin, key=key)


def parse_and_verify_checkpoint(note: str, *, origin: str, key: VerifyingKey) -> Checkpoint:
    """Read a checkpoint that one known log signed.

    1. Verify the note with the log's key.
    2. Read the three lines; extension lines, which no monitor could audit, are refused.
    3. Compare the origin.

    Args:
        note: The signed note.
        origin: The log that it must come from.
        key: That log's Ed25519 key.

    Returns:
        The checkpoint.

    Raises:
        FormatError: Not a checkpoint.
        VerificationError: Not signed by that key, or of another log.

    Source: C2SP tlog-checkpoint, "Note text".
    """
    checkpoint = parse_checkpoint_text(verify_note(note, name=origin, key=key))
    if checkpoint.extensions:
        raise FormatError("a checkpoint is an origin, a size and a root hash")
    if checkpoint.origin != origin:
        raise VerificationError("the checkpoint is another log's")
    return checkpoint


def parse_checkpoint_text(text: str) -> Checkpoint:
    """Read a checkpoint's text, whoever signed it; the caller MUST have verified a signature over it.

    Raises:
        FormatError: Not a checkpoint's text.

    Source: C2SP tlog-checkpoint, "Note text".
    """
    *lines, end = text.split("\n")
    if end or len(lines) < _LINES or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise FormatError("a checkpoint is an origin, a size and a root hash")
    try:
        root = base64.b64decode(lines[2].encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError("a checkpoint's root is not base64 text") from error
    if len(root) != HASH_BYTES or base64.b64encode(root).decode("ascii") != lines[2]:
        raise FormatError("a checkpoint's root is 32 bytes as base64 text")
    return Checkpoint(origin=lines[0], size=int(lines[1]), root=root, extensions=tuple(lines[_LINES:]))
