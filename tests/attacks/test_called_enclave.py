"""Promises 1, 4 and 5 against a host that calls a machine an enclave, or an enclave something else.

In enclaves an agent does without some protections that their library operating systems do not have: a kernel that says
what scratch lies on, one that ends Spark with its agent. Which device quotes it is the host's word. No word of the
host's may take these protections from a machine that gets keys.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.devices import make_tree
from tests.support.platform import MRENCLAVE
from tests.support.pods import Ended, Pod, Pods, memory_volumes
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.application.description import ApplicationDescription
from strongroom.wire.descriptor import DeviceKind, DeviceSetting
from strongroom.wire.events import Failed, parse_event

ENCLAVES: tuple[DeviceKind, ...] = ("gramine", "occlum")
PLACES = {"gramine": "dev/attestation/attestation_type", "occlum": "dev/sgx"}
WAITS = 'echo $$ > "$seen/pid"; touch "$seen/waits"; exec sleep 600'


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    folder = tmp_path_factory.mktemp("pods")
    with installation(folder) as services, memory_volumes() as memory:
        runner = Runner(services, folder)
        runner.approve_all(tees=("sgx", "tdx"))
        yield Pods(runner, folder, memory)


@pytest.fixture(params=ENCLAVES)
def called(request: pytest.FixtureRequest) -> DeviceKind:
    """What the host calls the TEE."""
    name: DeviceKind = request.param
    return name


@pytest.fixture
def pod(pods: Pods, called: DeviceKind) -> Pod:
    return pods.driver(pods.runner.ticket(), device=DeviceSetting(kind=called))


def refused(pod: Pod) -> Ended:
    """The agent gives up before any key service let it in, and starts nothing."""
    ended = pod.run()
    assert ended.status == 70, ended.log + ended.errors
    assert not ended.got_keys
    assert not ended.seen.exists()
    assert list(pod.memory.iterdir()) == []
    return ended


def test_a_machine_that_is_no_enclave_gets_no_key(pod: Pod) -> None:
    (pod.folder / "root").mkdir()
    assert "is not here" in refused(pod).failed.message


def test_a_machine_with_an_enclaves_files_gets_no_key(pods: Pods, pod: Pod, called: DeviceKind) -> None:
    """The host plants what Gramine has, with a genuine quote of the approved enclave, over other bytes."""
    make_tree(pod.folder / "root", PLACES[called])
    if called == "gramine":
        quoted = pods.runner.services.platform.quote(
            mrenclave=MRENCLAVE, config_id=config_id(pods.runner.description), report_data=bytes(64)
        )
        for name, content in (("attestation_type", b"dcap"), ("quote", quoted), ("user_report_data", b"")):
            (pod.folder / "root" / "dev" / "attestation" / name).write_bytes(content)
    assert refused(pod).failed.code in {"verification", "unavailable"}


def test_a_machine_for_which_another_enclave_answers_gets_no_key(pod: Pod) -> None:
    """The host's own enclave quotes whatever it is given; what it is stands in the quote."""
    (pod.folder / "tee.json").write_text(json.dumps({"mrenclave": "ab" * 32}))
    assert refused(pod).failed.step in {"attest", "release"}


def test_a_machine_keeps_its_scratch_off_disks(pod: Pod, tmp_path: Path) -> None:
    """Even with evidence that a key service would believe: Linux says what scratch lies on."""
    pod.lay_memory_on(tmp_path / "disk")
    assert "which the host can read" in refused(pod).failed.message


def test_a_virtual_machine_that_is_called_an_enclave_ends_spark_with_its_agent(pods: Pods, called: DeviceKind) -> None:
    """Its evidence, which is believed, says that it is none: what is left out in enclaves is not left out here."""
    pod = pods.driver(pods.runner.ticket(), java=WAITS, device=DeviceSetting(kind=called))
    (pod.folder / "tee.json").write_text(json.dumps({"kind": "tdx"}))
    with ExitStack() as stack:
        process = stack.enter_context(pod.start())
        stack.callback(process.kill)
        wait_until((pod.seen / "waits").exists)
        spark = int((pod.seen / "pid").read_text())
        assert "ActiveProcessorCount" not in (pod.seen / "conf" / "java.options").read_text()
        process.kill()
        wait_until(lambda: not Path(f"/proc/{spark}").exists())


def test_an_enclaves_scratch_folder_is_not_the_hosts_to_name(pods: Pods, called: DeviceKind) -> None:
    """Occlum starts the agent with the host's arguments, and hands on what the host says of its own file systems."""
    with tempfile.TemporaryDirectory(prefix="sr-", dir="/dev/shm") as memory:
        folder = Path(memory)
        descriptor = pods.runner.descriptor(
            pods.runner.ticket(),
            device=DeviceSetting(kind=called),
            scratch=str(folder / "scratch"),
            report=str(folder / "events"),
        )
        (folder / "descriptor.json").write_bytes(descriptor.to_json())
        command = [sys.executable, "-I", "-m", "strongroom.agent", str(folder / "descriptor.json")]
        ended = subprocess.run(command, check=False, timeout=120)
        (failed,) = [parse_event(line) for line in (folder / "events").read_text().splitlines()]
        assert ended.returncode == 70
        assert isinstance(failed, Failed)
        assert "not the host's to name" in failed.message
        assert not (folder / "scratch").exists()


def config_id(description: ApplicationDescription) -> bytes:
    return bytes.fromhex(description.digest).ljust(64, b"\0")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
