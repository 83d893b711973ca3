"""The store: what it keeps over restarts, what it does together or not at all, and which edits it notices."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, run_of
from tests.support.platform import NOW

from strongroom.base.encoding import from_b64url
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
)
from strongroom.keys.records import VersionRecord


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def edit(bench: KeyBench, statement: str, *values: object) -> None:
    """Change the database behind the service's back."""
    bench.store.close()
    with sqlite3.connect(bench.database) as connection:
        changed = connection.execute(statement, values).rowcount
    connection.close()
    assert changed > 0


def test_holds_no_secret_in_the_clear_and_is_its_owners_alone(bench: KeyBench) -> None:
    bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    secrets = bench.secrets(driver, bench.open(driver, ticket))
    with bench.store.transaction() as tx:
        kek = tx.key("dataset-trips").material.reveal()
    assert stat.S_IMODE(bench.database.stat().st_mode) == 0o600
    files = b"".join(path.read_bytes() for path in bench.database.parent.glob("keys.db*"))
    texts = [secrets.share, secrets.writes["report"].key, bench.trips.key]
    for secret in [kek, *(from_b64url(text) for text in texts)]:
        for form in (secret, secret.hex().encode(), *(text.encode() for text in texts)):
            assert form not in files


def test_swaps_a_datasets_version_only_on_the_base_it_was_made_from(bench: KeyBench) -> None:
    bench.prepare()
    stale = VersionRecord(dataset="trips", number=1, statement="a.b.c")
    with pytest.raises(ConflictError), bench.store.transaction() as tx:
        tx.add_version(stale, base=None)
    skipping = VersionRecord(dataset="trips", number=3, statement="a.b.c")
    with pytest.raises(ConflictError), bench.store.transaction() as tx:
        tx.add_version(skipping, base=1)


def test_forgets_used_nonces_only_after_they_expired(bench: KeyBench) -> None:
    expires_at = int(NOW.timestamp()) + 120
    with bench.store.transaction() as tx:
        tx.use_nonce("n", expires_at=expires_at, now=NOW)
    bench.clock.advance(seconds=120)
    with pytest.raises(RefusedError), bench.store.transaction() as tx:
        tx.use_nonce("n", expires_at=expires_at, now=bench.clock.now())
    bench.clock.advance(seconds=1)
    with bench.store.transaction() as tx:
        tx.use_nonce("n", expires_at=expires_at, now=bench.clock.now())


def test_an_edited_key_is_unusable(bench: KeyBench) -> None:
    bench.prepare()
    edit(bench, "UPDATE keys SET public = replace(public, '\"enabled\":true', '\"enabled\":false')")
    bench.start()
    with pytest.raises(IntegrityError, match="changed"), bench.store.transaction() as tx:
        tx.key("dataset-trips")


def test_a_key_moved_to_another_name_is_unusable(bench: KeyBench) -> None:
    bench.prepare()
    edit(bench, "UPDATE keys SET name = 'dataset-other' WHERE name = 'dataset-trips'")
    bench.start()
    with pytest.raises(IntegrityError), bench.store.transaction() as tx:
        tx.key("dataset-other")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE leaves SET data = replace(data, 'run-opened', 'run-closed') WHERE event = 'run-opened'",
        "DELETE FROM leaves WHERE position = (SELECT max(position) FROM leaves)",
        "DELETE FROM leaves WHERE position = 1",
        "DELETE FROM leaves",
        "DELETE FROM meta WHERE name = 'checkpoint'",
        "UPDATE meta SET value = CAST(replace(value, 'strongroom', 'strangroom') AS BLOB) WHERE name = 'checkpoint'",
        "INSERT INTO leaves (position, data, event) SELECT max(position) + 1, '{}', 'x' FROM leaves",
        "UPDATE tiles SET hashes = zeroblob(32)",
        "UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level > 0",
        "DELETE FROM tiles",
        "DELETE FROM meta WHERE name = 'store-key'",
    ],
)
def test_an_edited_end_of_the_log_is_noticed_at_the_next_start(bench: KeyBench, statement: str) -> None:
    bench.prepare()
    bench.open(Tee(), bench.ticket())
    with bench.store.transaction() as tx:
        for _ in range(40):
            tx.append_leaf("tried", now=NOW, what={})
    edit(bench, statement)
    with pytest.raises(IntegrityError):
        bench.start()


def copy_of(bench: KeyBench, table: str, where: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(bench.database)) as connection:
        return connection.execute(f"SELECT * FROM {table} WHERE {where}").fetchall()


def bring_back(bench: KeyBench, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Put older rows in the place of newer ones, behind the service's back."""
    bench.store.close()
    assert rows
    with closing(sqlite3.connect(bench.database)) as connection, connection:
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)
    bench.start()


def test_an_older_count_of_runs_alone_is_noticed_when_it_is_used(bench: KeyBench) -> None:
    read, _ = bench.prepare(max_runs=5)
    old = copy_of(bench, "chain_states", f"subject = 'approval/{read}'")
    bench.open(Tee(), bench.ticket())
    bring_back(bench, "chain_states", old)
    with pytest.raises(IntegrityError, match="more or other entries"):
        bench.open(Tee(number=1), bench.ticket())


