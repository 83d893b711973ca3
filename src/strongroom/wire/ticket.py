"""The run ticket: what a submitter asks for, signed, usable once."""

from typing import Final, Literal

from pydantic import Field

from strongroom.wire.model import DatasetName, Hex16, Hex32, Message, Timestamp

TICKET_TYP: Final = "strongroom-ticket+jws"


class RunTicket(Message):
    """One run. The SHA-256 of these bytes is `run` in runtime data, log leaves and receipts.

    Attributes:
        run_id: Random; how people name the run.
        application: Digest of the application.
        datasets: Every dataset the application binds; the version to read (None for one that is only written).
        max_executors: How many executors' TEEs may join over the whole run, replacements included.
        submitter: Thumbprint of the key that signed this.
        checkpoints: The last log checkpoint known of each key service, by identity.
    """

    version: Literal[1] = 1
    run_id: Hex16
    application: Hex32
    datasets: dict[DatasetName, int | None] = Field(min_length=1, max_length=64)
    max_executors: int = Field(ge=1, le=10_000)
    not_after: Timestamp
    submitter: Hex32
    checkpoints: dict[Hex32, str]
