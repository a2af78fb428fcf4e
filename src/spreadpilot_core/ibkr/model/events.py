"""What happened, in the past tense: the events that `GatewayManager.events()` yields, and the bounded bus behind it.

A slow reader never holds up the fleet: each subscription keeps the newest `MOST_EVENTS` events, and a reader that fell
behind is told how many it missed, in the place where they are missing. The bus keeps as many, so that a reader that was
cut off goes on after the last event that it knows.

Ids grow by one from event to event. A manager's first id is the time of its first event, in milliseconds: the ids of the
next manager go on above those of the one before, without anything having to be remembered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum
from typing import Any
from weakref import WeakSet

from spreadpilot_core.ibkr.model.reasons import Fact, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.system.clock import Clock, utc_now
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.telemetry import current_ids

MOST_EVENTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact. `sentence` is what logs and people read; everything is JSON-able."""

    id: int = 0
    """Grows from event to event; given when it is published."""
    at: datetime
    follower_id: str | None = None
    severity: Severity = Severity.INFO
    reason_code: ReasonCode | None = None
    sentence: str
    trace_id: str | None = field(default_factory=lambda: _current(0))
    span_id: str | None = field(default_factory=lambda: _current(1))
    """Of what was done when it happened, in hexadecimal digits, where somebody traces."""

    @property
    def name(self) -> str:
        """The fact's name, e.g. "GatewayReady"."""
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with `name` first."""
        return {"name": self.name, **{each.name: _plain(getattr(self, each.name)) for each in fields(self)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowersLoaded(Event):
    """The follower store was read and differs from what was known."""

    usable: int
    faulty: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The verdict on a gateway changed."""

    before: State | None
    after: State
    reason: str | None
    """A sentence; None only when ready."""
    next_action: str | None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """What the reason tells, for programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLaunched(Event):
    """A container was created and started."""

    container: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAdopted(Event):
    """A container that ran before this manager was taken over as it is."""

    container: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondFactorRequested(Event):
    """A phone must approve a login now."""

    severity: Severity = Severity.WARNING
    reason_code: ReasonCode | None = ReasonCode.PHONE_APPROVAL_PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCompleted(Event):
    """The controller's log says that IBKR let us in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRejected(Event):
    """IBKR did not accept user and password."""

    severity: Severity = Severity.ERROR


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailed(Event):
    """A login ended without success for another reason (throttled, approval missed, connection)."""

    severity: Severity = Severity.WARNING
    outcome: LoginOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReady(Event):
    """Proven ready: a call to `get_client` gets a client."""

    endpoint: str
    client_id: int
    accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLost(Event):
    """The API connection is gone, or no longer answers."""

    severity: Severity = Severity.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStale(Event):
    """The client that `get_client` handed out before is disconnected for good: call it again.

    `client_serial` numbers the clients of this follower from 1, in the order in which they were handed out;
    `GatewayManager.find_client` gives the object behind it.
    """

    client_serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IbkrLinkLost(Event):
    """The gateway lost IBKR (1100, 2110); the socket stays."""

    severity: Severity = Severity.WARNING
    reason_code: ReasonCode | None = ReasonCode.IBKR_LINK_LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class IbkrLinkRestored(Event):
    """The gateway has IBKR again; after `data_lost` (1101) every subscription must be made anew."""

    data_lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLost(Event):
    """A container ended that nobody asked to end."""

    severity: Severity = Severity.WARNING
    reason_code: ReasonCode | None = ReasonCode.CONTAINER_ENDED
    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStopped(Event):
    """A container was stopped and removed on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRotated(Event):
    """A new version of the follower's secret was found."""

    version: str
    """As people see it: Vault's number, or the beginning of a digest."""
    next_action: str
    """A sentence: when it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeGiven(Event):
    """A sentence that somebody should know (a store that is away, a setting said once)."""

    severity: Severity = Severity.WARNING


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsMissed(Event):
    """The reader was too slow, or away for too long: events before this one are gone. It bears the id of the last of them."""

    severity: Severity = Severity.WARNING
    count: int | None
    """How many; None when that is not known: they were an earlier manager's."""


