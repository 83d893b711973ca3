"""Step 7, compute: an executor may be lost, a driver may not; and Ctrl-C stops everything."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet
from tests.support.installation import Ended, Installation, Submission, process_with, wait_until
from tests.support.slow import slow_script

from strongroom.base.workflow import Step

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def slow(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Submission:
    script = tmp_path_factory.mktemp("slow") / "slow.py"
    script.write_text(slow_script(partitions=12))
    submission = Submission(
        script=script, arguments=("strongroom://trips", "strongroom://report/slow"), writes=("report",)
    )
    installation.approve(submission)
    return submission


@contextlib.contextmanager
def under_way(installation: Installation, submission: Submission) -> Iterator["tuple[subprocess.Popen[str], Path]"]:
    """Submit an application; the block begins when its first tasks run."""
    earlier = set(installation.state.runs.glob("*"))
    process = installation.started("submit", *submission.sizes, *submission.command_line())
    with process:
        try:
            wait_until(lambda: set(installation.state.runs.glob("*")) - earlier, what="the run has a folder")
            (folder,) = set(installation.state.runs.glob("*")) - earlier
            executor = folder / "executor-1.descriptor.json"
            wait_until(executor.exists, what="an executor's TEE starts")
            scratch = json.loads(executor.read_text())["scratch"]
            wait_until(lambda: _python_works_in(scratch), what="tasks run")
            yield process, folder
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


def _python_works_in(scratch: str) -> bool:
    """Whether a Python worker of this TEE runs: a process there whose program is Python."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes()
            if b"pyspark" in words and b"daemon" in words and scratch.encode() in (folder / "environ").read_bytes():
                return True
    return False


def ended(process: "subprocess.Popen[str]") -> Ended:
    stdout, stderr = process.communicate(timeout=900)
    return Ended(status=process.returncode, stdout=stdout, stderr=stderr)


def agent_of(folder: Path, name: str) -> int:
    pid = process_with("strongroom.agent", str(folder / f"{name}.descriptor.json"))
    assert pid is not None
    return pid


def test_a_lost_executor_is_replaced_by_a_newly_attested_one(
    installation: Installation, slow: Submission, tmp_path: Path
) -> None:
    with under_way(installation, slow) as (process, folder):
        os.kill(agent_of(folder, "executor-1"), signal.SIGKILL)
        end = ended(process)

    assert end.status == 0, end.text
    assert "executors that were lost and replaced: 1" in end.stdout
    assert ("attest", "executor-2") in end.steps()
    assert ("release", "executor-2") in end.steps()
    installation.done("dataset", "decrypt", "report", "--path", "slow", "--to", str(tmp_path / "plain"))
    counts = parquet.read_table(tmp_path / "plain").column("trips").to_pylist()
    assert len(counts) == 12
    assert sum(counts) == 20_000
    verified = installation.done("receipt", "verify", str(installation.receipt(end)))
    assert len(re.findall(r"TEE \d +executor", verified)) == 2, "the receipt names both executors"
    installation.assert_nothing_left()


@pytest.mark.parametrize("victim", ["agent", "Spark"])
def test_a_killed_driver_ends_the_run_without_an_output_version(
    installation: Installation, slow: Submission, victim: str
) -> None:
    with installation.no_new_version("report"), under_way(installation, slow) as (process, folder):
        scratch = json.loads((folder / "driver.descriptor.json").read_text())["scratch"]
        pid = agent_of(folder, "driver") if victim == "agent" else process_with("-Dstrongroom.role=driver", scratch)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        end = ended(process)

    if victim == "agent":
        installation.assert_clear_end(end, step=Step.COMPUTE, says=["the driver's TEE ended"])
    else:
        assert "was ended by SIGKILL" in end.stdout, end.text
        installation.assert_clear_end(end, step=None, says=[], status=137)


def test_ctrl_c_stops_everything(installation: Installation, slow: Submission) -> None:
    with installation.no_new_version("report"), under_way(installation, slow) as (process, _):
        process.send_signal(signal.SIGINT)
        end = ended(process)

    installation.assert_clear_end(end, step=None, says=["interrupted"], status=130)


def test_nothing_is_left_when_the_command_is_killed(installation: Installation, slow: Submission) -> None:
    with installation.no_new_version("report"), under_way(installation, slow) as (process, _):
        process.kill()
        process.wait()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                installation.assert_nothing_left()
                break
            time.sleep(0.5)

    installation.assert_nothing_left()


def revoke(installation: Installation, submission: Submission, *, dataset: str) -> str:
    """Revoke the newest approval of an application for a dataset; return its id."""
    digest = installation.pack(submission)
    records = json.loads(installation.done("approvals", "--json"))
    (approval,) = [each["approval"] for each in records if (each["application"], each["dataset"]) == (digest, dataset)]
    installation.done("revoke", approval, "--reason", "the study has ended")
    return str(approval)


@pytest.mark.parametrize("victim", [None, "executor-1"])
def test_a_revocation_takes_effect_in_the_middle_of_a_run(
    installation: Installation, slow: Submission, tmp_path: Path, victim: str | None
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(slow_script(partitions=40) + f"# {victim}\n")
    submission = replace(slow, script=script)
    installation.approve(submission)

    with installation.no_new_version("report"), under_way(installation, submission) as (process, folder):
        approval = revoke(installation, submission, dataset="trips")
        if victim is not None:  # its replacement has to join anew
            os.kill(agent_of(folder, victim), signal.SIGKILL)
        end = ended(process)

    by = installation.owner().approval(approval)["revocation"]["by"]
    installation.assert_clear_end(end, step=Step.RELEASE, says=["approval for trips", approval, "was revoked by", by])
    assert "the study has ended" not in end.text
    events = installation.leaves()
    revoked = next(
        at for at, leaf in enumerate(events) if leaf.get("approval") == approval and leaf["event"] == "revoked"
    )
    after = [leaf["event"] for leaf in events[revoked:]]
    assert set(after) <= {"revoked", "refused", "run-closed"}, "no key, no member and no version came after it"
    assert "refused" in after
    why = installation.done("why", folder.name)
    assert approval[:12] in why
