import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from strongroom.base.errors import ConfigurationError, EngineError, FormatError, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.engine import runtime, spark
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import Child, ProtectedNode
from strongroom.engine.runtime import SparkRuntime, find_runtime, runtime_of_this_installation

SCRIPT = """#!/bin/sh
env > "$STRONGROOM_SCRATCH/log/environment"
echo "$@" > "$STRONGROOM_SCRATCH/log/arguments"
{what}
"""


PARENT = """
import dataclasses, os
from pathlib import Path, PosixPath
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.node import InsecurePlainNode
from strongroom.engine.spark import Application, Resources, start_driver
node = InsecurePlainNode(runtime={runtime}, scratch=Path({scratch!r}), host="127.0.0.1")
application = Application(name="x", entry_point=Path("/app/x.py"))
cluster = StandaloneCluster(url="spark://h:1")
nothing = os.open(os.devnull, os.O_WRONLY)  # what the child held of this process would be waited for
child = start_driver(
    node, cluster=cluster, application=application, resources=Resources(), stdout=nothing, stderr=nothing
)
print(child.pid)
"""


@pytest.fixture
def fake_runtime(tmp_path: Path) -> SparkRuntime:
    """The runtime with a program in Java's place that tells how it was started."""
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(SCRIPT.format(what="exit 3"))
    java.chmod(0o755)
    return dataclasses.replace(runtime_of_this_installation(), java_home=tmp_path / "java")


@pytest.fixture(params=[None, 1], ids=["outside", "in an enclave"])
def node(fake_runtime: SparkRuntime, request: pytest.FixtureRequest) -> Iterator[ProtectedNode]:
    """A TEE. In an enclave its processes are started in another way, and everything that holds outside holds there."""
    scratch = Path(tempfile.mkdtemp(prefix="sr-"))
    yield ProtectedNode(
        runtime=fake_runtime,
        scratch=scratch,
        host="127.0.0.1",
        secret=SecretBytes(b"\xfe" * 32),
        key_socket=scratch / "keys.sock",
        enclave_cores=request.param,
    )
    shutil.rmtree(scratch)


def start(node: ProtectedNode, **changes: object) -> Child:
    application = spark.Application(name="x", entry_point=Path("/app/x.py"), arguments=("strongroom://trips",))
    return spark.start_driver(
        node,
        cluster=StandaloneCluster(url="spark://127.0.0.1:7077"),
        application=dataclasses.replace(application, **changes),  # type: ignore[arg-type]
        resources=spark.Resources(),
        stdout=sys.stderr.fileno(),
        stderr=sys.stderr.fileno(),
    )


SECRET_TEXT = "/v7+/v7+/v7+"


