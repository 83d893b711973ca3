"""Step 5, release: no approval, no key; and the refusal says what differs from what was approved."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.installation import Ended, Installation, Submission, wait_until

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.workflow import Step
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.state import State
from strongroom.wire.events import Failed

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def counted(installation: Installation, repo_root: Path) -> tuple[Submission, Ended]:
    """A run that was approved once and used its approval up."""
    script = repo_root / "examples" / "nyctaxi" / "count.py"
    submission = Submission(script=script, arguments=("strongroom://trips",), options=("--name", "counted-once"))
    installation.approve(submission, max_runs=1)
    return submission, installation.submit_well(submission)


def test_an_approved_application_gets_its_keys(installation: Installation, counted: tuple[Submission, Ended]) -> None:
    _, ended = counted

    assert ("release", "driver") in ended.steps()
    assert "Input DataFrame Count: 20000" in installation.output_of(ended)
    installation.assert_nothing_left()


def test_refuses_an_application_that_nobody_approved(installation: Installation, count: Submission) -> None:
    ended = installation.submit(replace(count, options=("--name", "never-approved")))

    says = ["no approval names this application", "strongroom approve"]
    installation.assert_clear_end(ended, step=Step.RELEASE, says=says)


def test_refuses_an_application_whose_approval_is_used_up(
    installation: Installation, counted: tuple[Submission, Ended]
) -> None:
    submission, _ = counted

    ended = installation.submit(submission)

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["runs"])


@pytest.mark.parametrize("tee", ["tdx", "snp"])
def test_refuses_a_kind_of_tee_that_the_approval_does_not_name(
    installation: Installation, count: Submission, tee: str
) -> None:
    submission = replace(count, options=("--name", f"approved-for-sgx-not-{tee}"))
    installation.approve(submission)

    ended = installation.submit(submission, options=("--tee", tee))

    assert "evidence verified and appraised" in ended.stdout
    installation.assert_clear_end(
        ended, step=Step.RELEASE, says=["x-ms-attestation-type: expected what was approved, found"]
    )


def test_refuses_an_application_whose_approval_has_expired(installation: Installation, count: Submission) -> None:
    submission = replace(count, options=("--name", "expired"))
    until = datetime.now(tz=UTC) + timedelta(seconds=8)
    installation.approve(submission, options=["--until", until.strftime("%Y-%m-%dT%H:%M:%SZ")])
    wait_until(lambda: datetime.now(tz=UTC) > until, what="the approval expires")

    ended = installation.submit(submission)

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["approv"])


def test_refuses_an_application_whose_approval_was_revoked(installation: Installation, count: Submission) -> None:
    submission = replace(count, options=("--name", "revoked"))
    digest = installation.approve(submission)
    for approval in json.loads(installation.done("approvals", "--json")):
        if approval["application"] == digest:
            installation.done("revoke", approval["approval"])

    ended = installation.submit(submission)

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["revoked"])


def test_refuses_a_dataset_whose_key_is_disabled(installation: Installation, count: Submission) -> None:
    installation.approve(count)
    installation.vault("PATCH", "/keys/dataset-trips", {"attributes": {"enabled": False}})
    try:
        ended = installation.submit(count)
    finally:
        installation.vault("PATCH", "/keys/dataset-trips", {"attributes": {"enabled": True}})

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["key", "disabled"])


def test_refuses_a_submitter_whom_the_approval_does_not_name(
    installation: Installation, count: Submission, tmp_path: Path
) -> None:
    installation.approve(count)
    stranger = State(root=tmp_path / "stranger")
    make_owner_keys(stranger)

    ended = installation.submit(count, options=["--key", str(stranger.submitter_key)])

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["submit"])


def test_refuses_an_owner_whom_the_key_service_does_not_know(installation: Installation, tmp_path: Path) -> None:
    stranger = State(root=tmp_path / "stranger")
    make_owner_keys(stranger)

    with installation.changed(installation.state.owner_key, lambda _: stranger.owner_key.read_bytes()):
        ended = installation.strongroom("dataset", "create", "mine")

    installation.assert_clear_end(ended, step=None, says=["→"])
    assert "mine" not in json.dumps(installation.owner().datasets())


@pytest.mark.parametrize("changed", ["a byte", "an argument", "a setting"])
def test_shows_the_analyst_what_changed_since_the_package_that_was_approved(
    installation: Installation, count: Submission, changed: str
) -> None:
    approved = replace(count, options=("--name", f"changed {changed}", "--conf", "spark.sql.shuffle.partitions=5"))
    installation.approve(approved)

    ended = installation.submit(_edited(approved, changed))

    installation.assert_clear_end(ended, step=Step.RELEASE, says=["this changed:", _WHAT_IS_SHOWN[changed]])


@pytest.mark.parametrize("changed", ["a byte", "an argument", "a setting"])
def test_shows_the_owner_what_changed_since_the_last_approval(
    installation: Installation, count: Submission, changed: str
) -> None:
    approved = replace(count, options=("--name", f"owner: {changed}", "--conf", "spark.sql.shuffle.partitions=5"))
    installation.approve(approved)
    digest = installation.pack(_edited(approved, changed))

    shown = installation.done("approve", digest, "--dataset", "trips", "--read")

    assert "this changed:" in shown
    assert _WHAT_IS_SHOWN[changed] in shown


_WHAT_IS_SHOWN = {
    "a byte": "count.py",
    "an argument": "strongroom://trips/",
    "a setting": "spark.sql.shuffle.partitions",
}


def _edited(submission: Submission, what: str) -> Submission:
    match what:
        case "a byte":
            submission.script.write_bytes(submission.script.read_bytes().replace(b"1000", b"1001"))
            return submission
        case "an argument":
            return replace(submission, arguments=("strongroom://trips/",))
        case _:
            return replace(submission, options=(*submission.options[:-1], "spark.sql.shuffle.partitions=6"))


# --- the host plays with what it has of an earlier run ------------------------------------------------------------


def test_refuses_a_ticket_that_was_used(installation: Installation, counted: tuple[Submission, Ended]) -> None:
    _, ended = counted

    failed = _agent_again(installation, ended, "driver", lambda _: None)

    assert failed.step == "release"
    assert "ticket" in failed.message or "run" in failed.message
    assert failed.action


def test_refuses_an_executor_of_a_run_that_is_closed(
    installation: Installation, counted: tuple[Submission, Ended]
) -> None:
    _, ended = counted

    failed = _agent_again(installation, ended, "executor-1", lambda _: None)

    assert failed.step == "release"
    assert "closed" in failed.message


def test_refuses_a_package_that_the_operator_changed(
    installation: Installation, counted: tuple[Submission, Ended], tmp_path: Path
) -> None:
    _, ended = counted

    def use_changed_package(descriptor: dict[str, Any]) -> None:
        package = tmp_path / "package"
        subprocess.run(["cp", "-r", descriptor["package"], package], check=True)
        script = next(package.rglob("count.py"))
        script.write_bytes(script.read_bytes() + b"\n")
        descriptor["package"] = str(package)

    failed = _agent_again(installation, ended, "driver", use_changed_package)

    assert failed.step == "attest"
    assert "count.py" in json.dumps(failed.model_dump()) or "application" in failed.message


def test_refuses_a_ticket_that_the_operator_changed(
    installation: Installation, counted: tuple[Submission, Ended]
) -> None:
    _, ended = counted

    def allow_more_executors(descriptor: dict[str, Any]) -> None:
        header, payload, signature = descriptor["ticket"].split(".")
        ticket = json.loads(from_b64url(payload))
        ticket["max_executors"] += 1
        body = json.dumps(ticket, sort_keys=True, separators=(",", ":")).encode()
        descriptor["ticket"] = f"{header}.{to_b64url(body)}.{signature}"

    failed = _agent_again(installation, ended, "driver", allow_more_executors)

    assert failed.step == "release"
    assert "signature" in failed.message or "ticket" in failed.message


def _agent_again(installation: Installation, ended: Ended, name: str, edit: Callable[[dict[str, Any]], None]) -> Failed:
    """Start an agent with an earlier run's descriptor; return how it gave up."""
    descriptor = json.loads((installation.run_folder(ended) / f"{name}.descriptor.json").read_text())
    with (
        tempfile.TemporaryDirectory(prefix="agent-") as temporary,
        tempfile.TemporaryDirectory(prefix="srt-", dir="/dev/shm") as memory,
    ):
        folder = Path(temporary)
        descriptor |= {
            "scratch": f"{memory}/x",
            "report": str(folder / "report"),
            "output": temporary,
            "lifeline": False,
        }
        edit(descriptor)
        path = folder / "descriptor.json"
        path.write_text(json.dumps(descriptor, sort_keys=True, separators=(",", ":")))
        agent = subprocess.run(
            [*entry_command(sys.executable, "strongroom.agent"), str(path)],
            capture_output=True,
            input="",
            text=True,
            timeout=300,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            check=False,
        )
        assert agent.returncode == 70
        assert "Traceback" not in agent.stdout + agent.stderr
        assert not Path(memory, "x").exists(), "the TEE's scratch is left"
        event = installation.events(folder / "report")[-1]
        assert isinstance(event, Failed)
        return event
