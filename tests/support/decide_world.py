"""A world in a few lines for `decide`: it carries actions out in made-up time, and an adversary breaks things between.

It keeps its own books (every login typed, every rule broken) so that the tests can judge what `decide` did by facts
that `decide` never sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Memory, Settlement
from spreadpilot_core.ibkr.deciding.observation import (
    ActionKind,
    ConnectionView,
    Failure,
    FleetView,
    Limits,
    Observation,
    Outcome,
    PermitState,
    PermitView,
    Preflight,
    Wanted,
)
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway, GatewayPhase, Login
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import AttemptId, ContainerId, LoginAttempt, Record

FOLLOWER = FollowerId("anna")
START = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)  # a Tuesday, outside every reset window


@dataclass
class World:
    """One follower's gateway, its ledger, and the clock."""

    now: datetime = START
    wanted: Wanted = Wanted.RUN
    record: Record = field(default_factory=lambda: Record(follower_id=FOLLOWER))
    memory: Memory = field(default_factory=lambda: Memory(since=START))
    gateway: Gateway | None = None
    unclaimed: str | None = None
    stale: bool = False
    login: LoginView | None = None
    last_login: LoginView | None = None
    phone: str | None = None
    overridden_user: str | None = None
    restart_asked: datetime | None = None
    user_taken_by: FollowerId | None = None
    connection: ConnectionView | None = None
    preflight: Preflight | None = None
    permit: PermitView | None = None
    attempt: LoginAttempt | None = None
    outcome: Outcome | None = None
    attempts: list[LoginAttempt] = field(default_factory=list)
    version: str = "1"
    account: str | None = None
    password_is_right: bool = True
    operator_login: bool = False
    fail_next: Failure | None = None
    """The next action that can fail ends like this."""
    api_answers: bool = True
    log_is_readable: bool = True
    """Some logging drivers of the engine can't be read from."""
    told_phases: int | None = None
    """The log tells no more phases than this: its lines are lost, or worded as nobody knows."""
    runtime_fault: str | None = None
    limits: Limits = field(default_factory=Limits)
    secret_forgotten: bool = True
    logins_typed: list[tuple[datetime, str]] = field(default_factory=list)
    """(when, secret version) of each login that the controller typed: what IBKR would count."""
    forgettings: list[datetime] = field(default_factory=list)
    """When the password file was to be removed."""
    forgettings_that_fail: int = 0
    containers: int = 0
    broken: list[str] = field(default_factory=list)
    connects: int = 0
    _heard: LoginView | None = None
    decision: Decision | None = None

    # ------------------------------------------------------------------ one pass

    def step(self) -> Decision:
        """Observe, decide, judge, carry out, let time pass."""
        seen = self.observe()
        decision = decide(self.memory, seen, FleetView(), self.now)
        self.judge(seen, decision)
        self.memory, self.record, self.decision = decision.memory, decision.record, decision
        if decision.settle is not None and self.attempt is not None:
            self._settle(decision.settle)
        if decision.action is not None:
            self._carry_out(decision.action)
        else:
            self.now += timedelta(seconds=max(decision.recheck_after, 0.01))
            self._let_login_go_on()
        return decision

    def observe(self) -> Observation:
        """What a supervisor would gather."""
        return Observation(
            follower_id=FOLLOWER,
            wanted=self.wanted,
            follower=Follower(id=FOLLOWER, vault_secret_ref="ibkr/anna", enabled=True, account=self.account),
            runtime_fault=_reason(ReasonCode.RUNTIME_UNAVAILABLE, self.runtime_fault),
            gateway=self.gateway,
            unclaimed=_reason(ReasonCode.GATEWAY_UNCLAIMED, self.unclaimed),
            gateway_stale=self.stale,
            login=self._log() if self.log_is_readable else None,
            last_login=self.last_login,
            phone=self.phone,
            overridden_user=self.overridden_user,
            restart_asked=self.restart_asked,
            user_taken_by=self.user_taken_by,
            connection=self.connection,
            outcome=self.outcome,
            preflight=self.preflight,
            permit=self.permit,
            attempt=self.attempt,
            logins=self.recent(),
            record=self.record,
            newest_version=self.version,
            operator_login=self.operator_login,
            secret_forgotten=self.secret_forgotten,
            limits=self.limits,
        )

    def _log(self) -> LoginView | None:
        if self.login is None or self.told_phases is None or self.login.phase_serial <= self.told_phases:
            self._heard = self.login
        return self._heard

    def judge(self, seen: Observation, decision: Decision) -> None:
        """Note every rule that this decision breaks."""
        state = decision.state.value
        if state == "ready" and not self._is_proven():
            self.broken.append(f"ready without proof: {seen}")
        if state != "ready" and not (decision.reason and decision.next_action):
            self.broken.append(f"{state} without a reason or a next action")
        if state == "ready" and (decision.reason or decision.next_action):
            self.broken.append("ready with a reason")
        if decision.action is not None and decision.action.kind is ActionKind.LAUNCH:
            self._judge_launch(seen)

    def _is_proven(self) -> bool:
        connection, gateway = self.connection, self.gateway
        if connection is None or gateway is None or gateway.phase is not GatewayPhase.RUNNING:
            return False
        logged_in = self.login is None or self.login.completed or not self.login.saw_start
        return logged_in and connection.is_open and bool(connection.accounts) and connection.last_heartbeat is not None

    def _judge_launch(self, seen: Observation) -> None:
        if seen.permit is None or seen.permit.state is not PermitState.HELD:
            self.broken.append("launch without a permit")
        if seen.gateway is not None or seen.attempt is not None or seen.wanted is not Wanted.RUN:
            self.broken.append("launch beside a gateway or an open login, or unwanted")
        waits = [each.not_before for each in self.attempts if each.not_before and each.not_before > self.now]
        if waits:
            self.broken.append("launch before the stated wait is over")
        if self.operator_login:
            return
        if len(self.counted()) >= self.limits.login_budget:
            self.broken.append("launch with a spent budget")
        if self.limits.full_login_limit is not None and len(self.recent()) >= self.limits.full_login_limit:
            self.broken.append("launch with no full login left")
        assert seen.preflight is not None
        if (self.record.rejected_version, self.record.rejected_user) == (seen.preflight.login.version, "user"):
            self.broken.append("launch with a rejected password")

    def counted(self) -> list[LoginAttempt]:
        """What the ledger counts."""
        since = self.now - timedelta(hours=24)
        return [each for each in self.recent() if each.counts and each.reserved_at >= since]

    def recent(self) -> list[LoginAttempt]:
        """What the ledger knows of the last day."""
        since = self.now - timedelta(hours=24)
        return [each for each in self.attempts if each.is_full and each.reserved_at >= since]

    # ------------------------------------------------------------------ actions

    def _carry_out(self, action: Action) -> None:
        failure, self.fail_next = (self.fail_next, None) if _can_fail(action.kind) else (None, self.fail_next)
        if self.runtime_fault and action.kind in (ActionKind.LAUNCH, ActionKind.REMOVE, ActionKind.INSPECT):
            failure = Failure.UNAVAILABLE
        self.now += timedelta(milliseconds=50)
        match action.kind:
            case ActionKind.ASK_PERMIT:
                user = self.preflight.login.user if self.preflight is not None else self.record.user
                self.permit = PermitView(PermitState.HELD, user=user)
                return
            case ActionKind.RETURN_PERMIT:
                self.permit = None
                return
            case ActionKind.DROP_CONNECTION:
                self.connection = None
                return
            case _ if failure is None:
                failure = self._do(action)
            case ActionKind.LAUNCH:
                self.preflight = self.permit = None
            case _:
                pass
        serial = self.outcome.serial + 1 if self.outcome else 1
        sentence = f"{action.kind.value} failed." if failure else ""
        self.outcome = Outcome(serial=serial, kind=action.kind, failure=failure, sentence=sentence)

    def _do(self, action: Action) -> Failure | None:
        match action.kind:
            case ActionKind.PREPARE:
                login = Login(user="user", version=self.version, source="stored", written_at=None, ticket="t")
                self.preflight = Preflight(
                    login=login, secret_ref="ibkr/anna", controller="ibcontroller", logins=self.recent(), at=self.now
                )
            case ActionKind.LAUNCH:
                self._launch()
            case ActionKind.CONNECT:
                return self._connect()
            case ActionKind.HEARTBEAT:
                return self._heartbeat()
            case ActionKind.REMOVE:
                self.gateway, self.login, self.connection, self.stale = None, None, None, False
            case ActionKind.INSPECT:
                self.stale = False
            case ActionKind.FORGET_SECRET:
                self.forgettings.append(self.now)
                self.secret_forgotten = len(self.forgettings) > self.forgettings_that_fail
                return None if self.secret_forgotten else Failure.FAILED
            case _:
                pass
        return None

    def _launch(self) -> None:
        self.containers += 1
        container = ContainerId(f"c{self.containers}")
        assert self.preflight is not None
        self.attempt = LoginAttempt(
            id=AttemptId(container),
            user="user",
            follower_id=FOLLOWER,
            secret_version=self.preflight.login.version,
            reserved_at=self.now,
            started_at=self.now,
            container_id=container,
        )
        self.attempts.append(self.attempt)
        self.record = replace(
            self.record,
            client_id=1234,
            user="user",
            secret_version=self.preflight.login.version,
            logins_booked=1,
            logged_in_before=None,
            needs_human=None,
        )
        self.preflight, self.operator_login, self.secret_forgotten = None, False, False
        self.gateway = Gateway(
            container_id=container,
            name="gw-anna",
            follower_id=FOLLOWER,
            client_id=1234,
            endpoint=Endpoint("127.0.0.1", 4100),
            trading_mode=TradingMode.PAPER,
            spec_digest="spec",
            controller="ibc",
            image="simulated",
            phase=GatewayPhase.RUNNING,
            started_at=self.now,
        )
        self.login = LoginView(phase=LoginPhase.STARTING, phase_serial=1, saw_start=True)

    def _connect(self) -> Failure | None:
        self.connects += 1
        if not self.api_answers or self.login is None or not self.login.completed:
            self.now += timedelta(seconds=6)
            return Failure.FAILED
        self.connection = ConnectionView(is_open=True, accounts=("DU1",), last_heartbeat=None, link_lost_since=None)
        return None

    def _heartbeat(self) -> Failure | None:
        if self.connection is None or not self.api_answers:
            self.now += timedelta(seconds=10)
            return Failure.FAILED
        self.connection = replace(self.connection, last_heartbeat=self.now)
        return None

    def _settle(self, settlement: Settlement) -> None:
        assert self.attempt is not None
        self.attempts = [
            replace(each, outcome=settlement.outcome, settled_at=self.now, not_before=settlement.not_before)
            if each.id == self.attempt.id
            else each
            for each in self.attempts
        ]
        self.attempt = self.preflight = self.permit = None

    # ------------------------------------------------------------------ the login, left to itself

    def _let_login_go_on(self) -> None:
        if self.gateway is None or self.gateway.phase is not GatewayPhase.RUNNING or self.login is None:
            return
        if self.login.phase is LoginPhase.STARTING:
            self.type_login()
        elif self.login.phase is LoginPhase.AUTHENTICATING:
            if self.password_is_right:
                self.phase(LoginPhase.LOGGED_IN, completed=True, completed_before=True, paper_accepted=True)
            else:
                self.phase(LoginPhase.REJECTED)

    def type_login(self) -> None:
        """The controller types user and password: IBKR counts."""
        assert self.login is not None
        self.logins_typed.append((self.now, self.record.secret_version or ""))
        self.phase(LoginPhase.AUTHENTICATING, attempts=self.login.attempts + 1)

    def phase(self, phase: LoginPhase, **changes: object) -> None:
        """The log goes on to this phase."""
        if self.login is not None:
            serial = self.login.phase_serial + 1
            self.login = replace(self.login, phase=phase, phase_serial=serial, evidence=phase.value, **changes)  # type: ignore[arg-type]


def _reason(code: ReasonCode, sentence: str | None) -> Reason | None:
    return Reason(code, sentence) if sentence is not None else None


def _can_fail(kind: ActionKind) -> bool:
    return kind not in (ActionKind.ASK_PERMIT, ActionKind.RETURN_PERMIT, ActionKind.DROP_CONNECTION)
