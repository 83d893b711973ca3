"""The newest checkpoint that a person saw of each key service's log, kept in a file from one command to the next."""

from contextlib import AbstractContextManager
from pathlib import Path

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, StrongroomError
from strongroom.base.lock import exclusive
from strongroom.clients.pinned import ServiceHttp
from strongroom.clients.seen_log import SeenLog, log_key_of
from strongroom.datasets.storage import write_file
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.note import NoteKey
from strongroom.wire.trust import TrustedService


def fetch_checkpoint(service: TrustedService, http: ServiceHttp, *, file: Path) -> str:
    """Return the newest checkpoint of a key service's log, which extends everything that was seen of it.

    Args:
        service: The key service, as it was pinned.
        http: A connection to it.
        file: What was seen; made at the first time.

    Returns:
        The signed note.

    Raises:
        VerificationError: The checkpoint is not signed by the pinned log key.
        InconsistentLogError: It does not extend what was seen: forked, rewritten or rolled back.
        ConfigurationError: The trust file pins no log, or the file cannot be read.
    """
    key = _log_key(service)
    log = SeenLog(http, keep=lambda note: _keep(note, key, file=file))
    seen = _read(file).get(key.name)
    if seen is not None:
        log.observe(_kept_checkpoint(seen, key, file=file))
    return log.fetch(key)


def _log_key(service: TrustedService) -> NoteKey:
    try:
        return log_key_of(service.log_key)
    except FormatError as error:
        raise ConfigurationError(
            "the trust file names no log of the key service", action="write it again with: strongroom up"
        ) from error


def _keep(note: str, key: NoteKey, *, file: Path) -> None:
    with _locked(file):
        seen = _read(file)
        newest = parse_and_verify_checkpoint(note, origin=key.name, key=key.key)
        before = seen.get(key.name)
        if before is None or _kept_checkpoint(before, key, file=file).size < newest.size:
            write_file(file, canonical_json({**seen, key.name: note}))


def _read(file: Path) -> dict[str, str]:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    try:
        seen = parse_json_object(content)
    except FormatError as error:
        raise _damaged(file) from error
    if not all(isinstance(note, str) for note in seen.values()):
        raise _damaged(file)
    return seen


def _kept_checkpoint(note: str, key: NoteKey, *, file: Path) -> Checkpoint:
    try:
        return parse_and_verify_checkpoint(note, origin=key.name, key=key.key)
    except StrongroomError as error:
        raise _damaged(file) from error


def _locked(file: Path) -> AbstractContextManager[None]:
    def failed(error: OSError) -> ConfigurationError:
        return ConfigurationError(f"{file} cannot be written: {error.strerror}")

    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise failed(error) from error
    return exclusive(file.with_name(f".{file.name}.lock"), failed=failed)


def _damaged(file: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{file} is damaged, or keeps what another log signed",
        action="Compare the key service's log with a witness or another person first (`strongroom log verify`); only "
        "then delete the file, which forgets what was seen.",
    )
