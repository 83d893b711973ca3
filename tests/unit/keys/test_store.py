"""The store: what it keeps over restarts, what it does together or not at all, and which edits it notices."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

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
from strongroom.log.checkpoint import parse_and_verify_checkpoint
from strongroom.log.merkle import leaf_hash, verify_inclusion


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


def test_keeps_everything_over_a_restart(bench: KeyBench) -> None:
    read, _ = bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    release = bench.open(driver, ticket)
    bench.restart()
    with bench.store.transaction() as tx:
        assert tx.head("trips") == 1
        assert tx.runs_opened(read) == 1
        assert tx.run(run_of(ticket)).secrets.share == bench.secrets(driver, release).share
        assert len(tx.members(run_of(ticket))) == 1
    assert bench.keys(driver, ticket)["trips"]


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


def test_a_failed_transaction_leaves_nothing_and_the_log_goes_on(bench: KeyBench) -> None:
    bench.prepare()
    before = bench.store.checkpoint()

    def fail_halfway() -> None:
        with bench.store.transaction() as tx:
            tx.append_leaf("approved", now=NOW, what={})
            tx.use_nonce("n", expires_at=1 << 40, now=NOW)
            tx.dataset("nothing")

    with pytest.raises(NotFoundError):
        fail_halfway()
    assert bench.store.checkpoint() == before
    with bench.store.transaction() as tx:
        tx.use_nonce("n", expires_at=1 << 40, now=NOW)
        position = tx.append_leaf("approved", now=NOW, what={"approval": "x"})
    proof = bench.store.prove([position])[0]
    key = bench.identity.statement.key.verifying_key
    checkpoint = parse_and_verify_checkpoint(
        proof.checkpoint, origin=f"strongroom-key-service/{bench.identity.identity}", key=key
    )
    verify_inclusion(
        leaf_hash(proof.leaf.encode()),
        index=proof.index,
        size=checkpoint.size,
        proof=[bytes.fromhex(each) for each in proof.path],
        root=checkpoint.root,
    )
    assert checkpoint.size == position + 1
    bench.restart()
    assert bench.store.checkpoint() == proof.checkpoint


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
        "DELETE FROM versions WHERE dataset = 'trips'",
        "DELETE FROM meta WHERE name = 'store-key'",
    ],
)
def test_an_edited_count_of_runs_or_versions_is_noticed_at_the_next_start(bench: KeyBench, statement: str) -> None:
    bench.prepare()
    bench.open(Tee(), bench.ticket())
    edit(bench, statement)
    with pytest.raises(IntegrityError):
        bench.start()


def test_a_run_deleted_from_the_database_is_not_opened_again(bench: KeyBench) -> None:
    bench.prepare(max_runs=5)
    ticket = bench.ticket()
    bench.open(Tee(), ticket)
    edit(bench, "DELETE FROM members")
    edit(bench, "DELETE FROM runs")
    bench.start()
    with pytest.raises(ConflictError, match="used before"):
        bench.open(Tee(number=1), ticket)
    with pytest.raises(IntegrityError):
        bench.keys(Tee(), ticket)


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
