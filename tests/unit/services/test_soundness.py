"""The key service releases nothing once the audit found something, and says so."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from tests.support.asgi import send
from tests.support.key_service import KeyBench, MovableClock

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import IntegrityError, UnavailableError
from strongroom.services.errors import strongroom_error
from strongroom.services.http import application
from strongroom.services.log_clock import LogClock
from strongroom.services.log_desk import LogDesk
from strongroom.services.soundness import SoundnessGate, start_audit


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def app_of(bench: KeyBench) -> Starlette:
    gate = Middleware(
        SoundnessGate,
        store=bench.store,
        shape_for=lambda _path: strongroom_error,
        open_paths=("/strongroom/v1/log/",),
    )
    routes = [*bench.runs.routes(), *LogDesk(bench.desk).routes(), *bench.restores.routes()]
    return application(routes, shape_for=lambda _path: strongroom_error, middleware=[gate])


def test_a_sound_store_serves(bench: KeyBench) -> None:
    bench.prepare()
    start_audit(bench.store, pause_s=0).join(60)
    bench.store.demand_sound()
    assert send(app_of(bench), "POST", "/strongroom/v1/nonce").status == 200


def test_what_the_audit_finds_ends_releases_and_leaves_the_log_readable(bench: KeyBench) -> None:
    bench.prepare()
    bench.store.close()
    with closing(sqlite3.connect(bench.database)) as connection, connection:
        connection.execute("DELETE FROM approvals")
    bench.start()
    start_audit(bench.store, pause_s=0).join(60)
    assert isinstance(bench.store.trouble, IntegrityError)
    with pytest.raises(UnavailableError, match="releases nothing"):
        bench.store.demand_sound()
    answer = send(app_of(bench), "POST", "/strongroom/v1/nonce")
    assert answer.status == 503
    assert "changed by something else" in str(parse_json_object(answer.body)["error"])
    assert send(app_of(bench), "GET", "/strongroom/v1/log/checkpoint").status == 200


def test_a_fault_of_the_audit_itself_ends_releases(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.store, "audit", fail)
    start_audit(bench.store, pause_s=0).join(60)
    with pytest.raises(UnavailableError):
        bench.store.demand_sound()


def test_the_services_clock_never_goes_behind_the_log(bench: KeyBench) -> None:
    machine = MovableClock()
    clock = LogClock(machine, newest_time=lambda: bench.store.newest_time)
    assert clock.now() == machine.now()
    with bench.store.transaction() as tx:
        tx.append_leaf("tried", now=machine.now(), what={})
    logged = machine.now()
    machine.advance(seconds=-3600)
    assert clock.now() == logged
    bench.restart()
    assert LogClock(machine, newest_time=lambda: bench.store.newest_time).now() == logged
    machine.advance(seconds=3605)
    assert clock.now() == machine.now()
