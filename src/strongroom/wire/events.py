"""What an agent tells the host while it works: JSON lines, no secret, no data of the application."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from strongroom.base.errors import FormatError
from strongroom.wire.model import Hex32, Message


class StepDone(Message):
    """A step ended in this TEE."""

    event: Literal["step"] = "step"
    step: str
    detail: str
    elapsed_ms: int = Field(ge=0)


class DriverReady(Message):
    """The driver's TEE opened the run and its Spark master answers: executors may start."""

    event: Literal["driver-ready"] = "driver-ready"
    run: Hex32
    driver_key: Hex32
    master_url: str


class Difference(Message):
    """One thing that differed, as `base.errors.Mismatch`."""

    name: str
    expected: str
    actual: str


class Failed(Message):
    """The agent gives up; what a person should read."""

    event: Literal["failed"] = "failed"
    step: str | None
    code: str
    message: str
    action: str
    mismatches: tuple[Difference, ...] = ()


class Finished(Message):
    """The driver ended.

    Attributes:
        status: Exit status of the application; negative for a signal.
        receipt: File name of the receipt in the output folder.
        output: File name of the sealed output; None where no recipient is approved.
        lines: Lines that the application printed.
    """

    event: Literal["finished"] = "finished"
    status: int
    receipt: str
    output: str | None
    lines: int


Event = Annotated[StepDone | DriverReady | Failed | Finished, Field(discriminator="event")]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str) -> Event:
    """Read one line of an agent's report.

    Raises:
        FormatError: Not an event.
    """
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        raise FormatError("not an agent's event") from error
