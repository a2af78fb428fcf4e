"""Wanted against running: owns the supervisors, gives each its facts, and knows the whole.

    follower store --roster--> assign --> supervisor.facts.wanted
    runtime --list, changes--> claim --> see / adopt --> supervisor.facts.gateway_view
    record store --records, open logins--> supervisor.facts.record

What is there is found first and keeps what it has; only then anything new is handed out. Events make it fast, and a full
comparison makes it right. The fleet knows protocols and no adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from spreadpilot_core.ibkr.deciding.observation import FleetView, Wanted
from spreadpilot_core.ibkr.deciding.removing import FOLLOWERS_UNKNOWN
from spreadpilot_core.ibkr.deciding.wanting import OUTCOME_AWAITED
from spreadpilot_core.ibkr.errors import RuntimeUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, GatewayMapping, LoginAttempt, Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.follower_statuses import FollowerStatusReporter
from spreadpilot_core.ibkr.reporting.reporter import Reporter
from spreadpilot_core.ibkr.seams import FollowerStore, LeaderLease
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.detaching import Detaching
from spreadpilot_core.ibkr.supervision.elsewhere import Elsewhere
from spreadpilot_core.ibkr.supervision.facts import NOT_LISTED_YET
from spreadpilot_core.ibkr.supervision.holders import Holders
from spreadpilot_core.ibkr.supervision.identifying import Identification
from spreadpilot_core.ibkr.supervision.leadership_keeper import LeadershipKeeper
from spreadpilot_core.ibkr.supervision.measurements import Measurements
from spreadpilot_core.ibkr.supervision.ownership import Claims, claim
from spreadpilot_core.ibkr.supervision.roster_keeper import RosterKeeper
from spreadpilot_core.ibkr.supervision.secret_versions import SecretVersions
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.supervision.shared_trouble import SharedTrouble
from spreadpilot_core.ibkr.supervision.snapshots import Mappings, snapshot_of
from spreadpilot_core.ibkr.supervision.supervisor import LET_GO_WITHIN, GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, keep_running, retry_until_available, wait_for
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

RECORDS_NOT_READ = Reason(ReasonCode.NOT_OBSERVED_YET, "The records were not read yet.")

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
        services: Services,
        followers: FollowerStore,
        settings: Settings,
        make_lease: Callable[[str], LeaderLease] | None = None,
    ) -> None:
        self._services = services
        self._tell = services.notices.tell
        self._settings = settings
        self._identification = Identification(services, settings)
        self._detaching: Detaching | None = None
        self._stopping = False
        self._tasks = Tasks("fleet")
        self._mappings = Mappings(services.clock)
        self._reporter, self._statuses = self._make_reporter(), self._make_statuses()
        self._supervising = Tasks("supervisors")
        self.supervisors: dict[FollowerId, GatewaySupervisor] = {}
        self._holders = Holders(self.supervisors)
        self.roster = RosterKeeper(
            services,
            followers,
            settings,
            supervisors=self.supervisors,
            supervise=self._supervise,
            hindrance=self._hindrance,
        )
        self.leadership = self._make_leadership(make_lease)
        self._acts = self.leadership.acts
        self.measurements = Measurements(services, self.supervisors, self.roster, self._acts.is_set, self._is_fine)
        self.ready: dict[str, object] = {}
        """Follower -> the client that `get_client` may hand out."""
        self._records: dict[FollowerId, Record] = {}
        self._damaged: Mapping[FollowerId, str] = {}
        """Whose record can't be understood, and why."""
        self._records_known = asyncio.Event()
        self._open_logins: dict[FollowerId, LoginAttempt] = {}
        self._loops: dict[FollowerId, asyncio.Task[None]] = {}
        self._runtime_fault: Reason | None = NOT_LISTED_YET
        self.listed = asyncio.Event()
        self._claims = Claims()
        self._claimed = asyncio.Event()
        """Set once what runs was compared with the records."""
        self.elsewhere = Elsewhere(services, self._known_records)
        self._relist_asked = asyncio.Event()
        self._secrets = SecretVersions(services.broker, self.supervisors, every=settings.secret_poll_interval)
        self._trouble = SharedTrouble()

    def _make_leadership(self, make_lease: Callable[[str], LeaderLease] | None) -> LeadershipKeeper:
        return LeadershipKeeper(
            self._services,
            self._settings,
            make_lease,
            gained=self._begin_anew,
            lost=self._make_way,
            then=self.roster.apply,
            runtime_away=self._runtime_away,
        )

    def _make_reporter(self) -> Reporter:
        services = self._services
        return Reporter(
            services.ledger,
            self._current_mappings,
            bus=services.bus,
            auditor=services.auditor,
            notices=services.notices,
            clock=services.clock,
            compare_every=self._settings.full_comparison_interval,
        )

    def _make_statuses(self) -> FollowerStatusReporter | None:
        """What shows beside each follower's record how its gateway stands, where the records can."""
        services = self._services
        if services.statuses is None:
            return None
        return FollowerStatusReporter(
            services.statuses,
            lambda: self._acts.is_set() and self.listed.is_set(),
            lambda: {*self.supervisors, *self.roster.faulty},
            lambda follower_id: snapshot_of(follower_id, self.supervisors, self.roster.faulty),
            tell=services.notices.tell,
            compare_every=self._settings.full_comparison_interval,
        )

    # ------------------------------------------------------------------ start and stop

    def begin(self) -> None:
        """Start every loop; nothing here waits."""
        self.leadership.begin()
        self._keep_running("read the records", self._read_records, may_end=True)
        for name, work in (
            ("find what is there", self._find_what_is_there),
            ("follow the runtime", self._follow_runtime),
            ("read the followers", self.roster.read),
            ("hear of changed followers", self.roster.hear_of_changes),
            ("look at the secrets' versions", self._secrets.observe_versions),
            ("hear of changed secrets", self._secrets.hear_of_changes),
            ("free client ids that other programs left", self._services.client_leases.keep),
        ):
            self._keep_running(name, work)
        self._reporter.begin()
        if self._statuses is not None:
            self.roster.on_read = self._statuses.all_changed
            self._statuses.begin()
        self.measurements.begin()

    def _keep_running(
        self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, may_end: bool = False
    ) -> asyncio.Task[None]:
        """Nothing in the background ends by an exception: it is told, and begins again."""
        return self._tasks.begin(name, keep_running(name, work, tell=self._services.notices.tell, may_end=may_end))

    async def wait_until_listed(self, timeout: float) -> None:  # noqa: ASYNC109  # a courtesy, not a deadline
        """Wait until followers, records and runtime were read once, at most `timeout` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.listed.wait()
                await self._records_known.wait()
                await self.roster.known.wait()

    async def stop_all(self) -> list[FollowerId]:
        """Stop every gateway, in parallel; returns those whose end could not be confirmed.

        Raises `RuntimeUnavailableError` when it was never learned what runs.
        """
        self._stopping = True
        self.roster.end()
        if self._acts.is_set() and not await wait_for(self.listed, within=LISTED_WITHIN):
            raise RuntimeUnavailableError(f"What runs could not be listed, and was not stopped: {self._runtime_fault}")
        for supervisor in self.supervisors.values():
            supervisor.want(Wanted.SHUTDOWN, Reason(ReasonCode.MANAGER_STOPPING, "The manager stops."))
        limit = self._settings.stop_grace + OUTCOME_AWAITED.total_seconds() + 30
        stopped = list(self.supervisors.values())
        gone = await asyncio.gather(*(each.until_gone(limit) for each in stopped))
        await asyncio.gather(*(each.until_idle(WRITTEN_WITHIN) for each in stopped))
        return [each.follower_id for each, is_gone in zip(stopped, gone, strict=True) if not is_gone]

    async def leave_logins(self, wait: float | None = None) -> Sequence[str]:
        """Before a detach: begin nothing new and let logins under way end, or hand all of it to a manager that stands by.

        Gives a sentence for each that was waited for and did not succeed. Called again, it gives the same.

        Args:
            wait: seconds; None means `detach_wait`.
        """
        if self._detaching is None:
            self._detaching = Detaching(self._settings.detach_wait if wait is None else wait)
            self.roster.detach()
        return await self._detaching.run(self.supervisors, self.leadership.hand_over)

    def hurry(self) -> None:
        """While everything is being stopped: kill what was asked to close. The waiting removals find it gone.

        While logins are being waited for before a detach: wait no longer.
        """
        if self._detaching is not None:
            self._detaching.hurry()
        if self._stopping:
            for supervisor in self.supervisors.values():
                if (gateway := supervisor.facts.gateway_view.gateway) is not None:
                    name = f"kill {supervisor.follower_id}"
                    self._tasks.begin(name, self._services.runtime.remove(gateway.container_id, grace=0))

    async def close(self) -> None:
        """End every loop and let go of every gateway as it is; one that fails at its end skips no other."""
        async with AsyncExitStack() as closing:  # the last one first
            closing.push_async_callback(self.roster.close)
            closing.callback(self.ready.clear)
            closing.callback(self._identification.close)
            closing.push_async_callback(
                self.leadership.resign
            )  # only then: who is not the leader may not say what runs
            closing.push_async_callback(self._reporter.close)
            if self._statuses is not None:
                closing.push_async_callback(self._statuses.close)
            closing.push_async_callback(self.measurements.close)
            closing.push_async_callback(self._services.auditor.close)
            closing.callback(self.roster.known.set)  # whoever still waits for it finds that the manager has ended
            closing.push_async_callback(self._supervising.cancel, again_after=LET_GO_WITHIN)
            closing.push_async_callback(self.leadership.close)
            closing.push_async_callback(self._tasks.cancel)

    # ------------------------------------------------------------------ what is there

    async def _read_records(self) -> None:
        """What must survive; until it was read, nobody logs in and no record is written."""
        await self._acts.wait()
        self._claimed.clear()
        self._services.broker.expect()
        tell = self._records_away
        records = await retry_until_available("record store", self._services.ledger.open, self._tell, on_failure=tell)
        await self._identification.by_store(self._runtime_away, self.roster.apply)
        open_logins = await retry_until_available("record store", self._services.ledger.unsettled, self._tell)
        self._records, self._damaged = dict(records.usable), records.damaged
        self._open_logins = {attempt.follower_id: attempt for attempt in open_logins}
        for record in records.usable.values():
            if record.host_port is not None:
                self._services.runtime.ports.remember(record.follower_id, record.host_port)
        self._records_known.set()
        if self._acts.is_set():  # else they are read again once it is
            self._services.ledger.take_up()
        self.elsewhere.hold_users()
        for follower_id, supervisor in self.supervisors.items():
            adopted = supervisor.facts.gateway_view.gateway is not None
            attempt = self._open_logins.pop(follower_id, None) if adopted else None  # else it waits for the list
            supervisor.facts.record_fault = self._damaged.get(follower_id)
            supervisor.take_record(self._record_of(follower_id), attempt)
        self.roster.apply()
        self._relist_asked.set()
        await self._claimed.wait()
        while self._open_logins:
            follower_id, attempt = self._open_logins.popitem()
            if follower_id not in self.supervisors or not self.supervisors[follower_id].has_open_login:
                settle = partial(self._services.ledger.settle_left_open, attempt)
                self._keep_running(f"settle the login that {follower_id} left open", settle, may_end=True)

    def _records_away(self, _: str) -> None:
        """Every follower says why it waits."""
        self.roster.apply()

    async def _find_what_is_there(self) -> None:
        """List what runs, also when the records can't be read; from then on whenever asked."""
        await self._acts.wait()
        await wait_for(self._records_known, within=RECORDS_FIRST)
        if not self._identification.known.is_set() and not await self._identification.by_note():
            await self._identification.known.wait()
        await retry_until_available("runtime", self._services.runtime.open, self._tell, on_failure=self._runtime_away)
        while True:
            self._relist_asked.clear()
            tell, asked = self._runtime_away, self._relist_asked
            self._take_list(
                *await retry_until_available("runtime", self._list_gateways, self._tell, on_failure=tell, sooner=asked)
            )
            if not await wait_for(self._relist_asked, within=self._settings.full_comparison_interval):
                self.roster.apply()

    async def _list_gateways(self) -> tuple[list[Gateway], set[FollowerId]]:
        """What there is, and whose gateways were acted on since the list was asked for: it says nothing of those."""
        idle = (it for it in self.supervisors.values() if not it.runner.is_busy_with_container)
        before = {each.follower_id: each.runner.container_actions for each in idle}
        found = await self._services.runtime.list()
        busy = {each for each, it in self.supervisors.items() if it.runner.container_actions != before.get(each, 0)}
        return [gateway for gateway in found if gateway.follower_id not in busy], busy

    def _take_list(self, found: list[Gateway], busy: set[FollowerId]) -> None:
        """Give each supervisor what the list says of it, but for those that acted since the list was asked for."""
        self._claims = claims = claim(
            found,
            self._known_of,
            self._services.runtime.identities,
            records_known=self._records_known.is_set() and self.leadership.stands_by is None,
            accept_lost_records=self._settings.accept_lost_records,
        )
        self.elsewhere.take(claims)
        new = [self._supervise(each) for each in claims.gateways if each not in self.supervisors]
        self._runtime_fault = None
        for follower_id, supervisor in self.supervisors.items():
            supervisor.facts.runtime_fault = None
            gateway = claims.gateways.get(follower_id)
            if follower_id in busy:
                supervisor.wake()
                continue
            supervisor.facts.unclaimed = claims.unclaimed.get(follower_id)
            if gateway is not None and supervisor.facts.gateway_view.gateway is None:
                supervisor.adopt(gateway, self._open_logins.pop(follower_id, None))
            else:
                supervisor.facts.see(gateway)
        if self._records_known.is_set():
            if self._settings.take_over:
                self._take_over_what_was_left()
            self._claimed.set()
        if new or not self.listed.is_set():
            self.listed.set()
            self.roster.apply()

    def _known_of(self, follower_id: FollowerId) -> tuple[Record, ContainerId | None]:
        supervisor = self.supervisors.get(follower_id)
        if supervisor is None:
            return self._records.get(follower_id) or Record(follower_id=follower_id), None
        gateway = supervisor.facts.gateway_view.gateway
        return supervisor.facts.record, gateway.container_id if gateway is not None else None

    def _known_records(self) -> list[Record]:
        theirs = {follower_id: supervisor.facts.record for follower_id, supervisor in self.supervisors.items()}
        return list({**self._records, **theirs}.values())

    def _take_over_what_was_left(self) -> None:
        """An operator's word that what runs on another engine is gone."""
        for gone in self.elsewhere.take_over():
            self._records[gone.follower_id], supervisor = gone, self.supervisors.get(gone.follower_id)
            (self._services.ledger.keep if supervisor is None else supervisor.facts.keep_record)(gone)

    def _make_way(self) -> None:
        """The leadership was lost: create, start and remove nothing, and keep what is connected."""
        for supervisor in self.supervisors.values():
            supervisor.runner.make_way()
        if not self.listed.is_set():
            self._runtime_away(self.leadership.sentence, ReasonCode.NOT_LEADER)

    def _begin_anew(self) -> None:
        """The leadership was gained: whatever was known may have changed."""
        self._relist_asked.set()
        if self._records_known.is_set():
            self._records_known.clear()
            self._services.ledger.lay_down()
            self._keep_running("read the records again", self._read_records, may_end=True)

    def _runtime_away(self, sentence: str, code: ReasonCode = ReasonCode.RUNTIME_UNAVAILABLE) -> None:
        fault = Reason(code, sentence)
        if self._runtime_fault != fault:
            self._runtime_fault = fault
            for supervisor in self.supervisors.values():
                supervisor.facts.runtime_fault = fault
                supervisor.wake()

    async def _follow_runtime(self) -> None:
        await self.listed.wait()
        async for container_id in self._services.runtime.changes():
            supervisor = self._holders.of(container_id) if container_id is not None else None
            if supervisor is None:
                self._relist_asked.set()
            elif (gateway := supervisor.facts.gateway_view.gateway) and gateway.container_id == container_id:
                supervisor.container_changed()

    def _hindrance(self) -> Reason | None:
        """Why nobody's gateway may be started or stopped now."""
        if (stands_by := self.leadership.hindrance) is not None or self._records_known.is_set():
            return stands_by
        return self._services.ledger.fault or self._identification.fault or RECORDS_NOT_READ

    def _supervise(self, follower_id: FollowerId) -> GatewaySupervisor:
        supervisor = GatewaySupervisor(
            follower_id,
            self._services,
            self._record_of(follower_id),
            on_change=self._changed,
            on_start=self._holders.expect,
            relist=self._relist_asked.set,
        )
        supervisor.facts.runtime_fault = self._runtime_fault
        supervisor.facts.roster_fault = self.roster.fault
        supervisor.facts.unclaimed = self._claims.unclaimed.get(follower_id)
        supervisor.facts.record_fault = self._damaged.get(follower_id)
        self.supervisors[follower_id] = supervisor
        self._loops[follower_id] = self._supervising.begin(follower_id, supervisor.run())
        return supervisor

    def _record_of(self, follower_id: FollowerId) -> Record:
        record = self._records.get(follower_id) or Record(follower_id=follower_id)
        if record.client_id is not None:
            self._services.client_ids.claim(follower_id, record.client_id)
        return record

    def _forget(self, supervisor: GatewaySupervisor) -> None:
        """A deleted follower whose gateway is gone: nothing is left to watch."""
        del self.supervisors[supervisor.follower_id]
        self._records[supervisor.follower_id] = supervisor.facts.record  # it may come back
        self._services.client_ids.release(supervisor.follower_id)
        self._services.runtime.ports.pin(supervisor.follower_id, None)
        self._loops.pop(supervisor.follower_id).cancel()
        self.measurements.forget(supervisor.follower_id)

    def _changed(self, supervisor: GatewaySupervisor) -> None:
        """A supervisor made a pass of its loop."""
        follower_id, connection = supervisor.follower_id, supervisor.facts.gateway_view.connection
        if supervisor.state in (State.READY, State.DEGRADED) and connection is not None:
            self.ready[follower_id] = connection.ib
        else:
            self.ready.pop(follower_id, None)
        if (decision := supervisor.decision) is not None:
            degraded = supervisor.state is State.DEGRADED
            self._trouble.note(follower_id, link_lost=degraded, lost_at=decision.memory.lost_at)
        self.measurements.see(supervisor)
        if self._mappings.have_changed(supervisor):
            self._reporter.mappings_changed()
        if self._statuses is not None:
            self._statuses.changed(follower_id)
        is_over = (
            supervisor.facts.wanted is Wanted.DISABLED and supervisor.is_idle and supervisor.state is State.DISABLED
        )
        if is_over and self.roster.is_deleted(follower_id):
            self._forget(supervisor)

    def _current_mappings(self) -> list[GatewayMapping] | None:
        return self._mappings.of(self.supervisors.values()) if self.listed.is_set() else None

    async def hindrance_to_commands(self) -> Reason | None:
        """Why no operator's word can be acted on and remembered now; a manager that only just began is waited for, for seconds."""
        if self.leadership.hindrance is None:
            await wait_for(self._records_known, within=RECORDS_FIRST)
            await wait_for(self.listed, within=RECORDS_FIRST)
        return self._hindrance()

    async def write_records(self) -> None:
        """Have everything written that must survive. Raises `StoreUnavailableError`; it is written later then."""
        await self._services.ledger.flush()

    @property
    def is_leader(self) -> bool:
        """Whether this manager acts."""
        return self._acts.is_set()

    def readiness(self) -> Readiness:
        """Whether the manager does its work; gateways that are down are `status`'s affair, and metrics'."""
        ready = sum(each.state is State.READY for each in self.supervisors.values())
        return self._readiness(ready=ready, gateways=len(self.supervisors))

    def _is_fine(self) -> bool:
        """The same in a word, from any thread."""
        return self._readiness(ready=0, gateways=0).is_fine

    def _readiness(self, *, ready: int, gateways: int) -> Readiness:
        trouble = (
            self._hindrance() or self._runtime_fault or (None if self.roster.known.is_set() else FOLLOWERS_UNKNOWN)
        )
        return Readiness.of(
            ends=self._stopping or self._detaching is not None,
            stands_by=self.leadership.stands_by,
            trouble=str(trouble) if trouble is not None else None,
            ready=ready,
            gateways=gateways,
        )

    def view(self) -> FleetView:
        """The whole, for evidence."""
        return self._trouble.view(len(self.supervisors), self._services.clock())
