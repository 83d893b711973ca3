"""What an agent gave up with, as the error that a person reads."""

from strongroom.base.errors import Mismatch, StrongroomError, error_for_code
from strongroom.base.workflow import Step
from strongroom.wire.events import Failed


def error_of(failure: Failed, *, source: str) -> StrongroomError:
    """Return the error that an agent told.

    Args:
        failure: What it told.
        source: Whose agent it is: `driver`, `executor-3`.
    """
    return error_for_code(failure.code)(
        failure.message if source == "driver" else f"{source}: {failure.message}",
        action=failure.action,
        step=Step.from_slug(failure.step) if failure.step else None,
        mismatches=tuple(
            Mismatch(name=item.name, expected=item.expected, actual=item.actual) for item in failure.mismatches
        ),
    )


def is_refusal(failure: Failed) -> bool:
    """Return whether another try would end alike: neither the engine nor a service that did not answer."""
    return failure.code not in {"engine", "unavailable"}
