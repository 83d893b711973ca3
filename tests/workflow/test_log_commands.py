"""An owner's commands around the log, on an installation of their own: witnesses, audit, a rotated identity."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.installation import Installation, new_installation

from strongroom.cli.installation import free_port
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with new_installation(tmp_path_factory.mktemp("owner")) as made:
        made.done("dataset", "create", "trips")
        yield made


@contextmanager
def a_witness(installed: Installation, folder: Path) -> Iterator[tuple[str, str]]:
    """Run a witness of the installation's log; yields its verification key line and its address."""
    log_key = trusted_service(load_trust(installed.state.trust), "key-service").log_key
    url = f"https://127.0.0.1:{free_port()}"
    words = ["--name", "witness.example/w1", "--url", url, "--host", "127.0.0.1", "--log", str(log_key)]
    line = installed.done("witness", "init", str(folder), *words).strip()
    program = Path(sys.executable).with_name("strongroom")
    command = [str(program), "witness", "run", "--config", str(folder / "config.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert json.loads(process.stdout.readline())["key"] == line
            yield line, url
        finally:
            process.terminate()
            process.wait(30)


def test_an_owner_has_the_log_witnessed_audits_it_and_rotates_its_identity(
    installed: Installation, tmp_path: Path
) -> None:
    with a_witness(installed, tmp_path / "w") as (line, url):
        certificate = str(tmp_path / "w" / "state" / "identity.pem")
        installed.done("witness", "add", line, "--url", url, "--certificate", certificate)
        installed.done("witness", "require", "1")
        installed.done("up")
        assert trusted_service(load_trust(installed.state.trust), "key-service").witnesses == (line,)

        assert "strongroom-key-service/" in installed.done("log", "checkpoint", "--witnessed")
        assert "dataset-created" in installed.done("log", "show")
        shown = json.loads(installed.done("log", "show", "--event", "dataset-created", "--json"))
        assert [each["dataset"] for each in shown] == ["trips"]
        checked = installed.done("log", "verify", "--witness", url, "--witness-certificate", certificate)
        assert "witnesses: 1 of 1" in checked
        assert "nothing was found that should not be" in checked
        report = json.loads(installed.done("log", "verify", "--json"))
        assert report["findings"] == []
        assert report["events"]["dataset-created"] == 1

        kept = tmp_path / "trust.json"  # somebody who pinned the old identity
        kept.write_bytes(installed.state.trust.read_bytes())
        before = trusted_service(load_trust(kept), "key-service")
        assert "rotations.json" in installed.done("identity", "rotate", "key-service")
        installed.done("up")
        after = trusted_service(load_trust(installed.state.trust), "key-service")
        assert after.identity != before.identity
        assert (after.log_key, after.predecessors) == (before.log_key, (before.identity,))
        installed.done("identity", "follow", str(installed.state.rotations), "--trust", str(kept))
        assert load_trust(kept).services == load_trust(installed.state.trust).services
        again = installed.done("identity", "follow", str(installed.state.rotations), "--trust", str(kept))
        assert "nothing that is pinned was replaced" in again

        before = trusted_service(load_trust(kept), "attestation-service")
        assert "approve anew" not in installed.done("identity", "rotate", "attestation-service")
        installed.done("up")
        installed.done("identity", "follow", str(installed.state.rotations), "--trust", str(kept))
        after = trusted_service(load_trust(installed.state.trust), "attestation-service")
        assert after == trusted_service(load_trust(kept), "attestation-service")
        assert after.identity != before.identity
        assert after.predecessors == (before.identity,)

        installed.done("identity", "rotate", "owner")
        installed.done("up")
        assert len(load_trust(installed.state.trust).owners) == 2
        installed.done("dataset", "create", "report")
        events = json.loads(installed.done("log", "verify", "--json"))["events"]
        assert events["identity-rotated"] == 3


def test_log_commands_refuse_a_log_that_went_back(installed: Installation) -> None:
    installed.done("log", "checkpoint")
    seen = installed.state.seen_logs
    note = json.loads(seen.read_bytes())
    with installed.changed(seen, lambda _: json.dumps(dict.fromkeys(note, "x")).encode()):
        for command in (("log", "show"), ("log", "verify"), ("log", "checkpoint"), ("dataset", "versions", "trips")):
            ended = installed.strongroom(*command)
            assert ended.status == 1, ended.text
            assert "damaged" in ended.stderr
            assert "Traceback" not in ended.text
