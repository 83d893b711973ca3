"""Who joined a run: remembered, so that each join reads only the members that came since the last one."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, run_of
from tests.support.platform import NOW

from strongroom.base.errors import IntegrityError, RefusedError, StrongroomError
from strongroom.keys.joined import Joined, JoinedRuns
from strongroom.keys.records import MemberRecord
from strongroom.keys.store import Transaction


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    made.prepare(max_runs=10)
    yield made
    made.store.close()


@pytest.fixture
def opened(bench: KeyBench) -> tuple[Tee, str]:
    """A run's driver and its ticket."""
    driver, ticket = Tee(), bench.ticket(max_executors=10)
    bench.open(driver, ticket)
    return driver, ticket


def read(bench: KeyBench, ticket: str, *, memory: JoinedRuns | None = None) -> Joined:
    with bench.store.reading() as tx:
        return (memory or bench.desk.joined).read(tx, run_of(ticket))


def keys_of(tee: Tee) -> tuple[str, str]:
    return tee.tee_key, tee.thumbprint


def change(bench: KeyBench, statement: str, *values: object) -> None:
    """Change the database behind the running service's back."""
    connection = sqlite3.connect(bench.database)
    with connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def test_remembered_is_what_is_read_anew(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    driver, ticket = opened
    tees = [driver]
    for number in (1, 2, 3):
        tees.append(Tee(number=number))
        bench.join(tees[-1], driver, ticket)
        for joined in (read(bench, ticket), read(bench, ticket, memory=JoinedRuns())):
            assert joined.count == number + 1
            assert all(joined.has_key(key) for tee in tees for key in keys_of(tee))
            assert not any(joined.has_key(key) for key in keys_of(Tee(number=4)))


def test_a_tee_joins_once_however_many_came_since(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    driver, ticket = opened
    first = Tee(number=1)
    for tee in (first, Tee(number=2), Tee(number=3)):
        bench.join(tee, driver, ticket)

    for again in (first, Tee(number=1), Tee(number=4, signing=first.signing), Tee(number=0)):
        with pytest.raises(RefusedError) as refusal:
            bench.join(again, driver, ticket)
        assert {mismatch.name for mismatch in refusal.value.mismatches} == {"member"}
    assert read(bench, ticket).count == 4


def test_who_is_a_member_of_one_run_is_none_of_another(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    driver, ticket = opened
    executor, other = Tee(number=1), bench.ticket()
    bench.join(executor, driver, ticket)
    bench.open(driver, other)
    bench.join(executor, driver, other)

    assert [read(bench, each).count for each in (ticket, other)] == [2, 2]


def test_who_came_after_a_moment_is_none_of_that_moments_members(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    driver, ticket = opened
    before, executor = read(bench, ticket), Tee(number=1)
    bench.join(executor, driver, ticket)
    read(bench, ticket)

    assert before.count == 1
    assert not before.has_key(executor.tee_key)


def test_what_was_undone_is_forgotten(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    """A commit may fail after another transaction of its group has read what it would have kept."""
    driver, ticket = opened
    undone, kept = Tee(number=1), Tee(number=2)

    def add(tx: Transaction, tee: Tee) -> None:
        fields: dict[str, Any] = {
            "number": 1,
            "tee_key": tee.tee_key,
            "signing_key": tee.signing.verifying_key.to_jwk(),
        }
        first = tx.member(run_of(ticket), 0)
        assert isinstance(first, MemberRecord)
        tx.add_member(first.model_copy(update=fields))
        tx.append_run_leaf("member-joined", run=run_of(ticket), now=NOW, what={"executors": {}})

    def add_and_fail() -> None:
        with bench.store.transaction() as tx:
            add(tx, undone)
            assert bench.desk.joined.read(tx, run_of(ticket)).has_key(undone.tee_key)
            raise StrongroomError("the disk is full")

    with pytest.raises(StrongroomError, match="the disk is full"):
        add_and_fail()
    with bench.store.transaction() as tx:  # as another process would, which shares the database
        add(tx, kept)

    joined = read(bench, ticket)
    assert joined.count == 2
    assert joined.has_key(kept.tee_key)
    assert not joined.has_key(undone.tee_key)
    bench.join(undone, driver, ticket)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM members WHERE number = 1",
        "DELETE FROM members WHERE number = 2",
        "UPDATE members SET public = replace(public, '\"executor\"', '\"driver\"') WHERE number = 2",
        "UPDATE members SET number = 7 WHERE number = 2",
    ],
)
def test_members_that_are_gone_or_were_edited_stop_the_next_join(
    bench: KeyBench, opened: tuple[Tee, str], statement: str
) -> None:
    driver, ticket = opened
    for number in (1, 2):
        bench.join(Tee(number=number), driver, ticket)
    read(bench, ticket)
    change(bench, statement)

    with pytest.raises(IntegrityError, match="changed by something else"):
        bench.join(Tee(number=3), driver, ticket)


def test_a_join_reads_only_who_came_since(bench: KeyBench, opened: tuple[Tee, str]) -> None:
    """The row of an old member is not read for it; whoever reads that one is told that it was edited."""
    driver, ticket = opened
    for number in (1, 2):
        bench.join(Tee(number=number), driver, ticket)
    read(bench, ticket)
    change(bench, "UPDATE members SET public = '{}' WHERE number = 1")

    bench.join(Tee(number=3), driver, ticket)
    with pytest.raises(IntegrityError, match="an entry in members is not what was stored"):
        bench.record(driver, ticket)
    with pytest.raises(IntegrityError, match="an entry in members is not what was stored"):
        read(bench, ticket, memory=JoinedRuns())


@pytest.mark.parametrize("bounds", [{"most_runs": 2}, {"most_members": 3}])
def test_the_memory_is_bounded(bench: KeyBench, bounds: dict[str, int]) -> None:
    memory, tickets = JoinedRuns(**bounds), [bench.ticket() for _ in range(4)]
    for ticket in tickets:
        bench.open(Tee(), ticket)
    assert [read(bench, ticket, memory=memory).count for ticket in (*tickets, *tickets)] == [1] * 8
    assert len(memory._known) == next(iter(bounds.values()))


def test_a_run_that_is_not_there_has_nobody_and_takes_no_place(bench: KeyBench) -> None:
    memory = JoinedRuns()

    assert read(bench, bench.ticket(), memory=memory).count == 0
    assert memory._known == {}