def test_an_older_count_of_runs_without_the_later_links_is_noticed_by_the_audit(bench: KeyBench) -> None:
    read, _ = bench.prepare(max_runs=1)
    old = copy_of(bench, "chain_states", f"subject = 'approval/{read}'")
    bench.open(Tee(), bench.ticket())
    edit(bench, "DELETE FROM chain_links WHERE subject = ? AND number = 1", f"approval/{read}")
    bring_back(bench, "chain_states", old)
    with bench.store.reading() as tx:
        assert tx.runs_opened(read) == 0  # consistent in itself: what the audit is for
    with pytest.raises(IntegrityError, match=f"approval/{read}"):
        bench.store.audit()


def test_a_revocation_taken_back_is_noticed(bench: KeyBench) -> None:
    read, _ = bench.prepare(max_runs=5)
    old = copy_of(bench, "chain_states", f"subject = 'approval/{read}'")
    bench.revoke(read)
    bring_back(bench, "chain_states", old)
    with pytest.raises(IntegrityError), bench.store.reading() as tx:
        tx.is_revoked(read)


def test_the_newest_leaf_about_a_subject_must_be_the_one_that_its_state_counts(bench: KeyBench) -> None:
    read, write = bench.prepare(max_runs=5)
    links = copy_of(bench, "chain_links", f"subject = 'approval/{write}'")
    states = copy_of(bench, "chain_states", f"subject = 'approval/{write}'")
    edit(bench, "DELETE FROM chain_links WHERE subject = ?", f"approval/{read}")
    bring_back(bench, "chain_links", [(f"approval/{read}", *row[1:]) for row in links])
    with pytest.raises(IntegrityError), bench.store.reading() as tx:
        tx.is_revoked(read)
    bring_back(bench, "chain_states", [(f"approval/{read}", *row[1:]) for row in states])
    with pytest.raises(IntegrityError), bench.store.reading() as tx:
        tx.is_revoked(read)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM versions WHERE dataset = 'trips'",
        "DELETE FROM chain_states WHERE subject = 'dataset/trips'",
        "DELETE FROM chain_links WHERE subject = 'dataset/trips'",
    ],
)
def test_a_version_taken_away_is_noticed_when_it_is_used_and_by_the_audit(bench: KeyBench, statement: str) -> None:
    bench.prepare()
    edit(bench, statement)
    bench.start()
    with pytest.raises(IntegrityError), bench.store.reading() as tx:
        tx.head("trips")
    with pytest.raises(IntegrityError):
        bench.store.audit()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM approvals",
        "DELETE FROM members",
        "DELETE FROM runs",
        "DELETE FROM datasets",
        "UPDATE leaves SET number = 7 WHERE number = 0",
        "UPDATE leaves SET run = NULL WHERE number = 0",
        "UPDATE leaves SET event = 'approved' WHERE event = 'run-opened'",
    ],
)
def test_records_and_columns_that_are_not_the_logs_are_noticed_by_the_audit(bench: KeyBench, statement: str) -> None:
    bench.prepare()
    bench.open(Tee(), bench.ticket())
    assert bench.store.audit() is not None
    edit(bench, statement)
    bench.start()
    with pytest.raises(IntegrityError):
        bench.store.audit()


def test_a_leaf_far_from_the_end_is_not_read_at_the_start_but_when_it_is_used_and_by_the_audit(bench: KeyBench) -> None:
    with bench.store.transaction() as tx:
        for number in range(1500):
            tx.append_leaf("tried", now=NOW, what={"try": number})
    edit(bench, "UPDATE leaves SET data = replace(data, '\"try\":7', '\"try\":8') WHERE position = 7")
    bench.start()
    with pytest.raises(IntegrityError):
        bench.store.prove([7])
    with pytest.raises(IntegrityError):
        bench.store.audit()
    assert bench.store.prove([8])


def test_the_leaf_that_a_revocation_rests_on_is_compared_with_the_tree_at_every_use(bench: KeyBench) -> None:
    read, _ = bench.prepare()
    bench.revoke(read)
    with bench.store.transaction() as tx:
        for _ in range(1100):
            tx.append_leaf("tried", now=NOW, what={})
    edit(bench, "UPDATE leaves SET data = replace(data, 'revoked', 'refused') WHERE event = 'revoked'")
    bench.start()
    with pytest.raises(IntegrityError, match="not the one that was logged"), bench.store.reading() as tx:
        tx.is_revoked(read)


