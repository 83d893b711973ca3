"""Encrypted backups of a store: everything at one moment, as a stream that opens whole or not at all.

A backup is a line that says what it is, a header (JSON, with its length before it), and pieces, each with a byte that
says whether it is the last one and its length. The backup's own key is made for it alone, wrapped by the master key in
the header and, where the caller wants it, sealed to recipients of their own (P-256). Each piece is authenticated
together with the header, its place and whether it is the last, so that nothing can be cut off, exchanged or moved. A
piece is JSON lines, compressed: the store key, the service's key files, then the rows of each table.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pydantic import Field

from strongroom.base.encoding import Json, canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import ConflictError, FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead
from strongroom.crypto.jose import open_as_recipient, seal_to_recipients
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.random import random_secret
from strongroom.keys.providers import MasterKey
from strongroom.keys.store.databases import Readable, Writer
from strongroom.wire.model import B64Url, Message, Timestamp

_MAGIC: Final = b"strongroom-backup/1\n"
_KEY_CONTEXT: Final = b"strongroom/1 backup key"
_PIECE_BYTES: Final = 1 << 20
_LARGEST_PIECE: Final = 64 << 20
_LARGEST_HEADER: Final = 1 << 20
_LENGTH_BYTES: Final = 4
_MORE: Final = b"\x00"
_LAST: Final = b"\x01"
_FLAGS: Final = frozenset({_MORE, _LAST})
_ROWS_A_READ: Final = 2000
_OWN_TABLES: Final = frozenset({"strongroom_schema"})
"""Not restored: the database makes them itself."""
_COUNTED: Final = frozenset({"entry"})
"""Columns that the database counts itself, in the order in which rows come."""


class BackupHeader(Message):
    """What stands at the beginning of a backup.

    Attributes:
        wrapped: The backup's key, wrapped by the master key.
        sealed: The same key, sealed to recipients (a JWE, general JSON, base64url); null without any.
        checkpoint: The log's signed checkpoint.
        schema_version: Of the tables.
    """

    version: int = Field(ge=1, le=1)
    made_at: Timestamp
    schema_version: int
    checkpoint: str
    wrapped: B64Url
    sealed: B64Url | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a backup holds beside its rows.

    Attributes:
        store_key: The key of the rows.
        files: The service's key files, by name.
        rows: Table after table.
    """

    store_key: SecretBytes
    files: Mapping[str, SecretBytes]
    rows: Iterator[tuple[str, dict[str, Any]]]


def write_backup(
    out: BinaryIO,
    database: Readable,
    *,
    master_key: MasterKey,
    store_key: SecretBytes,
    files: Mapping[str, SecretBytes],
    recipients: Sequence[Mapping[str, Any]],
    made_at: str,
    schema_version: int,
) -> BackupHeader:
    """Write a backup of one moment, while the service goes on.

    Args:
        out: Where it goes.
        database: What is backed up.
        master_key: Wraps the backup's key.
        store_key: The key of the rows, unwrapped.
        files: The service's key files.
        recipients: P-256 public JWKs whose owners can open it too.
        made_at: The time.
        schema_version: Of the tables.

    Returns:
        What stands at its beginning.

    Raises:
        ConfigurationError: The database cannot be read.
        IntegrityError: It is damaged.
    """
    key = random_secret()
    tables = {name: database.primary_key(name) for name in database.tables() if name not in _OWN_TABLES}
    sealed = seal_to_recipients(key.reveal(), recipient_jwks=recipients) if recipients else None
    with database.translated(), database.snapshot() as connection:
        (note,) = connection.execute("SELECT value FROM meta WHERE name = 'checkpoint'").fetchone()
        header = BackupHeader(
            version=1,
            made_at=made_at,
            schema_version=schema_version,
            checkpoint=bytes(note).decode("utf-8"),
            wrapped=to_b64url(master_key.wrap(key, context=_KEY_CONTEXT)),
            sealed=None if sealed is None else to_b64url(sealed),
        )
        pieces = _Pieces(out, key=key, header=header.to_json())
        pieces.add({"store_key": to_b64url(store_key.reveal())})
        for name, content in files.items():
            pieces.add({"file": name, "content": to_b64url(content.reveal())})
        for table, primary_key in tables.items():
            order, place, values = ", ".join(primary_key), "", ()
            while True:
                cursor = connection.execute(
                    f"SELECT * FROM {table} {place} ORDER BY {order} LIMIT {_ROWS_A_READ}",  # noqa: S608 - our own names
                    values,
                )
                names = [column[0] for column in cursor.description]
                found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
                for row in found:
                    pieces.add({"table": table, "row": {name: _to_json(value) for name, value in row.items()}})
                if len(found) < _ROWS_A_READ:
                    break
                place = f"WHERE ({order}) > ({', '.join('?' * len(primary_key))})"
                values = tuple(found[-1][column] for column in primary_key)
        pieces.end()
    return header


