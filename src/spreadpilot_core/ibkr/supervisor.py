"""One task per follower that walks one cycle again and again: clear the wake flag, observe, decide, publish, begin, wait.

Only its supervisor changes a gateway. What is wanted is a latest-wins slot; events, the log, the connection and the end
of an action only set facts and wake it. An action is one owned task, at most one in flight, so nothing blocks the cycle:
a 90-second stop never hides a state or delays a command. The supervisor knows protocols and no adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from spreadpilot_core.ibkr import actions
from spreadpilot_core.ibkr.action_slot import ActionSlot
from spreadpilot_core.ibkr.auditing import OPERATOR
from spreadpilot_core.ibkr.beginning import work_for
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Decision, Memory
from spreadpilot_core.ibkr.deciding.learning import forgiven
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Observation, Prepared, Wanted
from spreadpilot_core.ibkr.deciding.states import GatewayStatus, State
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.observing import observe
from spreadpilot_core.ibkr.open_login import OpenLogin
from spreadpilot_core.ibkr.presence import Presence
from spreadpilot_core.ibkr.protocols import (
    Follower,
    FollowerId,
    Gateway,
    GatewaySpec,
    Login,
    LoginAttempt,
    Record,
    RuntimeState,
)
from spreadpilot_core.ibkr.records import shown_version
from spreadpilot_core.ibkr.requests import Requests
from spreadpilot_core.ibkr.tasks import Tasks, arrives
from spreadpilot_core.ibkr.telling import Teller

log = structlog.get_logger(__name__)


class GatewaySupervisor:
    """Everything about one follower's gateway."""

    def __init__(
        self,
        follower_id: FollowerId,
        house: House,
        record: Record,
        *,
        on_change: Callable[[GatewaySupervisor], None],
        relist: Callable[[], None],
    ) -> None:
        self.follower_id = follower_id
        self._house = house
        self._tasks = Tasks(f"gateway {follower_id}")
        self._wake = asyncio.Event()
        self._on_change = on_change
        self._relist = relist
        self._memory = Memory(since=house.clock())
        self._teller = Teller(follower_id, house)
        self.decision: Decision | None = None
        # what is wanted
        self.wanted = Wanted.KEEP
        self.wanted_why = ""
        self.follower: Follower | None = None
        self.spec: GatewaySpec | None = None
        self.record = record
        self.newest_version: str | None = None
        self._rotation_noted: str | None = None
        self.requests = Requests(self.wake)
        # what is seen
        self.runtime_fault: str | None = "The runtime was not asked yet what runs."
        self.presence = Presence(follower_id, house, self._tasks, self._teller, self.wake)
        self.login = OpenLogin(follower_id, house, self._teller, self.wake)
        self.credentials: Login | None = None
        """Of the secret that was read last; no password is in it."""
        self.prepared: Prepared | None = None
        self.slot = ActionSlot(follower_id, self._tasks, self._take)

    # ------------------------------------------------------------------ the cycle

    async def run(self) -> None:
        """Walk the cycle until cancelled; cancelling undoes nothing."""
        try:
            while True:
                try:
                    await self._cycle()
                except Exception:  # a mistake of ours must not leave a gateway unwatched
                    with contextlib.suppress(OSError):  # nor may a log that nobody reads any more
                        log.exception("cycle failed", follower=self.follower_id)
                    await asyncio.sleep(1)
        finally:
            await self._let_go()

    async def _cycle(self) -> None:
        async with self._house.turns:
            self._wake.clear()
            asked = self.requests.begin_cycle()
            seen = observe(self, self._house.limits)
            decision = decide(self._memory, seen, self._house.fleet_view(), self._house.clock())
            self._publish(decision, seen)
            self._begin(decision)
            self.requests.end_cycle(asked)
        await arrives(self._wake, within=decision.recheck_after)

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    async def _let_go(self) -> None:
        self.presence.drop_connection("the manager let go")
        await self.slot.finish(within=5)
        await self._tasks.cancel()
        self.presence.drop_connection("the manager let go")  # one that came while the actions ended
        self.requests.end()

    def _publish(self, decision: Decision, seen: Observation) -> None:
        before, self.decision, self._memory = self.decision, decision, decision.memory
        record, writes = decision.record, self.login.is_being_written
        if decision.book_login and writes:  # its turn comes
            record = replace(record, logins_booked=self.record.logins_booked)
        if record != self.record:
            self.keep_record(record)
        if decision.refuse_restart is not None:
            self.requests.restart_asked, self.requests.refused_restart = None, decision.refuse_restart
        if (decision.settle is not None or decision.book_login) and not writes:
            self.login.is_being_written = True
            self._tasks.begin("write down the login", self._write_down(decision))
        self.presence.drop_closed_connection()
        self._teller.tell(before, decision, seen)
        if decision.state is State.DEGRADED and self.presence.connection is not None:
            self._teller.handed_out(self.presence.connection)
        if decision.state is State.READY and self.presence.connection is not None:
            self._teller.ready(self.presence.connection, self.presence.endpoint or "", self.client_id or 0)
        self._on_change(self)

    def keep_record(self, record: Record) -> None:
        """Keep this record, here and soon in the store."""
        self.record = replace(record, updated_at=self._house.clock())
        self._house.ledger.keep(self.record)

    async def _write_down(self, decision: Decision) -> None:
        await self.login.write_down(decision, lambda: self.presence.gateway, self.record, self.follower)
        if decision.settle is not None:
            self.prepared = None  # what counts against the user has changed
            self.wake()

    # ------------------------------------------------------------------ actions

    def _begin(self, decision: Decision) -> None:
        action = decision.action
        match action.kind if action is not None else None:
            case None:
                self._make_way()
            case ActionKind.ASK_PERMIT:
                assert self.prepared is not None
                self.login.ask(self.prepared.login.user, self.follower)
            case ActionKind.RETURN_PERMIT:
                self.login.give_back()
                self.wake()
            case ActionKind.DROP_CONNECTION:
                assert action is not None
                self.requests.reconnect_asked = False
                self.presence.drop_connection(action.why)
                self.wake()
            case kind:
                assert action is not None
                work = work_for(self, self._house, action)
                if work is not None:
                    self.slot.begin(kind, work)

    def _make_way(self) -> None:
        """Something else is wanted than what is being done."""
        if self.requests.restart_asked is not None:
            self.slot.make_way(but_for=ActionKind.PREPARE, abort=False)
        elif self.requests.reconnect_asked:
            self.slot.make_way(abort=False)
        elif self.wanted not in (Wanted.RUN, Wanted.KEEP):
            self.slot.make_way()

    def _take(self, kind: ActionKind, ended: actions.Ended) -> None:
        """Facts that an action brought."""
        match kind:
            case ActionKind.PREPARE if ended.prepared is not None:
                self.prepared = ended.prepared
                self._take_credentials(ended.prepared.login)
            case ActionKind.LAUNCH:
                self._launch_ended(ended)
            case ActionKind.CONNECT if ended.connection is not None:
                self.requests.reconnect_asked = False
                self.presence.connected(ended.connection, ended.gateway)
            case ActionKind.INSPECT if ended.failure is not None:
                self._relist()
            case ActionKind.INSPECT:
                self.see(ended.gateway)
            case ActionKind.REMOVE if ended.failure is None:
                self._removed(ended)
            case ActionKind.FORGET_SECRET if ended.failure is None:
                self.presence.secret_forgotten = True
            case _:
                pass
        if ended.runtime_unsure:
            self.presence.stale = True  # nothing is concluded, nor begun, before the runtime has said what is there
            self._relist()
        self.wake()

    def _launch_ended(self, ended: actions.Ended) -> None:
        self.prepared = None
        self.login.attempt = ended.attempt
        self._house.admission.started(self.follower_id)
        if ended.record is not None:  # an operator's word that came meanwhile stays
            self.keep_record(replace(ended.record, stopped_by_operator=self.record.stopped_by_operator))
        if ended.gateway is not None or (ended.attempt is not None and ended.attempt.started_at is not None):
            self.requests.operator_login = False  # it is spent
        if ended.gateway is not None:
            self.presence.secret_forgotten = False
            self.see(ended.gateway)
            self._teller.launched(ended.gateway)
        elif ended.attempt is None:
            self.login.give_back()

    def _removed(self, ended: actions.Ended) -> None:
        gateway, words = self.presence.gateway, ended.last_words
        if gateway is not None and gateway.state is RuntimeState.CREATED:
            self.login.never_left_created()
        if words is not None and words.lines:
            last = "\n".join([*words.lines[-5:], f"exit code {words.exit_code}"])
            self.keep_record(replace(self.record, last_words=last, last_reason=self._memory.trouble))
        self.requests.restart_asked = None
        self._teller.removed(gateway, self.wanted)
        self.see(None)

    def _take_credentials(self, login: Login) -> None:
        self.credentials = login
        if login.notice is None:
            self.see_version(login.version)
        self.newest_version = login.version  # read later than any version that was asked for

    # ------------------------------------------------------------------ facts from outside

    def see_version(self, version: str) -> None:
        """The newest version of the secret; one that nobody knew is written down."""
        known = self.newest_version or self.record.secret_version or version
        self.newest_version = version
        if version not in (known, self._rotation_noted) and self.follower is not None:
            self._rotation_noted = version
            self._house.auditor.note(
                "rotate",
                follower=self.follower_id,
                ref=self.follower.vault_secret_ref,
                version=version,
                detail=f"instead of version {known if shown_version(known) == shown_version(version) else shown_version(known)}",
            )
        self.wake()

    def see(self, gateway: Gateway | None) -> None:
        """The container as the runtime says it is now; None: confirmed gone, and with it what it held."""
        if self.presence.see(gateway):
            self.requests.restart_asked = None
            self._house.ports.release(self.follower_id)
            if self.login.attempt is None:
                self.login.give_back()

    def adopt(self, gateway: Gateway, attempt: LoginAttempt | None) -> None:
        """A container that ran before this manager: it keeps its leases; an open login takes its permit first."""
        self._house.ports.claim(self.follower_id, gateway.leases.host_port)
        if self.record.client_id is None:
            self._house.client_ids.claim(self.follower_id, gateway.leases.client_id)
        self.record = replace(self.record, user=gateway.user or self.record.user)
        self.login.adopt(attempt, self.record, self.follower)
        self.presence.secret_forgotten = False
        self.see(gateway)
        if gateway.state is RuntimeState.RUNNING:
            self._teller.adopted(gateway)

    def take_record(self, record: Record, attempt: LoginAttempt | None) -> None:
        """The record could be read at last; a gateway that was adopted without it keeps what its labels say."""
        gateway = self.presence.gateway
        self.record = record
        if gateway is not None:
            self.record = replace(record, client_id=self.client_id, user=gateway.user or record.user)
            self.login.adopt(attempt, self.record, self.follower)
        self.wake()

    def container_changed(self) -> None:
        """An event said so: ask the runtime."""
        self.presence.stale = self.presence.gateway is not None
        self.wake()

    # ------------------------------------------------------------------ asked from outside

    @property
    def state(self) -> State:
        """The present verdict; a proof ends with its connection, also in the moment before that was decided on."""
        connection = self.presence.connection
        proven = connection is not None and connection.is_open
        verdict = self._memory.state
        return State.RECONNECTING if verdict.status is GatewayStatus.RUNNING and not proven else verdict

    @property
    def since(self) -> datetime:
        """When the present state began."""
        return self._memory.since

    @property
    def client_id(self) -> int | None:
        """The API client id that this follower holds."""
        gateway = self.presence.gateway
        return gateway.leases.client_id if self.record.client_id is None and gateway else self.record.client_id

    @property
    def is_idle(self) -> bool:
        """Whether no gateway is there, nothing is being done about one, and every login is settled."""
        return self.is_gone and not self.login.is_being_written and self.login.attempt is None

    @property
    def is_gone(self) -> bool:
        """Whether no gateway is there and nothing is being done about one."""
        return self.presence.gateway is None and not self.presence.stale and self.slot.kind is None

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be started now, where no gateway is to blame: a sentence, or None."""
        return (
            (self.wanted_why or "The followers were not read yet.")
            if self.wanted is Wanted.KEEP
            else self.runtime_fault
        )

    @property
    def has_open_login(self) -> bool:
        """Whether a login of this manager is under way, or its end is being written down."""
        return self.slot.kind is ActionKind.LAUNCH or self.login.attempt is not None

    @property
    def is_up(self) -> bool:
        """Whether a launch has done its part: the process runs, or its login is queued behind a named obstacle."""
        said = self.decision.reason if self.decision is not None else None
        queued = self.state is State.QUEUED and said is not None and said == self.login.waits_for
        given_up = self._memory.life is not None and self._memory.life == self._memory.concluded
        on_its_way = self.state.status in (GatewayStatus.STARTING, GatewayStatus.RUNNING) and not given_up
        return queued or (self.presence.is_running and on_its_way)

    async def audit_operator(self, act: str) -> None:
        """Write down what an operator is about to have done. Raises `AuditError`: then it must not be done."""
        await self._house.auditor.write(act, self._overridden())

    def _overridden(self) -> dict[str, str | None]:
        ref = self.follower.vault_secret_ref if self.follower is not None else None
        stood = self.decision.reason if self.decision is not None else None
        return {"follower": self.follower_id, "ref": ref, "detail": stood}

    def ask_launch(self, *, operator_login: bool) -> int:
        """What only a human could clear is cleared; what protects the account stays."""
        self.requests.operator_login = operator_login
        self.prepared = None
        self._memory = forgiven(self._memory, self._house.clock())
        self.keep_record(replace(self.record, needs_human=None, stopped_by_operator=False))
        return self.ask()

    def stop_by_operator(self) -> None:
        """To be remembered: only an operator's launch starts it again. No full disk keeps anybody from it."""
        self._house.auditor.note("stop", by=OPERATOR.get(), **self._overridden())
        self.requests.operator_login = False
        self.keep_record(replace(self.record, stopped_by_operator=True))

    def ask_restart(self) -> int:
        """Stop it and start it again with the newest spec and secret, if every login rule allows."""
        self.requests.restart_asked, self.requests.refused_restart = self._house.clock(), None
        self._memory = replace(self._memory, prepare_failures=0)
        return self.ask()

    def ask_reconnect(self) -> int:
        """A new client connection."""
        self.requests.reconnect_asked = self.presence.connection is not None
        return self.ask()

    def ask(self) -> int:
        """Count a request in and wake; the number goes to `requests.answered`."""
        self.slot.error = None
        return self.requests.ask()

    async def until_gone(self, within: float | None = None) -> bool:
        """Wait until no gateway is there, or a later word wants one; False after `within` seconds."""
        asked = self.ask()
        return await self.requests.answered(asked, lambda: self.is_gone or self.wanted is Wanted.RUN, timeout=within)

    async def until_idle(self, within: float) -> bool:
        """Wait until no gateway is there and every login is settled; False after `within` seconds."""
        return await self.requests.answered(self.ask(), lambda: self.is_idle, timeout=within)
