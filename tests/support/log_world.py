"""The world of `decide_world` with a controller that prints: what `decide` knows of a login comes through the real parser.

The controllers' words are the simulator's, which the tests of its logs hold to the real ones; here they come in made-up
time, in bursts as in the real logs, late, one by one, or with lines lost. What was really typed is kept aside, for the
tests to judge by.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from spreadpilot_core.ibkr.controller_log.reader import LoginLog
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import RECHECK_EVERY, Action, Decision, Memory
from spreadpilot_core.ibkr.deciding.learning import clear_backoff
from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, Wanted
from spreadpilot_core.ibkr.model.gateways import Controller, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason
from spreadpilot_core.ibkr.model.records import AttemptId, ContainerId, LoginAttempt, seen_to
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.simulator.controllers import ibc_text, ibcontroller_text
from spreadpilot_core.ibkr.simulator.machine import stamped
from support.decide_world import FOLLOWER, World

Happening = Literal["typed", "accepted", "good", "failed", "ended"] | None
Step = tuple[float, tuple[str, ...], Happening]
"""Seconds that pass, the scenes that are printed then, and what really happens."""

WHOLE_DAY = timedelta(hours=24)
QUIET = {State.READY: 1800.0, State.NEEDS_HUMAN: 1800.0, State.STOPPED: 1800.0, State.BACKING_OFF: 120.0}
"""Seconds that are passed over where nothing is due: a machine that is held up, and a test that is not."""
_NOTHING: defaultdict[str, str] = defaultdict(lambda: "x", text="Some text", reason="Some reason", wait="30 minutes")


def ibc_life(fate: Callable[[], str], *, again: bool = False) -> Iterator[Step]:
    """IBC's container: a login form 6 s after each start, and a new start after each failure, without a limit."""
    t = ibc_text
    if again:  # its session was lost, and it logs in anew by itself
        yield 0.0, (t.PROGRAM_ENDED, t.COLD_RESTART_SHORTLY, t.RESTART_SHORTLY), None
    else:
        yield 0.8, (t.BANNER, t.START_SCRIPT, t.FIND_MARKER, t.MARKER_NOT_FOUND), None
    while True:
        yield 0.7, (t.START_PROGRAM, t.SETTINGS, t.COLD, t.PROGRAM), None
        match fate():
            case "no window":
                return
            case "window late":
                yield 60.0, (t.NO_LOGIN_FORM, t.PROGRAM_ENDED, t.RESTART_SHORTLY), None
            case told:
                yield 5.5, (t.LOGIN_FORM, t.CREDENTIALS, t.LOGIN_ATTEMPT), "typed"
                relaunch = (t.PROGRAM_ENDED, t.COLD_RESTART_SHORTLY, t.RESTART_SHORTLY)
                refusals = {
                    "login error": t.LOGIN_ERROR,
                    "login failed": t.LOGIN_FAILED,
                    "no server": t.CONNECTION_FAILED,
                }
                if told in refusals:
                    yield 1.0, (t.SPLASH, refusals[told], *relaunch), "failed"
                    continue
                yield from _ibc_ends(told)
                return


def _ibc_ends(told: str) -> Iterator[Step]:
    t = ibc_text
    match told:
        case "rejected":
            yield 1.0, (t.SPLASH, t.REJECTED), "failed"
        case "throttled":
            yield 1.0, (t.SPLASH, t.TOO_MANY), "failed"
        case "phone missed":
            yield 1.0, (t.SPLASH, t.SECOND_FACTOR), "accepted"
            yield 180.0, (t.SECOND_FACTOR_CLOSED.format(seconds=180), t.NO_RELOGIN), "failed"
        case "phone":
            yield 1.0, (t.SPLASH, t.SECOND_FACTOR), "accepted"
        case "hangs":
            yield 1.0, (t.SPLASH,), None
        case "dies":
            yield 1.0, (t.SPLASH,), None
            yield 1.0, (), "ended"
        case _:
            yield 1.0, (t.SPLASH, t.CONNECTING), None
            yield 4.0, (t.STARTING, t.LOGIN_COMPLETED), "good"
            yield 1.0, (t.DISCLAIMER,), None


