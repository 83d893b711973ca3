"""A small Spark cluster of real processes, started as the agents start it, with a session to talk to."""

import contextlib
import json
import shutil
import socket
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.key_socket_server import Dataset, KeySocket, serving

from strongroom.agent.key_socket import BoundDataset
from strongroom.crypto.random import random_secret
from strongroom.engine.build import build_runtime
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import Child, InsecurePlainNode, Node, ProtectedNode
from strongroom.engine.runtime import find_runtime
from strongroom.engine.spark import Application, Resources, start_driver, start_master, start_worker

_MEMORY = Path("/dev/shm")
_START_S = 240.0

# A driver script that executes what it is told: many tests share one Spark session.
_SCRIPT = """
import contextlib, io, json, os, socket, sys
from pyspark.sql import SparkSession, functions as F

with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    names = {"F": F, "SparkSession": SparkSession, "spark": SparkSession.builder.getOrCreate()}
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as stream:
        for line in stream:
            source = json.loads(line)
            try:
                exec(source, names)
                answer = {"result": names.pop("result", None)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            stream.write(json.dumps(answer, default=str) + "\\n")
            stream.flush()
"""


class SparkRefusalError(Exception):
    """What was executed raised an error in the driver."""


@dataclass
class Cluster:
    """A master, a worker and a driver, each beside the key socket of its node."""

    datasets: dict[str, Dataset | BoundDataset]
    storage: Path
    driver_node: Node
    worker_node: Node
    driver_socket: KeySocket
    worker_socket: KeySocket
    master: Child
    master_url: str
    worker: Child
    driver: Child
    stream: Any

    def run(self, source: str) -> Any:
        """Execute Python in the driver's script; what it assigns to `result` comes back."""
        self.stream.write(json.dumps(textwrap.dedent(source)) + "\n")
        self.stream.flush()
        answer = json.loads(self.stream.readline())
        if "error" in answer:
            raise SparkRefusalError(answer["error"])
        return answer["result"]

    def add_dataset(self, name: str, *, access: str = "write") -> Dataset:
        dataset = Dataset(name, self.storage / name, access=access)
        self.datasets[name] = dataset
        return dataset


@contextlib.contextmanager
def running_cluster(storage: Path, *, insecure_plain: bool = False) -> Iterator[Cluster]:
    """Run a cluster with one executor while the block runs."""
    build_runtime(progress=lambda _: None)
    scratch = Path(tempfile.mkdtemp(prefix="sr-", dir=_MEMORY))
    datasets: dict[str, Dataset | BoundDataset] = {}
    secret = random_secret()

    def node(name: str) -> Node:
        folder = scratch / name
        folder.mkdir(mode=0o700)
        runtime = find_runtime()
        if insecure_plain:
            return InsecurePlainNode(runtime=runtime, scratch=folder, host="127.0.0.1")
        key_socket = scratch / f"{name}.sock"
        return ProtectedNode(runtime=runtime, scratch=folder, host="127.0.0.1", secret=secret, key_socket=key_socket)

    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        driver_socket = stack.enter_context(serving(KeySocket(datasets, is_driver=True), scratch / "d.sock"))
        worker_socket = stack.enter_context(serving(KeySocket(datasets, is_driver=False), scratch / "w.sock"))
        driver_node, worker_node = node("d"), node("w")
        master, master_url = start_master(driver_node)
        stack.callback(master.kill)
        worker = start_worker(worker_node, master_url=master_url, cores=2, memory="1g")
        stack.callback(worker.kill)
        script = scratch / "script.py"
        script.write_text(_SCRIPT)
        output = stack.enter_context((scratch / "output").open("wb"))
        driver = start_driver(
            driver_node,
            cluster=StandaloneCluster(url=master_url),
            application=Application(name="test", entry_point=script, arguments=(str(scratch / "shell.sock"),)),
            resources=Resources(executor_memory="800m", executor_cores=2),
            stdout=output,
            stderr=output,
        )
        stack.callback(driver.kill)
        connection = stack.enter_context(_connected(driver, scratch / "shell.sock", scratch / "output"))
        stream = stack.enter_context(connection.makefile("rw"))
        yield Cluster(
            datasets=datasets,
            storage=storage,
            driver_node=driver_node,
            worker_node=worker_node,
            driver_socket=driver_socket,
            worker_socket=worker_socket,
            master=master,
            master_url=master_url,
            worker=worker,
            driver=driver,
            stream=stream,
        )


def _connected(driver: Child, path: Path, output: Path) -> socket.socket:
    deadline = time.monotonic() + _START_S
    connection = socket.socket(socket.AF_UNIX)
    while driver.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection.connect(str(path))
            return connection
        time.sleep(0.1)
    connection.close()
    raise AssertionError("the driver did not start: " + output.read_text(errors="replace")[-2000:])
