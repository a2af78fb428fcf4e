"""When IBKR resets its servers, as data: within a window logins fail and sessions drop for reasons of IBKR's own.

The hours join the two versions that IBKR's system status page has shown (2024-12 and later), which differ by up to an
hour, so that a window is rather too long than too short. Hours are local to the zone, so daylight saving is its zone's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = range(7)
EVERY_DAY = frozenset(range(7))
NEW_YORK, ZURICH, HONG_KONG = ZoneInfo("America/New_York"), ZoneInfo("Europe/Zurich"), ZoneInfo("Asia/Hong_Kong")


@dataclass(frozen=True, slots=True)
class Window:
    """One daily window; `days` are those on which it begins. An end before the start is on the next day."""

    zone: ZoneInfo
    start: time
    end: time
    days: frozenset[int] = EVERY_DAY

    def end_if_inside(self, moment: datetime) -> datetime | None:
        """When the window that `moment` is in ends, in UTC terms of `moment`; None outside."""
        local = moment.astimezone(self.zone)
        for day in (local.date() - timedelta(days=1), local.date()):
            if day.weekday() not in self.days:
                continue
            start = datetime.combine(day, self.start, local.tzinfo)
            last = day if self.end > self.start else day + timedelta(days=1)
            end = datetime.combine(last, self.end, local.tzinfo)
            if start <= local < end:
                return end.astimezone(moment.tzinfo)
        return None


WEEKEND = Window(NEW_YORK, time(22, 45), time(3, 0), frozenset({FRIDAY}))
"""Everything may be down for the whole window, in every region."""

DAILY = {
    "north_america": Window(NEW_YORK, time(23, 30), time(1, 45)),
    "europe": Window(ZURICH, time(5, 30), time(7, 45)),
    "asia_pacific_1": Window(HONG_KONG, time(4, 45), time(6, 45)),
    "asia_pacific_2": Window(HONG_KONG, time(20, 0), time(21, 15)),
}
"""By the account's home data centre, the follower's `region`."""

DEFAULT_REGION = "north_america"


def reset_window_end(moment: datetime, region: str | None) -> datetime | None:
    """When the reset window that `moment` is in ends; None outside. An unknown region counts as North America."""
    ends = [
        window.end_if_inside(moment) for window in (WEEKEND, DAILY.get(region or DEFAULT_REGION, DAILY[DEFAULT_REGION]))
    ]
    return max((end for end in ends if end is not None), default=None)
