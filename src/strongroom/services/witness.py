"""A witness of logs: `python -m strongroom.services.witness --config FILE`.

It cosigns a log's checkpoint only if that extends the last one which it cosigned, so that a log which shows two people
two histories finds nobody to sign both. It knows nothing of what the leaves say.

Source: C2SP tlog-witness (https://c2sp.org/tlog-witness).
"""

import contextlib
import json
import sqlite3
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import Field
from starlette.applications import Starlette

from strongroom.base.clock import Clock, SystemClock
from strongroom.base.database import Schema, open_database
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    InconsistentLogError,
    IntegrityError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import SigningKey
from strongroom.log.checkpoint import Checkpoint, parse_checkpoint_text
from strongroom.log.cosignature import cosign
from strongroom.log.note import COSIGNATURE, ED25519, NoteKey, parse_note, parse_verification_key, verification_key
from strongroom.log.witness import (
    MAX_REQUEST_BYTES,
    SIZE_TYPE,
    OtherSizeError,
    appraise_checkpoint,
    parse_add_checkpoint,
    unverified_origin,
)
from strongroom.services.errors import Reply, status_of
from strongroom.services.http import (
    TEXT_TYPE,
    Call,
    application,
    endpoint,
    json_reply,
    serve,
    text_reply,
)
from strongroom.services.identity import ServiceIdentity, load_or_make_key, open_identity, tls_names
from strongroom.services.process import run_configured
from strongroom.wire.model import Message, Url

COMMON_NAME: Final = "Strongroom witness"
_UNPROCESSABLE: Final = 422
_SCHEMA: Final = Schema(
    application_id=0x53747277,  # "Strw"
    version=1,
    statements="""
CREATE TABLE logs (origin_hash TEXT PRIMARY KEY, origin TEXT NOT NULL UNIQUE, note TEXT NOT NULL) STRICT;
""",
)


class WitnessSettings(Message):
    """The witness's configuration file (JSON).

    Attributes:
        name: The witness's name in its cosignatures, such as `witness.example/w1`; it stays for the witness's life.
        url: Where logs reach it; its host stands in the TLS certificate.
        host: Address to listen on.
        port: Port to listen on.
        names: Further host names and addresses for the TLS certificate.
        state: The state folder, its owner's alone.
        logs: The verification key lines of the logs that it witnesses; a key's name is the log's origin.
    """

    version: Literal[1] = 1
    name: str = Field(min_length=1, max_length=255)
    url: Url
    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...] = ()
    state: str
    logs: tuple[str, ...] = Field(min_length=1)


class WitnessStore:
    """The last checkpoint of each log that was cosigned. Threads may share it; one decision is taken at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def decision(self) -> Generator["Decision", None, None]:
        """Run a block as one transaction, which is on the disk when it ends.

        Raises:
            UnavailableError: The disk does not take it.
            IntegrityError: The database is damaged.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield Decision(self._connection)
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                raise UnavailableError(
                    f"the witness's database cannot be used: {error}",
                    action="Check that no other witness uses it, and that its disk is writable and not full.",
                ) from error
            except sqlite3.DatabaseError as error:
                raise _damaged(str(error)) from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()


class Decision:
    """The reads and writes of one decision."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def note(self, origin_hash: str) -> str | None:
        """Return the last cosigned checkpoint of a log by the SHA-256 of its origin, or None."""
        row = self._connection.execute("SELECT note FROM logs WHERE origin_hash = ?", (origin_hash,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, origin: str, note: str) -> None:
        """Keep a cosigned checkpoint in the place of the one before."""
        self._connection.execute(
            "INSERT OR REPLACE INTO logs (origin_hash, origin, note) VALUES (?, ?, ?)",
            (sha256_hex(origin.encode()), origin, note),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A witness that is ready to serve.

    Attributes:
        key: Signs the cosignatures.
        logs: The known logs' keys by origin.
    """

    settings: WitnessSettings
    identity: ServiceIdentity
    key: SigningKey
    logs: dict[str, NoteKey]
    store: WitnessStore
    clock: Clock

    @property
    def verification_key(self) -> str:
        """The line by which others know the witness."""
        return verification_key(self.settings.name, self.key.verifying_key, kind=COSIGNATURE)

    def add_checkpoint(self, call: Call) -> Reply:
        """Cosign a checkpoint, if it extends the last one."""
        request = parse_add_checkpoint(call.body)
        log = self.logs.get(unverified_origin(request.note))
        if log is None:
            raise NotFoundError("this witness does not know the log")
        with self.store.decision() as decision:
            latest = decision.note(sha256_hex(log.name.encode()))
            checkpoint = appraise_checkpoint(request, log=log, latest=_checkpoint_of(latest))
            line = cosign(checkpoint.text, name=self.settings.name, key=self.key, now=self.clock.now())
            decision.keep(log.name, _with_only(request.note, log) + line)
        return text_reply(line)

    def checkpoint(self, call: Call) -> Reply:
        """Answer with the last checkpoint of a log that was cosigned, for monitors."""
        with self.store.decision() as decision:
            note = decision.note(call.path["origin"])
        if note is None:
            raise NotFoundError("this witness has cosigned no checkpoint of such a log")
        return text_reply(note)

    def app(self) -> Starlette:
        """Return the ASGI application."""

        def health(_call: Call) -> Reply:
            return json_reply({"status": "ok", "service": "witness", "key": self.verification_key})

        routes = [
            endpoint(
                "/add-checkpoint",
                self.add_checkpoint,
                methods=("POST",),
                errors=witness_error,
                max_body_bytes=MAX_REQUEST_BYTES,
            ),
            endpoint("/{origin}/checkpoint", self.checkpoint, errors=witness_error),
            endpoint("/healthz", health, errors=witness_error),
        ]
        return application(routes, shape_for=lambda _path: witness_error)


