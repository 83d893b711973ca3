"""Having the log's checkpoints witnessed: asking the witnesses, waiting for them, and what they said at the start.

One thread asks all witnesses at once for the newest checkpoint, round after round; whoever needs a cosigned checkpoint
waits for a round, and not longer than a bound. A witness that does not answer is left out for a while.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from strongroom.base.encoding import Json
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    InconsistentLogError,
    IntegrityError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.workflow import Step
from strongroom.clients.witness import WitnessClient
from strongroom.crypto.keys import VerifyingKey
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.cosignature import verify_cosignatures, witness_key
from strongroom.log.note import NoteKey
from strongroom.log.witness import AddCheckpoint, OtherSizeError
from strongroom.services.files import read_file, replace_file
from strongroom.wire.model import Message, Url

_log = logging.getLogger(__name__)
_ATTEMPTS: Final = 4
_IDLE_S: Final = 2.0
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_REMOVE: Final = (
    "Restore the newest copy of the state folder. If it is the newest, and the witness is wrong, take the witness out "
    "of the configuration: clients pin it, and will be told."
)


class WitnessSettings(Message):
    """A witness of a key service's log.

    Attributes:
        key: Its verification key line (C2SP), which names it.
        url: Where it answers.
        certificate_pem: The only issuer of its TLS certificate that is accepted; None for those this machine trusts.
    """

    key: str
    url: Url
    certificate_pem: str | None = None


class WitnessedLog(Protocol):
    """The log that is witnessed."""

    def checkpoint(self) -> str:
        """Return the newest signed checkpoint."""

    def consistency(self, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """Return a consistency proof."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of one witness.

    Attributes:
        size: The size that it cosigned last, as far as we know.
        failures: How often in a row it did not cosign.
        not_before: Until when it is left out (monotonic time, seconds).
    """

    client: WitnessClient
    size: int = 0
    failures: int = 0
    not_before: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Round:
    """A checkpoint and who cosigned it.

    Attributes:
        lines: The cosignatures by the witness's name.
        ended: Whether everybody who was asked has answered.
    """

    size: int
    note: str
    lines: dict[str, str] = field(default_factory=dict)
    ended: bool = False

    @property
    def cosigned(self) -> str:
        return self.note + "".join(self.lines.values())


class Witnesses:
    """A log's witnesses.

    Args:
        log: The log.
        origin: Its name.
        key: Its public key.
        clients: The witnesses.
        required: How many must have cosigned before a run is opened or closed; 0 for none.
        patience_s: How long an opening or a closing waits for them, in seconds.
        kept: The file that holds the newest cosigned checkpoint.
    """

    def __init__(
        self,
        log: WitnessedLog,
        *,
        origin: str,
        key: VerifyingKey,
        clients: Sequence[WitnessClient],
        required: int,
        patience_s: float,
        kept: Path,
    ) -> None:
        self._log, self._origin, self._key = log, origin, key
        self._known = [_Known(client=client) for client in clients]
        self._required, self._patience_s, self._kept = required, patience_s, kept
        self._changed = threading.Condition()
        self._rounds: list[_Round] = self._read_kept()
        self._wanted = 0
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="witnesses", daemon=True)
        self._pool = ThreadPoolExecutor(max_workers=max(1, len(self._known)), thread_name_prefix="witness")

    @property
    def required(self) -> int:
        """How many must have cosigned before a run is opened or closed."""
        return self._required

    def demand_not_behind(self) -> None:
        """Ask every witness to cosign the log as it is, before anything is released.

        A witness that cosigned more than the log holds, or something else, proves that the database is an older copy or
        was rewritten. One that does not answer proves nothing: with `required` witnesses, openings will wait for them.

        Raises:
            IntegrityError: A witness saw a newer or another log.
        """
        this_round = self._begin()
        for known, fault in self._ask_all(this_round, self._known):
            if isinstance(fault, OtherSizeError | InconsistentLogError):
                raise self._behind(known.client, fault) from fault

    def start(self) -> None:
        """Begin to have checkpoints witnessed in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop doing so."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(self._patience_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for known in self._known:
            known.client.close()

    def demand_working(self) -> None:
        """Refuse what would have to wait for witnesses that do not answer, before anything is recorded.

        Raises:
            UnavailableError: Fewer than the required number cosigned when they were asked last.
        """
        working = sum(known.failures == 0 for known in self._known)
        if working < self._required:
            with self._changed:
                self._wanted += 1  # so that they are asked again at once
                self._changed.notify_all()
            raise self._too_few(working)

    def newest(self) -> str | None:
        """Return the newest checkpoint that a witness cosigned, with all its cosignatures; None if there is none."""
        with self._changed:
            return self._best(0, at_least=1)

    def cosigned(self, size: int) -> str | None:
        """Return a cosigned checkpoint that holds the log's first `size` leaves; wait for it if need be.

        Waits until everybody who was asked has answered, and not longer than the configured patience.

        Returns:
            The signed note; None if no witness cosigned and none is required.

        Raises:
            UnavailableError: Fewer than the required number cosigned in time.
        """
        deadline = time.monotonic() + self._patience_s
        with self._changed:
            self._wanted = max(self._wanted, size)
            self._changed.notify_all()
            while not any(each.ended and each.size >= size for each in self._rounds):
                left = deadline - time.monotonic()
                if left <= 0 or self._ends:
                    break
                self._changed.wait(left)
            found = self._best(size, at_least=max(1, self._required))
        if found is None and self._required:
            raise self._too_few(sum(known.failures == 0 for known in self._known))
        return found

    # --- rounds -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._ends and not self._is_wanted():
                    self._changed.wait(_IDLE_S)
                if self._ends:
                    return
            try:
                self._do_round()
            except StrongroomError as error:  # the store's: it is closing, or damaged; the next round will tell
                _log.warning("the log was not witnessed: %s", error.message)
                time.sleep(_FIRST_PAUSE_S)

    def _is_wanted(self) -> bool:
        return all(each.size < self._wanted for each in self._rounds if each.ended)

    def _do_round(self) -> None:
        now = time.monotonic()
        asked = [known for known in self._known if known.not_before <= now]
        size = parse_and_verify_checkpoint(self._log.checkpoint(), origin=self._origin, key=self._key).size
        newest = self._rounds[-1] if self._rounds else None
        if newest is not None and newest.size == size:
            asked = [known for known in asked if known.client.key.name not in newest.lines]
            if not asked:
                with self._changed:
                    self._wanted = min(self._wanted, size)
                return
        this_round = newest if newest is not None and newest.size == size else self._begin()
        for _ in self._ask_all(this_round, asked):
            pass

    def _begin(self) -> _Round:
        note = self._log.checkpoint()
        size = parse_and_verify_checkpoint(note, origin=self._origin, key=self._key).size
        this_round = _Round(size=size, note=note)
        with self._changed:
            self._rounds = [*self._rounds[-1:], this_round]
        return this_round

    def _ask_all(self, this_round: _Round, asked: Sequence[_Known]) -> Iterable[tuple[_Known, StrongroomError | None]]:
        """Ask several witnesses at once; yield each with why it did not cosign, as they answer."""
        futures = {self._pool.submit(self._ask, known, this_round): known for known in asked}
        for future in as_completed(futures):
            known, answer = futures[future], future.result()
            with self._changed:
                if isinstance(answer, str):
                    known.failures, known.not_before = 0, 0.0
                    this_round.lines[known.client.key.name] = answer
                else:
                    known.failures += 1
                    pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (known.failures - 1))
                    known.not_before = time.monotonic() + pause_s
                    _log.warning("%s. %s", answer.message, answer.action)
                self._changed.notify_all()
            yield known, None if isinstance(answer, str) else answer
        with self._changed:
            this_round.ended = True
            self._changed.notify_all()
        if this_round.lines:
            replace_file(self._kept, this_round.cosigned.encode())

    def _ask(self, known: _Known, this_round: _Round) -> str | StrongroomError:
        """Have one witness cosign; it may have cosigned another size last than we know."""
        try:
            for _ in range(_ATTEMPTS):
                proof = self._log.consistency(known.size, this_round.size) if known.size else ()
                request = AddCheckpoint(old_size=known.size, proof=proof, note=this_round.note)
                try:
                    line = known.client.add_checkpoint(request)
                except OtherSizeError as other:
                    if other.size > this_round.size:
                        return other
                    known.size = other.size
                else:
                    known.size = this_round.size
                    return line
        except StrongroomError as error:
            return error
        return UnavailableError(f"the witness {known.client.key.name} names another size each time")

    # --- what was said ------------------------------------------------------------------------------------------

    def _best(self, size: int, *, at_least: int) -> str | None:
        found = [each for each in self._rounds if each.size >= size and len(each.lines) >= at_least]
        return max(found, key=lambda each: (len(each.lines), each.size)).cosigned if found else None

    def _behind(self, client: WitnessClient, fault: StrongroomError) -> IntegrityError:
        name = client.key.name
        seen = self._newest_seen_by(client)
        ours = parse_and_verify_checkpoint(self._log.checkpoint(), origin=self._origin, key=self._key)
        if seen is not None:
            what = f"shows a checkpoint of this log, signed by its own key, of size {seen.size}"
        elif isinstance(fault, OtherSizeError):
            what = f"says that it cosigned this log at size {fault.size}"
        else:
            what = "says that it cosigned another log under this name"
        return IntegrityError(
            f"the key service's log was rolled back or rewritten: it has size {ours.size}; the witness {name} {what}",
            action=_REMOVE,
            step=Step.RELEASE,
        )

    def _newest_seen_by(self, client: WitnessClient) -> Checkpoint | None:
        """Return the checkpoint that a witness shows as the proof, if it is this log's own word."""
        try:
            note = client.latest(self._origin)
            return parse_and_verify_checkpoint(note, origin=self._origin, key=self._key) if note else None
        except StrongroomError:
            return None

    def _too_few(self, count: int) -> UnavailableError:
        names = ", ".join(known.client.key.name for known in self._known if known.failures)
        return UnavailableError(
            f"{count} of {len(self._known)} witnesses of the key service's log answer, {self._required} are required"
            + (f"; not: {names}" if names else ""),
            action="Try again later, or ask the data owner to look at the witnesses of the key service's log.",
            step=Step.RELEASE,
        )

    def _read_kept(self) -> list[_Round]:
        """Return the newest cosigned checkpoint of an earlier start, if it is still what it was."""
        content = read_file(self._kept)
        if content is None:
            return []
        try:
            note = content.decode()
            checkpoint = parse_and_verify_checkpoint(note, origin=self._origin, key=self._key)
            text, _, signatures = note.rpartition("\n\n")
            lines = [f"{line}\n" for line in signatures.split("\n")[:-1]]
            names = {known.client.key.name: known.client.key for known in self._known}
            verify_cosignatures(note, witnesses=names.values())
            own = f"{text}\n\n" + "".join(line for line in lines if line.split(" ")[1] == self._origin)
            kept = {line.split(" ")[1]: line for line in lines if line.split(" ")[1] in names}
        except (FormatError, VerificationError, UnicodeDecodeError):
            return []
        return [_Round(size=checkpoint.size, note=own, lines=kept, ended=True)]


