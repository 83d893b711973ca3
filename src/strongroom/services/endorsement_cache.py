"""Endorsements on disk: renewed from a source in time, used a little longer when it fails, and then no more.

The source need not be trusted: what it gives is verified before it replaces anything, and never goes back behind what
is kept. Files lie in a folder that only its owner can enter, one a document, each replaced as a whole.
"""

import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import Field, model_validator
from typing_extensions import override

from strongroom.attestation.endorsements.documents import DocumentName, DocumentSource, Edition, Entry, Found
from strongroom.attestation.verifier import TrustedRoots
from strongroom.attestation.verifier.endorsements import Standing, verify_document
from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.errors import (
    FormatError,
    Mismatch,
    NotFoundError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.lock import exclusive
from strongroom.services.files import prepare_folder, replace_file
from strongroom.wire.model import Message

_GIVE_UP_S: Final = 60.0
_MAX_RUNNING: Final = 16
_MAX_ENTRY_BYTES: Final = 2 * LIMITS.endorsement_bytes
_log = logging.getLogger(__name__)


class StalenessLimits(Message):
    """For how long documents are used. None is ever used past its own end (`nextUpdate`).

    Certificates stay what they are until they run out: the first two limits are for what the vendors renew.

    Attributes:
        fresh_for_s: After so long its source is asked anew, in seconds.
        usable_for_s: After so long a document that could not be renewed is not used any more, in seconds.
        retry_after_s: How long a source is left alone with a document that it did not renew, in seconds.
        patience_s: How long a caller waits for a slow source while an older document is still usable, in seconds.
        documents: How many documents are kept at most; the oldest chips' certificates go first.
    """

    fresh_for_s: int = Field(default=24 * 3600, ge=1)
    usable_for_s: int = Field(default=7 * 24 * 3600, ge=1)
    retry_after_s: int = Field(default=60, ge=1)
    patience_s: float = Field(default=2.0, ge=0)
    documents: int = Field(default=10_000, ge=16)

    @model_validator(mode="after")
    def _fresh_is_usable(self) -> "StalenessLimits":
        if self.usable_for_s < self.fresh_for_s:
            msg = "usable_for_s is at least fresh_for_s"
            raise ValueError(msg)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A verified document, and when the vendor gave it away."""

    entry: Entry
    standing: Standing
    fetched_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attempt:
    """A renewal that runs."""

    started_s: float
    outcome: "Future[_Kept]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pause:
    """Why a document was not renewed, and until when its source is left alone with it."""

    until: datetime
    error: StrongroomError


class DocumentCache(DocumentSource):
    """Documents of another source, kept on disk. Threads and processes may share the folder.

    Args:
        folder: Made if it is not there; its owner's alone.
        source: Where documents are renewed from; None for what was put into the folder by hand.
        trusted_roots: What documents are verified against before they are kept.
        limits: For how long they are used.
        clock: The time.
        edition: Which of the vendor's evaluations `get` asks for.

    Raises:
        ConfigurationError: The folder cannot be used, or others may enter it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: DocumentSource | None,
        trusted_roots: TrustedRoots,
        limits: StalenessLimits,
        clock: Clock,
        edition: Edition = "standard",
    ) -> None:
        prepare_folder(folder)
        self.edition = edition
        self._folder, self._source, self._roots = folder, source, trusted_roots
        self._limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._known: dict[str, _Kept] = {}
        self._seen: dict[str, tuple[int, int, int] | None] = {}
        self._running: dict[str, _Attempt] = {}
        self._pauses: dict[str, _Pause] = {}

    @override
    def find(self, name: DocumentName) -> Found:
        """Return a document (see `DocumentSource`).

        1. What is fresh is the answer.
        2. Otherwise it is renewed, once for all who ask meanwhile; a source that failed a moment ago is left alone.
        3. If that fails or takes too long, an older document that is still usable is the answer, marked as stale.
        4. Otherwise there is none.

        Raises:
            NotFoundError: The source says that there is none.
            UnavailableError: The source failed, or lied, and nothing that is kept is usable.
        """
        now = self._clock.now()
        kept = self._look_up(name, now)
        if kept is not None and self._is_fresh(kept, now):  # 1.
            return _found(kept)
        usable = kept is not None and self._is_usable(kept, now)
        try:
            renewed = self._renew(name, now, wait_s=self._limits.patience_s if usable else _GIVE_UP_S)  # 2.
        except StrongroomError as error:
            if kept is not None and usable:  # 3.
                return _found(kept, stale=error.message)
            if isinstance(error, NotFoundError):
                raise
            raise UnavailableError(  # 4.
                f"there is no usable {name.key}: {error.message}",
                action=error.action or "Look at the source.",
                mismatches=error.mismatches,
            ) from error
        return self._as_it_stands(renewed)

    def renew(self, name: DocumentName) -> Found:
        """Renew a document now, however fresh it is.

        Raises:
            StrongroomError: Why it could not be renewed; what is kept stays.
        """
        with self._lock:
            self._pauses.pop(name.key, None)
        return self._as_it_stands(self._renew(name, self._clock.now(), wait_s=_GIVE_UP_S))

    # --- how old is too old -------------------------------------------------------------------------------------------

    def _is_usable(self, kept: _Kept, now: datetime, *, within_s: int | None = None) -> bool:
        limit = timedelta(seconds=self._limits.usable_for_s if within_s is None else within_s)
        skew = timedelta(seconds=LIMITS.clock_skew_s)
        if now > kept.standing.next_update or now + skew < kept.fetched_at:  # or the clock was set back
            return False
        return not kept.standing.renewed or now - kept.fetched_at <= limit

    def _is_fresh(self, kept: _Kept, now: datetime) -> bool:
        return self._is_usable(kept, now, within_s=self._limits.fresh_for_s)

    def _as_it_stands(self, kept: _Kept) -> Found:
        """Return what the source just gave, which may itself come from a cache that could not renew it."""
        now = self._clock.now()
        if self._is_fresh(kept, now):
            return _found(kept)
        if self._is_usable(kept, now):
            return _found(kept, stale="its source has nothing newer")
        raise UnavailableError(
            f"there is no usable {kept.entry.name.key}: what its source has is too old",
            action="Look at the source, or raise the limit (usable_for_s).",
        )

    # --- renewal ------------------------------------------------------------------------------------------------------

    def _renew(self, name: DocumentName, now: datetime, *, wait_s: float) -> _Kept:
        with self._lock:
            self._raise_if_paused(name, now)
            attempt = self._running.get(name.key)
            if attempt is None:
                attempt = self._start(name)
        try:
            return attempt.outcome.result(timeout=max(0.0, attempt.started_s + wait_s - time.monotonic()))
        except TimeoutError as error:
            raise UnavailableError("its source is slow", action="Look at the source and the network.") from error

    def _start(self, name: DocumentName) -> _Attempt:
        if len(self._running) >= _MAX_RUNNING:
            raise UnavailableError("too many documents are being fetched", action="Try again in a moment.")
        attempt = self._running[name.key] = _Attempt(started_s=time.monotonic())
        # A daemon: a slow source must not keep the process from ending; what it writes is whole or not there.
        threading.Thread(target=self._run, args=(name, attempt), name=f"renew {name.key}", daemon=True).start()
        return attempt

    def _run(self, name: DocumentName, attempt: _Attempt) -> None:
        try:
            kept = self._take_in(name)
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            known = error if isinstance(error, StrongroomError) else UnavailableError("the document was not renewed")
            _log.warning("%s was not renewed: %s", name.key, known.message, exc_info=known is not error)
            self._end(name, pause=known)
            attempt.outcome.set_exception(known)
        else:
            is_fresh = self._is_fresh(kept, self._clock.now())
            self._end(name, pause=None if is_fresh else UnavailableError("its source has nothing newer"))
            attempt.outcome.set_result(kept)

    def _end(self, name: DocumentName, *, pause: StrongroomError | None) -> None:
        until = self._clock.now() + timedelta(seconds=self._limits.retry_after_s)
        with self._lock:
            self._running.pop(name.key, None)
            self._pauses.pop(name.key, None)
            if pause is not None:
                self._pauses[name.key] = _Pause(until=until, error=pause)
            while len(self._pauses) > self._limits.documents:
                self._pauses.pop(next(iter(self._pauses)))

    def _raise_if_paused(self, name: DocumentName, now: datetime) -> None:
        pause = self._pauses.get(name.key)
        if pause is None:
            return
        if timedelta() < pause.until - now <= timedelta(seconds=self._limits.retry_after_s):
            error = pause.error  # made anew: several threads may raise it
            raise type(error)(error.message, action=error.action, mismatches=error.mismatches)
        del self._pauses[name.key]

    def _take_in(self, name: DocumentName) -> _Kept:
        """Fetch a document, and keep it if it is good.

        1. Ask the source.
        2. Verify that this is the vendor's document of this name, and that it holds now.
        3. Refuse it if it is older than what is kept, or of another root.
        4. Replace the file.

        Raises:
            StrongroomError: One of the steps failed; what is kept stays.
        """
        if self._source is None:
            raise NotFoundError(f"{name.key} is not in the folder, and there is no source", action="Fetch it.")
        found = self._source.find(name)  # 1.
        now = self._clock.now()
        standing = verify_document(name, found.document, trusted_roots=self._roots, now=now)  # 2.
        fetched_at = min(now, max(found.fetched_at, standing.issued_at or found.fetched_at))
        with self._writing():
            for before in (self._read(name), self._known.get(name.key)):
                if before is not None:
                    _demand_not_older(standing, before.standing)  # 3.
                    if before.entry.document == found.document:
                        fetched_at = max(fetched_at, before.fetched_at)
            entry = Entry(name=name, fetched_at=to_rfc3339(fetched_at), document=found.document)
            self._make_room(name)
            replace_file(self._path(name), entry.to_json())  # 4.
        return self._remember(_kept(entry, standing))

    # --- the folder ---------------------------------------------------------------------------------------------------

    def _look_up(self, name: DocumentName, now: datetime) -> _Kept | None:
        kept = self._known.get(name.key)
        if kept is not None and self._is_fresh(kept, now):
            return kept
        # Another process may have renewed it.
        version = _version_of(self._path(name))
        if kept is not None and version == self._seen.get(name.key):
            return kept
        read = self._read(name)
        self._seen[name.key] = version
        if read is None or (kept is not None and read.fetched_at <= kept.fetched_at):
            return kept
        if kept is not None:
            try:
                _demand_not_older(read.standing, kept.standing)
            except VerificationError:
                return kept
        return self._remember(read)

    def _remember(self, kept: _Kept) -> _Kept:
        with self._lock:
            self._known.pop(kept.entry.name.key, None)
            self._known[kept.entry.name.key] = kept
            while len(self._known) > self._limits.documents:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._seen.pop(oldest, None)
        return kept

    def _read(self, name: DocumentName) -> _Kept | None:
        """Return what the folder holds, verified as of when it was fetched; a damaged file is no file."""
        try:
            entry = read_entry(self._path(name))
            if entry is None:
                return None
            if entry.name != name:
                raise FormatError("it is another document")
            fetched_at = datetime.fromisoformat(entry.fetched_at)
            standing = verify_document(name, entry.document, trusted_roots=self._roots, now=fetched_at)
        except StrongroomError as error:
            _log.warning("the kept %s is not used: %s", name.key, error.message)
            return None
        return _kept(entry, standing)

    def _make_room(self, name: DocumentName) -> None:
        if self._path(name).exists():
            return
        files = list(self._folder.glob("*.json"))
        if len(files) < self._limits.documents:
            return
        chips = sorted(self._folder.glob("vcek-*.json"), key=lambda file: file.stat().st_mtime_ns)
        if not chips:
            raise UnavailableError("the cache of endorsements is full", action="Raise the limit (documents).")
        chips[0].unlink(missing_ok=True)

    def _path(self, name: DocumentName) -> Path:
        return self._folder / f"{name.key}.json"

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        """Let one process and thread write at a time."""
        return exclusive(
            self._folder / ".lock",
            failed=lambda error: UnavailableError(
                f"the cache of endorsements cannot be written: {error.strerror}", action="Look at the service's disk."
            ),
        )


