"""Backups: they open whole, with the right key, or not at all."""

import io
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.key_service import KeyBench, Tee
from tests.support.postgres import PostgresServer

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import ConflictError, FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import seal_to_recipients
from strongroom.crypto.keys import ReceivingKey
from strongroom.keys.providers.file import open_master_key
from strongroom.keys.store import backup
from strongroom.keys.store.database import SCHEMA
from strongroom.keys.store.databases import open_database

STORE_KEY = SecretBytes(bytes(range(32)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def master_key(folder: Path) -> Any:
    return open_master_key(f"file://{folder}/mek", create=True)


def written(bench: KeyBench, **changed: Any) -> bytes:
    out = io.BytesIO()
    fields: dict[str, Any] = {
        "master_key": master_key(bench.folder),
        "store_key": STORE_KEY,
        "files": {"identity.key": SecretBytes(b"a private key")},
        "recipients": (),
        "made_at": "2026-01-01T00:00:00Z",
        "schema_version": SCHEMA.version,
        **changed,
    }
    backup.write_backup(out, bench.store.database, **fields)
    return out.getvalue()


def opened(content: bytes, **keys: Any) -> tuple[SecretBytes, dict[str, SecretBytes], list[tuple[str, dict[str, Any]]]]:
    found = backup.open_backup(io.BytesIO(content), **{"master_key": None, "recipient": None, **keys})
    return found.store_key, dict(found.files), list(found.rows)


def test_holds_everything_and_nothing_in_the_clear(bench: KeyBench) -> None:
    bench.prepare()
    content = written(bench)
    store_key, files, rows = opened(content, master_key=master_key(bench.folder))
    assert store_key == STORE_KEY
    assert files == {"identity.key": SecretBytes(b"a private key")}
    with bench.store.database.snapshot() as connection:
        for table in bench.store.database.tables():
            (expected,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert len([row for name, row in rows if name == table]) == expected, table
    for secret in (b"trips", b"a private key", STORE_KEY.reveal(), b"chain_states"):
        assert secret not in content


def test_is_written_in_pieces(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.prepare()
    whole = opened(written(bench), master_key=master_key(bench.folder))
    monkeypatch.setattr(backup, "_PIECE_BYTES", 100)
    monkeypatch.setattr(backup, "_ROWS_A_READ", 2)
    assert opened(written(bench), master_key=master_key(bench.folder)) == whole


def test_a_recipient_opens_it_without_the_master_key(bench: KeyBench) -> None:
    recipient = ReceivingKey.generate_p256()
    jwk = {name: recipient.public_jwk[name] for name in ("kty", "crv", "x", "y")}
    content = written(bench, recipients=[jwk])
    assert opened(content, recipient=recipient)[0] == STORE_KEY
    with pytest.raises(IntegrityError):
        opened(content, recipient=ReceivingKey.generate_p256())
    with pytest.raises(IntegrityError, match="cannot be opened"):
        opened(written(bench), recipient=recipient)


def test_another_master_key_does_not_open_it(bench: KeyBench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    with pytest.raises(IntegrityError, match="another master key"):
        opened(written(bench), master_key=master_key(other))


@pytest.mark.parametrize("content", [b"", b"strongroom-backup/2\n" + bytes(100), bytes(range(100))])
def test_refuses_what_is_no_backup(content: bytes) -> None:
    with pytest.raises(FormatError, match="no backup"):
        backup.read_header(io.BytesIO(content))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_change_is_noticed(bench: KeyBench, data: st.DataObject) -> None:
    content, key = written(bench), master_key(bench.folder)
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for changed in (flipped, content[:place], content + b"\0"):
        with pytest.raises((FormatError, IntegrityError)):
            opened(changed, master_key=key)


def test_any_change_around_the_pieces_is_noticed(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what says how long the header and each piece are, and which is the last: every other bit."""
    monkeypatch.setattr(backup, "_PIECE_BYTES", 100)
    content, key = written(bench), master_key(bench.folder)
    places, place = [*range(len(backup._MAGIC) + 4)], len(backup._MAGIC)
    place += 4 + int.from_bytes(content[place : place + 4], "big")
    while place < len(content):
        places += range(place, place + 5)
        place += 5 + int.from_bytes(content[place + 1 : place + 5], "big")
    assert len(places) > len(backup._MAGIC) + 4 + 2 * 5
    for place in places:
        for bit in range(8):
            changed = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
            with pytest.raises((FormatError, IntegrityError)):
                opened(changed, master_key=key)


def made_for(recipient: ReceivingKey, *contents: bytes) -> bytes:
    """Return what somebody who knows a recipient's public key can make for it: pieces that open and hold anything."""
    jwk = {name: recipient.public_jwk[name] for name in ("kty", "crv", "x", "y")}
    header = backup.BackupHeader(
        version=1,
        made_at="2026-01-01T00:00:00Z",
        schema_version=SCHEMA.version,
        checkpoint="",
        wrapped="AAAA",
        sealed=to_b64url(seal_to_recipients(STORE_KEY.reveal(), recipient_jwks=[jwk])),
    ).to_json()
    out = io.BytesIO()
    pieces = backup._Pieces(out, key=STORE_KEY, header=header)
    for content in contents:
        pieces._lines = [content]
        pieces._write(last=content is contents[-1])
    return out.getvalue()


_STORE_KEY = b'{"store_key":"AAAA"}'
_ROW = b'{"table":"datasets","row":{"name":"a"}}'


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [_ROW],
        [b'{"store_key":1}'],
        [b'{"store_key":"="}'],
        [_STORE_KEY, b'{"file":"identity.key","content":"="}'],
        [_STORE_KEY, b'{"file":"identity.key"}'],
        [_STORE_KEY, _ROW, _STORE_KEY],
        [_STORE_KEY, _ROW, b"{"],
        [_STORE_KEY, _ROW, b"[]"],
        *(
            [_STORE_KEY, b'{"table":"datasets","row":{"name":%s}}' % value]
            for value in (b"{}", b"[1]", b"true", b'{"b64":"*"}')
        ),
    ],
    ids=lambda lines: b" ".join(lines).decode() or "nothing",
)
def test_refuses_content_that_is_none_of_a_backups(lines: Sequence[bytes]) -> None:
    recipient = ReceivingKey.generate_p256()
    assert opened(made_for(recipient, b"\n".join([_STORE_KEY, _ROW])), recipient=recipient)[2]
    with pytest.raises(IntegrityError, match="does not hold what a backup holds"):
        opened(made_for(recipient, b"\n".join(lines)), recipient=recipient)


@pytest.mark.parametrize(
    "row",
    [
        b'{"table":"nowhere","row":{"name":"a"}}',
        b'{"table":"strongroom_schema","row":{"version":1}}',
        b'{"table":"datasets","row":{"name) SELECT (1":"a"}}',
    ],
)
def test_writes_into_tables_of_the_stores_own_alone(bench: KeyBench, row: bytes) -> None:
    recipient = ReceivingKey.generate_p256()
    content = io.BytesIO(made_for(recipient, b"\n".join([_STORE_KEY, row])))
    found = backup.open_backup(content, master_key=None, recipient=recipient)
    writer, tables = bench.store.database.writer, bench.store.database.tables()
    writer.begin()
    for table in tables:
        writer.execute(f"DELETE FROM {table}")
    with pytest.raises(IntegrityError, match="a table that is none"):
        backup.write_rows(writer, found, tables=[*tables, "strongroom_schema"])  # PostgreSQL has it
    writer.roll_back()


@pytest.mark.parametrize(
    "compressed",
    [zlib.compress(_STORE_KEY + b"\n" * 3000), zlib.compress(_STORE_KEY)[:-1], b"no stream"],
    ids=["large", "cut off", "no stream"],
)
def test_refuses_a_piece_that_grows_without_end_or_does_not_end(
    compressed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient = ReceivingKey.generate_p256()
    monkeypatch.setattr(backup, "_LARGEST_PIECE", 3000)
    assert opened(made_for(recipient, _STORE_KEY), recipient=recipient)
    with monkeypatch.context() as patch:
        patch.setattr("zlib.compress", lambda _content, **_: compressed)
        content = made_for(recipient, b"")
    with pytest.raises(IntegrityError, match="changed or cut off"):
        opened(content, recipient=recipient)


@pytest.mark.parametrize("length", [0, (1 << 20) + 1])
def test_refuses_a_header_that_is_nothing_or_too_long(length: int) -> None:
    content = backup._MAGIC + length.to_bytes(4, "big") + bytes(length)
    with pytest.raises(IntegrityError, match="changed or cut off"):
        backup.read_header(io.BytesIO(content))


def test_refuses_a_piece_that_is_too_short_or_too_long(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    content, key = written(bench), master_key(bench.folder)
    source = io.BytesIO(content)
    backup.read_header(source)
    with pytest.raises(IntegrityError, match="changed or cut off"):
        opened(content[: source.tell()] + b"\x01\0\0\0\x01x", master_key=key)
    monkeypatch.setattr(backup, "_LARGEST_PIECE", 100)
    with pytest.raises(IntegrityError, match="changed or cut off"):
        opened(content, master_key=key)


def test_pieces_cannot_be_left_out_or_exchanged(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.prepare()
    monkeypatch.setattr(backup, "_PIECE_BYTES", 2000)
    content, key = written(bench), master_key(bench.folder)
    source = io.BytesIO(content)
    backup.read_header(source)
    start, pieces = source.tell(), []
    while flag := source.read(1):
        length = source.read(4)
        pieces.append(flag + length + source.read(int.from_bytes(length, "big")))
    assert len(pieces) > 3
    head = content[:start]
    for changed in (
        [*pieces[:1], *pieces[2:]],
        [pieces[1], pieces[0], *pieces[2:]],
        pieces[:-1],
        [*pieces[:-2], b"\x01" + pieces[-2][1:]],
    ):
        with pytest.raises(IntegrityError):
            opened(head + b"".join(changed), master_key=key)


def test_is_restored_only_into_an_empty_database(bench: KeyBench, tmp_path: Path) -> None:
    bench.prepare()
    content, key = written(bench), master_key(bench.folder)
    found = backup.open_backup(io.BytesIO(content), master_key=key, recipient=None)
    with pytest.raises(ConflictError, match="already"):
        backup.write_rows(bench.store.database.writer, found, tables=bench.store.database.tables())
    database = open_database(tmp_path / "new.db", SCHEMA)
    database.writer.begin()
    backup.write_rows(database.writer, found, tables=database.tables())
    database.writer.commit()
    with database.snapshot() as new, bench.store.database.snapshot() as old:
        for table in database.tables():
            order = ", ".join(database.primary_key(table))
            statement = f"SELECT * FROM {table} ORDER BY {order}"
            assert new.execute(statement).fetchall() == old.execute(statement).fetchall()
    database.close()


@pytest.mark.needs_postgres
def test_a_database_that_counts_rows_goes_on_behind_the_restored_ones(
    bench: KeyBench, postgres: PostgresServer
) -> None:
    bench.prepare()
    bench.open(Tee(), bench.ticket())
    found = backup.open_backup(io.BytesIO(written(bench)), master_key=master_key(bench.folder), recipient=None)
    database = open_database(postgres.new_database(), SCHEMA)
    with database.translated():
        database.writer.begin()
        backup.write_rows(database.writer, found, tables=database.tables())
        database.writer.execute("INSERT INTO runs (run, public, sealed) VALUES (?, ?, ?)", ("a", "{}", b""))
        database.writer.commit()
    database.close()
