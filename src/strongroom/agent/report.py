"""What the agent tells the host while it works."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from strongroom.base.errors import StrongroomError
from strongroom.base.workflow import Step
from strongroom.wire.events import Difference, Failed, StepDone
from strongroom.wire.model import Message

_TERMINATION_MESSAGE_BYTES: Final = 4096
"""What Kubernetes keeps of a container's last words. Source: Kubernetes, `terminationMessagePath`."""


class Report:
    """Gives events to the host, a line each. A host that drops them only blinds itself.

    Args:
        write: Appends one line.
        last_words: A file that gets, in one sentence, why this agent gives up; or None.
    """

    def __init__(self, write: Callable[[bytes], None], *, last_words: Path | None = None) -> None:
        self._write = write
        self._last_words = last_words

    @classmethod
    def in_file(cls, path: Path) -> Self:
        """Return a report whose events are appended to the file that the host named."""

        def append(line: bytes) -> None:
            with path.open("ab") as file:
                file.write(line)

        return cls(append)

    @classmethod
    def on_descriptor(cls, descriptor: int, *, last_words: Path) -> Self:
        """Return a report whose events are written to an open file, such as standard output."""

        def write(line: bytes) -> None:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

        return cls(write, last_words=last_words)

    def tell(self, event: Message) -> None:
        """Tell one event."""
        self._write(event.to_json() + b"\n")

    def fail(self, error: StrongroomError) -> None:
        """Tell the error that ends this agent."""
        if self._last_words is not None:
            words = f"{error.message}. {error.action}".encode()[:_TERMINATION_MESSAGE_BYTES]
            with suppress(OSError):
                self._last_words.write_bytes(words.decode(errors="ignore").encode())
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
