"""`strongroom witness`: making a witness, and choosing those of the own log."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from strongroom.cli.main import strongroom
from strongroom.crypto.keys import SigningKey
from strongroom.log.cosignature import witness_key
from strongroom.log.note import COSIGNATURE, verification_key

LOG = verification_key("log.example/1", SigningKey.generate("Ed25519").verifying_key)


def ran(*arguments: str, state: Path) -> Result:
    return CliRunner().invoke(strongroom, list(arguments), env={"STRONGROOM_STATE": str(state)})


def vkey(name: str) -> str:
    return verification_key(name, SigningKey.generate("Ed25519").verifying_key, kind=COSIGNATURE)


def test_a_witness_is_made_once_and_says_its_key(tmp_path: Path) -> None:
    arguments = ["witness", "init", str(tmp_path / "w"), "--name", "w.example/1"]
    arguments += ["--url", "https://127.0.0.1:8443", "--log", LOG]
    made = ran(*arguments, state=tmp_path)
    assert made.exit_code == 0, made.output
    line = made.output.strip()
    assert witness_key(line).name == "w.example/1"
    assert (tmp_path / "w" / "witness.vkey").read_text().strip() == line
    assert (tmp_path / "w" / "state" / "witness.key").stat().st_mode & 0o077 == 0
    assert ran(*arguments, state=tmp_path).output.strip() == line
    other = ran(*arguments, "--host", "127.0.0.1", state=tmp_path)
    assert other.exit_code != 0


@pytest.mark.parametrize(
    "changed",
    [
        ("--url", "https://127.0.0.1"),
        ("--url", "http://127.0.0.1:1"),
        ("--name", "a name"),
        ("--log", "no key"),
        ("--log", vkey("w.example/1")),
    ],
)
def test_refuses_a_witness_that_could_not_serve(tmp_path: Path, changed: tuple[str, str]) -> None:
    arguments = {"--name": "w.example/1", "--url": "https://127.0.0.1:8443", "--log": LOG, changed[0]: changed[1]}
    words = [word for pair in arguments.items() for word in pair]
    refused = ran("witness", "init", str(tmp_path / "w"), *words, state=tmp_path)
    assert refused.exit_code != 0
    assert not isinstance(refused.exception, ValueError | KeyError)


def test_the_own_logs_witnesses_are_chosen(tmp_path: Path) -> None:
    one, two = vkey("w.example/1"), vkey("w.example/2")
    for line, port in ((one, 1), (two, 2), (one, 3)):  # the third is another address of the first
        added = ran("witness", "add", line, "--url", f"https://w.example:{port}", state=tmp_path)
        assert added.exit_code == 0, added.output
    assert ran("witness", "require", "2", state=tmp_path).exit_code == 0
    listed = json.loads(ran("witness", "list", "--json", state=tmp_path).output)
    assert {each["name"]: each["url"] for each in listed} == {
        "w.example/1": "https://w.example:3",
        "w.example/2": "https://w.example:2",
    }
    assert ran("witness", "remove", "w.example/2", state=tmp_path).exit_code == 0
    assert "1 of 1 must have cosigned" in ran("witness", "list", state=tmp_path).output


def test_refuses_a_choice_that_could_never_be_met(tmp_path: Path) -> None:
    assert ran("witness", "require", "1", state=tmp_path).exit_code != 0
    assert ran("witness", "add", LOG, "--url", "https://w.example:1", state=tmp_path).exit_code != 0
    assert ran("witness", "remove", "w.example/9", state=tmp_path).exit_code != 0
    assert ran("witness", "list", "--json", state=tmp_path).output.strip() == "[]"


@pytest.mark.parametrize("content", [b"", b"{", b'{"unknown":1}', b'{"witnesses":[{"key":"x"}]}'])
def test_a_damaged_choice_is_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "owner" / "witnesses.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert ran("witness", "list", state=tmp_path).exit_code != 0
