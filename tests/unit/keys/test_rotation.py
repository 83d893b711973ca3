import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError
from strongroom.keys.rotation import DEFAULT_NOTICE, demand_sound, expiry_of, next_due, parse_duration
from strongroom.keys.vault_records import LifetimeAction, RotationRule

DAY = 86400
LEAP = datetime(2028, 2, 29, 12, tzinfo=UTC)
NEW_YEAR = datetime(2026, 1, 31, tzinfo=UTC)


def rotate(*, after: str | None = None, before: str | None = None) -> LifetimeAction:
    return LifetimeAction(type="Rotate", time_after_create=after, time_before_expiry=before)


def notify(*, after: str | None = None, before: str | None = None) -> LifetimeAction:
    return LifetimeAction(type="Notify", time_after_create=after, time_before_expiry=before)


def rule(*actions: LifetimeAction, expiry: str | None = None) -> RotationRule:
    return RotationRule(actions=actions, expiry_time=expiry)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("P90D", NEW_YEAR, NEW_YEAR + timedelta(days=90)),
        ("P1M", NEW_YEAR, datetime(2026, 2, 28, tzinfo=UTC)),
        ("P1Y", LEAP, datetime(2029, 2, 28, 12, tzinfo=UTC)),
        ("P4Y", LEAP, datetime(2032, 2, 29, 12, tzinfo=UTC)),
        ("P1Y2M10DT2H30M", NEW_YEAR, datetime(2027, 4, 10, 2, 30, tzinfo=UTC)),
        ("P2W", NEW_YEAR, NEW_YEAR + timedelta(days=14)),
        ("PT48H", NEW_YEAR, NEW_YEAR + timedelta(days=2)),
        ("PT5S", NEW_YEAR, NEW_YEAR + timedelta(seconds=5)),
        ("P14M", NEW_YEAR, datetime(2027, 3, 31, tzinfo=UTC)),
    ],
)
def test_durations_lead_through_the_calendar(text: str, start: datetime, end: datetime) -> None:
    assert parse_duration(text).after(start) == end


def test_months_before_a_moment_keep_to_the_calendar() -> None:
    assert parse_duration("P1M").before(datetime(2026, 3, 31, tzinfo=UTC)) == datetime(2026, 2, 28, tzinfo=UTC)
    assert parse_duration("P1Y1D").before(LEAP) == datetime(2027, 2, 27, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        *("", "P", "PT", "P1DT", "1D", "P-1D", "P1.5D", "P1D ", "P1D\n", "p1d", "P1H", "PT1D", "P0D", "PT0S"),
        *("P1D1Y", "P1Y1Y", "P٣D", "P" + "9" * 10 + "D"),
    ],
)
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(FormatError):
        parse_duration(text)


def test_refuses_to_leave_the_calendar() -> None:
    for text in ("P9999Y", "P99999M", "P999999D"):
        with pytest.raises(FormatError, match="calendar"):
            parse_duration(text).before(NEW_YEAR)
    with pytest.raises(FormatError, match="calendar"):
        parse_duration("P9999Y").after(NEW_YEAR)


@given(st.text(alphabet="PTYMWDHS0123456789.-", max_size=12) | st.text(max_size=8))
def test_any_text_is_a_duration_or_raises_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        duration = parse_duration(text)
        assert duration.after(NEW_YEAR) > NEW_YEAR


@pytest.mark.parametrize(
    "good",
    [
        rule(),
        rule(DEFAULT_NOTICE),
        rule(rotate(after="P7D"), DEFAULT_NOTICE),
        rule(rotate(after="P2M"), notify(before="P10D"), expiry="P90D"),
        rule(rotate(before="P30D"), expiry="P1Y"),
        rule(rotate(after="P21D"), expiry="P28D"),
    ],
)
def test_accepts_what_the_contract_allows(good: RotationRule) -> None:
    demand_sound(good)


@pytest.mark.parametrize(
    "bad",
    [
        rule(expiry="P27D"),
        rule(expiry="a year"),
        rule(rotate(after="P6D")),
        rule(rotate(after="P8D"), rotate(after="P9D")),
        rule(notify(before="P8D"), notify(before="P9D")),
        rule(rotate()),
        rule(rotate(after="P30D", before="P30D"), expiry="P1Y"),
        rule(notify(after="P30D")),
        rule(notify()),
        rule(rotate(before="P30D")),
        rule(rotate(before="P85D"), expiry="P90D"),
        rule(rotate(after="P90D"), expiry="P90D"),
        rule(notify(before="P9999Y")),
    ],
)
def test_refuses_policies_that_the_contract_does_not_allow(bad: RotationRule) -> None:
    with pytest.raises(FormatError):
        demand_sound(bad)


def test_says_what_is_due_first() -> None:
    both = rule(rotate(after="P60D"), notify(before="P10D"), expiry="P90D")
    assert next_due(both, created=0, expires=90 * DAY, notified=False) == (60 * DAY, "Rotate")
    early = rule(rotate(after="P85D"), notify(before="P10D"))
    assert next_due(early, created=0, expires=90 * DAY, notified=False) == (80 * DAY, "Notify")
    assert next_due(early, created=0, expires=90 * DAY, notified=True) == (85 * DAY, "Rotate")
    assert next_due(rule(DEFAULT_NOTICE), created=0, expires=None, notified=False) is None
    assert next_due(rule(rotate(before="P30D")), created=0, expires=90 * DAY, notified=False) == (60 * DAY, "Rotate")


def test_new_versions_expire_by_the_policy() -> None:
    assert expiry_of(rule(expiry="P90D"), created=DAY) == 91 * DAY
    assert expiry_of(rule(), created=DAY) is None
