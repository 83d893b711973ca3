"""Step 1, submit: what cannot run is refused before anything starts."""

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.installation import Installation, Submission, demand_root, process_with

from strongroom.base.workflow import Step

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("spark.authenticate=false", "spark.authenticate"),
        ("spark.network.crypto.saslFallback=true", "spark.network.crypto.saslFallback"),
        ("spark.io.encryption.enabled=false", "spark.io.encryption.enabled"),
        ("spark.eventLog.enabled=true", "spark.eventLog.enabled"),
        ("spark.hadoop.parquet.crypto.factory.class=", "spark.hadoop.parquet.crypto.factory.class"),
        ("spark.jars.packages=org.example:code:1.0", "spark.jars.packages"),
        ("spark.executor.extraJavaOptions=-agentlib:jdwp", "spark.executor.extraJavaOptions"),
    ],
)
def test_refuses_a_setting_that_would_weaken_protection(
    installation: Installation, count: Submission, setting: str, says: str
) -> None:
    ended = installation.submit(replace(count, options=("--conf", setting)))

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=[says])


def test_refuses_a_remote_python_file(installation: Installation, count: Submission) -> None:
    ended = installation.submit(replace(count, options=("--py-files", "https://example.org/helper.py")))

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=["https://example.org/helper.py"])


def test_refuses_a_remote_script(installation: Installation, count: Submission) -> None:
    ended = installation.submit(replace(count, script=Path("https://example.org/report.py")))

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=["report.py"])


@pytest.mark.parametrize("option", ["--jars", "--packages"])
def test_refuses_a_remote_jar(installation: Installation, count: Submission, option: str) -> None:
    ended = installation.submit(replace(count, options=(option, "https://example.org/code.jar")))

    installation.assert_clear_end(ended, step=None, says=[f"{option} is not supported"], status=2)


def test_refuses_a_script_that_is_not_there(installation: Installation, count: Submission) -> None:
    ended = installation.submit(replace(count, script=count.script.with_name("missing.py")))

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=["missing.py"])


def test_refuses_more_memory_than_the_machine_has(installation: Installation, count: Submission) -> None:
    ended = installation.submit(count, options=["--driver-memory", "900g"])

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=["MiB of memory", "--driver-memory"])


def test_refuses_a_memory_file_system_without_room(installation: Installation, count: Submission) -> None:
    demand_root("a small /dev/shm")
    small = 'mount -t tmpfs -o size=16m tmpfs /dev/shm && exec "$@"'

    ended = installation.submit(count, prefix=["unshare", "--mount", "sh", "-c", small, "sh"])

    installation.assert_clear_end(ended, step=Step.SUBMIT, says=["/dev/shm has", "MiB left"])


def test_refuses_a_system_without_a_memory_file_system(
    installation: Installation, count: Submission, tmp_path: Path
) -> None:
    demand_root("a disk in the place of /dev/shm")
    installation.approve(count)
    disk = f'mount --bind {tmp_path} /dev/shm && exec "$@"'

    ended = installation.submit(count, prefix=["unshare", "--mount", "sh", "-c", disk, "sh"])

    installation.assert_clear_end(ended, step=None, says=["memory file system", "→"])


@pytest.mark.parametrize("service", ["attestation-service", "key-service"])
def test_says_which_port_is_taken(tmp_path: Path, service: str) -> None:
    for folder in ("home", "tmp"):
        (tmp_path / folder).mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    made = Installation(root=tmp_path, environment=environment)
    config = made.state.owner / service / "config.json"
    config.parent.mkdir(parents=True, mode=0o700)
    made.state.owner.chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(json.dumps({"port": port}))
        ended = made.strongroom("up")

    made.assert_clear_end(ended, step=None, says=[f"port {port} of the {service} is taken", "→ stop that program"])
    assert not made.state.processes.exists(), "a process is left"
    assert process_with("simulated-platform", str(made.state.platform)) is None, "the platform is left"
