"""When a key of the vault's contract is rotated, and when its owner is told that it will expire.

Durations are ISO 8601's, years to seconds. A rotation policy as it stands in Azure Key Vault's contract:

    {"lifetimeActions": [{"trigger": {"timeAfterCreate": "P90D"}, "action": {"type": "Rotate"}}],
     "attributes": {"expiryTime": "P2Y"}}

Source: Azure Key Vault REST API, `rotationpolicy`; ISO 8601-1, section 5.5.2.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias

from strongroom.base.errors import FormatError
from strongroom.keys.vault_records import LifetimeAction, RotationRule

NEVER: Final = 253402300799
"""The last second of the year 9999: a time that does not come."""
DEFAULT_NOTICE: Final = LifetimeAction(type="Notify", time_after_create=None, time_before_expiry="P30D")
"""What happens where nobody set a policy, and where a policy says nothing about notices."""

_DURATION: Final = re.compile(
    r"P(?=.)(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,6})D)?"
    r"(?:T(?=.)(?:(\d{1,7})H)?(?:(\d{1,9})M)?(?:(\d{1,10})S)?)?\Z",
    re.ASCII,
)
_MONTHS: Final = 12
_REFERENCE: Final = datetime(2001, 1, 1, tzinfo=UTC)
_SHORTEST_EXPIRY: Final = timedelta(days=28)
_SHORTEST_TRIGGER: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """A duration: months have no fixed length, the rest has."""

    months: int
    rest: timedelta

    def after(self, moment: datetime) -> datetime:
        """Return the moment this much later; the last day of a month where the month has no such day.

        Raises:
            FormatError: Later than the year 9999.
        """
        return self._moved(moment, sign=1)

    def before(self, moment: datetime) -> datetime:
        """Return the moment this much earlier.

        Raises:
            FormatError: Earlier than the year 1.
        """
        return self._moved(moment, sign=-1)

    @property
    def at_least(self) -> timedelta:
        """The length from the start of a common year, to compare with other lengths."""
        return self.after(_REFERENCE) - _REFERENCE

    def _moved(self, moment: datetime, *, sign: Literal[1, -1]) -> datetime:
        months = moment.year * _MONTHS + moment.month - 1 + sign * self.months
        year, month = months // _MONTHS, months % _MONTHS + 1
        try:
            day = min(moment.day, calendar.monthrange(year, month)[1])
            return moment.replace(year=year, month=month, day=day) + sign * self.rest
        except (ValueError, OverflowError) as error:
            raise FormatError("a duration leads out of the calendar") from error


def parse_duration(text: str) -> Duration:
    """Read an ISO 8601 duration of whole numbers, such as P90D, P1Y10D or PT48H.

    Raises:
        FormatError: Something else.
    """
    found = _DURATION.match(text)
    if found is None:
        raise FormatError("not a duration of ISO 8601, such as P90D")
    years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    rest = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
    duration = Duration(months=years * _MONTHS + months, rest=rest)
    if duration == Duration(months=0, rest=timedelta()):
        raise FormatError("a duration is longer than nothing")
    return duration


def demand_sound(rule: RotationRule) -> None:
    """Check a rotation policy before it is stored.

    Raises:
        FormatError: Not a duration; several actions of a kind; an action without exactly one trigger, or with one that
            it cannot have; shorter than the contract allows; a trigger that lies outside the key's life.
    """
    expiry = None if rule.expiry_time is None else parse_duration(rule.expiry_time)
    if expiry is not None and expiry.at_least < _SHORTEST_EXPIRY:
        raise FormatError("expiryTime is at least 28 days")
    kinds = [action.type for action in rule.actions]
    if len(set(kinds)) != len(kinds):
        raise FormatError("a rotation policy has at most one action to rotate and one to notify")
    for action in rule.actions:
        _demand_sound_action(action, expiry)


def _demand_sound_action(action: LifetimeAction, expiry: Duration | None) -> None:
    triggers = [text for text in (action.time_after_create, action.time_before_expiry) if text is not None]
    if len(triggers) != 1:
        raise FormatError("an action has exactly one trigger: timeAfterCreate or timeBeforeExpiry")
    if action.type == "Notify" and action.time_after_create is not None:
        raise FormatError("notices come before expiry: timeBeforeExpiry")
    length = parse_duration(triggers[0]).at_least
    if length < _SHORTEST_TRIGGER:
        raise FormatError("a trigger is at least seven days")
    if action.type == "Rotate" and action.time_before_expiry is not None and expiry is None:
        raise FormatError("rotation before expiry needs expiryTime")
    if expiry is not None and action.type == "Rotate" and length + _SHORTEST_TRIGGER > expiry.at_least:
        raise FormatError("a trigger lies at least seven days inside the key's life (expiryTime)")


Due: TypeAlias = tuple[int, Literal["Rotate", "Notify"]]


def next_due(rule: RotationRule, *, created: int, expires: int | None, notified: bool) -> Due | None:
    """Return when the next action of a key is due, in Unix seconds, and which; None where none is.

    Args:
        rule: The rotation policy.
        created: When the newest version was made, in Unix seconds.
        expires: When it expires.
        notified: Whether the notice of this version was given.
    """
    times = [
        (at, action.type)
        for action in rule.actions
        if not (action.type == "Notify" and notified)
        and (at := _due_at(action, created=created, expires=expires)) is not None
    ]
    return min(times, default=None)


def expiry_of(rule: RotationRule, *, created: int) -> int | None:
    """Return when a version that is made now expires, in Unix seconds; None where the policy does not say."""
    if rule.expiry_time is None:
        return None
    return _seconds(parse_duration(rule.expiry_time).after(_moment(created)))


def _due_at(action: LifetimeAction, *, created: int, expires: int | None) -> int | None:
    if action.time_after_create is not None:
        return _seconds(parse_duration(action.time_after_create).after(_moment(created)))
    if action.time_before_expiry is not None and expires is not None:
        return _seconds(parse_duration(action.time_before_expiry).before(_moment(expires)))
    return None


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
