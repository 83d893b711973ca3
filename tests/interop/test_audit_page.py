"""The auditor's page, followed from top to bottom: its commands, on a run that was made without Spark."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.service_processes import CLOCK, installation
from tests.support.tee import Runner

from strongroom.crypto.keys import SigningKey
from strongroom.log.rotation import sign_rotation
from strongroom.wire.rotation import Rotations

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "audit.md"
PROGRAM = Path(sys.executable).with_name("strongroom")


def blocks() -> list[str]:
    """The page's console blocks."""
    return re.findall(r"^```console\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the auditor has it: receipt, trust file, rotations, the verifier, and access to the key service."""
    folder = tmp_path_factory.mktemp("audit")
    with installation(folder) as services:
        runner = Runner(services, folder)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        runner.write(driver)
        receipt = folder / "out" / runner.finish(driver, descriptor).receipt
        shutil.copy(receipt, folder / "run.receipt.json")
        shutil.copy(ROOT / "verifier" / "strongroom_verify.py", folder)
        (folder / "trust.json").write_bytes(runner.trust().to_json())
        new = SigningKey.generate("ES256")
        logged = runner.owner.rotate(sign_rotation("owner", old=services.owner, new=new, now=CLOCK.now()))
        (folder / "rotations.json").write_bytes(Rotations(rotations=(logged,)).to_json())
        owner = folder / "state" / "owner"
        owner.mkdir(parents=True, mode=0o700)
        shutil.copy(folder / "trust.json", folder / "state")
        key = owner / "owner.key"
        key.touch(mode=0o600)
        key.write_bytes(services.owner.to_pem().reveal())
        yield folder


def test_the_page_has_commands() -> None:
    assert len(blocks()) >= 6


def test_every_command_of_the_page_does_what_it_says(folder: Path) -> None:
    environment = {**os.environ, "STRONGROOM_STATE": str(folder / "state"), "LANG": "C.UTF-8"}
    for block in blocks():
        command, expected = "", ""
        for line in [*block.splitlines(), "$ "]:
            if not line.startswith("$ "):
                expected += f"{line}\n"
                continue
            if command:
                words = command.split()
                words[0] = {"strongroom": str(PROGRAM), "python": sys.executable}[words[0]]
                ended = subprocess.run(
                    words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
                )
                assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
                assert ended.stdout.startswith(expected), f"{command}\n{ended.stdout}"
            command, expected = line.removeprefix("$ "), ""


def test_the_followed_trust_file_names_the_new_key(folder: Path) -> None:
    trust = folder / "followed.json"
    before = (folder / "state" / "trust.json").read_bytes()
    trust.write_bytes(before)
    command = [str(PROGRAM), "identity", "follow", str(folder / "rotations.json"), "--trust", str(trust)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert trust.read_bytes() != before
