"""Agents, and real Spark, with no more system calls than Occlum or Gramine has.

A filter of Linux's answers to the others as they do (`tests/support/library_os.py`). It shows that nothing here needs a
call that is not there. It does not show an enclave, nor how Occlum and Gramine do what they have.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.library_os import BY_NAME
from tests.support.pods import LIBRARY_OS, Pods, memory_volumes
from tests.support.receipts import verify_by_both
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.crypto.jose import open_as_recipient
from strongroom.engine.build import build_runtime
from strongroom.wire.descriptor import DeviceKind, DeviceSetting
from strongroom.wire.events import DriverReady, Failed, parse_event

# What each call comes to: "yes", or the name of the error.
PROBE = """
import ctypes, errno, json, os, signal, subprocess, threading, warnings
warnings.simplefilter("ignore")
libc = ctypes.CDLL(None, use_errno=True)

def prctl():
    if libc.prctl(1, 9, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")

def kill_group():
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setpgroup=0)
    try:
        os.killpg(pid, signal.SIGKILL)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

def fork():
    if os.fork() == 0:
        os._exit(0)

def thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

def spawn():
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

def run(**options):
    subprocess.run(["/bin/true"], check=True, **options)

calls = {
    "pidfd_open": lambda: os.pidfd_open(os.getpid()),
    "waitid": lambda: spawn() or os.posix_spawn("/bin/true", ["true"], {}) and os.waitid(os.P_ALL, 0, os.WEXITED),
    "PR_SET_PDEATHSIG": prctl,
    "kill a group": kill_group,
    "fork": fork,
    "start with a function": lambda: run(preexec_fn=lambda: None),
    "start in a session": lambda: run(start_new_session=True),
    "spawn": spawn,
    "thread": thread,
    "pipe": os.pipe,
}
said = {}
for name, call in calls.items():
    try:
        call()
        said[name] = "yes"
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
print(json.dumps(said))
"""
SAYS = {
    "occlum": {
        "pidfd_open": "EINVAL",
        "waitid": "ENOSYS",
        "PR_SET_PDEATHSIG": "EINVAL",
        "kill a group": "yes",
        "fork": "EINVAL",
        "start with a function": "EINVAL",
        "start in a session": "ENOSYS",
    },
    "gramine": {
        "pidfd_open": "ENOSYS",
        "waitid": "yes",
        "PR_SET_PDEATHSIG": "ENOSYS",
        "kill a group": "ENOSYS",
        "fork": "yes",
        "start with a function": "yes",
        "start in a session": "yes",
    },
}
# A program in Java's place that starts no other: a shell forks.
JAVA = f"""#!{sys.executable}
import pathlib, sys, time
seen = pathlib.Path(__file__).parents[4] / "seen"
seen.mkdir()
(seen / "whole").touch()
gate = pathlib.Path({{gate!r}})
print("hello\\nauditor", flush=True)
while not gate.exists():
    time.sleep(0.05)
sys.exit({{status}})
"""
# Waits for an executor, has Python compute in it, writes, and reads what it wrote.
APPLICATION = b"""
import pathlib, sys, time
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.getOrCreate()
context = spark.sparkContext
told = pathlib.Path(sys.argv[3])
told.with_suffix(".new").write_text(context.getConf().get("spark.driver.port") + " " + context.applicationId)
told.with_suffix(".new").rename(told)
while context._jsc.sc().getExecutorMemoryStatus().size() < 2:
    time.sleep(0.1)
square = F.udf(lambda value: value * value, "long")
rows = spark.range(100).repartition(2).withColumn("square", square("id"))
rows.write.mode("append").parquet("strongroom://report")
read = spark.read.parquet("strongroom://report")
print("squares", read.groupBy().sum("square").first()[0], flush=True)
print("in Python", context.parallelize(range(9), 3).map(lambda value: value + 1).sum(), flush=True)
"""
START_S = 300
EVERYWHERE = {"spawn": "yes", "thread": "yes", "pipe": "yes"}


def waiting(gate: Path) -> str:
    return JAVA.format(gate=str(gate), status=0)


@pytest.fixture(scope="module", params=["occlum", "gramine"])
def flavour(request: pytest.FixtureRequest) -> DeviceKind:
    """The library operating system, and the device that its enclaves have."""
    named: DeviceKind = request.param
    assert named in BY_NAME
    return named


@pytest.fixture(scope="module")
def pods(flavour: DeviceKind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    """Pods whose agents have the calls of one, with another program in Spark's place."""
    folder = tmp_path_factory.mktemp("pods")
    with installation(folder) as services, memory_volumes() as memory:
        runner = Runner(services, folder)
        runner.approve_all()
        yield Pods(runner, folder, memory, library_os=flavour)


