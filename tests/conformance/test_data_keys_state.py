"""Datasets' keys on every database that the key service's state can be in: rotated, retired and destroyed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, written
from tests.support.postgres import PostgresServer

from strongroom.base.errors import ConflictError, RefusedError
from strongroom.wire import data_keys


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.needs_postgres)])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KeyBench]:
    server: PostgresServer | None = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    made = KeyBench(tmp_path, place=server.new_database() if server else None)
    yield made
    made.store.close()


def ask(bench: KeyBench, operation: str, body: Any = None) -> bytes:
    reply: bytes = getattr(bench.care, operation)(bench.person(body, name="trips")).body
    return reply


def keys_of(bench: KeyBench) -> tuple[data_keys.DatasetKey, ...]:
    return data_keys.DatasetKeys.from_json(ask(bench, "keys")).keys


def test_keys_live_through_rotation_retirement_and_restarts(bench: KeyBench) -> None:
    bench.prepare(column_keys=("iban",))
    second, _ = bench.import_version("trips", base=1, keeps=(bench.trips.write_id,))
    old = {key.column: key.version for key in keys_of(bench)}
    for column in (None, "iban"):
        ask(bench, "rotate", data_keys.KeyChoice(column=column))
        with pytest.raises(ConflictError, match="still stand under"):
            ask(bench, "retire", data_keys.RetireRequest(column=column, version=str(old[column])))
        bench.restart()
        answer = data_keys.Rewrapped.from_json(ask(bench, "rewrap", data_keys.KeyChoice(column=column)))
        assert answer == data_keys.Rewrapped(rewrapped=2, remaining=False)
        ask(bench, "retire", data_keys.RetireRequest(column=column, version=str(old[column])))
    bench.restart()
    opened = bench.owner_unwrap("trips", written(2, bench.trips, second))
    assert opened.keys["trips"] == {write.write_id: write.key for write in (bench.trips, second)}
    assert opened.columns["trips"]["iban"][second.write_id] == second.columns["iban"].key
    assert [(key.column, key.number) for key in keys_of(bench)] == [(None, 2), ("iban", 2)]
    assert bench.store.audit() is not None


def test_destroyed_keys_stay_destroyed_over_a_restart(bench: KeyBench) -> None:
    bench.prepare(max_runs=2)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    ask(bench, "shred", data_keys.ShredRequest(confirm="trips"))
    for _ in range(2):
        with pytest.raises(RefusedError, match="were destroyed"):
            bench.keys(driver, ticket)
        with pytest.raises(RefusedError, match="were destroyed"):
            bench.import_version("trips", base=1)
        assert keys_of(bench) == ()
        bench.restart()
    assert bench.store.audit() is not None
