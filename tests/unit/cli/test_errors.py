import errno

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
@pytest.mark.parametrize("debug", [False, True])
def test_a_command_that_fails_ends_with_its_status_and_without_traceback(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, debug: bool
) -> None:
    result = CliRunner().invoke(failing(monkeypatch, error), ["--debug"] * debug + ["fail"])

    assert result.exit_code == status
    assert isinstance(result.exception, SystemExit)
    expects_traceback = debug and status != 2
    assert ("Traceback" in result.output) == expects_traceback


def test_the_exit_status_that_a_command_chooses_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CliRunner().invoke(failing(monkeypatch, click.exceptions.Exit(7)), ["fail"]).exit_code == 7


FAILURE: list[BaseException] = []


@click.command()
def fail() -> None:
    raise FAILURE[0]


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> click.Command:
    """The root with one more command, which fails with this error."""
    monkeypatch.setitem(strongroom.lazy, "fail", LazyCommand(place=f"{__name__}:fail", summary=""))  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("sys").modules.get(__name__))
    FAILURE[:] = [error]
    return strongroom