def test_the_environment_is_made_from_nothing(node: ProtectedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    start(node).wait(20)
    environment = dict(
        line.split("=", 1) for line in (node.scratch / "log" / "environment").read_text().splitlines() if "=" in line
    )
    assert "AWS_SECRET_ACCESS_KEY" not in environment
    assert environment["JAVA_HOME"] == str(node.runtime.java_home)
    assert "OLDPWD" not in environment
    for name in ("HOME", "TMPDIR", "SPARK_LOCAL_DIRS", "PWD"):
        assert environment[name].startswith(str(node.scratch))
    assert environment["STRONGROOM_SOCKET"] == str(node.key_socket)


def test_the_drivers_secret_is_neither_an_argument_nor_in_a_file(node: ProtectedNode) -> None:
    start(node).wait(20)
    assert SECRET_TEXT not in (node.scratch / "log" / "arguments").read_text()
    holding = [path for path in node.scratch.rglob("*") if path.is_file() and SECRET_TEXT in path.read_text()]
    assert [path.name for path in holding] == ["environment"], "only the test's own copy of the environment holds it"
    assert (node.scratch / "conf" / "driver.properties").stat().st_mode & 0o777 == 0o600


def test_the_exit_status_of_the_script_is_the_childs(node: ProtectedNode) -> None:
    assert start(node).wait(20) == 3


def test_a_weakened_setting_starts_nothing(node: ProtectedNode) -> None:
    with pytest.raises(RefusedError, match=r"spark\.io\.encryption\.enabled"):
        start(node, settings={"spark.io.encryption.enabled": "false"})
    assert not (node.scratch / "log").exists()


@pytest.mark.parametrize(
    "changes", [{"settings": {"spark.master": "local"}}, {"environment": {"STRONGROOM_SOCKET": "/tmp/mine"}}]
)
def test_what_the_agent_sets_is_not_the_applications_to_choose(node: ProtectedNode, changes: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="not its to choose"):
        start(node, **changes)


@pytest.mark.parametrize(
    "url", ["spark://h:1\nx", "local[2]", "spark://h", "http://h:1", "spark://h:1,spark://i:2", ""]
)
def test_a_malformed_master_url_is_a_format_error(node: ProtectedNode, url: str) -> None:
    with pytest.raises(FormatError):
        spark.start_worker(node, master_url=url, cores=1, memory="1g")


def test_a_master_that_ends_at_once_is_an_engine_error_with_its_last_words(node: ProtectedNode) -> None:
    node.runtime.java.write_text(SCRIPT.format(what="echo not enough memory; exit 1"))
    with pytest.raises(EngineError, match="not enough memory"):
        spark.start_master(node)


def test_a_masters_url_is_its_own_though_a_stranger_takes_the_port(
    node: ProtectedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = dataclasses.replace(node, runtime=runtime_of_this_installation())
    start_child = spark.start_child
    with contextlib.ExitStack() as strangers:

        def after_a_stranger(node: ProtectedNode, command: tuple[str, ...], **others: Any) -> Child:
            port = int(command[command.index("--port") + 1])
            strangers.enter_context(socket.create_server((node.host, port)))
            return start_child(node, command, **others)

        monkeypatch.setattr(spark, "start_child", after_a_stranger)
        for _ in range(2):  # the second one's log begins where the first one's ends
            master, url = spark.start_master(node)
            try:
                assert urlsplit(url).port in _ports_of(master.pid), url
            finally:
                master.kill()


def test_a_scratch_path_too_long_for_unix_sockets_is_refused(node: ProtectedNode) -> None:
    with pytest.raises(ConfigurationError, match="too long"):
        start(dataclasses.replace(node, scratch=node.scratch / ("x" * 80)))


def test_killing_a_child_ends_its_group(node: ProtectedNode) -> None:
    node.runtime.java.write_text(SCRIPT.format(what="sleep 60 & echo $! > $STRONGROOM_SCRATCH/pid; wait"))
    child = start(node)
    pid_file = node.scratch / "pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.kill()
    assert child.poll() == -signal.SIGKILL
    grandchild = int(pid_file.read_text())
    assert _ends(grandchild)


def test_a_child_has_nothing_of_its_parents(node: ProtectedNode) -> None:
    """Standard input, open files, ignored signals, folder, process group."""
    told = ("readlink /proc/$$/cwd /proc/$$/fd/0", "ls /proc/$$/fd", "grep SigIgn /proc/$$/status", "cat /proc/$$/stat")
    node.runtime.java.write_text(SCRIPT.format(what=f"({'; '.join(told)}) > $STRONGROOM_SCRATCH/log/told"))
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)  # noqa: FBT003 - the only argument
    try:
        child = start(node)
        child.wait(20)
    finally:
        os.close(reader)
        os.close(writer)
    folder, stdin, *descriptors, ignored, stat = (node.scratch / "log" / "told").read_text().splitlines()
    assert folder == str(node.scratch / "run")
    assert stdin == "/dev/null"
    assert str(writer) not in descriptors
    assert int(ignored.split()[1], 16) & (1 << signal.SIGPIPE - 1) == 0
    assert stat.rpartition(")")[2].split()[2] == str(child.pid), "it leads its process group"


def test_a_child_that_still_runs_is_waited_for_as_long_as_one_says(node: ProtectedNode) -> None:
    node.runtime.java.write_text(SCRIPT.format(what="exec sleep 60"))
    child = start(node)
    with pytest.raises(TimeoutError):
        child.wait(0.1)
    assert child.poll() is None
    child.terminate()
    assert child.wait(20) == child.poll() == -signal.SIGTERM
    child.kill()


def test_without_process_groups_a_child_is_ended_alone(node: ProtectedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gramine has none."""

    def unknown(*_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    node.runtime.java.write_text(SCRIPT.format(what="exec sleep 60"))
    child = start(node)
    monkeypatch.setattr(os, "killpg", unknown)
    child.kill()
    assert child.poll() == -signal.SIGKILL


def test_what_cannot_be_started_ends_with_an_error(node: ProtectedNode) -> None:
    node.runtime.java.unlink()
    if node.enclave_cores is None:
        with pytest.raises(FileNotFoundError):
            start(node)
    else:
        assert start(node).wait(20) == 127  # the shell's: it started


def test_a_child_dies_with_its_parent(node: ProtectedNode) -> None:
    node.runtime.java.write_text(SCRIPT.format(what="exec sleep 60"))
    source = PARENT.format(runtime=node.runtime, scratch=str(node.scratch))
    parent = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert _ends(int(parent.stdout))


def test_a_runtime_that_is_not_built_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.sys, "prefix", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        find_runtime()
    assert "build" in caught.value.action


def test_a_runtime_needs_no_ahead_of_time_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.sys, "prefix", str(tmp_path))
    expected = runtime_of_this_installation()
    for path in set(expected.files()) - {expected.aot_cache}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_runtime() == expected
    expected.jar.unlink()
    with pytest.raises(ConfigurationError, match="jar"):
        find_runtime()


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                time.sleep(0.05)
                continue
        return True
    return False


def test_an_enclaves_java_and_spark_are_started_as_enclaves_need(node: ProtectedNode) -> None:
    cache = node.scratch / "spark.aot"
    cache.touch()
    inside = dataclasses.replace(node, enclave_cores=3, runtime=dataclasses.replace(node.runtime, aot_cache=cache))

    assert start(inside).wait(10) == 3

    options = (node.scratch / "conf" / "java.options").read_text()
    properties = (node.scratch / "conf" / "driver.properties").read_text()
    assert '"-XX:ActiveProcessorCount=3"' in options
    assert "AOTCache" not in options
    assert "spark.python.use.daemon=false" in properties


def test_outside_of_enclaves_nothing_of_it_is_set(node: ProtectedNode) -> None:
    assert start(dataclasses.replace(node, enclave_cores=None)).wait(10) == 3

    assert "ActiveProcessorCount" not in (node.scratch / "conf" / "java.options").read_text()
    assert "spark.python.use.daemon" not in (node.scratch / "conf" / "driver.properties").read_text()


def _ports_of(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens (proc_pid_net(5): the local address, the state, the inode)."""
    held = {str(descriptor.readlink()) for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    sockets = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {
        int(each[1].rpartition(":")[2], 16) for each in sockets if each[3] == "0A" and f"socket:[{each[9]}]" in held
    }
