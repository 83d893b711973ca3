"""A key service's state with as many keys and log entries as a large one has: made, started, read."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from figures import Spread
from key_load import start_key_service
from psycopg import sql

from strongroom.base.clock import SystemClock
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_id, random_secret
from strongroom.keys.providers import open_master_key
from strongroom.keys.records import KeyRecord
from strongroom.keys.store import LogSigner, Store, open_store

_BATCH: Final = 5_000
_CLOCK: Final = SystemClock()


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeState:
    """What was told of a state of this size.

    Attributes:
        start_s: From the command to the service's first line, in seconds: each start.
        open_s: Of that, opening the database and comparing the log's end, in seconds: each time.
        resident_mb: Memory of the service when it is ready.
        resident_after_mb: After it was read from.
        look_up: A key by its name.
        prove: An entry of the log with its inclusion proof, checked.
        consistency: A consistency proof from a random earlier size.
        database_mb: The database's size on disk.
    """

    keys: int
    leaves: int
    start_s: Sequence[float]
    open_s: Sequence[float]
    resident_mb: float
    resident_after_mb: float
    look_up: Spread
    prove: Spread
    consistency: Spread
    database_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Commits:
    """Transactions a second at the store itself, each with one log entry, on so many threads."""

    database: str
    threads: int
    grouped: float
    alone: float


def fill(store: Store, *, keys: int, leaves: int, tell: Callable[[str], None]) -> None:
    """Put keys and log entries into a store, as the service would, but many in one transaction."""
    now = _CLOCK.now()
    for start in range(0, keys, _BATCH):
        with store.transaction() as tx:
            for number in range(start, min(start + _BATCH, keys)):
                tx.add_key(_record(number, now), random_secret())
        if start % (20 * _BATCH) == 0:
            tell(f"{start:,} keys")
    with store.log() as view:
        there = view.size
    for start in range(there, leaves, _BATCH):
        with store.transaction() as tx:
            for number in range(start, min(start + _BATCH, leaves)):
                tx.append_leaf("refused", now=now, what={"reason": "none of these is a run", "place": number})
        if start % (100 * _BATCH) == 0:
            tell(f"{start:,} log entries")


def measure_state(
    config: Path, open_state: Callable[[], Store], *, keys: int, core: int, starts: int, reads: int, folder: Path
) -> LargeState:
    """Start a service over a state, and read from it.

    Args:
        config: The service's configuration.
        open_state: Opens the same state in this process, while no service runs.
        keys: How many keys `fill` made.
        core: Where the service runs.
        starts: How often it is started.
        reads: How often each thing is read.
        folder: Where the database is.
    """
    started, opened = [], []
    resident = after = 0.0
    for _ in range(starts):
        begun = time.perf_counter()
        service = start_key_service(config, core=core)
        started.append(round(time.perf_counter() - begun, 3))
        resident = service.resident_mb
        http = service.http()
        for number in range(reads):
            size = int(http.request("GET", "/strongroom/v1/log/checkpoint").require_success().split(b"\n")[1])
            index = _place(number, size)
            target = f"/strongroom/v1/log/inclusion?index={index}&size={size}"
            http.request("GET", target).require_success()
        after = service.resident_mb
        service.stop()
    for _ in range(starts):
        begun = time.perf_counter()
        store = open_state()
        opened.append(round(time.perf_counter() - begun, 3))
        store.close()
    store = open_state()
    try:
        with store.log() as view:
            leaves = view.size
        return LargeState(
            keys=keys,
            leaves=leaves,
            start_s=started,
            open_s=opened,
            resident_mb=resident,
            resident_after_mb=after,
            look_up=_timed(reads, lambda number: _look_up(store, _place(number, keys))),
            prove=_timed(reads, lambda number: store.prove([_place(number, leaves)])),
            consistency=_timed(reads, lambda number: store.consistency(_place(number, leaves), leaves)),
            database_mb=round(sum(path.stat().st_size for path in folder.glob("keys.db*")) / 1e6, 1),
        )
    finally:
        store.close()


def measure_commits(url: str | None, folder: Path, *, name: str, threads: int, seconds: float) -> Commits:
    """Measure how many small transactions a second are on the disk, with and without group commit."""
    rates = {}
    for largest in (None, 1):
        with fresh_database(url) as place:
            store = open_new(place or folder / f"{largest}.db", folder, largest_group=largest)
            try:
                rates[largest] = _commit_rate(store, threads=threads, seconds=seconds)
            finally:
                store.close()
    return Commits(database=name, threads=threads, grouped=rates[None], alone=rates[1])


@contextmanager
def fresh_database(url: str | None) -> Iterator[str | None]:
    """Make an empty database at a PostgreSQL server, and drop it afterwards; None stays None."""
    if url is None:
        yield None
        return
    name = f"strongroom_{random_id()}"
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            link.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def open_new(place: Path | str, folder: Path, *, largest_group: int | None = None) -> Store:
    """Open a store whose keys are this benchmark's own."""
    uri = f"file://{folder}/store-mek"
    return open_store(
        place,
        open_master_key=lambda _new: open_master_key(uri, create=True),
        signer=LogSigner(origin="benchmark", key=_signing_key()),
        largest_group=largest_group,
    )


_KEYS: Final[list[SigningKey]] = []


def _signing_key() -> SigningKey:
    if not _KEYS:
        _KEYS.append(SigningKey.generate("Ed25519"))
    return _KEYS[0]


def _commit_rate(store: Store, *, threads: int, seconds: float) -> float:
    begin = threading.Barrier(threads)

    def work(_: int) -> int:
        begin.wait()
        end, done = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            with store.transaction() as tx:
                tx.append_leaf("refused", now=_CLOCK.now(), what={"reason": "a benchmark"})
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        return round(sum(pool.map(work, range(threads))) / seconds, 1)


def _timed(times: int, work: Callable[[int], object]) -> Spread:
    seconds = []
    for number in range(times):
        begun = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - begun)
    return Spread.of(seconds)


def _look_up(store: Store, number: int) -> None:
    with store.reading() as tx:
        tx.key(_name(number))


def _place(number: int, size: int) -> int:
    """Return the number-th of a fixed sequence of places below a size."""
    return int.from_bytes(hashlib.sha256(number.to_bytes(8, "big")).digest()[:8], "big") % size


def _name(number: int) -> str:
    return f"key-{number:09}"


def _record(number: int, now: datetime) -> KeyRecord:
    seconds = int(now.timestamp())
    return KeyRecord(
        name=_name(number),
        version=random_id(),
        number=1,
        kty="oct-HSM",
        key_ops=("wrapKey", "unwrapKey"),
        enabled=True,
        exportable=False,
        created=seconds,
        updated=seconds,
        not_before=None,
        expires=None,
        tags=None,
        release_policy=None,
        public_jwk={},
    )
