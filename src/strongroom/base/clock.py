"""Time as an argument."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Something that tells the time, in UTC."""

    def now(self) -> datetime:
        """Return the current time, timezone-aware, in UTC."""


class SystemClock:
    """The machine's clock. Made at the edges only; inside a TEE its word is the host's."""

    def now(self) -> datetime:
        """Return the machine's time."""
        return datetime.now(tz=UTC)


def to_rfc3339(moment: datetime) -> str:
    """Return `2026-01-31T12:00:00Z`, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