def _current(place: int) -> str | None:
    ids = current_ids()
    return ids[place] if ids is not None else None


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.isoformat()
        case Enum():
            return value.value
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value


class EventBus:
    """Hands every event to every subscription, bounded, and keeps the newest for readers that come back."""

    def __init__(self, *, limit: int = MOST_EVENTS, clock: Clock = utc_now) -> None:
        self._limit = limit
        self._clock = clock
        self._recent: deque[Event] = deque(maxlen=limit)
        self._ids: range | None = None
        """Of everything that was published; None before the first event."""
        self._subscriptions: WeakSet[Subscription] = WeakSet()  # a reader that went away needs no events
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event, synchronously; it must not raise or block."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Give it its id and tell everybody; never waits."""
        first = self._ids.start if self._ids is not None else int(event.at.timestamp() * 1000)
        self._ids = range(first, (self._ids.stop if self._ids is not None else first) + 1)
        event = replace(event, id=self._ids[-1])
        self._recent.append(event)
        for listener in self._listeners:
            listener(event)
        for subscription in list(self._subscriptions):
            subscription.put(event)

    @property
    def last_id(self) -> int | None:
        """Of the newest event; None before the first."""
        return self._ids[-1] if self._ids is not None else None

    def subscribe(self, *, after: int | None = None) -> Subscription:
        """All events from now on, or all after the one with the id `after`; `aclose()` it, or let the bus close it."""
        gap, known = self._since(after) if after is not None else (None, ())
        subscription = Subscription(self._limit, self._subscriptions.discard, gap=gap, known=known)
        self._subscriptions.add(subscription)
        return subscription

    def _since(self, after: int) -> tuple[EventsMissed | None, Sequence[Event]]:
        """What came after this event, with the gap before it where that is not all."""
        recent, ids = list(self._recent), self._ids
        if ids is None or after not in ids:
            before = recent[0].id - 1 if recent else after
            return _missed(None, before, recent[0].at if recent else self._clock()), recent
        if recent[0].id > after + 1:
            return _missed(recent[0].id - 1 - after, recent[0].id - 1, recent[0].at), recent
        return None, [event for event in recent if event.id > after]

    def close(self) -> None:
        """End every subscription after what it still holds."""
        for subscription in list(self._subscriptions):
            subscription.end()


def _missed(count: int | None, last_id: int, at: datetime) -> EventsMissed:
    """`at` is the time of the first event that was not missed, where there is one."""
    many = "Events that nobody can count" if count is None else counted(count, "event")
    were = "was" if count == 1 else "were"
    return EventsMissed(id=last_id, at=at, sentence=f"{many} {were} missed here.", count=count)


class Subscription(AsyncIterator[Event]):
    """One reader's bounded queue."""

    def __init__(
        self,
        limit: int,
        on_close: Callable[[Subscription], None],
        *,
        gap: EventsMissed | None = None,
        known: Sequence[Event] = (),
    ) -> None:
        self._events: deque[Event] = deque(known, maxlen=limit)
        self._gap = gap
        self._ended = False
        self._arrived = asyncio.Event()
        self._on_close = on_close

    def put(self, event: Event) -> None:
        """Keep the event; the oldest one goes when there is no room."""
        lost = self._events[0] if len(self._events) == self._events.maxlen else None
        self._events.append(event)
        if lost is not None:
            self._gap = self._grown_gap(lost.id)
        self._arrived.set()

    def _grown_gap(self, last_id: int) -> EventsMissed:
        count = 0 if self._gap is None else self._gap.count
        return _missed(count + 1 if count is not None else None, last_id, self._events[0].at)

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._arrived.set()
        self._on_close(self)

    async def aclose(self) -> None:
        """Stop receiving."""
        self._events.clear()
        self._gap = None
        self.end()

    async def __anext__(self) -> Event:
        while not self._events and self._gap is None:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._gap is not None:
            gap, self._gap = self._gap, None
            return gap
        return self._events.popleft()
