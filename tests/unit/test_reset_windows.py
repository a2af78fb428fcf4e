"""IBKR's reset windows, in the zones they are stated in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.deciding.reset_windows import DAILY, reset_window_end

NEW_YORK = ZoneInfo("America/New_York")


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

    assert reset_window_end(new_york(moment), None) == expected
    assert reset_window_end(new_york(moment), "north_america") == expected


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
    found = reset_window_end(datetime.fromisoformat(moment).replace(tzinfo=UTC), region)

    assert found == (datetime.fromisoformat(end).replace(tzinfo=UTC) if end is not None else None)


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001  # made aware
    st.sampled_from([None, *DAILY]),
)
def test_the_end_of_a_window_lies_ahead_and_within_hours(moment: datetime, region: str | None) -> None:
    """Whatever the moment, also when clocks are changed: nobody is sent into the past, or put off for a day."""
    end = reset_window_end(moment, region)

    assert end is None or timedelta(0) <= end - moment <= timedelta(hours=5, minutes=15)
