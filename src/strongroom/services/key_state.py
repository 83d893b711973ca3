"""A key service's state as a whole: backed up while the service runs, and restored into an empty place."""

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError, ConflictError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.random import random_id
from strongroom.keys.providers import MasterKey, open_master_key
from strongroom.keys.store.backup import BackupHeader, Opened, open_backup, read_header, write_backup, write_rows
from strongroom.keys.store.database import SCHEMA
from strongroom.keys.store.databases import Database, open_database, open_for_reading
from strongroom.keys.store.master_key import has_store_key, keep_store_key, open_store_key
from strongroom.keys.store.transaction import mark_restoring
from strongroom.services.files import prepare_folder, replace_file
from strongroom.services.identity import open_identity, tls_names
from strongroom.services.key_service import COMMON_NAME, KeyServiceSettings, database_of, open_state

_KEY_FILES: Final = ("identity.key", "identity.pem", "signing.key", "statement.key")
"""What makes a service the same one after a restore."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What was restored: when it was backed up, and the log's size with the entry that records the restore."""

    made_at: str
    log_size: int


def back_up(
    settings: KeyServiceSettings, out: Path, *, recipients: Sequence[Mapping[str, Any]], clock: Clock
) -> BackupHeader:
    """Write an encrypted backup of one moment, whether or not the service runs.

    Args:
        settings: The service's.
        out: A new file; it appears whole or not at all.
        recipients: Whose P-256 keys open it, beside the master key.
        clock: For its date.

    Raises:
        ConfigurationError: The service is attested; the file is there already or cannot be written; there is no state.
        IntegrityError: The state is damaged, or belongs to another master key.
        UnavailableError: The database's server does not answer.
    """
    _demand_owner_operated(settings)
    master_key = open_master_key(settings.master_key, create=False)
    database = open_for_reading(database_of(settings))
    try:
        with database.translated(), database.snapshot() as connection:
            if not has_store_key(connection):
                raise ConfigurationError("the key service has no state yet", action="Start it once before its backup.")
            store_key = open_store_key(connection, master_key)
        with _new_file(out) as file:
            header = write_backup(
                file,
                database,
                master_key=master_key,
                store_key=store_key,
                files={name: _read(Path(settings.state) / name) for name in _KEY_FILES},
                recipients=recipients,
                made_at=to_rfc3339(clock.now()),
                schema_version=SCHEMA.version,
            )
    finally:
        database.close()
    return header


def restore(settings: KeyServiceSettings, source: Path, *, recipient: ReceivingKey | None, clock: Clock) -> Restored:
    """Restore a backup into an empty state folder or database; the log records it.

    1. The backup opens, with the master key or with a recipient's own.
    2. Key files are written where there are none; ones that are there must be the same.
    3. All rows are written in one transaction, with a mark that nothing may be released, the store key wrapped by the
       configured master key.
    4. The store opens as at a start, is audited whole, and the restore is logged in the place of the mark.
    The service releases nothing until an owner says, in a signed statement, that this is meant.

    Raises:
        ConfigurationError: The service is attested; something cannot be read or written.
        ConflictError: There is state already.
        FormatError: Not a backup.
        IntegrityError: The backup is of another key, or it was changed.
        UnavailableError: The database's server does not answer.
    """
    _demand_owner_operated(settings)
    with _open(source) as file:
        header, _ = read_header(file)
    if header.schema_version != SCHEMA.version:
        raise ConfigurationError(
            f"the backup has schema version {header.schema_version}, this program knows {SCHEMA.version}",
            action="Restore it with the program's version that wrote it.",
        )
    folder = Path(settings.state)
    prepare_folder(folder)
    master_key = open_master_key(settings.master_key, create=recipient is not None)
    with _open(source) as file:
        opened = open_backup(file, master_key=master_key, recipient=recipient)  # 1
        for name, content in opened.files.items():  # 2
            _write_key_file(folder, name, content)
        database = open_database(database_of(settings), SCHEMA)
        try:
            _write(database, opened, master_key=master_key)  # 3
        finally:
            database.close()
    identity = open_identity(
        folder, common_name=COMMON_NAME, sans=tls_names(settings.url, settings.names), now=clock.now()
    )
    store = open_state(settings, identity)  # 4
    try:
        store.audit()
        with store.transaction() as tx:
            what: dict[str, Json] = {
                "restore": random_id(),
                "made_at": header.made_at,
                "backup_checkpoint": sha256_hex(header.checkpoint.encode("utf-8")),
            }
            position = tx.append_leaf("restored", now=clock.now(), what=what)
            tx.end_restore()
    finally:
        store.close()
    return Restored(made_at=header.made_at, log_size=position + 1)


def _demand_owner_operated(settings: KeyServiceSettings) -> None:
    """Refuse to take an attested service's keys out of its TEE: a backup's recipients could open everything.

    Raises:
        ConfigurationError: The service is attested.
    """
    if settings.mode == "attested":
        raise ConfigurationError(
            "the state of an attested key service is opened by the measured service alone",
            action="Stop the service, and copy its state folder (and database): everything in it is sealed.",
        )


def _write(database: Database, opened: Opened, *, master_key: MasterKey) -> None:
    writer, tables = database.writer, database.tables()
    with database.translated():
        writer.begin()
        try:
            write_rows(writer, opened, tables=tables)
            keep_store_key(writer, opened.store_key, master_key)
            mark_restoring(writer)
            writer.commit()
        finally:
            writer.roll_back()


def _write_key_file(folder: Path, name: str, content: SecretBytes) -> None:
    if name not in _KEY_FILES:
        raise IntegrityError("the backup holds a file that is none of the service's", action="Restore another backup.")
    path = folder / name
    if not path.exists():
        replace_file(path, content.reveal())
    elif _read(path) != content:
        raise ConflictError(f"{path} is another key than the backup's", action="Restore into an empty state folder.")


@contextlib.contextmanager
def _new_file(out: Path) -> Generator[BinaryIO, None, None]:
    """Write a new file that appears whole or not at all."""
    if out.exists():
        raise ConfigurationError(f"{out} is there already", action="Name a new file.")
    partial = out.with_name(out.name + ".partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.rename(out)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _open(source: Path) -> BinaryIO:
    try:
        return source.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{source} cannot be read: {error.strerror}") from error


def _read(path: Path) -> SecretBytes:
    try:
        return SecretBytes(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
