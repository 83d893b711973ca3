"""What the agent tells the host while it works."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strongroom.base.errors import StrongroomError
from strongroom.base.workflow import Step
from strongroom.wire.events import Difference, Failed, StepDone
from strongroom.wire.model import Message


class Report:
    """Appends events to the file that the host named. A host that drops them only blinds itself."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, event: Message) -> None:
        """Append one event."""
        with self._path.open("ab") as file:
            file.write(event.to_json() + b"\n")

    def fail(self, error: StrongroomError) -> None:
        """Append the error that ends this agent."""
        self.tell(
            Failed(
                step=error.step.slug if error.step else None,
                code=error.code,
                message=error.message,
                action=error.action,
                mismatches=tuple(
                    Difference(name=item.name, expected=item.expected, actual=item.actual) for item in error.mismatches
                ),
            )
        )

    @contextmanager
    def step(self, step: Step, detail: str) -> Iterator[None]:
        """Time one step; an error inside carries the step."""
        start = time.monotonic()
        try:
            yield
        except StrongroomError as error:
            raise error.at(step) from error.__cause__
        self.tell(StepDone(step=step.slug, detail=detail, elapsed_ms=round((time.monotonic() - start) * 1000)))