def read_header(source: BinaryIO) -> tuple[BackupHeader, bytes]:
    """Read a backup's beginning; its words are claims until a piece opens.

    Returns:
        The header, and its exact bytes.

    Raises:
        FormatError: Not a backup.
    """
    if source.read(len(_MAGIC)) != _MAGIC:
        raise FormatError("the file is no backup of a key service")
    text = _counted(source, at_most=_LARGEST_HEADER)
    return BackupHeader.from_json(text), text


def open_backup(source: BinaryIO, *, master_key: MasterKey | None, recipient: ReceivingKey | None) -> Opened:
    """Open a backup that stands after its header.

    Args:
        source: The whole file, at its beginning.
        master_key: Opens it, if given.
        recipient: Opens it otherwise.

    Raises:
        FormatError: Not a backup.
        IntegrityError: It is of another master key or recipient, or it was changed or cut off.
    """
    header, text = read_header(source)
    key = _backup_key(header, master_key=master_key, recipient=recipient)
    lines = _lines(source, key=key, header=text)
    match next(lines, None):
        case {"store_key": str(content)}:
            store_key = _secret(content)
        case _:
            raise _malformed()
    files: dict[str, SecretBytes] = {}
    pending: dict[str, Any] | None = None
    for line in lines:
        match line:
            case {"file": str(name), "content": str(content)}:
                files[name] = _secret(content)
            case _:
                pending = line
                break

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        line = pending
        while line is not None:
            match line:
                case {"table": str(table), "row": dict(row)}:
                    yield table, {name: _from_json(value) for name, value in row.items() if name not in _COUNTED}
                case _:
                    raise _malformed()
            line = next(lines, None)

    return Opened(store_key=store_key, files=files, rows=rows())


def write_rows(writer: Writer, opened: Opened, *, tables: Sequence[str]) -> None:
    """Write a backup's rows into an empty database, within its writer's open transaction.

    Raises:
        ConflictError: The database is not empty.
        IntegrityError: The backup was changed, or holds tables that are none.
    """
    if any(
        writer.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608 - names of our own
        for table in tables
        if table not in _OWN_TABLES
    ):
        raise ConflictError(
            "there is a key service's state already",
            action="Restore into an empty state folder or database, and keep the old one until the new one works.",
        )
    known = set(tables) - _OWN_TABLES
    for table, row in opened.rows:
        if table not in known or not all(name.isidentifier() for name in row):
            raise IntegrityError("the backup holds a table that is none", action="Restore another backup.")
        columns, marks = ", ".join(row), ", ".join("?" * len(row))
        writer.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - checked above


def _backup_key(header: BackupHeader, *, master_key: MasterKey | None, recipient: ReceivingKey | None) -> SecretBytes:
    if recipient is not None and header.sealed is not None:
        return SecretBytes(open_as_recipient(from_b64url(header.sealed), key=recipient))
    if master_key is None:
        raise IntegrityError(
            "the backup cannot be opened with that key", action="Use its master key, or a recipient's key."
        )
    try:
        return master_key.unwrap(from_b64url(header.wrapped), context=_KEY_CONTEXT)
    except (IntegrityError, FormatError) as error:
        raise IntegrityError(
            "the backup is of another master key, or was changed",
            action="Configure the master key it was made with, or open it with a recipient's key.",
        ) from error


