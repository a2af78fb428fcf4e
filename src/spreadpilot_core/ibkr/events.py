"""What happened, in the past tense: the events that `GatewayManager.events()` yields, and the bounded bus behind it.

A slow reader never holds up the fleet: each subscription keeps the newest `EVENTS_KEPT` events, and a reader that fell
behind is told how many it missed, in the place where they are missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.protocols import LoginOutcome

EVENTS_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact. `sentence` is what logs and people read."""

    at: datetime
    follower_id: str | None = None
    sentence: str

    @property
    def name(self) -> str:
        """The fact's name, e.g. "GatewayReady"."""
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with `name` first."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "client"}
        return {"name": self.name, **{key: _plain(value) for key, value in values.items()}}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLaunched(Event):
    """A container was created and started."""

    container: str
    host_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayAdopted(Event):
    """A container that ran before this manager was taken over as it is."""

    container: str
    host_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondFactorRequested(Event):
    """A phone must approve a login now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginCompleted(Event):
    """The controller's log says that IBKR let us in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRejected(Event):
    """IBKR did not accept user and password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFailed(Event):
    """A login ended without success for another reason (throttled, approval missed, connection)."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStale(Event):
    """The client that `get_client` handed out before is disconnected for good: call it again.

    `client` is that very object, so a caller that holds it can tell (`event.client is ib`); `client_serial` numbers the
    clients of this follower from 1, in the order in which they became ready.
    """

    client: Any = None
    client_serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IbkrLinkLost(Event):
    """The gateway lost IBKR (1100, 2110); the socket stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IbkrLinkRestored(Event):
    """The gateway has IBKR again; after `data_lost` (1101) every subscription must be made anew."""

    data_lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLost(Event):
    """A container ended that nobody asked to end."""

    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStopped(Event):
    """A container was stopped and removed on request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeGiven(Event):
    """A sentence that concerns the whole manager (a store that is away, a setting said once)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsMissed(Event):
    """The reader was too slow: this many events before this one are gone."""

    count: int


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value


class EventBus:
    """Hands every event to every subscription, bounded."""

    def __init__(self, *, kept: int = EVENTS_KEPT) -> None:
        self._kept = kept
        self._subscriptions: WeakSet[Subscription] = WeakSet()  # a reader that went away needs no events
        self._listeners: list[Callable[[Event], None]] = []

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event, synchronously; it must not raise or block."""
        self._listeners.append(listener)

    def publish(self, event: Event) -> None:
        """Tell everybody; never waits."""
        for listener in self._listeners:
            listener(event)
        for subscription in list(self._subscriptions):
            subscription.put(event)

    def subscribe(self) -> Subscription:
        """All events from now on; `aclose()` it, or let the bus close it."""
        subscription = Subscription(self._kept, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    def close(self) -> None:
        """End every subscription after what it still holds."""
        for subscription in list(self._subscriptions):
            subscription.end()


class Subscription(AsyncIterator[Event]):
    """One reader's bounded queue."""

    def __init__(self, kept: int, on_close: Callable[[Subscription], None]) -> None:
        self._events: deque[Event] = deque(maxlen=kept)
        self._missed = 0
        self._ended = False
        self._arrived = asyncio.Event()
        self._on_close = on_close

    def put(self, event: Event) -> None:
        """Keep the event; the oldest one goes when there is no room."""
        self._missed += len(self._events) == self._events.maxlen
        self._events.append(event)
        self._arrived.set()

    def end(self) -> None:
        """No more events will come."""
        self._ended = True
        self._arrived.set()
        self._on_close(self)

    async def aclose(self) -> None:
        """Stop receiving."""
        self._events.clear()
        self.end()

    async def __anext__(self) -> Event:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(at=datetime.now(UTC), sentence=f"{missed} events were missed here.", count=missed)
        return self._events.popleft()
