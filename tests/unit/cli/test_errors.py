import errno
import subprocess
import sys
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from strongroom.base.errors import Mismatch, RefusedError, UnavailableError
from strongroom.base.workflow import Step
from strongroom.cli.errors import explain
from strongroom.cli.lazy import LazyCommand
from strongroom.cli.main import strongroom

SECRET = "the key is 00112233"


def test_shows_step_cause_differences_and_what_to_do() -> None:
    error = RefusedError(
        "no approval covers this run",
        action="ask the owner",
        step=Step.RELEASE,
        mismatches=(
            Mismatch(name="application", expected="aa", actual="bb"),
            Mismatch(name="runs", expected="1", actual="2"),
        ),
    )

    assert explain(error).split("\n") == [
        "strongroom: step 5 (release): no approval covers this run",
        "  application: expected aa, found bb",
        "  runs: expected 1, found 2",
        "  → ask the owner",
    ]


def test_an_error_without_step_and_action_is_one_line() -> None:
    assert explain(UnavailableError("nobody answers")) == "strongroom: nobody answers"


def test_the_text_of_an_unforeseen_error_is_not_shown_because_nobody_checked_it() -> None:
    text = explain(ValueError(SECRET))

    assert text.startswith("strongroom: ValueError: this is a defect in Strongroom")
    assert SECRET not in text


def test_what_the_system_refuses_names_the_file() -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/data/x")

    assert explain(error) == "strongroom: the system refused /data/x: No space left on device"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnavailableError("nobody answers"), 1),
        (ValueError(SECRET), 1),
        (OSError(errno.EACCES, "Permission denied", "/x"), 1),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (click.UsageError("say --read or --write"), 2),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_a_command_that_fails_ends_with_its_status_and_without_traceback(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, options: list[str]
) -> None:
    result = CliRunner().invoke(failing(monkeypatch, error), [*options, "fail"])

    assert result.exit_code == status
    assert isinstance(result.exception, SystemExit)
    expects_traceback = bool(options) and status != 2
    assert ("Traceback" in result.output) == expects_traceback


def test_the_exit_status_that_a_command_chooses_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(failing(monkeypatch, click.exceptions.Exit(7)), ["fail"]).exit_code == 7


def test_a_reader_who_has_seen_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(failing(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe")), ["fail"])

    assert result.exit_code == 1
    assert result.output == ""


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> click.Command:
    """The root with one more command, which fails with this error."""

    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setitem(sys.modules, "failing_commands", SimpleNamespace(fail=fail))
    monkeypatch.setitem(strongroom.lazy, "fail", LazyCommand(place="failing_commands:fail", summary=""))
    return strongroom


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    program = """
import os, signal, sys
from types import SimpleNamespace
import click
from strongroom.cli.lazy import LazyCommand
from strongroom.cli.main import main, strongroom

@click.command()
def wait():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    finally:
        print("cleaned up", flush=True)

sys.modules["waiting"] = SimpleNamespace(wait=wait)
strongroom.lazy["wait"] = LazyCommand(place="waiting:wait", summary="")
sys.argv[1:] = ["wait"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 130
    assert ended.stdout == "cleaned up\n"
    assert ended.stderr == "strongroom: interrupted; what this command started is stopped\n"


def test_an_error_that_names_what_a_peer_sent_cannot_steer_the_terminal() -> None:
    error = RefusedError(
        "no \x1b[2J", action="ask \x9b", mismatches=(Mismatch(name="a", expected="b", actual="\x07\u202e"),)
    )
    assert all(line.isprintable() for line in explain(error).split("\n"))
