"""The availability ledger: how long each gateway was ready, degraded and down, and in which hours.

    a gateway's verdict changes, or a minute is over -> the time since then is cut where reset hours, the exchange's hours or
    a day (UTC) begin or end -> each piece is added to its kind -> days that grew are written to the record store

Only what this manager has seen counts: a gateway that nobody wants, and the time in which no manager ran, or this one stood
by, is in no sum. What each run of a manager has seen of a day is one document, written whole, so that writing it twice
changes nothing. While the store is away it waits in memory.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Spell, SpellKind, Verdict
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reset_windows import ResetHours
from spreadpilot_core.ibkr.reporting.exchange_hours import ExchangeHours
from spreadpilot_core.ibkr.seams import AvailabilityStore

_Days = list[AvailabilityDay]
LONGEST_STEP = timedelta(minutes=5)
"""A longer time without a look (a machine that slept, a clock that was set) was seen by nobody, and counts for nothing."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A time in which nothing changes but what happens to gateways, for all who have the same hours."""

    begin: datetime
    end: datetime
    in_reset_hours: bool
    exchange_open: bool
    hours: tuple[ResetHours, int]
    """Of whom it is, and by which reading of the exchanges' hours."""


@dataclass(frozen=True, slots=True)
class Condition:
    """How a gateway stands."""

    verdict: Verdict
    reason_code: str | None
    reset: ResetHours
    exchange: str | None


class AvailabilityLedger:
    """All gateways of one run of a manager."""

    def __init__(self, store: AvailabilityStore, hours: ExchangeHours) -> None:
        self._store = store
        self._hours = hours
        self._run = uuid.uuid4().hex
        self._conditions: dict[FollowerId, tuple[Condition, datetime]] = {}
        """How each stands, and until when that is booked."""
        self._days: dict[tuple[FollowerId, str], dict[SpellKind, float]] = {}
        self._unwritten: set[tuple[FollowerId, str]] = set()
        self._stretches: dict[tuple[int, str | None], _Stretch] = {}
        """By reset hours and exchange: thousands have the same, and asking zones and calendars is slow."""
        self._totals: dict[tuple[FollowerId, SpellKind], float] = defaultdict(float)

    @property
    def totals(self) -> Mapping[tuple[FollowerId, SpellKind], float]:
        """Seconds of each kind since this run began; may be read on another thread."""
        return dict(list(self._totals.items()))

    @property
    def exchanges(self) -> set[str]:
        """Those whose hours matter."""
        return {condition.exchange for condition, _ in self._conditions.values() if condition.exchange is not None}

    def see(self, follower_id: FollowerId, condition: Condition | None, now: datetime) -> None:
        """From now on it stands like this; None: nobody wants it, or this manager does not act."""
        known = self._conditions.get(follower_id)
        if known is not None and known[0] == condition:
            return
        self._book(follower_id, now)
        if condition is None:
            self._conditions.pop(follower_id, None)
        else:
            self._conditions[follower_id] = condition, now

    def advance(self, now: datetime) -> None:
        """Book everybody's time until now."""
        for follower_id in list(self._conditions):
            self._book(follower_id, now)

    def _book(self, follower_id: FollowerId, now: datetime) -> None:
        if (known := self._conditions.get(follower_id)) is None:
            return
        condition, since = known
        self._conditions[follower_id] = condition, now
        if not timedelta(0) < now - since <= LONGEST_STEP:
            return
        while since < now:
            stretch = self._stretch(condition, since)
            until = min(now, stretch.end)
            self._add(follower_id, condition, stretch, since, until)
            since = until

    def _stretch(self, condition: Condition, moment: datetime) -> _Stretch:
        """The one that this moment is in."""
        key, hours = (id(condition.reset), condition.exchange), (condition.reset, self._hours.reading)
        known = self._stretches.get(key)
        if known is None or known.hours != hours or not known.begin <= moment < known.end:
            known = self._stretches[key] = _Stretch(
                moment,
                self._next_change(condition, moment),
                in_reset_hours=condition.reset.long_span(moment) is not None,
                exchange_open=self._hours.is_open(condition.exchange, moment),
                hours=hours,
            )
        return known

    def _next_change(self, condition: Condition, moment: datetime) -> datetime:
        """When the kind of this time may change though nothing happens to the gateway."""
        midnight = datetime.combine(moment.astimezone(UTC).date() + timedelta(days=1), time(0), UTC)
        edges = [edge for window in condition.reset.long for span in window.spans(moment, days=1) for edge in span]
        opens = self._hours.next_change(condition.exchange, moment)
        return min([midnight, *(edge for edge in edges if edge > moment), *([opens] if opens is not None else [])])

    def _add(
        self, follower_id: FollowerId, condition: Condition, stretch: _Stretch, since: datetime, until: datetime
    ) -> None:
        kind = SpellKind(condition.verdict, condition.reason_code, stretch.in_reset_hours, stretch.exchange_open)
        seconds = (until - since).total_seconds()
        key = follower_id, since.astimezone(UTC).date().isoformat()
        day = self._days.setdefault(key, {})
        day[kind] = day.get(kind, 0.0) + seconds
        self._totals[follower_id, kind] += seconds
        self._unwritten.add(key)

    async def write(self, now: datetime) -> None:
        """Write the days that grew. Raises `StoreUnavailableError`, and writes them the next time then."""
        self.advance(now)
        due = sorted(self._unwritten)
        if not due:
            return
        self._unwritten.difference_update(due)
        grown = [(key, dict(self._days[key])) for key in due]
        try:
            days = await asyncio.to_thread(self._documents, grown)  # of a large fleet it takes a while
            await self._store.keep_availability(days)
        except BaseException:
            self._unwritten.update(due)
            raise
        today = now.astimezone(UTC).date().isoformat()
        for key in [key for key in self._days if key[1] < today and key not in self._unwritten]:
            del self._days[key]

    def _documents(self, grown: Sequence[tuple[tuple[FollowerId, str], Mapping[SpellKind, float]]]) -> _Days:
        return [
            AvailabilityDay(
                id=f"{day}:{self._run}:{follower_id}",
                day=day,
                follower_id=follower_id,
                spells=tuple(Spell(kind, round(seconds, 3)) for kind, seconds in spells.items()),
            )
            for (follower_id, day), spells in grown
        ]
