"""What the store promises on every database that it can be in."""

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.key_service import KeyBench, Tee, run_of
from tests.support.platform import NOW
from tests.support.postgres import PostgresServer

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.keys.records import DatasetRecord
from strongroom.keys.store import Store, Transaction
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.merkle import leaf_hash, verify_consistency, verify_inclusion
from strongroom.wire.key_service import LogProof

PATIENCE_S = 60


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def place(request: pytest.FixtureRequest) -> str | None:
    """A PostgreSQL URL, or None for SQLite."""
    if request.param == "sqlite":
        return None
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def bench(tmp_path: Path, place: str | None) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path, place=place)
    yield made
    made.store.close()


def checkpoint(bench: KeyBench, note: str) -> Checkpoint:
    key = bench.identity.statement.key.verifying_key
    return parse_and_verify_checkpoint(note, origin=f"strongroom-key-service/{bench.identity.identity}", key=key)


def demand_proven(bench: KeyBench, proof: LogProof) -> None:
    signed = checkpoint(bench, proof.checkpoint)
    verify_inclusion(
        leaf_hash(proof.leaf.encode()),
        index=proof.index,
        size=signed.size,
        proof=[bytes.fromhex(each) for each in proof.path],
        root=signed.root,
    )


@contextmanager
def broken(bench: KeyBench) -> Iterator[None]:
    """Have commits fail meanwhile: there is no room for the journal, or the server says that there is none."""
    if isinstance(bench.place, Path):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        journal = bench.place.with_name(bench.place.name + "-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    with psycopg.connect(bench.place, autocommit=True) as link:
        link.execute(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
        )
        link.execute(
            "CREATE CONSTRAINT TRIGGER broken AFTER INSERT ON leaves DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION fail()"
        )
        yield
        link.execute("DROP TRIGGER broken ON leaves")


def append(store: Store, name: str) -> int:
    with store.transaction() as tx:
        return tx.append_leaf("tried", now=NOW, what={"name": name})


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(PATIENCE_S * 100):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen")


class Group:
    """One transaction that holds the turn, and others that wait for it: they will share one commit."""

    def __init__(self, store: Store, pool: ThreadPoolExecutor) -> None:
        self.store, self.pool = store, pool
        self.go, self.inside = threading.Event(), threading.Event()
        self.first = pool.submit(self._hold)
        assert self.inside.wait(PATIENCE_S)

    def add(self, work: Callable[[], Any]) -> "Future[Any]":
        before = self.store._commits._waiting
        future = self.pool.submit(work)
        wait_until(lambda: self.store._commits._waiting == before + 1)
        return future

    def _hold(self) -> tuple[int, str]:
        with self.store.transaction() as tx:
            position = tx.append_leaf("tried", now=NOW, what={"name": "first"})
            self.inside.set()
            assert self.go.wait(PATIENCE_S)
        return position, self.store.checkpoint()


def test_keeps_everything_over_a_restart(bench: KeyBench) -> None:
    read, _ = bench.prepare()
    driver, ticket = Tee(), bench.ticket()
    release = bench.open(driver, ticket)
    bench.restart()
    with bench.store.reading() as tx:
        assert tx.head("trips") == 1
        assert tx.runs_opened(read) == 1
        assert tx.run(run_of(ticket)).secrets.share == bench.secrets(driver, release).share
        assert len(tx.members(run_of(ticket))) == 1
    assert bench.keys(driver, ticket)["trips"]


def test_a_whole_run_leaves_nothing_for_the_audit(bench: KeyBench) -> None:
    bench.prepare()
    driver, executor, ticket = Tee(), Tee(number=1), bench.ticket()
    write = bench.secrets(driver, bench.open(driver, ticket)).writes["report"]
    bench.join(executor, driver, ticket)
    bench.keys(driver, ticket)
    bench.close(driver, ticket, commits=(bench.commit(write.write_id),))
    with pytest.raises(ConflictError):
        bench.open(Tee(number=1), ticket)
    audited = bench.store.audit()
    assert audited is not None
    assert audited.leaves == len(bench.events())
    assert audited.rows > audited.subjects > 3


def test_a_failed_block_leaves_nothing_and_the_log_goes_on(bench: KeyBench) -> None:
    bench.prepare()
    before = bench.store.checkpoint()

    def fail_halfway() -> None:
        with bench.store.transaction() as tx:
            tx.append_leaf("tried", now=NOW, what={})
            tx.use_nonce("n", expires_at=1 << 40, now=NOW)
            tx.dataset("nothing")

    with pytest.raises(NotFoundError):
        fail_halfway()
    assert bench.store.checkpoint() == before
    with bench.store.transaction() as tx:
        tx.use_nonce("n", expires_at=1 << 40, now=NOW)
    position = append(bench.store, "after")
    demand_proven(bench, bench.store.prove([position])[0])
    bench.restart()
    demand_proven(bench, bench.store.prove([position])[0])


def test_a_refused_row_can_be_logged_in_the_same_transaction(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    with bench.store.transaction() as tx:
        with pytest.raises(ConflictError):
            tx.add_dataset(DatasetRecord(name="trips", created_at="2026-01-01T00:00:00Z", owner="0" * 64))
        position = tx.append_leaf("refused", now=NOW, what={"why": "there is one"})
    demand_proven(bench, bench.store.prove([position])[0])


def test_transactions_that_wait_for_each_other_share_one_commit(bench: KeyBench) -> None:
    with ThreadPoolExecutor(8) as pool:
        group = Group(bench.store, pool)
        before = checkpoint(bench, bench.store.checkpoint()).size
        others = [group.add(lambda number=number: append(bench.store, str(number))) for number in range(5)]
        group.go.set()
        position, note = group.first.result(PATIENCE_S)
        positions = [other.result(PATIENCE_S) for other in others]
    assert sorted([position, *positions]) == list(range(before, before + 6))
    assert checkpoint(bench, note).size == before + 6  # the first one returned only with its group
    for proof in bench.store.prove([position, *positions]):
        demand_proven(bench, proof)


def test_without_groups_each_transaction_is_committed_by_itself(tmp_path: Path, place: str | None) -> None:
    bench = KeyBench(tmp_path, place=place, largest_group=1)
    with ThreadPoolExecutor(4) as pool:
        group = Group(bench.store, pool)
        other = group.add(lambda: append(bench.store, "other"))
        group.go.set()
        position, _ = group.first.result(PATIENCE_S)
        assert other.result(PATIENCE_S) == position + 1
    bench.store.close()


def test_one_failed_block_is_undone_alone(bench: KeyBench) -> None:
    def fail() -> None:
        with bench.store.transaction() as tx:
            tx.append_leaf("tried", now=NOW, what={"name": "undone"})
            raise RefusedError("no")

    with ThreadPoolExecutor(8) as pool:
        group = Group(bench.store, pool)
        failing = [group.add(fail), group.add(fail)]
        succeeding = group.add(lambda: append(bench.store, "other"))
        group.go.set()
        first, _ = group.first.result(PATIENCE_S)
        assert succeeding.result(PATIENCE_S) == first + 1
        for each in failing:
            with pytest.raises(RefusedError):
                each.result(PATIENCE_S)
    with bench.store.reading() as tx:
        names = [parse_json_object(leaf).get("name") for leaf in tx.leaves(first, first + 9)]
    assert names == ["first", "other"]


def test_a_failed_commit_fails_its_whole_group_and_nothing_of_it_stays(bench: KeyBench) -> None:
    append(bench.store, "before")
    before = bench.store.checkpoint()
    with broken(bench), ThreadPoolExecutor(4) as pool:
        group = Group(bench.store, pool)
        other = group.add(lambda: append(bench.store, "other"))
        group.go.set()
        for each in (group.first, other):
            with pytest.raises(ConfigurationError, match="cannot be used"):
                each.result(PATIENCE_S)
    assert bench.store.checkpoint() == before
    position = append(bench.store, "after")
    assert position == checkpoint(bench, before).size
    demand_proven(bench, bench.store.prove([position])[0])
    bench.restart()
    assert checkpoint(bench, bench.store.checkpoint()).size == position + 1


def test_reading_waits_for_no_writer_and_sees_only_what_is_committed(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    with bench.store.transaction() as tx:
        tx.add_dataset(DatasetRecord(name="later", created_at="2026-01-01T00:00:00Z", owner="0" * 64))
        with bench.store.reading() as other:
            assert [each.name for each in other.datasets()] == ["trips"]
    with bench.store.reading() as other:
        assert [each.name for each in other.datasets()] == ["later", "trips"]


def test_a_transaction_that_only_reads_writes_nothing(bench: KeyBench) -> None:
    def write(tx: Transaction) -> None:
        tx.append_leaf("tried", now=NOW, what={})

    with bench.store.reading() as tx, pytest.raises(StrongroomError, match="only reads"):
        write(tx)


def test_a_transaction_within_a_transaction_is_refused(bench: KeyBench) -> None:
    with bench.store.transaction(), pytest.raises(StrongroomError, match="within another"):
        append(bench.store, "inner")
    append(bench.store, "after")


def test_many_threads_leave_one_log(bench: KeyBench) -> None:
    start = checkpoint(bench, bench.store.checkpoint())
    with ThreadPoolExecutor(8) as pool:
        positions = list(pool.map(lambda number: append(bench.store, str(number)), range(64)))
    assert sorted(positions) == list(range(start.size, start.size + 64))
    end = checkpoint(bench, bench.store.checkpoint())
    verify_consistency(
        old_size=start.size,
        old_root=start.root,
        new_size=end.size,
        new_root=end.root,
        proof=bench.store.consistency(start.size, end.size),
    )
    assert bench.store.audit() is not None


def test_a_nonce_is_used_once_whatever_the_clock_says(bench: KeyBench) -> None:
    seconds = int(NOW.timestamp())

    def use(nonce: str, *, expires_at: int) -> None:
        with bench.store.transaction() as tx:
            tx.use_nonce(nonce, expires_at=expires_at, now=NOW)

    use("n", expires_at=seconds + 120)
    with pytest.raises(RefusedError, match="used before"):
        use("n", expires_at=seconds + 120)
    bench.clock.advance(seconds=300)
    with bench.store.transaction() as tx:
        tx.append_leaf("tried", now=bench.clock.now(), what={})
    with pytest.raises(RefusedError, match="expired"):  # the clock is back at NOW, the log knows better
        use("m", expires_at=seconds + 240)


def test_times_in_the_log_never_go_back(bench: KeyBench) -> None:
    bench.clock.advance(seconds=300)
    with bench.store.transaction() as tx:
        tx.append_leaf("tried", now=bench.clock.now(), what={})
        position = tx.append_leaf("tried", now=NOW, what={})
        assert tx.present(NOW) == bench.clock.now()
    with bench.store.reading() as tx:
        assert tx.present(NOW) == bench.clock.now()
        first, second = (parse_json_object(leaf)["time"] for leaf in tx.leaves(position - 1, position + 1))
    assert first == second


def test_newest_keys_are_paged_by_name(bench: KeyBench) -> None:
    for name in ("a", "b", "c"):
        bench.create_dataset(name)
    with bench.store.reading() as tx:
        page = tx.newest_keys(limit=2)
        rest = tx.newest_keys(after=page[-1].record.name, limit=2)
    assert [each.record.name for each in (*page, *rest)] == ["dataset-a", "dataset-b", "dataset-c"]


def test_knows_its_tables_and_their_keys(bench: KeyBench) -> None:
    database = bench.store.database
    assert {"keys", "leaves", "tiles", "chain_links"} <= set(database.tables())
    assert list(database.primary_key("chain_links")) == ["subject", "number"]
    assert list(database.primary_key("keys")) == ["name", "number"]


def test_what_was_deleted_can_be_scrubbed(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.scrub()
    assert bench.store.audit() is not None


def test_an_edited_row_is_noticed(bench: KeyBench) -> None:
    bench.prepare()
    writer = bench.store.database.writer
    writer.begin()
    writer.execute("""UPDATE keys SET public = replace(public, '"enabled":true', '"enabled":false')""")
    writer.commit()
    with pytest.raises(IntegrityError, match="changed"), bench.store.reading() as tx:
        tx.key("dataset-trips")
    with pytest.raises(IntegrityError):
        bench.store.audit()


def test_an_edited_row_is_noticed_though_it_was_read_before(bench: KeyBench) -> None:
    bench.prepare()
    with bench.store.reading() as tx:
        assert tx.dataset("trips").name == "trips"
    writer = bench.store.database.writer
    writer.begin()
    writer.execute("""UPDATE datasets SET public = replace(public, '"name":"trips"', '"name":"other"')""")
    writer.commit()
    with pytest.raises(IntegrityError, match="changed"), bench.store.reading() as tx:
        tx.dataset("trips")


def test_what_a_transaction_writes_it_reads(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    with bench.store.transaction() as tx:
        stored = tx.key("dataset-trips")
        tx.update_key(stored.record.model_copy(update={"enabled": False}), stored.material)
        assert not tx.key("dataset-trips").record.enabled


@pytest.mark.needs_postgres
def test_two_replicas_on_one_database_write_one_log(tmp_path: Path, postgres: PostgresServer) -> None:
    one = KeyBench(tmp_path, place=postgres.new_database())
    other = one.open_store()
    stores = (one.store, other)
    one.prepare()
    with ThreadPoolExecutor(8) as pool:
        positions = list(pool.map(lambda number: append(stores[number % 2], str(number)), range(40)))
    assert len(set(positions)) == 40
    assert one.store.checkpoint() == other.checkpoint()
    with one.store.transaction() as tx:
        tx.use_nonce("n", expires_at=1 << 40, now=NOW)
    with pytest.raises(RefusedError, match="used before"), other.transaction() as tx:
        tx.use_nonce("n", expires_at=1 << 40, now=NOW)
    assert other.audit() is not None
    other.close()
    one.store.close()


@pytest.mark.needs_postgres
def test_connections_that_the_server_ended_are_made_anew(tmp_path: Path, postgres: PostgresServer) -> None:
    bench = KeyBench(tmp_path, place=postgres.new_database())
    append(bench.store, "before")
    assert isinstance(bench.place, str)
    postgres.end_connections(bench.place)
    append(bench.store, "after")
    assert bench.store.audit() is not None
    bench.store.close()


@pytest.mark.needs_postgres
def test_a_connection_lost_within_a_group_fails_the_whole_group(tmp_path: Path, postgres: PostgresServer) -> None:
    bench = KeyBench(tmp_path, place=postgres.new_database())
    append(bench.store, "before")
    before = bench.store.checkpoint()

    def lose() -> None:
        with bench.store.transaction() as tx:
            assert isinstance(bench.place, str)
            postgres.end_connections(bench.place)
            tx.append_leaf("tried", now=NOW, what={})

    with ThreadPoolExecutor(4) as pool:
        group = Group(bench.store, pool)
        other = group.add(lose)
        group.go.set()
        for each in (group.first, other):
            with pytest.raises(UnavailableError):
                each.result(PATIENCE_S)
    assert bench.store.checkpoint() == before
    assert append(bench.store, "after") == checkpoint(bench, before).size
    assert bench.store.audit() is not None
    bench.store.close()


@pytest.mark.needs_postgres
def test_a_server_that_comes_back_is_used_again(tmp_path: Path, postgres: PostgresServer) -> None:
    bench = KeyBench(tmp_path, place=postgres.new_database())
    append(bench.store, "before")
    postgres.stop(mode="immediate")
    with pytest.raises(UnavailableError, match="does not answer"):
        append(bench.store, "lost")
    with pytest.raises(UnavailableError):
        bench.store.checkpoint()
    postgres.start()
    append(bench.store, "after")
    assert bench.store.audit() is not None
    bench.store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@host/db", "holds a password"),
        ("postgresql://me@host/db?password=secret", "holds a password"),
        ("mysql://host/db", "no address of a database"),
    ],
)
def test_refuses_addresses_that_it_must_not_use(tmp_path: Path, url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as refusal:
        KeyBench(tmp_path, place=url)
    assert "secret" not in str(refusal.value)


def test_says_what_to_install_where_the_client_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "strongroom.keys.store.databases.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match="cannot be loaded") as refusal:
        KeyBench(tmp_path, place="postgresql://host/db")
    assert "strongroom[postgres]" in refusal.value.action