def ibcontroller_life(fate: Callable[[], str], *, again: bool = False) -> Iterator[Step]:
    """Ibcontroller's container: as IBC's, with all that a failure prints within milliseconds."""
    t = ibcontroller_text
    if again:  # its session was lost, and it logs in anew by itself
        yield 0.0, ("WARNING ibcontroller.control_loop: IBController > cold_restart_time reached -- relaunching",), None
    else:
        yield 0.8, (t.BANNER, t.ENVIRONMENT, t.CONFIG), None
    relaunch: tuple[str, ...] = ()
    while True:
        yield 0.0, (*relaunch, t.LAUNCHING), None
        yield 0.7, (t.READY_TO_LOG_IN,), None
        match fate():
            case "no window":
                return
            case "window late":
                yield 60.0, (t.ABORTED, t.NEVER_LOGGED_IN), None
                relaunch = (t.NO_LOGIN_FORM_RELAUNCH,)
            case told:
                yield 5.5, (t.LOGIN_FORM,), "typed"
                refusals = {
                    "login error": t.LOGIN_ERROR,
                    "login failed": t.LOGIN_FAILED,
                    "no server": t.CONNECTION_FAILED,
                }
                if told in refusals:
                    yield 1.0, (refusals[told], t.ABORTED, t.NEVER_LOGGED_IN), "failed"
                    relaunch = (t.TRANSIENT_RELAUNCH,)
                    continue
                yield from _ibcontroller_ends(told)
                return


def _ibcontroller_ends(told: str) -> Iterator[Step]:
    t = ibcontroller_text
    match told:
        case "rejected":
            yield 1.0, (t.REJECTED, t.ABORTED, t.NEVER_LOGGED_IN, t.ERROR), "failed"
            yield 0.1, (), "ended"
        case "throttled":
            yield 1.0, (t.TOO_MANY, t.ABORTED, t.NEVER_LOGGED_IN, t.ERROR), "failed"
            yield 0.1, (), "ended"
        case "phone missed":
            yield 1.0, (t.SECOND_FACTOR,), "accepted"
            # what `mfa_timeout_action=restart` prints, and the next program with it
            yield 180.0, (t.ABORTED, t.NEVER_LOGGED_IN, t.MISSED_RELAUNCH, t.LAUNCHING, t.READY_TO_LOG_IN), "failed"
            yield 5.5, (t.LOGIN_FORM,), "typed"
        case "phone":
            yield 1.0, (t.SECOND_FACTOR,), "accepted"
        case "hangs":
            yield 1.0, (t.AUTHENTICATING,), None
        case "dies":
            yield 1.0, (t.AUTHENTICATING,), None
            yield 1.0, (), "ended"
        case _:
            yield 1.0, (t.AUTHENTICATING,), None
            yield 4.0, (t.LOGIN_COMPLETED,), "good"
            yield 1.0, (t.DISCLAIMER, t.SETTINGS_APPLIED), None


LIVES = {"ibc": ibc_life, "ibcontroller": ibcontroller_life}


@dataclass
class Typed:
    """One login that IBKR has seen."""

    at: datetime
    by_operator: bool
    by_controller: bool
    """Begun by the controller itself, after one of its logins in this container."""
    container: str
    after_session: bool
    """Begun by the controller itself, after a session of this container was lost."""
    failed: bool = True
    """Until its password is known to be accepted."""


