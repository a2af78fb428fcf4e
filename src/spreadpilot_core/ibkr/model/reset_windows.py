"""When IBKR resets its servers, as data: within a window logins fail and sessions drop for reasons of IBKR's own.

Two tables. The *long* hours excuse: what hangs or is dropped in them does not count in the login budget. They join the two
versions that IBKR's system status page has shown (2024-12 and later), which differ by up to an hour, so that a window is rather
too long than too short. The *short* hours hold back: a login typed in them is dropped silently, so that none is begun. Hours are
local to the zone, so daylight saving is its zone's.

A simulated gateway has no such hours; a scenario may state some, as "America/New_York 23:45-00:45" (several by commas), which
then stand for both tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY, SATURDAY, SUNDAY = range(7)
EVERY_DAY = frozenset(range(7))
NEW_YORK, ZURICH, HONG_KONG = ZoneInfo("America/New_York"), ZoneInfo("Europe/Zurich"), ZoneInfo("Asia/Hong_Kong")
ETC_UTC = ZoneInfo("Etc/UTC")


@dataclass(frozen=True, slots=True)
class Window:
    """One daily window; `days` are those on which it begins. An end before the start is on the next day."""

    zone: ZoneInfo
    start: time
    end: time
    days: frozenset[int] = EVERY_DAY

    def spans(self, moment: datetime, *, days: int = 0) -> Iterable[tuple[datetime, datetime]]:
        """Start and end, in UTC, of the windows that begin on the day before `moment`, on its own and on the `days` after it."""
        today = moment.astimezone(self.zone).date()
        for ahead in range(-1, days + 1):
            day = today + timedelta(days=ahead)
            if day.weekday() in self.days:
                last = day if self.end > self.start else day + timedelta(days=1)
                yield (
                    datetime.combine(day, self.start, self.zone).astimezone(UTC),
                    datetime.combine(last, self.end, self.zone).astimezone(UTC),
                )

    def span_around(self, moment: datetime, *, air: float = 0.0, longest_air: timedelta = timedelta(0)) -> Span | None:
        """The window that `moment` is in, its end put off by this share of its length; None outside."""
        for start, end in self.spans(moment):
            over = end + min((end - start) * air, longest_air)
            if start <= moment < over:
                return start, over
        return None


Span = tuple[datetime, datetime]

WEEKEND = Window(NEW_YORK, time(22, 45), time(3, 0), frozenset({FRIDAY}))
"""Everything may be down for the whole window, in every region."""

DAILY = {
    "north_america": Window(NEW_YORK, time(23, 30), time(1, 45)),
    "europe": Window(ZURICH, time(5, 30), time(7, 45)),
    "asia_pacific_1": Window(HONG_KONG, time(4, 45), time(6, 45)),
    "asia_pacific_2": Window(HONG_KONG, time(20, 0), time(21, 15)),
}
"""The long hours, by the account's home data centre, the follower's `region`."""

WEEKEND_SHORT = Window(NEW_YORK, time(23, 0), time(3, 0), frozenset({FRIDAY}))
"""Friday 23:00 to Saturday 03:00 ET: the same in both versions of IBKR's status page."""

DAILY_SHORT = {
    "north_america": Window(NEW_YORK, time(23, 45), time(0, 45)),
    "europe": Window(ZURICH, time(6, 25), time(7, 45)),
    "asia_pacific_1": Window(HONG_KONG, time(4, 45), time(6, 5)),
    "asia_pacific_2": Window(HONG_KONG, time(20, 15), time(21, 15)),
}
"""The short hours. North America: the status page's 23:45 to 00:45 ET of 2024-12, which a night in the field bears out (gateways
shut at 23:45:12, logins dropped for 35 to 60 minutes). The other regions: the newest status page (six data centres).
"""

DEFAULT_REGION = "north_america"

AIR = 1 / 6
LONGEST_AIR = timedelta(minutes=10)
"""After short hours a fleet's logins begin spread over this share of their length, at most over so long."""


@dataclass(frozen=True, slots=True)
class ResetHours:
    """The reset hours of one follower's gateway."""

    long: Sequence[Window]
    short: Sequence[Window]
    waits: bool = True
    """Logins are held back. Without that nothing is excused either: what is tried at any hour counts at any hour."""

    def long_span(self, moment: datetime) -> Span | None:
        """The long hours that `moment` is in; of several the one that ends last."""
        return _last(window.span_around(moment) for window in self.long)

    def short_span(self, moment: datetime, spread: float) -> Span | None:
        """The short hours that `moment` is in; `spread`, from 0 to 1, is one follower's own place after their end."""
        return _last(
            window.span_around(moment, air=AIR * spread, longest_air=LONGEST_AIR * spread) for window in self.short
        )

    def next_short(self, moment: datetime) -> datetime | None:
        """When the next short hours begin."""
        return min(
            (start for each in self.short for start, _ in each.spans(moment, days=7) if start > moment), default=None
        )

    def excused_from(self, moment: datetime, *, within: timedelta) -> datetime | None:
        """From when on IBKR's reset explains what begins at `moment` and is dropped `within` this time; None: it does not."""
        if self.excuse(moment):
            return moment
        starts = [start for each in self.long for start, _ in each.spans(moment, days=1)] if self.waits else []
        return min((start for start in starts if moment < start <= moment + within), default=None)

    def excuse(self, *moments: datetime) -> bool:
        """Whether what happened at one of these moments is IBKR's reset, and costs nothing."""
        return self.waits and any(self.long_span(moment) is not None for moment in moments)


def _last(spans: Iterable[Span | None]) -> Span | None:
    return max((span for span in spans if span is not None), key=lambda span: span[1], default=None)


@cache
def reset_hours(region: str | None, stated: str | None = None, *, waits: bool = True) -> ResetHours:
    """The hours of a region (an unknown one counts as North America), unless the runtime states others that can be read."""
    windows = stated_windows(stated) if stated is not None else None
    if windows is not None:
        return ResetHours(windows, windows, waits)
    name = region if region in DAILY else DEFAULT_REGION
    return ResetHours((WEEKEND, DAILY[name]), (WEEKEND_SHORT, DAILY_SHORT[name]), waits)


_STATED = re.compile(r"(\S+) (\d\d:\d\d(?::\d\d)?)-(\d\d:\d\d(?::\d\d)?)")
_STATED_ZONES = {str(zone): zone for zone in (NEW_YORK, ZURICH, HONG_KONG, ETC_UTC)}
"""Those that are at hand: reading another one would mean reading a file."""


def stated_windows(stated: str) -> Sequence[Window] | None:
    """The windows of a text such as "America/New_York 23:45-00:45"; an empty one has none. None: it can't be read."""
    windows = []
    for part in filter(None, (part.strip() for part in stated.split(","))):
        match = _STATED.fullmatch(part)
        if match is None or match[1] not in _STATED_ZONES:
            return None
        try:
            start, end = time.fromisoformat(match[2]), time.fromisoformat(match[3])
        except ValueError:
            return None
        windows.append(Window(_STATED_ZONES[match[1]], start, end))
    return tuple(windows)
