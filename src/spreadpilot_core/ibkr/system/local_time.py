"""Moments as their reader's clock shows them. What programs read (JSON, records, the audit trail) stays in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_SAID = re.compile(r"(?P<day>\d{4}-\d\d-\d\d )?(?P<times>\d\d:\d\d:\d\d(?:, \d\d:\d\d:\d\d)*) UTC\b")
"""A moment, or several, in a sentence: "14:03:05 UTC", "2026-11-30 14:03:05 UTC", "13:50:01, 14:03:05 UTC"."""
_HALF_A_DAY = timedelta(hours=12)


def local_time(moment: datetime | str) -> str:
    """The moment with its date and the zone's abbreviation; text is ISO 8601, and what is none stays as it is."""
    try:
        there = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone()
    except (ValueError, OverflowError):  # of a file that somebody altered; a year that no zone knows
        return str(moment)
    return f"{there:%Y-%m-%d %H:%M:%S} {zone(there)}"


def zone(there: datetime) -> str:
    """The zone of a local moment: its abbreviation, else its distance from UTC."""
    return there.tzname() or f"{there:%z}"


def in_local_time(sentence: str) -> str:
    """The sentence with every moment in UTC as the reader's clock shows it."""
    return _SAID.sub(_localised, sentence)


def without_times(sentence: str) -> str:
    """The sentence as it is whenever it is said, to compare it with another one."""
    return _SAID.sub("", sentence)


def _localised(said: re.Match[str]) -> str:
    try:
        there = [_moment(said["day"], time).astimezone() for time in said["times"].split(", ")]
    except ValueError:
        return said[0]
    times = ", ".join(f"{each:%H:%M:%S}" for each in there)
    day = f"{there[0]:%Y-%m-%d} " if said["day"] else ""
    return f"{day}{times} {zone(there[0])}"


def _moment(day: str | None, time: str) -> datetime:
    """In UTC; without a day it is the one nearest to now."""
    now = datetime.now(UTC)
    at = datetime.fromisoformat(f"{day or f'{now:%Y-%m-%d} '}{time}+00:00")
    if day is None and abs(at - now) > _HALF_A_DAY:
        at += timedelta(days=1) if at < now else timedelta(days=-1)
    return at
