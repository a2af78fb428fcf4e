"""The fleet's side of the follower store: reads it, works out what everybody should have, and tells the supervisors.

    follower store --load, hints--> take --> DesiredState --> supervisor.facts.wanted, .follower, .spec, .record

What a reading may be taken at its word for is in `desired`; here are the loops, the clock and the telling.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.model.followers import (
    FaultyRecord,
    Follower,
    FollowerId,
    Roster,
    TradingMode,
    with_first_seen,
)
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.reporting.announcer import FleetAnnouncer
from spreadpilot_core.ibkr.seams import FollowerStore
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.desired import DesiredState, Holding
from spreadpilot_core.ibkr.supervision.services import Services, spec_for
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import retry_until_available, wait_for

AT_MOST_EVERY = 0.05
"""Seconds between two readings for the sake of a record that is gone."""


class RosterKeeper:
    """Keeps every supervisor told of what its follower should have."""

    def __init__(
        self,
        services: Services,
        store: FollowerStore,
        settings: Settings,
        *,
        supervisors: Mapping[FollowerId, GatewaySupervisor],
        supervise: Callable[[FollowerId], GatewaySupervisor],
        hindrance: Callable[[], Reason | None],
    ) -> None:
        """Args name the fleet's parts: `supervise` adds to `supervisors`; `hindrance` says why nobody may be changed now."""
        self._services = services
        self._store = store
        self._tell = services.notices.tell
        self._announcer = FleetAnnouncer(services.bus, services.clock)
        self._compare_every = settings.full_comparison_interval
        self._supervisors = supervisors
        self._supervise = supervise
        self._hindrance = hindrance
        self._desired = DesiredState(removal_delay=settings.removal_delay)
        self._roster: Roster | None = None
        self._is_open = asyncio.Event()
        self._reload_asked = asyncio.Event()
        self._notices: frozenset[tuple[FollowerId | None, str]] = frozenset()
        """What was told about the records."""
        self.fault: str | None = None
        """A sentence while the followers can't be read."""
        self._has_ended = False
        self._detaches = False
        self.known = asyncio.Event()
        """Set once the followers were read."""
        self.on_read: Callable[[], None] = _nothing
        """Called after each reading."""
        self.faulty: Mapping[str, FaultyRecord] = {}
        """Records that can't be used, without those whose follower goes on by an older reading."""

    # ------------------------------------------------------------------ reading

    async def read(self) -> None:
        """Read whenever they may have changed; whom an absence takes away is let go only by a reading of then."""
        retried = partial(retry_until_available, "follower store", tell=self._tell, on_failure=self._store_away)
        await retried(self._store.open)
        self._is_open.set()
        while True:
            self._reload_asked.clear()
            self._take(await retried(self._store.load, sooner=self._reload_asked))
            await wait_for(self._reload_asked, within=self._again_within())

    def _again_within(self) -> float:
        due = self._desired.due
        left = (due - self._services.clock()).total_seconds() if due is not None else math.inf
        return min(self._compare_every, max(AT_MOST_EVERY, left))

    async def hear_of_changes(self) -> None:
        """Have them read at every hint of the store."""
        await self._is_open.wait()
        async for _ in self._store.hints():
            self._reload_asked.set()

    async def reload(self) -> None:
        """Read them now. Raises `StoreUnavailableError`; what was known stays in force then."""
        await self._store.open()
        self._take(await self._store.load())

    def end(self) -> None:
        """From now on somebody else says what is wanted."""
        self._has_ended = True

    def detach(self) -> None:
        """From now on nobody is wanted anew: the manager detaches."""
        self._detaches = True
        self.apply()

    async def close(self) -> None:
        """Let go of the store."""
        await self._store.close()

    def _take(self, roster: Roster) -> None:
        now, due = self._services.clock(), self._desired.due
        self._desired.take(roster, now)
        self._store_away(None)
        if roster != self._roster:  # else nothing asks for it: a store that is polled says the same all day
            self._announcer.roster(roster)
            self._roster = roster
            self.apply()
        elif due is not None and now >= due:
            self.apply()
        self.known.set()
        self.on_read()

    def _store_away(self, sentence: str | None) -> None:
        """The followers can't be read now, and why; None: they were read."""
        if sentence != self.fault:
            self.fault = sentence
            for supervisor in self._supervisors.values():
                supervisor.facts.roster_fault = sentence

    # ------------------------------------------------------------------ what is wanted

    def apply(self) -> None:
        """Give every supervisor what it should have; supervisors start nothing before what runs was listed."""
        if self._roster is None or self._has_ended:
            return
        for follower_id in self._roster.usable:
            if follower_id not in self._supervisors:
                self._supervise(follower_id)
        self._weigh()
        for supervisor in list(self._supervisors.values()):
            self._assign(supervisor)
        faulty = self._roster.faulty
        broken = {name: each for name, each in faulty.items() if not self._desired.is_retained(FollowerId(name))}
        self.faulty = with_first_seen(broken, self.faulty, self._services.clock())
        self._tell_notices()

    def _weigh(self) -> None:
        """Find whose records are gone; who may change nobody lets nobody go anyway."""
        if self._hindrance() is None:
            self._desired.weigh({each: _holding(it) for each, it in self._supervisors.items()}, self._services.clock())

    def _assign(self, supervisor: GatewaySupervisor) -> None:
        """Have this follower as its record, and those before it, want it."""
        found = self._desired.desired(supervisor.follower_id, _holding(supervisor))
        follower = found.follower
        if follower is not None and follower != supervisor.facts.follower:
            supervisor.facts.follower = follower
            supervisor.facts.spec = spec_for(follower, self._services.options)
            supervisor.facts.login.know(follower, supervisor.facts.record)
            self._services.runtime.ports.pin(follower.id, follower.gateway.port)
        if (hindrance := self._hindrance()) is not None:
            supervisor.want(Wanted.KEEP, hindrance)
            return
        supervisor.facts.roster_notices, supervisor.facts.roster_loss = found.notices, found.loss
        if found.record != supervisor.facts.record:
            supervisor.facts.keep_record(found.record)
        if self._detaches and found.wanted is Wanted.RUN:
            supervisor.want(Wanted.DETACH, Reason(ReasonCode.MANAGER_DETACHING, "The manager detaches."))
        else:
            supervisor.want(found.wanted, found.why)

    def want_by_record(self, supervisor: GatewaySupervisor) -> None:
        """Work out again what is wanted, after an operator's word."""
        if self._roster is not None and not self._has_ended:
            self._assign(supervisor)

    def is_deleted(self, follower_id: FollowerId) -> bool:
        """Whether there is no record of this follower any more, usable or not, on purpose as far as is known."""
        return self._roster is not None and self._desired.is_gone(follower_id)

    def _tell_notices(self) -> None:
        """Each new sentence about a record once for its follower; what concerns many, once for the whole."""
        own = ((each, sentence) for each, it in self._supervisors.items() for sentence in it.facts.roster_notices)
        losses = ((None, loss) for it in self._supervisors.values() if (loss := it.facts.roster_loss) is not None)
        there = dict.fromkeys((*own, *losses))
        for follower_id, sentence in there:
            if (follower_id, sentence) not in self._notices:
                self._announcer.notice(sentence, follower_id)
        self._notices = frozenset(there)

    # ------------------------------------------------------------------ an operator's words

    def missing(self) -> tuple[FollowerId, ...]:
        """Whose records are gone while they have gateways, and nobody has said that they should be."""
        self._weigh()
        return self._desired.missing

    async def confirm_removals(self, names: Collection[str]) -> tuple[FollowerId, ...]:
        """Let those of these go whose records are gone; returns them. Raises `AuditError`: then nobody is let go."""
        chosen = tuple(each for each in self.missing() if each in names)
        for follower_id in chosen:
            await self._supervisors[follower_id].audit_operator("confirm-removal")
        self._desired.confirm(chosen)
        self.apply()
        return chosen

    def confirm_live(self, supervisor: GatewaySupervisor) -> None:
        """This follower may trade live, as its record asks."""
        supervisor.facts.keep_record(replace(supervisor.facts.record, trading_mode=TradingMode.LIVE))
        self.want_by_record(supervisor)

    def reading_of(self, follower_id: FollowerId) -> Follower | None:
        """What the store says of this follower, in force or not."""
        return self._desired.reading_of(follower_id)


def _nothing() -> None:
    """Nobody is told."""


def _holding(supervisor: GatewaySupervisor) -> Holding:
    """What it has now, for working out what it should have."""
    there = supervisor.facts.gateway_view
    return Holding(
        record=supervisor.facts.record,
        has_gateway=there.gateway is not None or there.stale or supervisor.has_open_login,
        trading_mode=there.gateway.trading_mode if there.gateway is not None else None,
    )
