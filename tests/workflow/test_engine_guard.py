"""Step 7: a script cannot weaken protection and still get keys; nothing secret stands where the host looks."""

import base64
import contextlib
import dataclasses
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.engine import Cluster, SparkRefusalError, running_cluster

from strongroom.crypto.random import random_secret
from strongroom.engine.node import ProtectedNode
from strongroom.engine.spark import start_worker

pytestmark = pytest.mark.xdist_group("spark")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("storage")) as cluster:
        cluster.add_dataset("trips")
        cluster.run('spark.range(10).write.parquet("strongroom://trips")')
        yield cluster


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.io.encryption.enabled", "false"),
        ("spark.eventLog.enabled", "true"),
        ("spark.python.unix.domain.socket.enabled", "false"),
        ("spark.storage.decommission.fallbackStorage.path", "file:///storage/fallback/"),
    ],
)
def test_a_script_that_weakens_a_setting_gets_no_key(cluster: Cluster, tmp_path: Path, name: str, value: str) -> None:
    cluster.run(
        f"""
        spark.stop()
        spark = (
            SparkSession.builder.config("{name}", "{value}").config("spark.eventLog.dir", "file://{tmp_path}").getOrCreate()
        )
        """
    )
    asked = len(cluster.driver_socket.asked)
    with pytest.raises(SparkRefusalError, match=f"the setting {name} is '{value}', but .* is required"):
        cluster.run('spark.read.parquet("strongroom://trips").count()')
    assert set(cluster.driver_socket.asked[asked:]) == {"settings"}
    cluster.run("spark.stop(); spark = SparkSession.builder.getOrCreate()")
    assert cluster.run('result = spark.read.parquet("strongroom://trips").count()') == 10


def test_no_cryptography_of_the_host_is_loaded_into_java(cluster: Cluster) -> None:
    """Shuffles are encrypted by Java's own: commons-crypto would load the host's OpenSSL, which nobody measured."""
    assert cluster.run('result = spark.range(100).repartition(3).selectExpr("sum(id)").first()[0]') == 4950
    scratch = str(cluster.driver_node.scratch.parent)
    maps = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if scratch.encode() in (process / "cmdline").read_bytes():
                maps.append((process / "maps").read_text())

    java = [text for text in maps if "libjvm.so" in text]  # the driver's Python is not meant
    assert len(java) == 4, "master, worker, driver and executor"
    for library in ("commons-crypto", "libcrypto", "libssl"):
        assert not [text for text in java if library in text], library


def test_the_secret_stands_in_no_command_line_and_only_in_executors_environments(cluster: Cluster) -> None:
    cluster.run('result = spark.read.parquet("strongroom://trips").rdd.map(str).count()')
    assert isinstance(cluster.driver_node, ProtectedNode)
    secret = base64.b64encode(cluster.driver_node.secret.reveal())
    sessions = {cluster.driver.pid, cluster.worker.pid}  # of each node: its Java, and all that it started
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            session = os.getsid(int(process.name))
        except OSError:
            continue
        assert secret not in command
        if secret in environment:
            found.add(session)
    assert found == sessions


def test_the_web_pages_of_master_and_worker_show_nothing(cluster: Cluster) -> None:
    ports = _listening_ports(cluster.master.pid) | _listening_ports(cluster.worker.pid)
    answers = [_status(port, path) for port in ports for path in ("/", "/json/", "/metrics/json", "/static/webui.js")]
    assert set(answers) <= {None, 403, 404}
    assert answers.count(403) >= 4


def test_a_worker_without_the_secret_is_not_let_in(cluster: Cluster) -> None:
    assert isinstance(cluster.worker_node, ProtectedNode)
    scratch = Path(tempfile.mkdtemp(prefix="sr-", dir="/dev/shm"))
    stranger = dataclasses.replace(cluster.worker_node, scratch=scratch, secret=random_secret())
    worker = start_worker(stranger, master_url=cluster.master_url, cores=1, memory="1g")
    try:
        log = scratch / "log" / "worker.log"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.is_file() and "Failed to connect to master" in log.read_text()):
            time.sleep(0.2)
        assert "Failed to connect to master" in log.read_text()
        assert (cluster.driver_node.scratch / "log" / "master.log").read_text().count("Registering worker") == 1
    finally:
        worker.kill()
        shutil.rmtree(scratch)


def test_spark_writes_its_logs_into_scratch_only(cluster: Cluster) -> None:
    assert (cluster.driver_node.scratch / "log" / "driver.log").stat().st_size > 0
    assert (cluster.worker_node.scratch / "log" / "executor.log").stat().st_size > 0


def _status(port: int, path: str) -> int | None:
    """The status of a page; None where no web server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _listening_ports(pid: int) -> set[int]:
    inodes = {path.readlink().name for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