def _version_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def read_entry(path: Path) -> Entry | None:
    """Read a kept document; None if there is no such file. Nothing is verified.

    Raises:
        FormatError: Not a kept document.
        UnavailableError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_ENTRY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}", action="Look at the disk.") from error
    if len(content) > _MAX_ENTRY_BYTES:
        raise FormatError(f"{path.name} is too large for a document")
    return Entry.from_json(content)


def read_entries(folder: Path) -> tuple[Entry, ...]:
    """Read all documents that a cache keeps, by name. Nothing is verified.

    Raises:
        NotFoundError: There are none.
        FormatError: A file is not a kept document.
        UnavailableError: One cannot be read.
    """
    entries = tuple(entry for path in sorted(folder.glob("*.json")) if (entry := read_entry(path)) is not None)
    if not entries:
        raise NotFoundError(
            f"there are no endorsements in {folder}", action="Fetch some: strongroom endorsements fetch"
        )
    return entries


def _demand_not_older(new: Standing, before: Standing) -> None:
    """Refuse what goes back behind a document of the same name.

    Raises:
        VerificationError: Another root, a lower number, or an earlier issue.
    """
    if new.root != before.root:
        raise VerificationError("the document ends at another root than the one that is kept")
    mismatches = []
    if new.number < before.number:
        mismatches.append(Mismatch(name="number", expected=f"at least {before.number}", actual=str(new.number)))
    if new.issued_at is not None and before.issued_at is not None and new.issued_at < before.issued_at:
        expected, actual = to_rfc3339(before.issued_at), to_rfc3339(new.issued_at)
        mismatches.append(Mismatch(name="issued at", expected=f"at least {expected}", actual=actual))
    if mismatches:
        raise VerificationError("the document is older than the one that is kept", mismatches=tuple(mismatches))


def _kept(entry: Entry, standing: Standing) -> _Kept:
    return _Kept(entry=entry, standing=standing, fetched_at=datetime.fromisoformat(entry.fetched_at))


def _found(kept: _Kept, *, stale: str | None = None) -> Found:
    return Found(document=kept.entry.document, fetched_at=kept.fetched_at, stale=stale)
