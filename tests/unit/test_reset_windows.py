"""IBKR's reset windows, in the zones they are stated in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.model.reset_windows import (
    DAILY,
    DAILY_SHORT,
    LONGEST_AIR,
    WEEKEND,
    WEEKEND_SHORT,
    reset_hours,
    stated_windows,
)

NEW_YORK = ZoneInfo("America/New_York")


def long_end(moment: datetime, region: str | None) -> datetime | None:
    span = reset_hours(region).long_span(moment)
    return span[1] if span is not None else None


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("2026-11-24 23:29:59", None),
        ("2026-11-24 23:30:00", "2026-11-25 01:45"),
        ("2026-11-25 00:30:00", "2026-11-25 01:45"),
        ("2026-11-25 01:44:59", "2026-11-25 01:45"),
        ("2026-11-25 01:45:00", None),
        ("2026-11-25 12:00:00", None),
        ("2026-11-27 22:44:00", None),
        ("2026-11-27 22:45:00", "2026-11-28 03:00"),  # Friday: everything may be down until Saturday at 3
        ("2026-11-28 00:30:00", "2026-11-28 03:00"),
        ("2026-11-28 22:50:00", None),  # Saturday
    ],
)
def test_north_america_and_the_weekend(moment: str, end: str | None) -> None:
    """The start belongs to the window, the end does not; on Friday the weekend's is longer."""
    expected = new_york(end) if end is not None else None

    assert long_end(new_york(moment), None) == expected
    assert long_end(new_york(moment), "north_america") == expected


@pytest.mark.parametrize(
    ("region", "moment", "end"),
    [
        ("europe", "2026-07-01 04:00", "2026-07-01 05:45"),  # summer: 6:00 to 7:45 in Zurich
        ("europe", "2026-12-01 05:00", "2026-12-01 06:45"),  # winter
        ("europe", "2026-12-01 07:00", None),
        ("asia_pacific_1", "2026-12-01 21:00", "2026-12-01 22:45"),
        ("asia_pacific_2", "2026-12-01 12:30", "2026-12-01 13:15"),
        ("asia_pacific_2", "2026-12-01 14:00", None),
        ("somewhere else", "2026-12-01 05:30", "2026-12-01 06:45"),  # counts as North America
    ],
)
def test_other_regions_have_their_own_hours(region: str, moment: str, end: str | None) -> None:
    """Times in UTC; daylight saving is that of the region's zone."""
    found = long_end(datetime.fromisoformat(moment).replace(tzinfo=UTC), region)

    assert found == (datetime.fromisoformat(end).replace(tzinfo=UTC) if end is not None else None)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001  # made aware
    st.sampled_from([None, *DAILY]),
)
def test_the_end_of_a_window_lies_ahead_and_within_hours(moment: datetime, region: str | None) -> None:
    """Whatever the moment, also when clocks are changed: nobody is sent into the past, or put off for a day."""
    end = long_end(moment, region)

    assert end is None or timedelta(0) <= end - moment <= timedelta(hours=5, minutes=15)


@pytest.mark.parametrize(
    ("moment", "region", "end"),
    [
        ("2026-11-24 23:44:59", None, None),
        ("2026-11-24 23:45:00", None, "2026-11-25 00:45"),
        ("2026-11-25 00:44:59", "north_america", "2026-11-25 00:45"),
        ("2026-11-25 00:45:00", None, None),
        ("2026-11-27 22:59:00", None, None),
        ("2026-11-27 23:00:00", "europe", "2026-11-28 03:00"),  # Friday: every region
        ("2026-11-28 00:50:00", None, "2026-11-28 03:00"),
        ("2026-11-25 00:25:00", "europe", "2026-11-25 01:45"),  # 6:25 in Zurich
        ("2026-11-25 00:24:59", "europe", None),
    ],
)
def test_the_short_hours_begin_and_end_with_their_minutes(moment: str, region: str | None, end: str | None) -> None:
    """The start belongs to them, the end does not; on Friday the weekend's are every region's."""
    found = reset_hours(region).short_span(new_york(moment), 0.0)

    assert (found[1] if found is not None else None) == (new_york(end) if end is not None else None)


@pytest.mark.parametrize("region", list(DAILY))
def test_short_hours_lie_within_the_long_ones(region: str) -> None:
    """What holds logins back excuses what fails as well, at every minute of two weeks with a change of clocks."""
    hours, moment = reset_hours(region), datetime(2026, 10, 25, tzinfo=UTC)
    for minutes in range(0, 14 * 24 * 60, 7):
        at = moment + timedelta(minutes=minutes)
        if hours.short_span(at, 0.0) is not None:
            assert hours.long_span(at) is not None
    assert WEEKEND.start < WEEKEND_SHORT.start
    assert DAILY_SHORT.keys() == DAILY.keys()


def test_the_hour_that_comes_twice_puts_nobody_into_the_past() -> None:
    """When clocks are set back inside a window, its end still lies ahead, or the window is over."""
    first = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)  # 23:00 in New York, before the hour from one to two comes twice
    for minutes in range(0, 300, 5):
        at = first + timedelta(minutes=minutes)
        span = reset_hours(None).long_span(at)
        assert span is None or span[0] <= at < span[1]


@given(st.floats(0, 1, exclude_max=True))
def test_a_fleet_begins_spread_after_the_end(spread: float) -> None:
    """Each follower's own end lies within ten minutes after the hours' end, however many they are."""
    end = new_york("2026-11-25 00:45")
    found = reset_hours(None).short_span(new_york("2026-11-25 00:00"), spread)

    assert found is not None
    assert end <= found[1] <= end + LONGEST_AIR


@pytest.mark.parametrize("stated", ["23:45-00:45", "Mars/Base 23:45-00:45", "Etc/UTC 25:00-26:00", "Etc/UTC", "never"])
def test_stated_hours_that_cannot_be_read_are_none(stated: str) -> None:
    """Then IBKR's own hours count, which hold back rather too much than too little."""
    assert stated_windows(stated) is None
    assert reset_hours("europe", stated) == reset_hours("europe")


def test_a_scenario_states_its_own_hours_or_none_at_all() -> None:
    """An empty text has no hours at any moment; a stated window stands for both tables."""
    night = new_york("2026-11-27 23:50")
    assert reset_hours(None, "").long_span(night) is None
    assert reset_hours(None, "").short_span(night, 0.0) is None
    stated = reset_hours(None, "Etc/UTC 12:00:00-12:00:06, Etc/UTC 14:00-15:00")
    noon = datetime(2026, 11, 24, 12, 0, 3, tzinfo=UTC)
    assert stated.short_span(noon, 0.0) == stated.long_span(noon) == (noon.replace(second=0), noon.replace(second=6))
    assert stated.next_short(noon) == noon.replace(hour=14, second=0)
