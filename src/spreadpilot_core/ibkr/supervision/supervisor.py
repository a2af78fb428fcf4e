"""One task per follower that reconciles again and again: clear the wake flag, observe, decide, publish, begin, wait.

Only its supervisor changes a gateway. What is wanted is a latest-wins slot; events, the log, the connection and the end
of an action only set facts and wake it. An action is one owned task, at most one in flight, so nothing blocks the loop:
a 90-second stop never hides a state or delays a command. The supervisor knows protocols and no adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from spreadpilot_core.ibkr.audit.auditor import OPERATOR
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Decision
from spreadpilot_core.ibkr.deciding.learning import FRESH_TRIES, clear_backoff, clear_secret_failures
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind, Observation, Wanted, typed_in
from spreadpilot_core.ibkr.deciding.removing import FOLLOWERS_UNKNOWN
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, LoginAttempt, Record, seen_to
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.reporting.gateway_trace import GatewayTrace
from spreadpilot_core.ibkr.supervision.actions.action import ActionContext, ActionResult
from spreadpilot_core.ibkr.supervision.actions.registry import ACTIONS
from spreadpilot_core.ibkr.supervision.actions.runner import ActionRunner
from spreadpilot_core.ibkr.supervision.facts import GatewayFacts, with_endpoint, with_user
from spreadpilot_core.ibkr.supervision.observing import observe
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks, is_being_cancelled, wait_for
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

SAFE_POINT_WITHIN = 5.0
"""Seconds for what changes a container to reach a safe point at the end."""
LET_GO_WITHIN = SAFE_POINT_WITHIN + 10
"""Seconds for the whole orderly end of a supervisor that was cancelled."""


class GatewaySupervisor:
    """Everything about one follower's gateway."""

    def __init__(
        self,
        follower_id: FollowerId,
        services: Services,
        record: Record,
        *,
        on_change: Callable[[GatewaySupervisor], None],
        on_start: Callable[[GatewaySupervisor, ContainerId], None],
        relist: Callable[[], None],
    ) -> None:
        self.follower_id = follower_id
        self._services = services
        self._tasks = Tasks(f"gateway {follower_id}")
        self._wake = asyncio.Event()
        self._on_change = on_change
        self._relist = relist
        self.defect: str | None = None
        """Why a pass of the loop fails, while it does."""
        self.decision: Decision | None = None
        self._trace = GatewayTrace(follower_id)
        self.runner = ActionRunner(follower_id, self._tasks, self._action_ended, services.instrumentation, self._trace)
        supersede = partial(self.runner.supersede, ActionKind.PREPARE)
        self.facts = GatewayFacts(
            follower_id,
            services,
            record,
            tasks=self._tasks,
            wake=self.wake,
            on_new_version=supersede,
            on_start=partial(on_start, self),
        )

    # ------------------------------------------------------------------ the reconcile loop

    async def run(self) -> None:
        """Reconcile until cancelled; cancelling undoes nothing."""
        try:
            while True:
                try:
                    await self._reconcile()
                except asyncio.CancelledError as stray:
                    if is_being_cancelled():
                        raise
                    await self._mend(stray)
                except Exception as defect:  # noqa: BLE001  # a mistake of ours must not leave a gateway unwatched
                    await self._mend(defect)
        finally:
            await self._let_go()

    async def _mend(self, defect: BaseException) -> None:
        """A pass failed: said in the snapshot until one succeeds, and tried again."""
        with contextlib.suppress(OSError):  # a log that nobody reads any more may not end it either
            log.error("reconcile pass failed", follower=self.follower_id, exc_info=defect)
        self.defect = f"The manager failed at this gateway by a defect of its own, and tries again: {defect!r:.200}."
        await asyncio.sleep(1)

    async def _reconcile(self) -> None:
        await self._services.passes.enter()
        self._wake.clear()
        asked = self.facts.requests.begin_pass()
        running, outcome = self.runner.kind, self.runner.outcome
        seen = observe(self.facts, running=running, outcome=outcome, limits=self._services.limits)
        if running is ActionKind.LAUNCH:
            seen = replace(seen, launch_waits=self._services.runtime.waits_for(self.follower_id))
        decision = decide(self.facts.memory, seen, self._services.fleet_view(), self._services.clock())
        self._trace.follow(self.decision, decision, seen)
        with self._trace.current():
            self._publish(decision, seen)
            self._begin(decision)
        self._trace.settle(decision)
        self.facts.requests.end_pass(asked)
        self.defect = None
        await wait_for(self._wake, within=decision.recheck_after)

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    async def _let_go(self) -> None:
        self._let_client_go()
        await self.runner.finish(within=SAFE_POINT_WITHIN)
        await self._tasks.cancel()
        self._let_client_go()  # one that came while the actions ended
        self.facts.requests.end()
        self._trace.close()

    def _let_client_go(self) -> None:
        self.facts.gateway_view.drop_connection("the manager let go", ReasonCode.MANAGER_DETACHING)

    def _publish(self, decision: Decision, seen: Observation) -> None:
        facts = self.facts
        before, self.decision, facts.memory = self.decision, decision, decision.memory
        record, writes = decision.record, facts.login.is_being_written
        if decision.book_login and writes:  # its turn comes
            record = replace(record, logins_booked=facts.record.logins_booked)
        if record is not facts.record and record != facts.record:
            asked_phone = record.asks_phone and not facts.record.asks_phone
            facts.keep_record(record)
            if asked_phone:  # of a paper login: from now on others of that phone wait for it
                facts.login.know(facts.follower, record)
        if decision.start_is_over:
            self._services.admission.started(self.follower_id)
        facts.requests.take_refusals(login=decision.refuse_login, restart=decision.refuse_restart)
        if (decision.settle is not None or decision.book_login) and not writes:
            facts.login.is_being_written = True
            self._tasks.begin("write down the login", self._write_down(decision))
        facts.gateway_view.drop_closed_connection(decision.reason_code)
        facts.announcer.tell(before, decision, seen)
        if before is None or before.state is not decision.state:
            previous = before.state if before is not None else None
            self._services.instrumentation.state_changed(
                self.follower_id, previous, decision.state, decision.reason_code
            )
        connection = facts.gateway_view.connection
        if decision.state is State.DEGRADED and connection is not None:
            facts.announcer.handed_out(connection)
        if decision.state is State.READY and connection is not None:
            facts.announcer.ready(connection, facts.gateway_view.endpoint or "", facts.client_id or 0)
        self._on_change(self)

    async def _write_down(self, decision: Decision) -> None:
        facts = self.facts
        await facts.login.write_down(decision, facts.gateway_view, facts.record, facts.follower)
        if decision.settle is not None:
            facts.preflight = None  # what counts against the user has changed
            self.wake()

    # ------------------------------------------------------------------ actions

    def _begin(self, decision: Decision) -> None:
        if (asked := decision.action) is None:
            self._make_way()
            return
        context = ActionContext(
            facts=self.facts,
            services=self._services,
            asked=asked,
            wake=self.wake,
            relist=self._relist,
            reset_from=decision.reset_from,
            cause=asked.cause if asked.kind is ActionKind.LAUNCH else decision.reason_code,
        )
        self.runner.begin(ACTIONS[asked.kind], context)

    def _make_way(self) -> None:
        """Something else is wanted than what is being done."""
        facts = self.facts
        is_to_end = facts.wanted is not Wanted.RUN and facts.wanted not in BEGINS_NOTHING
        if facts.memory.life is not None and facts.memory.life == facts.memory.concluded:
            self.runner.make_way(abort=is_to_end)  # its controller may type again: nothing is worth waiting for
        elif facts.requests.restart_asked is not None:
            self.runner.make_way(but_for=ActionKind.PREPARE, abort=False)
        elif facts.requests.reconnect_asked:
            self.runner.make_way(abort=False)
        elif facts.wanted is Wanted.DETACH and self.runner.kind in (ActionKind.PREPARE, ActionKind.LAUNCH):
            self.runner.make_way()  # what was not started yet is not begun any more
        elif is_to_end:
            self.runner.make_way()

    def _action_ended(self, result: ActionResult[Any]) -> None:
        if result.runtime_unsure:  # nothing is concluded, nor begun, before the runtime has said what is there
            self.facts.gateway_view.stale = True
            self._relist()
        self.wake()

    # ------------------------------------------------------------------ facts from outside

    def see_version(self, version: str) -> None:
        """The newest version of the secret, by metadata."""
        self.facts.secret.see_version(version, follower=self.facts.follower, record=self.facts.record)
        self.wake()

    def adopt(self, gateway: Gateway, attempt: LoginAttempt | None) -> None:
        """A container that ran before this manager: it keeps its endpoint; an open login takes its permit first."""
        facts = self.facts
        if facts.record.client_id is None:
            self._services.client_ids.claim(self.follower_id, gateway.client_id)
        before, facts.record = facts.record, with_user(with_endpoint(facts.record, gateway), gateway)
        named = (gateway.container_id, self._services.engine.id)
        newly = facts.record.user_unproven and not before.user_unproven
        if newly or (facts.record.container_id, facts.record.engine_id) != named:  # from now on its record names it
            launch_id = facts.record.launch_id if facts.record.container_id == named[0] else gateway.launch_id or None
            facts.keep_record(replace(facts.record, container_id=named[0], engine_id=named[1], launch_id=launch_id))
        self._adopt_login(attempt)
        facts.gateway_view.secret_forgotten = False
        facts.see(gateway)
        if gateway.phase is GatewayPhase.RUNNING:
            facts.announcer.adopted(gateway)

    def take_record(self, record: Record, attempt: LoginAttempt | None) -> None:
        """The record could be read at last; a gateway that was adopted without it keeps what its labels say."""
        facts = self.facts
        gateway = facts.gateway_view.gateway
        facts.record = record
        if gateway is not None:
            facts.record = replace(with_user(record, gateway), client_id=facts.client_id)
            self._adopt_login(attempt)
        self.wake()

    def _adopt_login(self, attempt: LoginAttempt | None) -> None:
        self.facts.login.adopt(attempt, self.facts.record, self.facts.follower)
        if self.facts.record.user is not None:
            self._tasks.begin("read its logins", self.facts.login.recall(self.facts.record.user))

    @property
    def waits_for_reset(self) -> bool:
        """Whether IBKR's reset hours hold its login back: it will not be ready within any caller's patience."""
        code = self.decision.reason_code if self.decision is not None else None
        return self.state is State.QUEUED and code is ReasonCode.IBKR_RESET_WINDOW

    def knows(self, container_id: ContainerId) -> bool:
        """Whether this is its container, or was."""
        return container_id in (
            self.facts.gateway_view.container_id,
            self.facts.starting,
            self.facts.record.container_id,
        )

    def container_changed(self) -> None:
        """The runtime said so: ask it."""
        self.facts.gateway_view.stale = self.facts.gateway_view.gateway is not None
        self.wake()

    # ------------------------------------------------------------------ asked from outside

    def want(self, wanted: Wanted, why: Reason | None) -> None:
        """From now on this is what should be, and why."""
        self.facts.wanted, self.facts.wanted_why = wanted, why
        self.wake()

    @property
    def state(self) -> State:
        """The present verdict; a proof ends with its connection, also in the moment before that was decided on."""
        connection = self.facts.gateway_view.connection
        proven = connection is not None and connection.is_open
        verdict = self.facts.memory.state
        return State.RECONNECTING if verdict.status is GatewayStatus.RUNNING and not proven else verdict

    @property
    def since(self) -> datetime:
        """When the present state began."""
        return self.facts.memory.since

    def find_client(self, client_serial: int) -> Any | None:
        """The client with this number, as long as somebody holds it."""
        return self.facts.announcer.find_client(client_serial)

    @property
    def is_idle(self) -> bool:
        """Whether no gateway is there, nothing is being done about one, and every login is settled."""
        booked = typed_in(self.facts.gateway_view.last_login_view) <= max(1, self.facts.record.logins_booked)
        return self.is_gone and not self.facts.login.is_being_written and self.facts.login.attempt is None and booked

    @property
    def is_gone(self) -> bool:
        """Whether no gateway is there and nothing is being done about one."""
        return (
            self.facts.gateway_view.gateway is None and not self.facts.gateway_view.stale and self.runner.kind is None
        )

    @property
    def obstacle(self) -> Reason | None:
        """Why nothing can be started now, where no gateway is to blame."""
        facts = self.facts
        return (facts.wanted_why or FOLLOWERS_UNKNOWN) if facts.wanted in BEGINS_NOTHING else facts.runtime_fault

    @property
    def has_open_login(self) -> bool:
        """Whether a login of this manager is under way, or its end is being written down."""
        return self.runner.kind is ActionKind.LAUNCH or self.facts.login.attempt is not None

    @property
    def has_login_under_way(self) -> bool:
        """Whether a login has not ended, is not all written down, or its container is given up and not gone yet."""
        unwritten = self.facts.login.is_being_written or (self.is_gone and not self.is_idle)
        return self.has_open_login or unwritten or self.is_given_up

    @property
    def login_loops(self) -> bool:
        """Whether the controller has typed more than once and no login completed since."""
        view = self.facts.gateway_view.login_view
        return view is not None and not view.completed and view.attempts - view.attempts_cleared > 1

    @property
    def is_up(self) -> bool:
        """Whether a launch has done its part: the process runs, or its login is queued behind a named obstacle."""
        code = self.decision.reason_code if self.decision is not None else None
        queued = self.state is State.QUEUED and code in (ReasonCode.WAITING_FOR_PERMIT, ReasonCode.IBKR_RESET_WINDOW)
        on_its_way = self.state.status in (GatewayStatus.STARTING, GatewayStatus.RUNNING) and not self.is_given_up
        return queued or (self.facts.gateway_view.is_running and on_its_way)

    @property
    def is_given_up(self) -> bool:
        """Whether the container that is there is over, and only to be removed."""
        return self.facts.memory.life is not None and self.facts.memory.life == self.facts.memory.concluded

    async def audit_operator(self, act: str, *, user: str | None = None) -> None:
        """Write down what an operator is about to have done. Raises `AuditError`: then it must not be done."""
        await self._services.auditor.write(act, self._overridden(user))

    def _overridden(self, user: str | None = None) -> dict[str, str | None]:
        ref = self.facts.follower.vault_secret_ref if self.facts.follower is not None else None
        stood = self.decision.reason if self.decision is not None else None
        stood = f"IBKR user {user}: {stood}" if user is not None else stood
        return {"follower": self.follower_id, "ref": ref, "detail": stood}

    def ask_launch(self, *, operator_login: bool, overridden_user: str | None = None) -> int:
        """What only a human could clear is cleared; what protects the account stays.

        What a human was asked for stays with an operator's login until that is spent: it may be refused.
        """
        facts = self.facts
        facts.requests.ask_login(by_operator=operator_login, overridden_user=overridden_user)
        self.runner.supersede(ActionKind.PREPARE)
        facts.login.ask_anew()
        facts.preflight = facts.image_for = None
        facts.memory = replace(clear_backoff(facts.memory, self._services.clock()), trouble=None)
        record = facts.record if operator_login else replace(seen_to(facts.record), losses=0)
        facts.keep_record(replace(record, stopped_by_operator=False))
        return self.ask()

    def stop_by_operator(self, *, knows_state: bool = True) -> None:
        """To be remembered: only an operator's launch starts it again. No full disk keeps anybody from it.

        `knows_state`: a manager saw how it stood; without one, what it was just found as says nothing.
        """
        stood = self._overridden() if knows_state else self._overridden() | {"detail": None}
        self._services.auditor.note("stop", by=OPERATOR.get(), **stood)
        self.facts.requests.end_login()
        self.facts.keep_record(replace(self.facts.record, stopped_by_operator=True))

    def ask_restart(self) -> int:
        """Stop it and start it again with the newest spec and secret, if every login rule allows."""
        facts = self.facts
        self.runner.supersede(ActionKind.PREPARE)
        facts.requests.restart_asked, facts.requests.refused_restart = self._services.clock(), None
        facts.memory = clear_secret_failures(facts.memory, self._services.clock())
        facts.keep_record(replace(facts.record, losses=0))  # a human looks after it: what was lost before is seen to
        return self.ask()

    def ask_reconnect(self) -> int:
        """A new client connection, tried at once."""
        self.facts.memory = replace(self.facts.memory, **FRESH_TRIES)  # type: ignore[arg-type]  # the fields are Memory's
        self.facts.requests.reconnect_asked = self.facts.gateway_view.connection is not None
        return self.ask()

    def ask(self) -> int:
        """Count a request in and wake; the number goes to `requests.answered`."""
        self.runner.error = None
        return self.facts.requests.ask()

    async def until_gone(self, within: float | None = None) -> bool:
        """Wait until no gateway is there, or a later word wants one; False after `within` seconds."""
        asked = self.ask()
        return await self.facts.requests.answered(
            asked, lambda: self.is_gone or self.facts.wanted is Wanted.RUN, timeout=within
        )

    async def until_idle(self, within: float) -> bool:
        """Wait until no gateway is there and every login is settled; False after `within` seconds."""
        return await self.facts.requests.answered(self.ask(), lambda: self.is_idle, timeout=within)
