"""Whether this manager acts: by its leader lease where several share the records, else always."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.seams import LeaderLease, Leadership
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks, keep_running, retry_until_available, wait_for

TAKEN_WITHIN = 3.0
"""Seconds in which a manager that stands by takes the leader lease that was handed over: it looks twice a second."""
_KEEPS = "keep the leader lease"


class OnlyLeaders(Protocol):
    """Work beside the fleet that only the leader does."""

    async def drain(self) -> None:
        """End what is under way, before another manager may be the leader."""

    def resume(self) -> None:
        """Go on: nobody has taken over."""


class LeadershipKeeper:
    """Gets it, keeps it, loses it, hands it over, and tells the fleet."""

    def __init__(
        self,
        services: Services,
        settings: Settings,
        make_lease: Callable[[str], LeaderLease] | None,
        *,
        gained: Callable[[], None],
        lost: Callable[[], None],
        then: Callable[[], None],
        runtime_away: Callable[[str], None],
    ) -> None:
        """`gained` and `lost` are called when it was, `then` after them and at a hand-over, `runtime_away` while no engine answers."""
        self._services = services
        self._take_over = settings.take_over
        self._make_lease = make_lease
        self._gained, self._lost, self._then = gained, lost, then
        self._runtime_away = runtime_away
        self._lease: LeaderLease | None = None
        self._tasks = Tasks("leadership")
        self._keeping: asyncio.Task[None] | None = None
        self.acts = asyncio.Event()
        """Set while this manager is the leader; set for good where there is only one."""
        self.sentence = "It is being found out which manager acts."
        """Who acts, where several may."""
        self.beside: OnlyLeaders | None = None
        """What is ended before the leader lease is handed over."""

    def begin(self) -> None:
        """Try to become the leader, again and again; nothing here waits."""
        if self._make_lease is None:
            self.acts.set()
        else:
            self._keep(partial(self._keep_new, self._make_lease))

    async def close(self) -> None:
        """Try no more; the lease is this manager's until it resigns."""
        await self._tasks.cancel()

    async def resign(self) -> None:
        """Give it back, if that can be done."""
        if self._lease is not None:
            with contextlib.suppress(UnavailableError):
                await self._lease.resign()

    @property
    def hindrance(self) -> Reason | None:
        """Why this manager may start and stop nothing."""
        return None if self.acts.is_set() else Reason(ReasonCode.NOT_LEADER, self.sentence)

    @property
    def stands_by(self) -> str | None:
        """Who acts instead of it, where that is known."""
        return self.sentence if self._lease is not None and not self.acts.is_set() else None

    async def hand_over(self) -> bool:
        """Whether there is nothing to wait for: another manager has taken the leader lease, or this one never held it."""
        if not self.acts.is_set():
            return True
        if self._lease is None or self._keeping is None:
            return False
        if self.beside is not None:
            await self.beside.drain()
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        self.acts.clear()
        self.sentence = "Its leader lease is being handed over."
        self._then()
        with contextlib.suppress(UnavailableError):
            if await self._lease.hand_over(within=TAKEN_WITHIN):
                return True
        self._keep(partial(self._lease.keep, self._changed, take_over=self._take_over))
        if self.beside is not None:
            self.beside.resume()
        return not await wait_for(self.acts, within=TAKEN_WITHIN)

    def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._keeping = self._tasks.begin(_KEEPS, keep_running(_KEEPS, work, tell=self._services.notices.tell))

    async def _keep_new(self, make_lease: Callable[[str], LeaderLease]) -> None:
        tell = self._services.notices.tell
        await retry_until_available("runtime", self._services.runtime.open, tell, on_failure=self._runtime_away)
        engine_id = await retry_until_available("runtime", self._services.runtime.identity, tell)
        self._services.engine.id = engine_id
        self._lease = make_lease(engine_id)
        await self._lease.keep(self._changed, take_over=self._take_over)

    def _changed(self, leadership: Leadership) -> None:
        self.sentence = leadership.sentence
        severity = Severity.INFO if leadership.held else Severity.WARNING
        self._services.bus.publish(
            events.NoticeGiven(at=self._services.clock(), severity=severity, sentence=leadership.sentence)
        )
        if not leadership.held:
            self.acts.clear()
            if leadership.is_known:  # else it has lapsed, and nobody need have it
                self._services.ledger.lay_down()
            self._lost()
        elif not self.acts.is_set():
            self.acts.set()
            if leadership.overrode:
                self._services.auditor.note("take-over", detail=leadership.sentence)
            self._gained()
        self._then()
