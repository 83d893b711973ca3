from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from strongroom.cli.main import strongroom
from strongroom.cli.owner_keys import make_owner_keys, public_key_of
from strongroom.cli.state import State
from strongroom.crypto.jose import seal_to_recipients

RUN = "ab" * 16


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(root=tmp_path / "state")
    make_owner_keys(state)
    folder = state.runs / RUN
    folder.mkdir(parents=True)
    jwk = public_key_of(str(state.recipient_key.with_suffix(".jwk"))).to_jwk()
    (folder / f"{RUN}.output.jwe").write_bytes(seal_to_recipients("zwölf\n".encode(), recipient_jwks=[jwk]))
    return state


def output(state: State, *arguments: str) -> Result:
    return CliRunner().invoke(strongroom, ["runs", "output", "--state", str(state.root), *arguments])


def test_a_recipient_reads_what_the_application_printed_with_nothing_running(state: State) -> None:
    result = output(state, RUN[:6])

    assert result.exit_code == 0
    assert result.stdout_bytes == "zwölf\n".encode()


def test_somebody_else_reads_nothing(state: State, tmp_path: Path) -> None:
    other = State(root=tmp_path / "other")
    make_owner_keys(other)

    result = output(state, RUN, "--key", str(other.recipient_key))

    assert result.exit_code == 1
    assert "not sealed to this key" in result.output
    assert "zwölf" not in result.output


def test_a_run_without_recipients_says_how_to_name_one(state: State) -> None:
    (state.runs / RUN / f"{RUN}.output.jwe").unlink()

    result = output(state, RUN)

    assert result.exit_code == 1
    assert "--recipient" in result.output


@pytest.mark.parametrize("content", [b"", b"{}", b"{", b'{"body":{}}'])
def test_a_receipt_that_is_none_is_a_clear_error(state: State, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.receipt.json"
    file.write_bytes(content)

    result = CliRunner().invoke(strongroom, ["receipt", "show", str(file)])

    assert result.exit_code == 1
    assert result.output.startswith("strongroom: not ")
