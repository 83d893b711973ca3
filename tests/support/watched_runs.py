"""The same report on the same trips, plain and protected, with eyes on everything that an operator sees meanwhile."""

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from tests.support.installation import Ended, Installation, Submission
from tests.support.leaks import Leak, LeakSearch
from tests.support.needles import Value, needles_of, secret_needles
from tests.support.watchers import FolderWatch, PacketWatch, ProcessWatch

from strongroom.base.encoding import from_b64url
from strongroom.base.secret import SecretBytes
from strongroom.cli.owned_datasets import open_version
from strongroom.engine.build import build_runtime
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import InsecurePlainNode
from strongroom.engine.runtime import find_runtime
from strongroom.engine.spark import Application, Resources, start_driver, start_master, start_worker
from strongroom.keys.hierarchy import derive_file_key, run_secret
from strongroom.keys.providers import open_master_key
from strongroom.keys.store import LogSigner, open_store
from strongroom.services.identity import open_identity
from strongroom.services.key_service import COMMON_NAME, log_origin

ROWS: Final = 20_000
_SIZES: Final = {"total_amount": 15, "trip_distance": 15, "pickup_datetime": 10, "store_and_fwd_flag": 10}
_TIMEOUT_S: Final = 1500
_TEE_PREFIX: Final = "/dev/shm/sr-"


def mark(table: pa.Table) -> tuple[pa.Table, dict[str, Value]]:
    """Put 50 distinctive values into a table of trips: new ones each time, so that no other test has them.

    Returns:
        The table, and the values by a name that begins with their column's.
    """
    values: dict[str, Value] = {}
    rows = iter(np.linspace(7, table.num_rows - 7, sum(_SIZES.values())).astype(int).tolist())
    for column, count in _SIZES.items():
        cells = table.column(column).to_pylist()
        for number in range(count):
            cells[next(rows)] = values[f"{column} {number}"] = _distinctive(column)
        place = table.schema.get_field_index(column)
        table = table.set_column(place, table.schema.field(place), pa.array(cells, table.schema.field(place).type))
    return table, values


def _distinctive(column: str) -> Value:
    chance = secrets.randbelow(10**12) / 10**12
    match column:
        case "total_amount":
            return 61.0 + chance
        case "trip_distance":
            return 11.0 + chance
        case "pickup_datetime":
            moment = datetime(2018, 1, 1, tzinfo=UTC) + timedelta(microseconds=secrets.randbelow(60_000_000_000_000))
            return moment.replace(tzinfo=None)
        case _:
            return f"canary-{secrets.token_hex(8)}"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What was seen during a run, and what came out of it.

    Attributes:
        watches: What can be searched, by the channel's name.
        tables: The rows of each table of the report.
        secrets: The secrets of a protected run, by name.
        ended: How `submit` ended.
    """

    watches: Mapping[str, FolderWatch | ProcessWatch | PacketWatch]
    tables: dict[str, list[dict[str, Any]]]
    secrets: dict[str, bytes]
    ended: Ended | None = None

    def leaks_of_values(self, values: Mapping[str, Value]) -> dict[str, list[Leak]]:
        """Search every channel for values."""
        return self._search(LeakSearch(needle for name, value in values.items() for needle in needles_of(name, value)))

    def leaks_of_secrets(self) -> dict[str, list[Leak]]:
        """Search every channel for the run's secrets."""
        return self._search(
            LeakSearch(needle for name, secret in self.secrets.items() for needle in secret_needles(name, secret))
        )

    def _search(self, search: LeakSearch) -> dict[str, list[Leak]]:
        return {channel: watch.search(search) for channel, watch in self.watches.items()}


def watched_plain_run(script: Path, trips: Path, *, folder: Path) -> Watched:
    """Run the report without any protection: the same Spark, the same processes."""
    build_runtime(progress=lambda _: None)
    output = folder / "storage" / "report"
    shutil.copytree(trips, folder / "storage" / "trips")
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/dev/shm") as scratch, contextlib.ExitStack() as stack:
        watches = _watches(stack, folder=folder, folders={"storage": folder / "storage", "scratch": Path(scratch)})
        _run_plain(script, [str(trips), str(output)], scratch=Path(scratch))
    return Watched(watches=watches, tables=_tables(output), secrets={})


def _run_plain(script: Path, arguments: Sequence[str], *, scratch: Path) -> None:
    node = InsecurePlainNode(runtime=find_runtime(), scratch=scratch, host="127.0.0.1")
    with contextlib.ExitStack() as running:
        master, url = start_master(node)
        running.callback(master.kill)
        worker = start_worker(node, master_url=url, cores=1, memory="800m")
        running.callback(worker.kill)
        with (scratch / "output").open("wb") as output:
            driver = start_driver(
                node,
                cluster=StandaloneCluster(url=url),
                application=Application(name="report", entry_point=script, arguments=tuple(arguments)),
                resources=Resources(driver_memory="800m", executor_memory="800m"),
                stdout=output,
                stderr=output,
            )
            running.callback(driver.kill)
            status = driver.wait(_TIMEOUT_S)
        assert status == 0, (scratch / "output").read_text()[-4000:]


