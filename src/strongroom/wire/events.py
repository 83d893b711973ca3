"""What an agent tells the host while it works: JSON lines, no secret, no data of the application."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError
from strongroom.base.limits import LIMITS
from strongroom.crypto.derive import sha256_hex
from strongroom.wire.model import B64Url, Hex32, Message

DELIVERED_PART_BYTES: Final = 48 << 10
_DELIVERED_PARTS: Final = LIMITS.delivered_bytes // DELIVERED_PART_BYTES + 1
DeliveredName = Annotated[str, StringConstraints(pattern=r"^[0-9a-z][0-9a-z.-]{0,99}\Z")]
"""Name of a delivered file; never a path."""


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


class Delivered(Message):
    """In pods: one part of a file that the run leaves behind, receipt or sealed output; it comes before `Finished`.

    Attributes:
        name: The file's name, as in `Finished`.
        sha256: Of the whole file.
        number, of: Which part this is, counted from 1, and how many there are.
        data: This part's bytes, at most `DELIVERED_PART_BYTES`.
    """

    event: Literal["delivered"] = "delivered"
    name: DeliveredName
    sha256: Hex32
    number: int = Field(ge=1)
    of: int = Field(ge=1, le=_DELIVERED_PARTS)
    data: B64Url = Field(max_length=DELIVERED_PART_BYTES * 4 // 3)

    @model_validator(mode="after")
    def _is_one_of_its_parts(self) -> Self:
        if self.number > self.of:
            msg = "a part's number is at most the number of parts"
            raise ValueError(msg)
        return self


Event = Annotated[StepDone | DriverReady | Failed | Delivered | Finished, Field(discriminator="event")]
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


def delivered_parts(name: str, content: bytes) -> Iterator[Delivered]:
    """Return a file as the events that deliver it.

    Raises:
        LimitError: It is larger than can be delivered.
    """
    if len(content) > LIMITS.delivered_bytes:
        raise LimitError(
            f"{name} has {len(content)} bytes, of which at most {LIMITS.delivered_bytes} can be delivered",
            action="Print less, or use fewer executors.",
        )
    digest, parts = sha256_hex(content), max(1, -(-len(content) // DELIVERED_PART_BYTES))
    for number in range(1, parts + 1):
        part = content[(number - 1) * DELIVERED_PART_BYTES : number * DELIVERED_PART_BYTES]
        yield Delivered(name=name, sha256=digest, number=number, of=parts, data=to_b64url(part))


def delivered_file(parts: Sequence[Delivered]) -> bytes:
    """Return a file that was delivered.

    Args:
        parts: The events of one name, in any order; the same part may stand there more than once.

    Raises:
        IntegrityError: Parts are missing, differ from what the first one says, or do not make up that file.
    """
    found = {part.number: part for part in parts}
    whole = next(iter(found.values()), None)
    if whole is None or len(found) != whole.of:
        raise IntegrityError("a file was not delivered whole", action="Fetch the driver's log again from its start.")
    if any((part.name, part.sha256, part.of) != (whole.name, whole.sha256, whole.of) for part in found.values()):
        raise IntegrityError("the parts that were delivered are of different files")
    content = b"".join(from_b64url(found[number].data) for number in range(1, whole.of + 1))
    if sha256_hex(content) != whole.sha256:
        raise IntegrityError(f"what was delivered as {whole.name} is not what the driver's TEE sent")
    return content