def test_the_audit_ends_early_when_the_store_is_closed(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.closed.set()
    assert bench.store.audit() is None


def test_a_run_deleted_from_the_database_is_not_opened_again(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    ticket = bench.ticket()
    bench.open(Tee(), ticket)
    edit(bench, "DELETE FROM members")
    edit(bench, "DELETE FROM runs")
    edit(bench, "DELETE FROM chain_states WHERE subject = ?", f"run/{run_of(ticket)}")
    edit(bench, "DELETE FROM chain_links WHERE subject = ?", f"run/{run_of(ticket)}")
    bench.start()
    with pytest.raises(ConflictError, match="used before"):
        bench.open(Tee(number=1), ticket)
    with pytest.raises(IntegrityError):
        bench.store.audit()


def test_a_member_whose_key_was_replaced_in_the_database_is_noticed(bench: KeyBench) -> None:
    bench.prepare()
    driver, thief, ticket = Tee(), Tee(number=1), bench.ticket()
    bench.open(driver, ticket)
    x, y = (jwk["x"] for jwk in (driver.signing.verifying_key.to_jwk(), thief.signing.verifying_key.to_jwk()))
    edit(bench, "UPDATE members SET public = replace(public, ?, ?)", x, y)
    bench.start()
    with pytest.raises(IntegrityError):
        bench.keys(thief, ticket)


def test_another_process_cannot_use_the_database_meanwhile(bench: KeyBench) -> None:
    bench.prepare()
    with pytest.raises(ConfigurationError, match="cannot be used"):
        bench.open_store()


def test_refuses_a_database_of_another_schema_version(bench: KeyBench) -> None:
    edit_version = "PRAGMA user_version = 99"
    bench.store.close()
    with sqlite3.connect(bench.database) as connection:
        connection.execute(edit_version)
    connection.close()
    with pytest.raises(ConfigurationError, match="schema version 99"):
        bench.open_store()


def test_a_truncated_database_is_refused(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.close()
    os.truncate(bench.database, bench.database.stat().st_size // 2)
    with pytest.raises(IntegrityError, match="damaged") as refusal:
        bench.open_store()
    assert "key-service restore" in refusal.value.action


def test_pages_that_were_overwritten_are_noticed(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.close()
    content = bytearray(bench.database.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    for start in range(page, len(content), page):
        content[start : start + page] = os.urandom(page)
    bench.database.write_bytes(content)
    with pytest.raises(IntegrityError):
        bench.open_store()


def test_a_truncated_journal_loses_only_what_was_not_acknowledged_or_is_refused(bench: KeyBench) -> None:
    bench.prepare()
    journal = bench.database.with_name("keys.db-wal")
    kept, log = bench.database.read_bytes(), journal.read_bytes()
    seen = bench.store.checkpoint()
    bench.store.close()
    bench.database.write_bytes(kept)
    journal.write_bytes(log[: len(log) // 2])
    bench.start()
    with pytest.raises(RefusedError, match="older"):
        bench.store.demand_extends(seen)
    bench.store.close()
    bench.database.write_bytes(kept)
    bench.database.with_name("keys.db-shm").unlink(missing_ok=True)
    journal.write_bytes(log)
    bench.start()
    bench.store.demand_extends(seen)


def test_a_database_that_somebody_else_locked_is_refused_and_works_afterwards(bench: KeyBench) -> None:
    bench.prepare()
    with closing(sqlite3.connect(bench.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ConfigurationError, match="cannot be used"):
            bench.create_dataset("more")
        other.execute("ROLLBACK")
    bench.create_dataset("more")


def test_a_full_disk_is_said_so_releases_nothing_and_is_over_when_there_is_room(bench: KeyBench) -> None:
    bench.prepare(max_runs=1)
    driver, ticket = Tee(), bench.ticket()
    (pages,) = bench.store.database.writer.execute("PRAGMA page_count").fetchone()
    bench.store.database.writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ConfigurationError, match="full") as refusal:
        bench.open(driver, ticket)
    assert "not full" in refusal.value.action
    with bench.store.reading() as tx, pytest.raises(NotFoundError):
        tx.run(run_of(ticket))
    bench.store.database.writer.execute("PRAGMA max_page_count = 1000000")
    assert bench.open(driver, ticket).run == run_of(ticket)
    assert bench.store.audit() is not None


def test_refuses_a_database_that_is_none(bench: KeyBench) -> None:
    bench.store.close()
    bench.database.write_bytes(os.urandom(8192))
    with pytest.raises(IntegrityError, match="damaged"):
        bench.open_store()


def test_refuses_another_master_key(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.close()
    (bench.folder / "mek").write_bytes(os.urandom(32))
    with pytest.raises(IntegrityError, match="another master key"):
        bench.open_store()


def test_does_not_make_a_new_master_key_for_an_old_database(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.close()
    (bench.folder / "mek").unlink()
    with pytest.raises(ConfigurationError):
        bench.open_store()
    assert not (bench.folder / "mek").exists()


def test_a_whole_older_copy_is_noticed_by_a_ticket_that_saw_the_newer_log(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    bench.store.close()
    old = bench.database.read_bytes()
    bench.start()
    bench.open(Tee(), bench.ticket())
    seen = bench.store.checkpoint()
    bench.store.close()
    bench.database.write_bytes(old)
    for leftover in bench.database.parent.glob("keys.db-*"):
        leftover.unlink()
    bench.start()
    with pytest.raises(StrongroomError, match="older"):
        bench.open(Tee(number=1), bench.ticket(checkpoints={bench.identity.identity: seen}))