def watched_protected_run(made: Installation, script: Path, trips: Path, *, folder: Path) -> Watched:
    """Encrypt the trips, approve and run the report; `made` is not up yet, and is stopped at the end.

    Args:
        made: An installation in a folder that is empty but for `home` and `tmp`.
        script: The application.
        trips: Plain Parquet, outside the installation's folder.
        folder: A folder for what the watches keep.
    """
    report = Submission(
        script=script, arguments=("strongroom://trips", "strongroom://report"), reads=("trips",), writes=("report",)
    )
    seen = {"state": made.state.root, "home": made.root / "home", "tmp": made.root / "tmp"}
    with contextlib.ExitStack() as stack:
        stack.callback(made.strongroom, "down")
        watches = _watches(stack, folder=folder, folders=seen, without=[made.state.owner])
        made.done("up")
        for name in ("trips", "report"):
            made.done("dataset", "create", name)
        made.done("dataset", "encrypt", "trips", str(trips))
        made.approve(report)
        ended = made.submit_well(report)
        plain = folder / "decrypted"
        made.done("dataset", "decrypt", "report", "--to", str(plain))
        made.done("runs", "output", ended.run_id)
        found = _file_keys(made)
        made.done("down")
    return Watched(watches=watches, tables=_tables(plain), secrets=found | _service_secrets(made), ended=ended)


def _watches(
    stack: contextlib.ExitStack, *, folder: Path, folders: Mapping[str, Path], without: Iterable[Path] = ()
) -> dict[str, FolderWatch | ProcessWatch | PacketWatch]:
    public = {name: Path(name) for name in ("/tmp", "/var/tmp", "/dev/shm") if Path(name).is_dir()}
    there = [entry for place in public.values() for entry in place.iterdir()]
    java = {str(place): place for place in Path("/tmp").glob("hsperfdata_*")}
    watches = {
        name: FolderWatch({name: place}, vault=folder / f"vault-{name}", without=list(without))
        for name, place in folders.items()
    }
    watches["public temporary folders"] = FolderWatch(
        {**public, **java},
        vault=folder / "vault-public",
        without=there,
        leave_out=lambda path: path.startswith(_TEE_PREFIX),
        only_new=True,
        every_s=0.5,
    )
    others = {"processes": ProcessWatch(every_s=0.1), "loopback": PacketWatch(folder / "packets")}
    return {name: stack.enter_context(watch) for name, watch in {**others, **watches}.items()}


def _tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        place.name: parquet.read_table(place).to_pylist()
        for place in sorted(folder.iterdir())
        if place.is_dir() and any(place.rglob("*.parquet"))
    }


def _file_keys(made: Installation) -> dict[str, bytes]:
    """Return the write keys and every file's key of each version, as the owner gets them."""
    found: dict[str, bytes] = {}
    client = made.owner()
    for name in ("trips", "report"):
        version = open_version(client, name=name, location=made.state.storage(name), number=None)
        for write_id, key in version.write_keys.items():
            found[f"write key of {name}, {write_id}"] = key.reveal()
        for file in version.manifest.files:
            key = derive_file_key(version.write_keys[file.write_id], file_id=file.file_id)
            found[f"DEK of {name}, {file.path}"] = key.reveal()
    return found


def _service_secrets(made: Installation) -> dict[str, bytes]:
    """Return what the stopped key service's store holds: MEK, KEKs, the run's share and secret."""
    state, now = made.state.key_service, datetime.now(tz=UTC)
    uri = (state / "master.key").as_uri()
    identity = open_identity(state, common_name=COMMON_NAME, sans=["127.0.0.1"], now=now)
    signer = LogSigner(origin=log_origin(identity), key=identity.statement.key)
    store = open_store(state / "keys.db", open_master_key=lambda _: open_master_key(uri, create=False), signer=signer)
    found = {"MEK": (state / "master.key").read_bytes()}
    try:
        with store.transaction() as rows:
            for name in ("trips", "report"):
                found[f"KEK of {name}"] = rows.key(f"dataset-{name}").material.reveal()
            (run,) = (rows.run(record.run) for record in rows.runs())
    finally:
        store.close()
    share = from_b64url(run.secrets.share)
    found["share of the run"] = share
    for name, key in run.secrets.write_keys.items():
        found[f"write key of the run, {name}"] = from_b64url(key)
    found["RPC secret of the run"] = run_secret(
        {identity.identity: SecretBytes(share)},
        run=run.record.run,
        application=run.record.application,
        driver_key=run.record.driver_key,
    ).reveal()
    return found
