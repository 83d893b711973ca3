"""An attested key service whose master key a module holds: a real process with SoftHSM, and no custodians."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.custody import KEY_SERVICE, AttestedInstallation, attested_installation
from tests.support.softhsm import SoftHsm, softhsm

from strongroom.attestation.evidence.simulated import entry_command


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
