"""An attested key service whose master key a module holds: a real process with SoftHSM, and no custodians."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.custody import KEY_SERVICE, AttestedInstallation, attested_installation, trust_in
from tests.support.softhsm import SoftHsm, softhsm

from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.errors import ConflictError
from strongroom.submit.rotations import follow_rotations
from strongroom.wire.rotation import Rotations


def ended(config: Path) -> tuple[int, str]:
    """Start a key service that does not come up; return its status and what it says."""
    command = [*entry_command(sys.executable, KEY_SERVICE), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def config_with(installed: AttestedInstallation, hsm: SoftHsm, label: str) -> Path:
    """Write the service's configuration with another key of the module."""
    digest = hashlib.sha256(hsm.module.read_bytes()).hexdigest()
    changed = {"master_key": f"{hsm.uri(label)}&module-sha256={digest}"}
    path = installed.folder / f"{label}.json"
    path.write_text(json.dumps(json.loads(installed.key_config.read_text()) | changed))
    return path


@pytest.mark.needs_softhsm
def test_starts_by_itself_is_pinned_from_its_evidence_and_needs_its_module(tmp_path: Path) -> None:
    (tmp_path / "hsm").mkdir()
    with softhsm(tmp_path / "hsm") as hsm, attested_installation(tmp_path) as installed:
        installed.key_config = config_with(installed, hsm, "master")
        installed.keys = installed.start_keys(installed.key_config)
        health = json.loads(installed.keys.http().request("GET", "/healthz").require_success())
        assert (health["mode"], health["master_key"]) == ("attested", "pkcs11")
        pinned = installed.pinned()
        assert (pinned.mode, pinned.master_key) == ("attested", "pkcs11")
        installed.owner_client().create_dataset("kept")
        assert installed.keys.stop() == 0

        right = hsm.pin_file.read_bytes()
        hsm.pin_file.write_text("wrong-pin-1")
        status, text = ended(installed.key_config)
        assert (status, "does not accept the PIN" in text) == (1, True)
        assert "wrong-pin-1" not in text
        hsm.pin_file.write_bytes(right)

        other = config_with(installed, hsm, "another-key")
        status, text = ended(other)
        assert (status, "has no key another-key" in text) == (1, True), "a master key is not made beside a state"

        installed.keys = installed.start_keys(installed.key_config)
        assert installed.pinned() == pinned
        assert "kept" in {each["dataset"] for each in installed.owner_client().datasets()["datasets"]}


@pytest.mark.needs_softhsm
def test_replaces_its_own_identity_when_its_owner_asks(tmp_path: Path) -> None:
    """The key is made and sealed in the TEE; its operator, who has the state folder, never has it."""
    (tmp_path / "hsm").mkdir()
    with softhsm(tmp_path / "hsm") as hsm, attested_installation(tmp_path) as installed:
        installed.key_config = config_with(installed, hsm, "master")
        installed.keys = installed.start_keys(installed.key_config)
        pinned, owner = installed.pinned(), installed.owner_client()
        trust = trust_in(installed.roots, services=(pinned,), owners=(installed.owner.verifying_key.thumbprint,))
        owner.create_dataset("kept")
        logged = owner.rotate_service()
        assert [each.statement for each in owner.rotations().rotations] == [logged.statement]
        with pytest.raises(ConflictError):  # one successor, until it has taken the old one's place
            owner.rotate_service()
        assert installed.pinned() == pinned, "until it is started again"
        assert installed.keys.stop() == 0
        assert not list((tmp_path / "attested").glob("*.key"))

        installed.keys = installed.start_keys(installed.key_config)
        followed, (step,) = follow_rotations(trust, Rotations(rotations=(logged,)))
        (service,) = followed.services
        assert (step.old, step.new) == (pinned.identity, installed.keys.identity)
        assert service == installed.pinned().model_copy(update={"predecessors": (pinned.identity,)})
        assert service.log_key == pinned.log_key
        assert "kept" in {each["dataset"] for each in installed.owner_client().datasets()["datasets"]}


@pytest.mark.needs_softhsm
def test_an_identity_that_was_replaced_is_not_put_back(tmp_path: Path) -> None:
    (tmp_path / "hsm").mkdir()
    with softhsm(tmp_path / "hsm") as hsm, attested_installation(tmp_path) as installed:
        installed.key_config = config_with(installed, hsm, "master")
        installed.keys = installed.start_keys(installed.key_config)
        owner, state = installed.owner_client(), tmp_path / "attested"
        old = {path.name: path.read_bytes() for path in state.glob("identity*")}
        owner.rotate_service()
        installed.keys.stop()
        for path in [*state.glob("identity*"), state / "predecessors.json"]:
            path.unlink()
        for name, content in old.items():  # the operator puts the old identity back, and the new one is gone
            (state / name).write_bytes(content)
            (state / name).chmod(0o600)
        status, text = ended(installed.key_config)
        assert (status, "was replaced by" in text) == (1, True)
