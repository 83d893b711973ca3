"""What a client saw of a key service's log: every further checkpoint must extend it, proved by the service itself."""

from collections.abc import Callable
from typing import Final

from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import FormatError, InconsistentLogError, NotFoundError
from strongroom.clients.pinned import ServiceHttp
from strongroom.clients.statements import LOG_NAME
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.merkle import HASH_BYTES
from strongroom.log.note import ED25519, NoteKey, parse_verification_key
from strongroom.log.witness import demand_extension

_PREFIX: Final = "/strongroom/v1/log"
_MAX_HASHES: Final = 64
_ROLLED_BACK: Final = (
    "Use nothing of this key service until its owner explains it: its state was rolled back, or it shows two histories."
)


class SeenLog:
    """One key service's log, as far as one client has seen it.

    Args:
        http: A connection pinned to the key service's identity.
        keep: Called with each checkpoint that is newer than all before: its note.
    """

    def __init__(self, http: ServiceHttp, *, keep: Callable[[str], None] | None = None) -> None:
        self._http = http
        self._keep = keep
        self._newest: Checkpoint | None = None

    def observe(self, checkpoint: Checkpoint, *, note: str | None = None) -> None:
        """Compare a verified checkpoint with the newest one that was seen, and remember the newer of the two.

        Args:
            checkpoint: What the log's own key signed.
            note: The signed note, to be kept.

        Raises:
            InconsistentLogError: One does not extend the other, or the key service cannot prove it.
        """
        seen = self._newest
        if seen is not None and (seen.size, seen.root) != (checkpoint.size, checkpoint.root):
            older, newer = sorted((seen, checkpoint), key=lambda each: each.size)
            demand_extension(older, newer, self._consistency(older.size, newer.size))
        if seen is None or seen.size < checkpoint.size:
            self._newest = checkpoint
            if self._keep is not None and note is not None:
                self._keep(note)

    def fetch(self, key: NoteKey) -> str:
        """Ask for the newest checkpoint, and compare it with what was seen: an older one is refused.

        Returns:
            The signed note.

        Raises:
            VerificationError: The log's key did not sign it.
            InconsistentLogError: It is older than what was seen, or does not extend it.
        """
        note = self._http.request("GET", f"{_PREFIX}/checkpoint").require_success().decode("utf-8", "replace")
        checkpoint = parse_and_verify_checkpoint(note, origin=key.name, key=key.key)
        if self._newest is not None and checkpoint.size < self._newest.size:
            raise InconsistentLogError(
                f"the key service's log has size {checkpoint.size}, and had size {self._newest.size} before",
                action=_ROLLED_BACK,
            )
        self.observe(checkpoint, note=note)
        return note

    def _consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        if old_size in {0, new_size}:
            return ()
        answer = self._http.request("GET", f"{_PREFIX}/consistency?first={old_size}&second={new_size}")
        try:
            path = parse_json_object(answer.require_success()).get("path")
        except NotFoundError as error:
            raise InconsistentLogError(
                f"the key service's log has not reached size {new_size} any more", action=_ROLLED_BACK
            ) from error
        match path:
            case [*hashes] if len(hashes) <= _MAX_HASHES and all(isinstance(each, str) for each in hashes):
                return tuple(from_hex(each, size_bytes=HASH_BYTES) for each in hashes)
            case _:
                raise FormatError("the key service's answer is no consistency proof")


def log_key_of(line: str | None) -> NoteKey:
    """Read the verification key of a key service's log, as trust files have it.

    Raises:
        FormatError: There is none, or it is no log's key.
    """
    found = parse_verification_key(line or "")
    if found.kind != ED25519 or not LOG_NAME.fullmatch(found.name):
        raise FormatError("the trust file's log key is not a key service's")
    return found
