"""Wanted against running: owns the supervisors, gives each its facts, and knows the whole.

    follower store --roster--> assign --> supervisor.wanted
    runtime --find, events--> see / adopt --> supervisor.presence
    record store --records, open logins--> supervisor.record

What is there is found first and keeps its leases; only then anything new is handed out. Events make it fast, and a full
comparison makes it right. The fleet knows protocols and no adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Mapping

import structlog

from spreadpilot_core.ibkr import events
from spreadpilot_core.ibkr.deciding.observation import FleetView, Wanted
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.errors import GatewayManagerError, RuntimeUnavailableError, UnavailableError
from spreadpilot_core.ibkr.followers import dated
from spreadpilot_core.ibkr.house import House, spec_for
from spreadpilot_core.ibkr.protocols import (
    FaultyRecord,
    Follower,
    FollowerId,
    FollowerStore,
    Gateway,
    LoginAttempt,
    LoginOutcome,
    Record,
    Roster,
    RuntimeEventKind,
    Standing,
    Term,
)
from spreadpilot_core.ibkr.reaching import Reaching, kept_going
from spreadpilot_core.ibkr.reporting import Reporter
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, arrives
from spreadpilot_core.ibkr.telling import tell_roster

log = structlog.get_logger(__name__)

WRITTEN_WITHIN = 5.0
"""Seconds that stopping waits, once the gateways are gone, until the ends of their logins are written down."""
LISTED_WITHIN = 10.0
"""Seconds that stopping waits for the first list, without which nothing is known of what runs."""
RECORDS_FIRST = 3.0
"""Seconds that adopting waits for the records, which say more than labels do."""


class Fleet:
    """All gateways of one manager."""

    def __init__(
        self,
        house: House,
        followers: FollowerStore,
        settings: Settings,
        make_term: Callable[[str], Term] | None = None,
    ) -> None:
        self._house = house
        self._reaching = Reaching(house.bus, house.clock)
        self._make_term = make_term
        self._term: Term | None = None
        self._acts = asyncio.Event()
        """Set while this manager holds the term; set for good where there is only one."""
        self._standing = "It is being found out which manager acts."
        self._followers = followers
        self._settings = settings
        self._tasks = Tasks("fleet")
        self._reporter = Reporter(house, self, settings.full_comparison_interval)
        self._supervising = Tasks("supervisors")
        self.supervisors: dict[FollowerId, GatewaySupervisor] = {}
        self.faulty: Mapping[str, FaultyRecord] = {}
        self.ready: dict[str, object] = {}
        """Follower -> the client that `get_client` may hand out."""
        self.roster_known = asyncio.Event()
        self._roster: Roster | None = None
        self._records: Mapping[FollowerId, Record] = {}
        self._records_known = asyncio.Event()
        self._open_logins: dict[FollowerId, LoginAttempt] = {}
        self._deleted: set[FollowerId] = set()
        self._cycles: dict[FollowerId, asyncio.Task[None]] = {}
        self._runtime_fault: str | None = "The runtime was not asked yet what runs."
        self.listed = asyncio.Event()
        self._relist_asked = asyncio.Event()
        self._reload_asked = asyncio.Event()
        self._link_lost: set[FollowerId] = set()
        self._stopping = False

    # ------------------------------------------------------------------ start and stop

    def begin(self) -> None:
        """Start every loop; nothing here waits."""
        if self._make_term is None:
            self._acts.set()
        else:
            self._tasks.begin("keep the term", self._keep_term(self._make_term))
        for name, work in (
            ("read the records", self._read_records),
            ("find what is there", self._find_what_is_there),
            ("follow the runtime", self._follow_runtime),
            ("read the followers", self._read_followers),
            ("hear of changed followers", self._hear_of_changes),
            ("look at the secrets' versions", self._look_at_versions),
        ):
            self._tasks.begin(name, kept_going(name, work))
        self._reporter.begin()

    async def first_look(self, timeout: float) -> None:  # noqa: ASYNC109  # a courtesy, not a deadline
        """Wait until followers, records and runtime were read once, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.listed.wait()
                await self._records_known.wait()
                await self.roster_known.wait()

    async def stop_all(self) -> list[FollowerId]:
        """Stop every gateway, in parallel; returns those whose end could not be confirmed.

        Raises `RuntimeUnavailableError` when it was never learned what runs.
        """
        self._stopping = True
        if self._acts.is_set() and not await arrives(self.listed, within=LISTED_WITHIN):
            raise RuntimeUnavailableError(f"What runs could not be listed, and was not stopped: {self._runtime_fault}")
        for supervisor in self.supervisors.values():
            self._want(supervisor, Wanted.SHUTDOWN, "The manager stops.")
        limit = self._settings.stop_grace + 30
        stopped = list(self.supervisors.values())
        gone = await asyncio.gather(*(each.until_gone(limit) for each in stopped))
        await asyncio.gather(*(each.until_idle(WRITTEN_WITHIN) for each in stopped))
        return [each.follower_id for each, is_gone in zip(stopped, gone, strict=True) if not is_gone]

    def hurry(self) -> None:
        """While everything is being stopped: kill what was asked to close. The waiting removals find it gone."""
        if self._stopping:
            for supervisor in self.supervisors.values():
                if (gateway := supervisor.presence.gateway) is not None:
                    name = f"kill {supervisor.follower_id}"
                    self._tasks.begin(name, self._house.runtime.remove(gateway.container_id, grace=0))

    async def close(self) -> None:
        """End every loop and let go of every gateway as it is."""
        await self._tasks.cancel()
        await self._supervising.cancel()
        self.roster_known.set()  # whoever still waits for it finds that the manager has ended
        await self._house.auditor.close()
        await self._reporter.close()
        if self._term is not None:  # only now: who holds no term may not say what runs
            with contextlib.suppress(UnavailableError):
                await self._term.resign()
        self.ready.clear()
        await self._followers.close()

    # ------------------------------------------------------------------ what is there

    async def _read_records(self) -> None:
        """What must survive; until it was read, nobody logs in and no record is written."""
        await self._acts.wait()
        records = await self._reaching.until_reached("record store", self._house.ledger.open)
        open_logins = await self._reaching.until_reached("record store", self._house.ledger.unsettled)
        self._records = records
        self._open_logins = {attempt.follower_id: attempt for attempt in open_logins}
        self._records_known.set()
        for follower_id, supervisor in self.supervisors.items():
            adopted = supervisor.presence.gateway is not None
            attempt = self._open_logins.pop(follower_id, None) if adopted else None  # else it waits for the list
            supervisor.take_record(self._record_of(follower_id), attempt)
        self._apply_roster()
        await self.listed.wait()
        while self._open_logins:
            follower_id, attempt = self._open_logins.popitem()
            if follower_id not in self.supervisors or not self.supervisors[follower_id].has_open_login:
                self._tasks.begin(f"settle what {follower_id} left open", self._settle_left_open(attempt))

    async def _find_what_is_there(self) -> None:
        """Adopt what runs, also when the records can't be read; from then on list whenever asked."""
        await self._acts.wait()
        await arrives(self._records_known, within=RECORDS_FIRST)
        await self._reaching.until_reached("runtime", self._house.runtime.open, tell=self._runtime_away)
        while True:
            self._relist_asked.clear()
            tell, asked = self._runtime_away, self._relist_asked
            self._take_list(*await self._reaching.until_reached("runtime", self._look, tell=tell, sooner=asked))
            if not await arrives(self._relist_asked, within=self._settings.full_comparison_interval):
                self._apply_roster()

    async def _look(self) -> tuple[Mapping[FollowerId, Gateway], set[FollowerId]]:
        """What there is, and whose gateways were acted on since the list was asked for: it says nothing of those."""
        idle = (it for it in self.supervisors.values() if not it.slot.is_busy_with_container)
        before = {each.follower_id: each.slot.container_actions for each in idle}
        found = await self._house.runtime.find()
        busy = {each for each, it in self.supervisors.items() if it.slot.container_actions != before.get(each, 0)}
        return {gateway.follower_id: gateway for gateway in found}, busy

    def _take_list(self, found: Mapping[FollowerId, Gateway], busy: set[FollowerId]) -> None:
        """Give each supervisor what the list says of it, but for those that acted since the list was asked for."""
        new = [self._supervise(each) for each in found if each not in self.supervisors]
        self._runtime_fault = None
        for follower_id, supervisor in self.supervisors.items():
            supervisor.runtime_fault = None
            gateway = found.get(follower_id)
            if follower_id in busy:
                supervisor.wake()
            elif gateway is not None and supervisor.presence.gateway is None:
                supervisor.adopt(gateway, self._open_logins.pop(follower_id, None))
            else:
                supervisor.see(gateway)
        if new or not self.listed.is_set():
            self.listed.set()
            self._apply_roster()

    async def _keep_term(self, make_term: Callable[[str], Term]) -> None:
        await self._reaching.until_reached("runtime", self._house.runtime.open, tell=self._runtime_away)
        self._term = make_term(await self._reaching.until_reached("runtime", self._house.runtime.engine_id))
        await self._term.keep(self._term_changed, take_over=self._settings.take_over)

    def _term_changed(self, standing: Standing) -> None:
        """Gained: look at everything anew. Lost: create, start and remove nothing, and keep what is connected."""
        self._standing = standing.sentence
        self._house.bus.publish(events.NoticeGiven(at=self._house.clock(), sentence=standing.sentence))
        if not standing.held:
            self._acts.clear()
            for supervisor in self.supervisors.values():
                supervisor.slot.make_way()
            if not self.listed.is_set():
                self._runtime_away(standing.sentence)
        elif not self._acts.is_set():
            self._acts.set()
            if standing.overrode:
                self._house.auditor.note("take-over", detail=standing.sentence)
            self._relist_asked.set()
            if self._records_known.is_set():
                self._tasks.begin("read the records again", self._read_records())
        self._apply_roster()

    async def _settle_left_open(self, attempt: LoginAttempt) -> None:
        """A login that a manager before us wrote down, and no container of it is there."""
        outcome = LoginOutcome.VOID if attempt.started_at is None else LoginOutcome.UNFINISHED
        log.info("login left open", follower=attempt.follower_id, outcome=outcome.value)
        await self._house.ledger.settle(attempt, outcome)

    def _runtime_away(self, sentence: str) -> None:
        if self._runtime_fault != sentence:
            self._runtime_fault = sentence
            for supervisor in self.supervisors.values():
                supervisor.runtime_fault = sentence
                supervisor.wake()

    async def _follow_runtime(self) -> None:
        await self.listed.wait()
        async for event in self._house.runtime.events():
            known = self.supervisors.get(event.follower_id) if event.follower_id is not None else None
            if event.kind is RuntimeEventKind.GAP or known is None:
                self._relist_asked.set()
            elif (gateway := known.presence.gateway) and gateway.container_id == event.container_id:
                known.container_changed()

    # ------------------------------------------------------------------ who is wanted

    async def _read_followers(self) -> None:
        await self._reaching.until_reached("follower store", self._followers.open)
        while True:
            self._reload_asked.clear()
            roster = await self._reaching.until_reached("follower store", self._followers.load)
            self._take_roster(roster)
            await arrives(self._reload_asked, within=self._settings.full_comparison_interval)

    async def _hear_of_changes(self) -> None:
        await self.roster_known.wait()
        async for _ in self._followers.hints():
            self._reload_asked.set()

    async def reload(self) -> None:
        """Read the followers now. Raises `StoreUnavailableError`; what was known stays in force then."""
        await self._followers.open()
        self._take_roster(await self._followers.load())

    def _take_roster(self, roster: Roster) -> None:
        if roster != self._roster:  # else nothing asks for it: a store that is polled says the same all day
            tell_roster(self._house, roster)
            self._roster = roster
            self.faulty = dated(roster.faulty, self.faulty, self._house.clock())
            self._apply_roster()
        self.roster_known.set()

    def _apply_roster(self) -> None:
        """Give every supervisor what its record wants; supervisors start nothing before what runs was listed."""
        roster = self._roster
        if roster is None or self._stopping:
            return
        self._deleted = {each for each in self.supervisors if each not in roster.usable and each not in roster.faulty}
        for follower_id, follower in roster.usable.items():
            self._assign(self.supervisors.get(follower_id) or self._supervise(follower_id), follower)
        for follower_id, supervisor in list(self.supervisors.items()):
            if follower_id in roster.usable:
                continue
            fault = roster.faulty.get(follower_id)
            if not self._acts.is_set():
                self._want(supervisor, Wanted.KEEP, self._standing)
            elif fault is not None:
                self._want(supervisor, Wanted.INVALID, fault.fault)
            else:
                self._want(supervisor, Wanted.DISABLED, "Its record was deleted.")

    def _assign(self, supervisor: GatewaySupervisor, follower: Follower) -> None:
        supervisor.follower = follower
        supervisor.spec = spec_for(follower, self._house.options)
        supervisor.login.know(follower)
        if not self._acts.is_set():
            self._want(supervisor, Wanted.KEEP, self._standing)
        elif not self._records_known.is_set():
            self._want(supervisor, Wanted.KEEP, "The records were not read yet.")
        elif not follower.enabled:
            self._want(supervisor, Wanted.DISABLED, "Its record is not enabled.")
        elif not follower.is_wanted:
            self._want(supervisor, Wanted.DISABLED, f"Its record has the state {follower.state}.")
        elif supervisor.record.stopped_by_operator:
            self._want(supervisor, Wanted.STOP, "An operator stopped it.")
        else:
            self._want(supervisor, Wanted.RUN, "")

    def want_by_record(self, supervisor: GatewaySupervisor) -> None:
        """Work out again what is wanted, after an operator's word."""
        usable = self._roster.usable if self._roster is not None and not self._stopping else {}
        if supervisor.follower is not None and supervisor.follower_id in usable:
            self._assign(supervisor, supervisor.follower)

    def _want(self, supervisor: GatewaySupervisor, wanted: Wanted, why: str) -> None:
        supervisor.wanted, supervisor.wanted_why = wanted, why
        supervisor.wake()

    # ------------------------------------------------------------------ supervisors

    def _supervise(self, follower_id: FollowerId) -> GatewaySupervisor:
        supervisor = GatewaySupervisor(
            follower_id,
            self._house,
            self._record_of(follower_id),
            on_change=self._changed,
            relist=self._relist_asked.set,
        )
        supervisor.runtime_fault = self._runtime_fault
        self.supervisors[follower_id] = supervisor
        self._cycles[follower_id] = self._supervising.begin(follower_id, supervisor.run())
        return supervisor

    def _record_of(self, follower_id: FollowerId) -> Record:
        record = self._records.get(follower_id) or Record(follower_id=follower_id)
        if record.client_id is not None:
            self._house.client_ids.claim(follower_id, record.client_id)
        return record

    def _forget(self, supervisor: GatewaySupervisor) -> None:
        """A deleted follower whose gateway is gone: nothing is left to watch."""
        del self.supervisors[supervisor.follower_id]
        self._deleted.discard(supervisor.follower_id)
        self._house.client_ids.release(supervisor.follower_id)
        self._cycles.pop(supervisor.follower_id).cancel()

    def _changed(self, supervisor: GatewaySupervisor) -> None:
        """A supervisor walked its cycle."""
        follower_id, connection = supervisor.follower_id, supervisor.presence.connection
        if supervisor.state in (State.READY, State.DEGRADED) and connection is not None:
            self.ready[follower_id] = connection.ib
        else:
            self.ready.pop(follower_id, None)
        (self._link_lost.add if supervisor.state is State.DEGRADED else self._link_lost.discard)(follower_id)
        self._reporter.changed(supervisor)
        if follower_id in self._deleted and supervisor.is_idle and supervisor.state is State.DISABLED:
            self._forget(supervisor)

    async def write_records(self) -> None:
        """Have everything written that must survive. Raises `StoreUnavailableError`; it is written later then."""
        await self._house.ledger.flush()

    def view(self) -> FleetView:
        """The whole, for evidence."""
        return FleetView(total=len(self.supervisors), link_lost=len(self._link_lost))

    # ------------------------------------------------------------------ the rest

    async def _look_at_versions(self) -> None:
        """Metadata only: a new version of a secret is noticed without reading the secret."""
        rng, desk = random.Random(), self._house.desk  # noqa: S311  # jitter
        while True:
            pause = min(self._settings.secret_poll_interval, desk.renew_within or math.inf)
            await asyncio.sleep(pause * rng.uniform(0.8, 1.0))
            for it in [each for each in self.supervisors.values() if each.wanted is Wanted.RUN]:
                if (follower := it.follower) is not None:
                    with contextlib.suppress(GatewayManagerError):
                        it.see_version(await desk.version(follower.vault_secret_ref, follower_id=follower.id))
