"""What a witness is asked, and how it decides: it cosigns a checkpoint only if that extends the last one it cosigned.

Source: C2SP tlog-witness (https://c2sp.org/tlog-witness), "add-checkpoint".
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.base.errors import ConflictError, FormatError, InconsistentLogError, VerificationError
from strongroom.log.checkpoint import Checkpoint, parse_checkpoint_text
from strongroom.log.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from strongroom.log.note import NoteKey, parse_note, verify_note

MAX_PROOF_LINES: Final = 63
MAX_REQUEST_BYTES: Final = 64 << 10
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCheckpoint:
    """A request to cosign.

    Attributes:
        old_size: The size that the witness is believed to have cosigned last; 0 for none.
        proof: The consistency proof from there, 32 bytes each.
        note: The signed checkpoint.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def to_bytes(self) -> bytes:
        """Return the request's body."""
        lines = [f"old {self.old_size}", *(base64.b64encode(node).decode("ascii") for node in self.proof)]
        return ("".join(f"{line}\n" for line in lines) + "\n" + self.note).encode()


class OtherSizeError(ConflictError):
    """The witness cosigned another size last than the request says.

    Attributes:
        size: Which.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the last checkpoint that was cosigned has size {size}")
        self.size = size


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Read a request to cosign.

    Raises:
        FormatError: Not such a request.
    """
    try:
        head, blank, note = body.decode("utf-8").partition("\n\n")
    except UnicodeDecodeError as error:
        raise FormatError("the request is not UTF-8 text") from error
    old, *lines = head.split("\n")
    matched = _OLD.fullmatch(old)
    if not blank or matched is None or len(lines) > MAX_PROOF_LINES:
        raise FormatError("a request is an old size, at most 63 hashes, an empty line and a checkpoint")
    return AddCheckpoint(old_size=int(matched[1]), proof=tuple(map(_hash, lines)), note=note)


def unverified_origin(note: str) -> str:
    """Return the log that a checkpoint claims to be of, only to find its key.

    Raises:
        FormatError: Not a signed note.
    """
    return parse_note(note).text.partition("\n")[0]


def appraise_checkpoint(request: AddCheckpoint, *, log: NoteKey, latest: Checkpoint | None) -> Checkpoint:
    """Decide whether a witness may cosign a checkpoint.

    1. The log's key signed it; signatures of unknown keys are ignored, a false one with the key's name and id refuses.
    2. The old size is not larger than the checkpoint's.
    3. The old size is that of the checkpoint which was cosigned last.
    4. The checkpoint extends that one: same size, same root; otherwise the proof holds.
    The caller MUST keep the checkpoint, and MUST do that and this decision atomically, before it cosigns.

    Args:
        request: What is asked.
        log: The key that the witness knows for this origin.
        latest: The last checkpoint of this log that was cosigned.

    Returns:
        The checkpoint that may be cosigned.

    Raises:
        FormatError: Not a checkpoint, or its old size is too large.
        VerificationError: The log did not sign it.
        OtherSizeError: Another size was cosigned last.
        InconsistentLogError: It does not extend what was cosigned last.

    Source: C2SP tlog-witness, "add-checkpoint".
    """
    checkpoint = parse_checkpoint_text(verify_note(request.note, name=log.name, key=log.key))  # 1
    if checkpoint.origin != log.name:
        raise VerificationError("the checkpoint is another log's")
    if request.old_size > checkpoint.size:  # 2
        raise FormatError("the old size is larger than the checkpoint's")
    known = latest or Checkpoint(origin=checkpoint.origin, size=0, root=EMPTY_ROOT)
    if request.old_size != known.size:  # 3
        raise OtherSizeError(known.size)
    demand_extension(known, checkpoint, request.proof)  # 4
    return checkpoint


def demand_extension(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> None:
    """Check that a log only appended between two checkpoints.

    Raises:
        InconsistentLogError: It did not.
    """
    try:
        verify_consistency(
            old_size=old.size, old_root=old.root, new_size=new.size, new_root=new.root, proof=tuple(proof)
        )
    except VerificationError as error:
        raise InconsistentLogError(
            f"the log {new.origin} at size {new.size} does not extend what it was at size {old.size}",
            action="Do not rely on it: it was forked, rewritten or rolled back. Keep both checkpoints as the proof.",
        ) from error


def _hash(line: str) -> bytes:
    try:
        node = base64.b64decode(line.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError("a hash of the proof is not base64 text") from error
    if len(node) != HASH_BYTES or base64.b64encode(node).decode("ascii") != line:
        raise FormatError("a hash of the proof is not 32 bytes as base64 text")
    return node
