"""The plain side: the same processes on the same Java, cores, memory and memory file system, without any protection."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from sessions import (
    APPLICATIONS,
    EXECUTOR_CORES,
    MEMORY_MB,
    TIMED,
    BenchmarkError,
    Session,
    now,
    read_session,
    repetitions,
)

from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import Child, InsecurePlainNode
from strongroom.engine.runtime import SparkRuntime, find_runtime
from strongroom.engine.spark import Application, Resources, start_driver, start_master, start_worker

_MEMORY = Path("/dev/shm")  # noqa: S108 - the memory file system that the protected side uses too
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSide:
    """How plain sessions are run.

    Attributes:
        trips: Folder of plain Parquet files.
        output: Folder for results; emptied before each session.
        with_cache: Start Java with the ahead-of-time cache, which a stock `spark-submit` does not have.
    """

    trips: Path
    output: Path
    with_cache: bool

    @property
    def name(self) -> str:
        """The side's name in the results."""
        return "plain-aot" if self.with_cache else "plain"

    def run(self, *, executors: int, number: int, measured: dict[str, int]) -> Session:
        """Start a standalone cluster, run `timed.py`, stop it.

        Raises:
            BenchmarkError: The script failed.
        """
        shutil.rmtree(self.output, ignore_errors=True)
        application = Application(
            name="timed",
            entry_point=TIMED,
            arguments=(self.trips.as_uri(), self.output.as_uri(), *repetitions(measured)),
            py_files=tuple(APPLICATIONS.values()),
        )
        with _scratch() as folder:
            started = now()
            output = _run(application, executors=executors, runtime=self._runtime(folder), folder=folder)
        return read_session(output, side=self.name, executors=executors, number=number, started=started)

    def _runtime(self, folder: Path) -> SparkRuntime:
        runtime = find_runtime()
        return runtime if self.with_cache else replace(runtime, aot_cache=folder / "no-cache")


def _run(application: Application, *, executors: int, runtime: SparkRuntime, folder: Path) -> str:
    resources = Resources(
        driver_memory=f"{MEMORY_MB}m",
        executor_memory=f"{MEMORY_MB}m",
        executor_cores=EXECUTOR_CORES,
    )
    with ExitStack() as running, (folder / "output").open("wb") as output:
        node = _node(runtime, folder / "driver")
        master, url = start_master(node)
        running.callback(_end, master)
        for index in range(executors):
            place = _node(runtime, folder / f"e{index}")
            worker = start_worker(place, master_url=url, cores=EXECUTOR_CORES, memory=f"{MEMORY_MB}m")
            running.callback(_end, worker)
        cluster = StandaloneCluster(url=url, cores_max=EXECUTOR_CORES * executors)
        driver = start_driver(
            node, cluster=cluster, application=application, resources=resources, stdout=output, stderr=output
        )
        running.callback(_end, driver)
        status = driver.wait()
    text = (folder / "output").read_text(encoding="utf-8", errors="replace")
    if status != 0:
        raise BenchmarkError(f"the plain side ended with status {status}: {text[-2000:]}")
    return text


def _node(runtime: SparkRuntime, scratch: Path) -> InsecurePlainNode:
    scratch.mkdir(mode=0o700)
    return InsecurePlainNode(runtime=runtime, scratch=scratch, host=_HOST)


def _end(child: Child) -> None:
    child.terminate()
    with contextlib.suppress(TimeoutError):
        child.wait(10)
    child.kill()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="srb-", dir=_MEMORY, ignore_cleanup_errors=True) as folder:
        yield Path(folder)