@dataclass
class LogWorld(World):
    """One follower's gateway whose controller prints."""

    controller: Controller = "ibcontroller"
    fates: deque[str] = field(default_factory=deque)
    """What becomes of the next logins; "good" when there is nothing more."""
    always: str = "good"
    delay: float = 0.0
    """Seconds by which the log comes late."""
    one_by_one: bool = False
    """Each line is decided on before the next one is read."""
    latency: float = 0.0
    """Seconds before each look, on a loaded machine."""
    losing: float = 0.0
    """Share of the lines that are lost."""
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    heeds_signals: bool = False
    """Whether the controller ends at SIGTERM; else it goes on until it is killed."""
    session: float | None = None
    """Seconds after which a gateway that logged in ends."""
    fleet: FleetView = field(default_factory=FleetView)
    typed: list[Typed] = field(default_factory=list)
    lost: int = 0
    lines: list[str] = field(default_factory=list)
    removals: list[tuple[datetime, float]] = field(default_factory=list)
    """(when, grace)"""
    refused_login: Reason | None = None
    """Why the last login that an operator wanted to take was refused."""
    states: list[State] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Every reason that was given, once each."""
    _coming: deque[tuple[datetime, str]] = field(default_factory=deque)
    _life: Iterator[Step] | None = None
    _next: tuple[datetime, Step] | None = None
    _login_log: LoginLog | None = None
    _by_operator: bool = False
    _ends_at: datetime | None = None

    # ------------------------------------------------------------------ one pass

    def step(self) -> Decision:
        """Let the controller go on, look, decide, carry out, wait for whatever comes first."""
        self.now += timedelta(seconds=self.latency)
        self._go_on()
        seen = self.observe()
        decision = decide(self.memory, seen, self.fleet, self.now)
        self.judge(seen, decision)
        self.memory, self.record, self.decision = decision.memory, decision.record, decision
        self.states.append(decision.state)
        if decision.reason and decision.reason not in self.reasons:
            self.reasons.append(decision.reason)
        if decision.settle is not None and self.attempt is not None:
            self._settle(decision.settle)
        if decision.book_login:
            self._book()
        if decision.refuse_login is not None:
            self.refused_login, self.operator_login = decision.refuse_login, False
        if decision.action is not None:
            self._carry_out(decision.action)
        elif not (self.one_by_one and self._coming and self._coming[0][0] <= self.now):
            self._wait(decision)
        return decision

    def run(self, duration: timedelta) -> None:
        """Live on for so long."""
        until = self.now + duration
        while self.now < until:
            self.step()

    def restart_manager(self) -> None:
        """The manager dies, and the next one reads the log from its beginning."""
        self.memory, self.preflight, self.permit, self.outcome = Memory(since=self.now), None, None, None
        self.connection, self.last_login = None, None
        if self.gateway is not None:
            self._login_log = LoginLog(self.controller)
            self._coming.extendleft((self.now, line) for line in reversed(self.lines))

    def lose_session(self) -> None:
        """IBKR ends the session, and the controller logs in anew by itself."""
        if self.gateway is not None and self.gateway.phase is GatewayPhase.RUNNING and self._next is None:
            self.connection, self._ends_at = None, None
            self._life = LIVES[self.controller](self._fate, again=True)
            self._plan(self.now)

    def crash(self) -> None:
        """The container ends."""
        if self.gateway is not None and self.gateway.phase is GatewayPhase.RUNNING:
            self._end()

    def operator_says(self, *, retry_login: bool = False) -> None:
        """`launch`, as the supervisor takes it."""
        self.memory = clear_backoff(self.memory, self.now)
        self.record = self.record if retry_login else replace(seen_to(self.record), losses=0)
        self.preflight, self.operator_login = None, retry_login

    def _wait(self, decision: Decision) -> None:
        quiet = decision.recheck_after >= RECHECK_EVERY and decision.state in QUIET
        pause = QUIET[decision.state] if quiet else decision.recheck_after
        moments = [self.now + timedelta(seconds=max(pause, 0.01))]
        moments += [self._coming[0][0]] if self._coming else []
        moments += [self._next[0]] if self._next is not None else []
        moments += [self._ends_at] if self._ends_at is not None else []
        self.now = max(self.now, min(moments))

    # ------------------------------------------------------------------ the controller

    def _go_on(self) -> None:
        """All that the controller does until now, and all of its log that has come until now."""
        while self._next is not None and self._next[0] <= self.now and self.gateway is not None:
            at, (_, scenes, happening) = self._next
            self._print(at, scenes)
            self._happen(at, happening)
            self._plan(at)
        if self._ends_at is not None and self._ends_at <= self.now:
            self._end()
        self._read()

    def _plan(self, at: datetime) -> None:
        following = next(self._life, None) if self._life is not None else None
        self._next = (at + timedelta(seconds=following[0]), following) if following is not None else None

    def _print(self, at: datetime, scenes: tuple[str, ...]) -> None:
        for scene in scenes:
            for line in scene.format_map(_NOTHING).splitlines():
                at += timedelta(milliseconds=1)
                if self.rng.random() < self.losing:
                    self.lost += 1
                    continue
                self.lines.append(stamped(line, at))
                self._coming.append((at + timedelta(seconds=self.delay), self.lines[-1]))

    def _read(self) -> None:
        while self._login_log is not None and self._coming and self._coming[0][0] <= self.now:
            self._login_log.read(self._coming.popleft()[1])
            self.login = self._login_log.view
            if self.one_by_one:
                return

    def _happen(self, at: datetime, happening: Happening) -> None:
        assert self.gateway is not None
        if happening == "typed":
            container = self.gateway.container_id
            before = [each for each in self.typed if each.container == container]
            after_session = any(not each.failed for each in before)
            self.typed.append(Typed(at, self._by_operator, bool(before), container, after_session))
        elif happening in ("accepted", "failed"):
            self.typed[-1].failed = happening == "failed"
        elif happening == "good":
            self.typed[-1].failed = False
            self._ends_at = at + timedelta(seconds=self.session) if self.session is not None else None
        elif happening == "ended":
            self._end()

    def _end(self) -> None:
        """The container ends, and its log with it."""
        self._ends_at = self._next = None
        if self.gateway is not None:
            self.gateway = replace(self.gateway, phase=GatewayPhase.EXITED, exit_code=1)
            self.connection = None
            self._coming = deque((self.now, line) for _, line in self._coming)

    def _fate(self) -> str:
        return self.fates.popleft() if self.fates else self.always

    # ------------------------------------------------------------------ actions

    def _carry_out(self, action: Action) -> None:
        if action.kind is not ActionKind.REMOVE:
            super()._carry_out(action)
            return
        self.removals.append((self.now, action.grace))
        if self.gateway is not None and self.gateway.phase is GatewayPhase.RUNNING and not self.heeds_signals:
            self.now += timedelta(seconds=min(action.grace, 5))
            self._go_on()
        if self._login_log is not None:  # its last words come with its removal
            for _, line in self._coming:
                self._login_log.read(line)
            self.last_login = self._login_log.view
        self._life = self._next = self._login_log = self._ends_at = None
        self._coming.clear()
        super()._carry_out(action)

    def _launch(self) -> None:
        self._by_operator = self.operator_login
        by_operator, phone = self.operator_login, self.phone
        super()._launch()
        assert self.gateway is not None
        assert self.attempt is not None
        self.attempt = replace(self.attempt, by_operator=by_operator, phone=phone)
        self.attempts[-1] = self.attempt
        self.gateway = replace(self.gateway, controller=self.controller)
        self.login, self.last_login, self._login_log = None, None, LoginLog(self.controller)
        self.lines.clear()
        self._coming.clear()
        self._life = LIVES[self.controller](self._fate)
        self._plan(self.now)

    def _book(self) -> None:
        """The ledger learns of a login that the controller typed by itself."""
        self.attempt = LoginAttempt(
            id=AttemptId(f"booked-{len(self.attempts)}"),
            user="user",
            follower_id=FOLLOWER,
            secret_version=self.record.secret_version or "",
            reserved_at=self.now,
            started_at=self.now,
            container_id=ContainerId(f"c{self.containers}"),
            phone=self.phone,
        )
        self.attempts.append(self.attempt)

    # ------------------------------------------------------------------ judging

    def typed_within_a_day(self, *, only: Callable[[Typed], bool]) -> int:
        """The most logins of this kind that any 24 hours saw."""
        moments = [each.at for each in self.typed if only(each)]
        return max((sum(at <= other < at + WHOLE_DAY for other in moments) for at in moments), default=0)

    def typed_in(self, container: str) -> int:
        """How many logins one container typed."""
        return sum(each.container == container for each in self.typed)

    def until(self, condition: Callable[[], bool], steps: int = 5000) -> None:
        """Live on until it holds."""
        for _ in range(steps):
            if condition():
                return
            self.step()
        message = f"never: {self.decision}"
        raise AssertionError(message)

    def unwanted(self, wanted: Wanted = Wanted.SHUTDOWN) -> None:
        """Something else is wanted from now on, and carried out."""
        self.wanted = wanted
        self.until(lambda: self.gateway is None and self.attempt is None)
