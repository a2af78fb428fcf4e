"""Past prices, made up on request: bars that walk backwards from the present price.

The same request gives the same shape under the same seed. The market of the past was open on every weekday, round the clock;
what is asked for on a weekend ends where that began, as at IBKR.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from dataclasses import dataclass

from spreadpilot_core.ibkr.simulator.books.contracts import Contract
from spreadpilot_core.ibkr.simulator.books.market import Market, on_tick
from spreadpilot_core.ibkr.simulator.books.orders import Rejected
from spreadpilot_core.ibkr.simulator.books.rules import invalid

_SECONDS = {"sec": 1, "secs": 1, "min": 60, "mins": 60, "hour": 3600, "hours": 3600, "day": 86400, "days": 86400}
_SECONDS |= {"week": 604800, "W": 604800, "month": 2592000, "M": 2592000, "S": 1, "D": 86400, "Y": 31536000}
_DAY = 86400
_MOST_BARS = 2000
_SIGMA = 0.0006
"""Standard deviation of a one-minute bar's move, relative to the price."""
_SATURDAY = 5
_EARLIEST = dt.datetime(1990, 1, 1, tzinfo=dt.UTC)
_LONGEST = 20 * 31536000
"""Seconds."""


@dataclass(frozen=True)
class Bar:
    """One bar; `at` is its start."""

    at: dt.datetime
    opened: float
    high: float
    low: float
    close: float
    volume: int
    trades: int

    @property
    def average(self) -> float:
        """The bar's mean price."""
        return (self.opened + self.high + self.low + self.close) / 4


@dataclass(frozen=True)
class Span:
    """A stretch of the past in bars of one size."""

    end: dt.datetime
    duration: int
    """Seconds."""
    bar: int
    """Seconds."""

    @property
    def start(self) -> dt.datetime:
        """Where it begins."""
        return self.end - dt.timedelta(seconds=self.duration)

    @property
    def is_daily(self) -> bool:
        """Whether a bar is a whole day or more."""
        return self.bar >= _DAY


def read_span(end: str, duration: str, bar: str, *, now: float) -> Span:
    """The span that a request names by IBKR's strings, such as "" (now), "2 D" and "5 mins".

    Raises:
        Rejected: they say nothing that can be served.
    """
    length, size = _seconds(duration), _seconds(bar)
    if not 0 < length <= _LONGEST or not size or length // size > _MOST_BARS:
        raise invalid(f"Historical data for '{duration}' in bars of '{bar}' is not served.")
    return Span(_before_weekend(_end(end, now)), length, size)


def bars(contract: Contract, market: Market, span: Span) -> list[Bar]:
    """The bars of `span`, oldest first; the last one closes at the present price."""
    steps = random.Random(f"{market.seed}:{contract.con_id}:{span.bar}")
    sigma = _SIGMA * (span.bar / 60) ** 0.5
    close = market.quote(contract).last
    found = []
    for at in _starts(span):
        opened = close * (1 + steps.gauss(0, sigma))
        spread = abs(steps.gauss(0, sigma)) * close
        high, low = max(opened, close) + spread, min(opened, close) - spread
        trades = steps.randint(10, 500)
        first, most, least, last = (on_tick(price, contract.min_tick) for price in (opened, high, low, close))
        found.append(Bar(at, first, most, least, last, volume=trades * 100, trades=trades))
        close = opened
    return found[::-1]


def _starts(span: Span) -> Iterator[dt.datetime]:
    """Starts of the bars, newest first, without weekends where a bar is a day or less."""
    end = span.end.timestamp()
    at = dt.datetime.fromtimestamp(end - end % min(span.bar, _DAY), dt.UTC)
    while at >= span.start:
        if at < span.end and (at.weekday() < _SATURDAY or span.bar > _DAY):
            yield at
        at -= dt.timedelta(seconds=span.bar)


def _before_weekend(end: dt.datetime) -> dt.datetime:
    """The end itself, or the beginning of the weekend that it lies in."""
    days = end.weekday() - _SATURDAY
    return end if days < 0 else dt.datetime.combine(end.date() - dt.timedelta(days=days), dt.time(tzinfo=dt.UTC))


def _seconds(text: str) -> int:
    number, _, unit = text.strip().partition(" ")
    return int(number) * _SECONDS.get(unit, 0) if number.isdecimal() else 0


def _end(text: str, now: float) -> dt.datetime:
    if not text:
        return dt.datetime.fromtimestamp(now, dt.UTC)
    stamp = " ".join(text.replace("-", " ").split()[:2])
    try:
        end = dt.datetime.strptime(stamp, "%Y%m%d %H:%M:%S").replace(tzinfo=dt.UTC)
    except ValueError:
        end = _EARLIEST
    if end <= _EARLIEST:
        raise Rejected(
            10314,
            "End Date/Time: The date, time, or time-zone entered is invalid. "
            "The correct format is yyyymmdd hh:mm:ss xx/xxxx",
        )
    return end
