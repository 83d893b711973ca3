"""A command that starts at once does what the program does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.warm import WarmCommands

PROGRAM = Path(sys.executable).with_name("strongroom")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "STRONGROOM_STATE": "nowhere"}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmCommands]:
    made = WarmCommands(PROGRAM)
    yield made
    made.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list", "--help"),
        ("approve", "--no-such-option"),
        ("runs", "list"),
        ("policy", "show"),
        ("submit", "--no-such-option"),
        ("dataset", "create", "é"),
    ],
)
def test_status_and_words_are_the_programs(warm: WarmCommands, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [PROGRAM, *arguments], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    ended = warm.run(arguments, environment=ENVIRONMENT, folder=tmp_path, timeout_s=60)
    assert ended == (done.returncode, done.stdout, done.stderr)


def test_a_command_that_does_not_end_is_a_timeout(warm: WarmCommands, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        warm.run(("runs", "list", "--help"), environment=ENVIRONMENT, folder=tmp_path, timeout_s=0)
    assert warm.run(("runs", "--help"), environment=ENVIRONMENT, folder=tmp_path, timeout_s=60)[0] == 0
