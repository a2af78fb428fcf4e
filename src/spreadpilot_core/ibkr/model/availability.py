"""How long gateways were ready, as data: spells of one kind, by follower and day (UTC), and their sums."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from spreadpilot_core.ibkr.model.followers import FollowerId


class Verdict(str, Enum):
    """What a wanted gateway was good for."""

    READY = "ready"
    DEGRADED = "degraded"
    """Connected, without IBKR."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class SpellKind:
    """What tells one kind of time from another."""

    verdict: Verdict
    reason_code: str | None
    """Why it was not ready."""
    in_reset_hours: bool
    """IBKR was resetting its servers."""
    exchange_open: bool
    """The follower's exchange was open; always, where the record names none."""


@dataclass(frozen=True, slots=True)
class Spell:
    """Seconds of one kind."""

    kind: SpellKind
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityDay:
    """One follower on one day, as one run of a manager has seen it; several runs add up."""

    id: str
    day: str
    """ISO date, UTC."""
    follower_id: FollowerId
    spells: tuple[Spell, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Seconds ready, degraded and down."""

    ready: float = 0.0
    degraded: float = 0.0
    down: float = 0.0

    @property
    def observed(self) -> float:
        """Seconds that anything is known of."""
        return self.ready + self.degraded + self.down

    @property
    def available(self) -> float | None:
        """The part of them that was ready, from 0 to 1; None when nothing is known."""
        return self.ready / self.observed if self.observed else None

    def as_dict(self) -> dict[str, float | None]:
        """JSON-able."""
        return {**{name: round(seconds, 3) for name, seconds in asdict(self).items()}, "available": self.available}

    def plus(self, spell: Spell) -> Share:
        """With this time added."""
        return replace(self, **{spell.kind.verdict.value: getattr(self, spell.kind.verdict.value) + spell.seconds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """One follower in a month."""

    follower_id: FollowerId
    month: str
    """As "2026-11"."""
    total: Share = Share()
    outside_reset: Share = Share()
    """Without IBKR's reset hours."""
    exchange_hours: Share = Share()
    """Without IBKR's reset hours, while the follower's exchange was open."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        shares = {name: getattr(self, name).as_dict() for name in ("total", "outside_reset", "exchange_hours")}
        return {"follower_id": self.follower_id, "month": self.month, **shares}


def summed(days: Iterable[AvailabilityDay], month: str) -> tuple[Availability, ...]:
    """What these days of one month come to, by follower."""
    found: dict[FollowerId, Availability] = defaultdict(lambda: Availability(follower_id=FollowerId(""), month=month))
    for day in days:
        for spell in day.spells:
            found[day.follower_id] = _plus(found[day.follower_id], spell)
    return tuple(replace(found[each], follower_id=each) for each in sorted(found))


def _plus(known: Availability, spell: Spell) -> Availability:
    known = replace(known, total=known.total.plus(spell))
    if not spell.kind.in_reset_hours:
        known = replace(known, outside_reset=known.outside_reset.plus(spell))
        if spell.kind.exchange_open:
            known = replace(known, exchange_hours=known.exchange_hours.plus(spell))
    return known
