"""What is measured while a manager runs: the availability of its gateways, always; the rest only where somebody collects it.

each cycle of a supervisor    -> how its gateway stands goes into the availability ledger
each minute                   -> the ledger books and writes, exchange hours that are needed are read
each second                   -> how late the event loop is
each half minute              -> the runtime's own figures of every container
whoever collects, any thread  -> `figures`
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.errors import GatewayManagerError, UnavailableError
from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Verdict
from spreadpilot_core.ibkr.model.figures import ContainerFigures, FleetFigures
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reset_windows import ResetHours
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.availability import AvailabilityLedger, Condition
from spreadpilot_core.ibkr.reporting.exchange_hours import ExchangeHours
from spreadpilot_core.ibkr.supervision.figures import gateway_figures, hours_of
from spreadpilot_core.ibkr.supervision.roster_keeper import RosterKeeper
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, keep_running, retry_until_available

BOOKED_EVERY, WRITTEN_EVERY = 10.0, 60.0
"""Seconds between two bookings of the availability ledger, and between two writes of it."""
LAG_EVERY = 1.0
USAGE_EVERY = 30.0
_ZERO, _RECENT = timedelta(0), timedelta(seconds=20)
LAST_WRITE = 3.0
"""Seconds that the end waits for it."""


class Measurements:
    """Of one fleet."""

    def __init__(
        self,
        services: Services,
        supervisors: Mapping[FollowerId, GatewaySupervisor],
        roster: RosterKeeper,
        acts: Callable[[], bool],
        is_fine: Callable[[], bool],
    ) -> None:
        """`acts` says whether this manager is the leader: one that stands by answers for no gateway; `is_fine` what `/readyz` says."""
        self._services = services
        self._supervisors = supervisors
        self._roster = roster
        self._acts = acts
        self._is_fine = is_fine
        self._hours = ExchangeHours()
        self._ledger = AvailabilityLedger(services.availability, self._hours)
        self._recent: tuple[str, datetime, tuple[AvailabilityDay, ...]] | None = None
        """Month, when it was read, and its days."""
        self._usage: Mapping[FollowerId, ContainerFigures] = {}
        self._tasks = Tasks("measurements")

    def begin(self) -> None:
        """Start what runs beside the fleet."""
        instrumentation = self._services.instrumentation
        instrumentation.watch(self.figures)
        self._keep_running("keep the availability ledger", self._keep_ledger)
        if instrumentation.is_on:
            self._keep_running("watch the event loop's lag", self._watch_lag)
            self._keep_running("ask what containers use", self._ask_usage)

    def _keep_running(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.begin(name, keep_running(name, work, tell=self._services.notices.tell))

    async def close(self) -> None:
        """Write what the ledger has, for a few seconds, and let go of its store."""
        self._services.instrumentation.watch(FleetFigures)
        await self._tasks.cancel()
        with contextlib.suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(LAST_WRITE):
                await self._ledger.write(self._services.clock())
        await self._services.availability.close()

    # ------------------------------------------------------------------ availability

    def see(self, supervisor: GatewaySupervisor) -> None:
        """How its gateway stands after a cycle."""
        self._ledger.see(supervisor.follower_id, self._condition_of(supervisor), self._services.clock())

    def forget(self, follower_id: FollowerId) -> None:
        """There is no such follower any more."""
        self._ledger.see(follower_id, None, self._services.clock())

    def _condition_of(self, supervisor: GatewaySupervisor) -> Condition | None:
        facts, state = supervisor.facts, supervisor.state
        if not self._acts() or facts.wanted is not Wanted.RUN or facts.follower is None:
            return None
        verdict = {State.READY: Verdict.READY, State.DEGRADED: Verdict.DEGRADED}.get(state, Verdict.DOWN)
        decision = supervisor.decision
        code = decision.reason_code if decision is not None and state is not State.READY else None
        return Condition(verdict, code.value if code is not None else None, hours_of(facts), facts.follower.exchange)

    async def availability(self, month: str) -> list[AvailabilityDay]:
        """The days of this month, those of now included. Raises `StoreUnavailableError`."""
        await self._services.availability.open()
        await self._ledger.write(self._services.clock())
        return list(await self._services.availability.availability(month))

    async def recent_availability(self, month: str) -> tuple[AvailabilityDay, ...]:
        """The same as some seconds ago: for pages, which ask with each row. Raises `StoreUnavailableError`."""
        now = self._services.clock()
        if self._recent is None or self._recent[0] != month or not _ZERO <= now - self._recent[1] < _RECENT:
            self._recent = month, now, tuple(await self.availability(month))
        return self._recent[2]

    async def _keep_ledger(self) -> None:
        store, tell = self._services.availability, self._services.notices.tell
        await retry_until_available("store of the availability ledger", store.open, tell)
        while True:
            await self._hours.learn(self._ledger.exchanges, self._services.clock())
            await retry_until_available("store of the availability ledger", self._write, tell)
            for _ in range(round(WRITTEN_EVERY / BOOKED_EVERY)):
                await asyncio.sleep(BOOKED_EVERY)
                self._ledger.advance(self._services.clock())

    async def _write(self) -> None:
        await self._ledger.write(self._services.clock())

    # ------------------------------------------------------------------ where somebody collects

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY
            await asyncio.sleep(LAG_EVERY)
            self._services.instrumentation.loop_lagged(max(0.0, loop.time() - due))

    async def _ask_usage(self) -> None:
        while True:
            found: dict[FollowerId, ContainerFigures] = {}
            for follower_id, supervisor in list(self._supervisors.items()):
                gateway = supervisor.facts.gateway_view.gateway
                if gateway is None or not supervisor.facts.gateway_view.is_running:
                    continue
                with contextlib.suppress(GatewayManagerError):
                    if (usage := await self._services.runtime.usage(gateway.container_id)) is not None:
                        found[follower_id] = usage
            self._usage = found
            await asyncio.sleep(USAGE_EVERY)

    def figures(self) -> FleetFigures:
        """The whole fleet's, from any thread."""
        services, now = self._services, self._services.clock()
        known: dict[int, bool] = {}

        def in_reset_hours(hours: ResetHours) -> bool:
            if (found := known.get(id(hours))) is None:
                found = known[id(hours)] = hours.long_span(now) is not None
            return found

        of_one = partial(
            gateway_figures,
            limits=services.limits,
            usage=self._usage,
            hours=self._hours,
            in_reset_hours=in_reset_hours,
            now=now,
        )
        return FleetFigures(
            gateways=tuple(of_one(each) for each in list(self._supervisors.values())),
            faulty_records=len(self._roster.faulty),
            leases={
                "port": services.runtime.ports.counts,
                "client_id": services.client_ids.counts,
                "shared_client_id": services.client_leases.counts,
            },
            is_leader=self._acts(),
            is_fine=self._is_fine(),
            login_budget=services.limits.login_budget,
            full_login_limit=services.limits.full_login_limit,
            notices=len(services.notices.sentences),
            audit_broken=services.auditor.found_broken,
            audit_waiting=services.auditor.waiting,
            availability=self._ledger.totals,
        )