def witness_error(error: StrongroomError) -> Reply:
    """Answer with an error as the protocol has it: its status, and the size where sizes differ.

    Source: C2SP tlog-witness, "add-checkpoint".
    """
    if isinstance(error, OtherSizeError):
        return Reply(body=f"{error.size}\n".encode(), content_type=SIZE_TYPE, status=status_of(error))
    status = _UNPROCESSABLE if isinstance(error, InconsistentLogError) else status_of(error)
    return Reply(body=f"{error.message}\n".encode(), content_type=TEXT_TYPE, status=status)


def open_witness(settings: WitnessSettings, *, clock: Clock) -> Witness:
    """Open a witness's state, or make it on the first start.

    Raises:
        ConfigurationError: Something is not set up right, or the key is there and what it cosigned is not.
        IntegrityError: The database is damaged.
    """
    logs = _known_logs(settings.logs)
    folder = Path(settings.state)
    identity = open_identity(
        folder, common_name=COMMON_NAME, sans=tls_names(settings.url, settings.names), now=clock.now()
    )
    key_path, database = folder / "witness.key", folder / "witness.db"
    if key_path.exists() and not database.exists():
        raise ConfigurationError(
            "the witness's key is there, but what it cosigned is not",
            action="Restore witness.db. If it is lost, retire this witness: make a new one with another name and key.",
        )
    store = _open_store(database)
    try:
        key = load_or_make_key(key_path, "Ed25519")
        verification_key(settings.name, key.verifying_key, kind=COSIGNATURE)
    except FormatError as error:
        store.close()
        raise ConfigurationError(f"the witness's name cannot be used: {error.message}") from error
    return Witness(settings=settings, identity=identity, key=key, logs=logs, store=store, clock=clock)


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m strongroom.services.witness --config FILE`."""
    run_configured("witness", argv, _run)


def _run(content: bytes) -> None:
    witness = open_witness(WitnessSettings.from_json(content), clock=SystemClock())
    try:
        _serve(witness)
    finally:
        witness.store.close()


def _serve(witness: Witness) -> None:
    def ready() -> None:
        line = {
            "ready": True,
            "service": "witness",
            "url": witness.settings.url,
            "identity": witness.identity.identity,
            "key": witness.verification_key,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    serve(
        witness.app(),
        host=witness.settings.host,
        port=witness.settings.port,
        certificate_chain_pem=witness.identity.tls_chain_pem,
        key_pem=witness.identity.tls.key.to_pem(),
        ready=ready,
    )


def _known_logs(lines: Sequence[str]) -> dict[str, NoteKey]:
    try:
        keys = [parse_verification_key(line) for line in lines]
    except FormatError as error:
        raise ConfigurationError(f"a log's key in the configuration cannot be used: {error.message}") from error
    if any(key.kind != ED25519 for key in keys) or len({key.name for key in keys}) != len(keys):
        raise ConfigurationError("each log has one key, of type Ed25519, in the configuration")
    return {key.name: key for key in keys}


def _open_store(path: Path) -> WitnessStore:
    try:
        return WitnessStore(open_database(path, _SCHEMA, name="the witness's database"))
    except sqlite3.OperationalError as error:
        raise ConfigurationError(
            f"the witness's database cannot be used: {error}", action="Check that no other witness uses it."
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(str(error)) from error


def _checkpoint_of(note: str | None) -> Checkpoint | None:
    """Return a kept checkpoint; its signatures were verified when it was kept."""
    if note is None:
        return None
    try:
        return parse_checkpoint_text(parse_note(note).text)
    except (FormatError, VerificationError) as error:
        raise _damaged("a checkpoint in it cannot be read") from error


def _with_only(note: str, log: NoteKey) -> str:
    """Return a note with the log's own signatures alone: what others signed was not verified."""
    unverified = parse_note(note)
    _, _, signatures = note.rpartition("\n\n")
    lines = [f"{line}\n" for line in signatures.split("\n")[:-1]]
    own = [line for line, each in zip(lines, unverified.signatures, strict=True) if each.name == log.name]
    return f"{unverified.text}\n{''.join(own)}"


def _damaged(what: str) -> IntegrityError:
    return IntegrityError(
        f"the witness's database is damaged: {what}",
        action="Restore the newest copy; a witness whose state is lost is retired, with its name and key.",
    )


if __name__ == "__main__":
    main()