class _Pieces:
    """Writes lines as encrypted pieces."""

    def __init__(self, out: BinaryIO, *, key: SecretBytes, header: bytes) -> None:
        self._out, self._key = out, key
        self._digest = hashlib.sha256(header).hexdigest()
        self._number = 0
        self._lines: list[bytes] = []
        self._size = 0
        out.write(_MAGIC + len(header).to_bytes(_LENGTH_BYTES, "big") + header)

    def add(self, line: Mapping[str, Json]) -> None:
        text = json.dumps(line, separators=(",", ":")).encode("utf-8")
        self._lines.append(text)
        self._size += len(text)
        if self._size >= _PIECE_BYTES:
            self._write(last=False)

    def end(self) -> None:
        self._write(last=True)

    def _write(self, *, last: bool) -> None:
        content = zlib.compress(b"\n".join(self._lines), level=1)
        context = _piece_context(self._digest, number=self._number, last=last)
        sealed = aead.encrypt(self._key, content, context=context)
        self._out.write((_LAST if last else _MORE) + len(sealed).to_bytes(_LENGTH_BYTES, "big") + sealed)
        self._number += 1
        self._lines, self._size = [], 0


def _lines(source: BinaryIO, *, key: SecretBytes, header: bytes) -> Iterator[dict[str, Any]]:
    digest, number, last = hashlib.sha256(header).hexdigest(), 0, False
    while not last:
        flag = source.read(1)
        if flag not in _FLAGS:
            raise _changed()
        last = flag == _LAST
        sealed = _counted(source, at_most=_LARGEST_PIECE)
        try:
            content = aead.decrypt(key, sealed, context=_piece_context(digest, number=number, last=last)).reveal()
            lines = _decompressed(content).split(b"\n")
        except (IntegrityError, FormatError, zlib.error) as error:
            raise IntegrityError(
                "the backup was changed or cut off, or the key is another one", action="Restore another copy of it."
            ) from error
        number += 1
        for line in filter(None, lines):
            yield _line(line)
    if source.read(1):
        raise IntegrityError("the backup has something after its end", action="Restore another copy of it.")


def _decompressed(content: bytes) -> bytes:
    """Return a piece's lines. Whoever knows a recipient's public key can make a backup for it: sizes are bounded."""
    stream = zlib.decompressobj()
    lines = stream.decompress(content, _LARGEST_PIECE)
    if not stream.eof:  # there is more than that, or something is missing
        raise _malformed()
    return lines


def _line(text: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(text)
    except FormatError as error:
        raise _malformed() from error


def _secret(text: str) -> SecretBytes:
    try:
        return SecretBytes(from_b64url(text))
    except FormatError as error:
        raise _malformed() from error


def _malformed() -> IntegrityError:
    return IntegrityError("the backup does not hold what a backup holds", action="Restore another copy of it.")


def _counted(source: BinaryIO, *, at_most: int) -> bytes:
    """Read a length and exactly so many bytes: a longer length at the end of the file would be a change unnoticed."""
    length = int.from_bytes(source.read(_LENGTH_BYTES), "big")
    if not 0 < length <= at_most or len(content := source.read(length)) != length:
        raise _changed()
    return content


def _changed() -> IntegrityError:
    return IntegrityError("the backup was changed or cut off", action="Restore another copy of it.")


def _piece_context(digest: str, *, number: int, last: bool) -> bytes:
    return canonical_json({"backup": digest, "piece": number, "last": last})


def _to_json(value: Any) -> Json:  # noqa: ANN401 - a database value
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b64": base64.b64encode(bytes(value)).decode("ascii")}
    return value  # type: ignore[no-any-return]


def _from_json(value: Any) -> Any:  # noqa: ANN401 - a database value
    match value:
        case {"b64": str(text)}:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError as error:
                raise _malformed() from error
        case dict() | list() | bool():
            raise _malformed()
        case _:
            return value
