"""When exchanges are open, by their MIC: read off the event loop from `exchange_calendars`, asked without waiting.

A record that names no exchange, and one that is not known (or the package is not installed), counts as always open.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

AHEAD = timedelta(days=300)
"""How far sessions are read; calendars know at least a year ahead."""
BEHIND = timedelta(days=7)
AGAIN = timedelta(days=30)
"""After which they are read anew: holidays are announced late."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """One exchange's sessions: opening and closing times in order, in UTC."""

    opens: Sequence[datetime]
    closes: Sequence[datetime]
    read_at: datetime

    def is_open(self, moment: datetime) -> bool:
        """Whether a session is under way."""
        place = bisect_right(self.opens, moment) - 1
        return place >= 0 and moment < self.closes[place]

    def next_change(self, moment: datetime) -> datetime | None:
        """When it opens or closes next."""
        later = [
            times[place] for times in (self.opens, self.closes) if (place := bisect_right(times, moment)) < len(times)
        ]
        return min(later, default=None)


class ExchangeHours:
    """Those of every exchange that was asked about."""

    def __init__(self, read: Callable[[str, datetime], Sessions | None] | None = None) -> None:
        """`read` gives an exchange's sessions around a moment, or None; it may take a second."""
        self._read = read_sessions if read is None else read
        self._known: dict[str, Sessions | None] = {}
        self._tried: dict[str, datetime] = {}
        self.reading = 0
        """Grows whenever something was read."""

    def is_open(self, mic: str | None, moment: datetime) -> bool:
        """Whether this exchange is open; true where nobody knows."""
        sessions = self._known.get(mic) if mic is not None else None
        return sessions is None or sessions.is_open(moment)

    def next_change(self, mic: str | None, moment: datetime) -> datetime | None:
        """When that changes."""
        sessions = self._known.get(mic) if mic is not None else None
        return sessions.next_change(moment) if sessions is not None else None

    async def learn(self, mics: set[str], now: datetime) -> None:
        """Read what is not known, or old."""
        for mic in sorted(mics):
            tried = self._tried.get(mic)
            if tried is not None and now - tried < AGAIN:
                continue
            self._tried[mic] = now
            found = await asyncio.to_thread(self._read, mic, now)
            self._known[mic] = found or self._known.get(mic)
            self.reading += 1
            if found is None:
                log.warning("exchange hours are not known", exchange=mic, counted="as always open")


def read_sessions(mic: str, now: datetime) -> Sessions | None:
    """The sessions of this exchange from a week ago on; None where they can't be had."""
    try:
        import exchange_calendars  # noqa: PLC0415  # takes a second, and is an extra of this package
        from exchange_calendars.errors import InvalidCalendarName  # noqa: PLC0415
    except ImportError:
        return None
    try:
        calendar = exchange_calendars.get_calendar(mic, start=(now - BEHIND).date().isoformat())
    except InvalidCalendarName:
        return None
    last = now + AHEAD
    spans = [
        (opens.to_pydatetime().astimezone(UTC), closes.to_pydatetime().astimezone(UTC))
        for opens, closes in zip(calendar.opens, calendar.closes, strict=True)
    ]
    known = [span for span in spans if span[0] < last]
    return Sessions([opens for opens, _ in known], [closes for _, closes in known], now)
