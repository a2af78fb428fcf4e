"""What is told now: which troubles together, which once more, which are over. Pure: the time is an argument.

    an outage, a notice       once it has lasted for `outage_delay`; all that have begun by then in one message
    somebody is needed        at once, those of one reason in one message
    a phone                   at once, each in a message of its own
    a rotated secret          at once, together
    still so                  every `reminder` seconds, together
    over                      once it has stayed so (see `troubles`), together

Of one group, a message goes at most once a minute: the first at once, what follows together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.notifications.troubles import Kind, Minimum, Notified, Trouble, Troubles, at_least

TOGETHER = timedelta(seconds=3)
"""How long what needs somebody waits for more of its kind."""
AT_MOST_EVERY = timedelta(minutes=1)
"""Between two messages of one group."""


class Phase(str, Enum):
    """Where in the life of a trouble a message is."""

    BEGINS = "begins"
    STILL = "still"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Plan:
    """One message to whoever is concerned."""

    phase: Phase
    troubles: tuple[Trouble, ...]
    still_open: int = 0
    """How many gateways are in trouble all the same, when some are over."""


Group = tuple[Phase, Kind, str | None]
QuietUntil = Callable[[str, datetime], datetime | None]
"""Until when an outage of this follower that began then is expected (IBKR's reset hours); None: it is not."""


def never_quiet(_: str, __: datetime) -> datetime | None:
    """Where no outage is expected."""
    return None


def tell_everything(_: str | None) -> Severity:
    """The least severity where nothing is chosen."""
    return Severity.INFO


class Planner:
    """Decides for one fleet."""

    def __init__(
        self,
        troubles: Troubles,
        *,
        outage_delay: float,
        reminder: float,
        minimum: Minimum = tell_everything,
        quiet_until: QuietUntil = never_quiet,
    ) -> None:
        """`outage_delay`, `reminder`: seconds; a reminder of 0 never comes."""
        self._troubles = troubles
        self._delay = timedelta(seconds=outage_delay)
        self._reminder = timedelta(seconds=reminder)
        self._minimum = minimum
        self._quiet_until = quiet_until
        self._last: dict[Group, datetime] = {}
        self.changes = 0
        """Grows whenever what must outlive the manager has changed."""

    def plan(self, now: datetime) -> list[Plan]:
        """What is to be told now; it counts as told from here on."""
        plans = [*self._over(now), *self._news(now), *self._reminders(now)]
        self.changes += bool(plans)
        return plans

    def next_due(self, now: datetime) -> datetime | None:
        """When `plan` is worth asking again, if nothing happens; None: not before something does."""
        moments: list[datetime] = []
        for trouble in self._notifiable():
            if trouble.closes is not None:
                moments.append(self._not_before(trouble.closes, _group(Phase.OVER, trouble)))
            elif trouble.is_news:
                moments.append(self._not_before(self._due(trouble), _group(Phase.BEGINS, trouble)))
            elif trouble.notified is not None and self._reminder:
                moments.append(trouble.notified.at + self._reminder)
        return max(min(moments), now) if moments else None

    # ------------------------------------------------------------------ what is due

    def _notifiable(self) -> list[Trouble]:
        return [
            each
            for each in self._troubles.open.values()
            if each.notified is not None or at_least(each.severity, self._minimum(each.follower_id))
        ]

    def _due(self, trouble: Trouble) -> datetime:
        match trouble.kind:
            case Kind.PHONE:
                return trouble.changed
            case Kind.HUMAN | Kind.ROTATED:
                return trouble.changed + TOGETHER
            case Kind.OUTAGE | Kind.MANAGER:
                quiet = self._quiet_until(trouble.subject, trouble.since) if trouble.kind is Kind.OUTAGE else None
                return max(trouble.since, quiet or trouble.since) + self._delay

    def _not_before(self, due: datetime, group: Group) -> datetime:
        last = self._last.get(group)
        return due if last is None or group[1] is Kind.PHONE else max(due, last + AT_MOST_EVERY)

    def _news(self, now: datetime) -> list[Plan]:
        waiting: dict[Group, list[Trouble]] = {}
        for trouble in self._notifiable():
            if trouble.is_news and at_least(trouble.severity, self._minimum(trouble.follower_id)):
                waiting.setdefault(_group(Phase.BEGINS, trouble), []).append(trouble)
        plans = []
        for group, troubles in waiting.items():
            due = {each.place for each in troubles if self._not_before(self._due(each), group) <= now}
            if not due:
                continue
            together = [each for each in troubles if each.place in due or self._joins(each, now)]
            plans += [
                Plan(Phase.BEGINS, tuple(self._tell(each, now) for each in some)) for some in _together(group, together)
            ]
            self._last[group] = now
        return plans

    def _joins(self, trouble: Trouble, now: datetime) -> bool:
        """Whether one that is not due yet goes with those of its group that are: it has begun, and is no expected one."""
        quiet = self._quiet_until(trouble.subject, trouble.since) if trouble.kind is Kind.OUTAGE else None
        return quiet is None or quiet <= now

    def _tell(self, trouble: Trouble, now: datetime) -> Trouble:
        notified = Notified(kind=trouble.kind, code=trouble.code, version=trouble.version, at=now)
        trouble = replace(trouble, notified=notified, again=False)
        if trouble.kind is Kind.ROTATED:
            self._troubles.open.pop(trouble.place, None)
        else:
            self._troubles.open[trouble.place] = trouble
        return trouble

    def _reminders(self, now: datetime) -> list[Plan]:
        if not self._reminder:
            return []
        waiting: dict[Group, list[Trouble]] = {}
        for trouble in self._troubles.open.values():
            if trouble.notified is not None and trouble.over is None and not trouble.is_news:
                waiting.setdefault(_group(Phase.STILL, trouble), []).append(trouble)
        plans = []
        for group, troubles in waiting.items():
            if not any(_notified_at(each) + self._reminder <= now for each in troubles):
                continue
            together = [each for each in troubles if _notified_at(each) + self._reminder / 2 <= now]
            plans += [
                Plan(Phase.STILL, tuple(self._tell(each, now) for each in some)) for some in _together(group, together)
            ]
        return plans

    def _over(self, now: datetime) -> list[Plan]:
        """Those that closed, and with them those that are over: one end for one beginning."""
        closing = [each for each in self._troubles.open.values() if each.closes is not None]
        for trouble in closing:
            if trouble.notified is None and trouble.closes is not None and trouble.closes <= now:
                self._troubles.close(trouble)
        waiting: dict[Group, list[Trouble]] = {}
        for trouble in closing:
            if trouble.notified is not None and trouble.closes is not None and trouble.closes <= now + self._delay:
                waiting.setdefault(_group(Phase.OVER, trouble), []).append(trouble)
        plans = []
        for group, troubles in waiting.items():
            if not any(each.closes is not None and self._not_before(each.closes, group) <= now for each in troubles):
                continue
            for trouble in troubles:
                self._troubles.close(trouble)
            self._last[group] = now
            plans.append(Plan(Phase.OVER, tuple(troubles), still_open=self._still_open()))
        return plans

    def _still_open(self) -> int:
        return sum(place == "gateway" and each.notified is not None for (place, _), each in self._troubles.open.items())

    # ------------------------------------------------------------------ what outlives the manager

    def as_documents(self) -> list[dict[str, Any]]:
        """Every trouble that was told."""
        return [each.as_document() for each in self._troubles.open.values() if each.notified is not None]

    def load(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Go on from what an earlier leader told; what can't be understood is as if it had not been told."""
        found = []
        for document in documents:
            try:
                found.append(Trouble.read(document))
            except (KeyError, TypeError, ValueError):
                continue
        self._troubles.load(found)
        self._last.clear()


def _group(phase: Phase, trouble: Trouble) -> Group:
    if phase is Phase.OVER and trouble.kind is Kind.HUMAN:
        return phase, Kind.OUTAGE, None  # ready again is ready again
    return phase, trouble.kind, trouble.code if trouble.kind is Kind.HUMAN else None


def _together(group: Group, troubles: list[Trouble]) -> list[list[Trouble]]:
    """One message for all; but of phones each has its own."""
    alone = group[1] is Kind.PHONE
    return [[each] for each in troubles] if alone else [troubles] if troubles else []


def _notified_at(trouble: Trouble) -> datetime:
    assert trouble.notified is not None
    return trouble.notified.at