def open_witnesses(
    settings: Sequence[WitnessSettings],
    log: WitnessedLog,
    *,
    origin: str,
    key: VerifyingKey,
    required: int,
    patience_s: float,
    kept: Path,
) -> Witnesses | None:
    """Return a log's configured witnesses; None if there are none.

    Raises:
        ConfigurationError: A key or certificate cannot be used, a witness stands twice, or too few are named.
    """
    keys = configured_keys(settings, required=required)
    if not settings:
        return None
    clients = [
        WitnessClient(
            each.url, key=keys[each.key], certificate_pem=each.certificate_pem, timeout_s=max(1.0, patience_s / 2)
        )
        for each in settings
    ]
    return Witnesses(log, origin=origin, key=key, clients=clients, required=required, patience_s=patience_s, kept=kept)


def pinned_witnesses(settings: Sequence[WitnessSettings], *, required: int) -> dict[str, Json]:
    """Return what the configuration's digest holds of the witnesses: nothing where there are none.

    Raises:
        ConfigurationError: As `configured_keys`.
    """
    keys = configured_keys(settings, required=required)
    return {"witnesses": sorted(keys), "witnesses_required": required} if keys else {}


def configured_keys(settings: Sequence[WitnessSettings], *, required: int) -> Mapping[str, NoteKey]:
    """Return the witnesses' keys by their lines.

    Raises:
        ConfigurationError: A key cannot be used, a witness or a key is named twice, or more are required than named.
    """
    try:
        keys = {each.key: witness_key(each.key) for each in settings}
    except FormatError as error:
        raise ConfigurationError(f"a witness in the configuration cannot be used: {error.message}") from error
    distinct = ({key.name for key in keys.values()}, {key.key.raw for key in keys.values()})
    if any(len(each) != len(settings) for each in distinct):
        raise ConfigurationError("a witness, or a witness's key, is in the configuration twice")
    if required > len(settings):
        raise ConfigurationError(
            f"{required} witnesses are required, and {len(settings)} are configured",
            action="Configure more witnesses, or lower witnesses_required.",
        )
    return keys
