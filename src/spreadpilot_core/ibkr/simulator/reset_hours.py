"""When a simulated IBKR resets its servers: the hours that a scenario states. It then closes gateways, and drops logins silently."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

ZONES = ("America/New_York", "Europe/Zurich", "Asia/Hong_Kong", "Etc/UTC")
_ONE = re.compile(r"(\S+) (\d\d:\d\d(?::\d\d)?)-(\d\d:\d\d(?::\d\d)?)")


def check(stated: object) -> None:
    """Raises `ValueError` with what is allowed."""
    _windows(stated)


def are_now(stated: str, now: datetime) -> bool:
    """Whether IBKR resets at this moment."""
    return any(start <= now < end for start, end in _spans(stated, now))


def seconds_to_next(stated: str, now: datetime) -> float | None:
    """Until the next ones begin; None when none are stated."""
    return min(((start - now).total_seconds() for start, _ in _spans(stated, now) if start > now), default=None)


def _windows(stated: object) -> list[tuple[str, time, time]]:
    found = []
    for part in filter(None, (part.strip() for part in str(stated).split(","))):
        match = _ONE.fullmatch(part)
        if match is None or match[1] not in ZONES:
            raise ValueError(
                f'reset_hours is {stated!r}, but must look like "America/New_York 23:45-00:45", its zone one of {", ".join(ZONES)}'
            )
        found.append((match[1], time.fromisoformat(match[2]), time.fromisoformat(match[3])))
    return found


def _spans(stated: str, now: datetime) -> Iterator[tuple[datetime, datetime]]:
    for name, start, end in _windows(stated):
        zone = ZoneInfo(name)
        for ahead in (-1, 0, 1):
            day = now.astimezone(zone).date() + timedelta(days=ahead)
            last = day if end > start else day + timedelta(days=1)
            yield datetime.combine(day, start, zone).astimezone(UTC), datetime.combine(last, end, zone).astimezone(UTC)
