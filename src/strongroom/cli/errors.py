"""What a person sees when something goes wrong: the step, the cause, what differed, what to do. In one place."""

import sys
import traceback
from typing import Final

import click

from strongroom.base.errors import StrongroomError
from strongroom.cli.terminal import printable

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130


def explain(error: BaseException) -> str:
    """Return an error as a person should read it, without a final line end.

    Args:
        error: Anything a command may raise. What is not from our error tree or the operating system is a defect;
            its text is left out, because nobody checked that it holds no secret.
    """
    match error:
        case StrongroomError():
            return _explain_known(error)
        case KeyboardInterrupt() | click.Abort():
            return "strongroom: interrupted; what this command started is stopped"
        case OSError(strerror=str(reason)):
            place = f" {error.filename}" if error.filename else ""
            return f"strongroom: the system refused{place}: {reason}"
        case _:
            return (
                f"strongroom: {type(error).__name__}: this is a defect in Strongroom\n"
                "  → run the command again with `strongroom --debug …` and report what it prints"
            )


def report(error: BaseException, *, debug: bool) -> int:
    """Print an error to standard error.

    Args:
        error: What the command raised.
        debug: Print the traceback as well.

    Returns:
        The exit status.
    """
    if debug:
        traceback.print_exception(error)
    sys.stderr.write(explain(error) + "\n")
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt | click.Abort) else EXIT_FAILED


def _explain_known(error: StrongroomError) -> str:
    step = f"step {error.step.number} ({error.step.slug}): " if error.step else ""
    lines = [f"strongroom: {step}{error.message}"]
    lines += [f"  {mismatch}" for mismatch in error.mismatches]
    if error.action:
        lines.append(f"  → {error.action}")
    # A message may name what stood in a file or came from a peer.
    return "\n".join(printable(line) for text in lines for line in text.split("\n"))