def test_a_program_finds_what_the_library_os_has(flavour: DeviceKind) -> None:
    command = [sys.executable, "-P", str(LIBRARY_OS), flavour, sys.executable, "-c", PROBE]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout.splitlines()[-1]) == SAYS[flavour] | EVERYWHERE


def test_a_run_begins_and_ends(pods: Pods, flavour: DeviceKind) -> None:
    ticket, device = pods.runner.ticket(), DeviceSetting(kind=flavour)
    with pods.open_run(ticket, java=waiting, device=device) as run:
        run.wait_until_computing()
        ends = JAVA.format(gate="/", status=7)
        executor = pods.executor(ticket, driver_key=run.driver_key, java=ends, device=device).run()
        driver = run.release()
    assert (driver.status, executor.status) == (0, 7), driver.errors + executor.errors
    assert driver.errors == executor.errors == ""
    receipt = verify_by_both(driver.file(".receipt.json"), trust=pods.runner.trust())
    assert [member["role"] for member in receipt.members] == ["driver", "executor"]
    assert list(run.pod.memory.iterdir()) == []


def test_sigterm_ends_spark_and_closes_the_run_as_failed(pods: Pods, flavour: DeviceKind) -> None:
    with pods.open_run(pods.runner.ticket(), java=waiting, device=DeviceSetting(kind=flavour)) as run:
        run.wait_until_computing()
        run.process.send_signal(signal.SIGTERM)
        ended = run.ended()
    assert ended.status == 128 + signal.SIGTERM
    assert verify_by_both(ended.file(".receipt.json"), trust=pods.runner.trust()).body.outcome == "failed"


def test_what_other_machines_have_is_missed_there(pods: Pods) -> None:
    """The filter bites: an agent that is not in an enclave ends, before Spark starts."""
    ended = pods.driver(pods.runner.ticket(), java=JAVA.format(gate="/", status=0)).run()
    assert (ended.status, ended.failed.code) == (70, "configuration")
    assert not ended.seen.exists()


@pytest.mark.xdist_group("spark")
@pytest.mark.timeout(1200)
def test_spark_computes(flavour: DeviceKind, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A driver's agent with Spark's own driver, and an executor's agent as in a pod, with its executor."""
    build_runtime(progress=lambda _: None, with_aot_cache=False)
    folder = tmp_path_factory.mktemp("spark")
    told, device = folder / "port", DeviceSetting(kind=flavour)
    with ExitStack() as stack:
        services, memory = stack.enter_context(installation(folder)), stack.enter_context(memory_volumes())
        runner = Runner(services, folder, script=APPLICATION, arguments=(str(told),))
        runner.approve_all()
        pods = Pods(runner, folder, memory, library_os=flavour)
        ticket = runner.ticket()
        pod = pods.driver(ticket, java=None)
        descriptor = runner.descriptor(ticket, device=device)
        (pod.folder / "descriptor.json").write_bytes(descriptor.to_json())
        pod.words = ["standalone"]
        driver = stack.enter_context(pod.start())
        stack.callback(driver.kill)
        events = Path(descriptor.report)

        def driver_key() -> str | None:
            said = [parse_event(line) for line in events.read_text().splitlines()] if events.exists() else []
            assert not [event for event in said if isinstance(event, Failed)], said
            return next((event.driver_key for event in said if isinstance(event, DriverReady)), None)

        wait_until(lambda: driver_key() is not None and told.exists(), process=driver)
        executor_pod = pods.executor(ticket, driver_key=str(driver_key()), java=None, device=device)
        port, application_id = told.read_text().split()
        executor_pod.environment |= {
            "SPARK_DRIVER_URL": f"spark://CoarseGrainedScheduler@127.0.0.1:{port}",
            "SPARK_APPLICATION_ID": application_id,
        }
        executor = stack.enter_context(executor_pod.start())
        stack.callback(executor.kill)
        _, errors = driver.communicate(timeout=START_S)
        executor.communicate(timeout=START_S)
    (sealed,) = Path(descriptor.output).glob("*.output.jwe")
    printed = open_as_recipient(sealed.read_bytes(), key=runner.recipient).decode()
    assert driver.returncode == 0, errors + printed
    assert "squares 328350" in printed
    assert "in Python 45" in printed
    (receipt,) = Path(descriptor.output).glob("*.receipt.json")
    verified = verify_by_both(receipt.read_bytes(), trust=runner.trust())
    assert [member["role"] for member in verified.members] == ["driver", "executor"]


def wait_until(is_so: Callable[[], bool], *, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_S
    while not is_so():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
