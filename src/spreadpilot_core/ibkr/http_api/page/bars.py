"""Availability as a picture and as words: how much of what is known of a day was ready, and what the rest was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Share, Verdict

_WHOLE = 100.0
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the bar, in percent of its width."""

    kind: str
    begin: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One follower on one day."""

    pieces: tuple[Piece, ...]
    words: str
    """The same for who sees no picture."""
    percent: str | None


@dataclass(frozen=True, slots=True)
class Cause:
    """Time of one kind."""

    verdict: str
    reason_code: str | None
    seconds: float
    duration: str
    share: str


NOTHING_KNOWN = Bar((), "nothing is known of today yet", None)


def shares(days: Iterable[AvailabilityDay], day: str) -> dict[str, Share]:
    """What is known of this day, by follower."""
    found: dict[str, Share] = defaultdict(Share)
    for each in days:
        if each.day == day:
            for spell in each.spells:
                found[each.follower_id] = found[each.follower_id].plus(spell)
    return found


def bar(share: Share | None) -> Bar:
    """The picture of it."""
    if share is None or not share.observed or share.available is None:
        return NOTHING_KNOWN
    pieces, begin = [], 0.0
    for kind in Verdict:
        width = getattr(share, kind.value) / share.observed * _WHOLE
        if width > 0:
            pieces.append(Piece(kind.value, round(begin, 2), round(width, 2)))
        begin += width
    rest = [
        f"{duration(getattr(share, kind.value))} {kind.value}" for kind in Verdict if getattr(share, kind.value) >= 1
    ]
    return Bar(tuple(pieces), f"today {', '.join(rest) or 'less than a second'}", percent(share.available))


def causes(days: Iterable[AvailabilityDay], follower_id: str) -> tuple[Cause, ...]:
    """What all of the time was, the longest first."""
    found: dict[tuple[str, str | None], float] = defaultdict(float)
    for each in days:
        if each.follower_id == follower_id:
            for spell in each.spells:
                found[spell.kind.verdict.value, spell.kind.reason_code] += spell.seconds
    whole = sum(found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return tuple(
        Cause(verdict, code, seconds, duration(seconds), percent(seconds / whole))
        for (verdict, code), seconds in ordered
        if seconds >= 1
    )


def percent(share: float) -> str:
    """As "99.93 %"; what is not whole is never rounded up to be."""
    return "100 %" if share >= 1 else f"{int(share * 10_000) / 100:g} %"


def duration(seconds: float) -> str:
    """As "3 h 5 min"."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    minutes = int(seconds // _MINUTE)
    return f"{minutes} min" if seconds < _HOUR else f"{minutes // 60} h {minutes % 60} min"
