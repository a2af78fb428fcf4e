"""A slow host: many JVMs at once, minutes until a login window shows; with the real admission and the real log reader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.controller_log.reader import LoginLog
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Memory, Settlement
from spreadpilot_core.ibkr.deciding.login_window import start_is_over
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
from spreadpilot_core.ibkr.model.records import AttemptId, ContainerId, LoginAttempt, Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.supervision.admission import Admission
from support.controller_lines import ibc, told, window

START = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)
AIR = timedelta(seconds=5)

LINES = {
    "ibc": (
        ["Starting Gateway with this command:", ibc("Starting session: will exit if login dialog is not displayed")],
        [ibc("Login dialog WINDOW_OPENED: LoginState is LOGGED_OUT"), ibc("Login attempt: 1")],
        [ibc("Login has completed"), ibc("Click button: I understand and accept")],
    ),
    "ibcontroller": (
        [told("launching instance gateway-paper (paper)"), told("startup state: LAUNCHING -> LOGGING_IN")],
        [window("IBKR Gateway"), told("credentials submitted, awaiting outcome")],
        [told("login completed"), told("dismissed non_brokerage_account")],
    ),
}
"""What the log says as the program starts, with its login window, and when it is logged in."""


@dataclass
class Start:
    """One follower whose gateway starts on that host: decisions are carried out at once, the log comes in its own time."""

    name: str
    admission: Admission
    controller: str
    window_after: timedelta
    now: datetime = START
    memory: Memory = field(default_factory=lambda: Memory(since=START))
    record: Record = field(init=False)
    gateway: Gateway | None = None
    log: LoginLog | None = None
    told: int = 0
    permit: PermitView | None = None
    preflight: Preflight | None = None
    attempt: LoginAttempt | None = None
    outcome: Outcome | None = None
    connection: ConnectionView | None = None
    settled: list[Settlement] = field(default_factory=list)
    launches: int = 0
    reads: int = 0
    """How often its secret was read."""
    tickets: list[timedelta] = field(default_factory=list)
    """How old what was read was at each launch."""
    is_woken: bool = True
    starts_end: datetime | None = None
    state: State = State.QUEUED
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.record = Record(follower_id=FollowerId(self.name))

    @property
    def id(self) -> FollowerId:
        """Whose gateway it is."""
        return FollowerId(self.name)

    @property
    def takes_a_place(self) -> bool:
        """Whether it counts among the parallel starts."""
        return self.id in self.admission._places.holders

    def wake(self) -> None:
        """It may ask again."""
        self.is_woken = True

    def step(self) -> None:
        """Read what the log has brought, decide, carry out; some seconds pass."""
        self._read_log()
        decision = decide(self.memory, self._observe(), FleetView(), self.now)
        self.memory, self.record, self.state = decision.memory, decision.record, decision.state
        self.reasons.append(decision.reason or "")
        if decision.start_is_over:
            self.starts_end = self.starts_end or self.now
            self.admission.started(self.id)
        if decision.settle is not None and self.attempt is not None:
            self.settled.append(decision.settle)
            self.attempt = self.preflight = None
            self.admission.settled(self.id)
        self.now += AIR
        if decision.action is not None:
            self._carry_out(decision.action.kind)

    def _observe(self) -> Observation:
        return Observation(
            follower_id=self.id,
            wanted=Wanted.RUN,
            follower=Follower(id=self.id, vault_secret_ref="r", enabled=True),
            gateway=self.gateway,
            login=self.log.view if self.log is not None else None,
            connection=self.connection,
            outcome=self.outcome,
            preflight=self.preflight,
            permit=self.permit,
            attempt=self.attempt,
            record=self.record,
            limits=Limits(),
        )

    def _read_log(self) -> None:
        if self.gateway is None or self.log is None or self.gateway.started_at is None:
            return
        began = self.gateway.started_at
        times = (began, began + self.window_after, began + self.window_after + timedelta(seconds=5))
        while self.told < len(times) and self.now >= times[self.told]:
            for line in LINES[self.controller][self.told]:
                self.log.read(line)
            self.told += 1

    def _carry_out(self, kind: ActionKind) -> None:
        failure = Failure.FAILED if kind is ActionKind.CONNECT and self.told < len(LINES[self.controller]) else None
        match kind:
            case ActionKind.PREPARE:
                login = Login(user=self.name, version="1", source="stored", written_at=None, ticket="t")
                self.preflight = Preflight(
                    login=login, secret_ref="ibkr/anna", controller="ibcontroller", logins=(), at=self.now
                )
                self.reads += 1
            case ActionKind.ASK_PERMIT:
                self.permit = self.admission.ask(self.id, user=self.name, phone=None, wake=self.wake)
                return
            case ActionKind.LAUNCH:
                assert self.preflight is not None
                self.tickets.append(self.now - self.preflight.at)
                self._launch()
            case ActionKind.CONNECT if failure is None:
                self.connection = ConnectionView(
                    is_open=True, accounts=("DU1",), last_heartbeat=None, link_lost_since=None
                )
            case ActionKind.HEARTBEAT if self.connection is not None:
                self.connection = replace(self.connection, last_heartbeat=self.now)
            case ActionKind.REMOVE:
                self.gateway = self.log = self.connection = None
            case _:
                pass
        self.outcome = Outcome(serial=self.outcome.serial + 1 if self.outcome else 1, kind=kind, failure=failure)

    def _launch(self) -> None:
        self.launches += 1
        container = ContainerId(f"{self.name}-{self.launches}")
        self.attempt = LoginAttempt(
            id=AttemptId(container),
            user=self.name,
            follower_id=self.id,
            secret_version="1",
            reserved_at=self.now,
            started_at=self.now,
        )
        self.gateway = Gateway(
            container_id=container,
            name=container,
            follower_id=self.id,
            client_id=1000,
            endpoint=Endpoint("127.0.0.1", 4100),
            trading_mode=TradingMode.PAPER,
            spec_digest="s",
            controller="ibc" if self.controller == "ibc" else "ibcontroller",
            image="i",
            phase=GatewayPhase.RUNNING,
            started_at=self.now,
        )
        self.log, self.told, self.permit, self.preflight = LoginLog(self.gateway.controller), 0, None, None
        self.record = replace(self.record, user=self.name, secret_version="1", logins_booked=1)


def test_hundreds_that_start_slowly_read_each_secret_once() -> None:
    """The last of three hundred has its turn after more than an hour: what it reads then is seconds old when it is used."""
    admission = Admission(parallel_starts=4)
    fleet = [Start(f"f{number}", admission, "ibc", timedelta(seconds=60)) for number in range(300)]
    now = START
    while any(each.launches == 0 for each in fleet):
        assert now < START + timedelta(hours=3), [each.state for each in fleet]
        for each in fleet:
            in_turn = each.takes_a_place or (each.permit is not None and each.permit.state is PermitState.HELD)
            if in_turn or each.is_woken:
                each.now, each.is_woken = now, False
                each.step()
        assert sum(each.preflight is not None for each in fleet) <= 4
        now += AIR
    assert now > START + timedelta(hours=1)
    assert [each.reads for each in fleet] == [1] * 300
    assert max(age for each in fleet for age in each.tickets) <= timedelta(seconds=20)
    began = [
        each.gateway.started_at for each in fleet if each.gateway is not None and each.gateway.started_at is not None
    ]
    assert began == sorted(began)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_fifty_at_once_with_minutes_to_the_window_all_log_in_and_none_is_counted(controller: str) -> None:
    """150 s to the window are more than `max_startup_time`: nobody is given up, four start at once, each logs in once."""
    admission = Admission(parallel_starts=4)
    fleet = [Start(f"f{number}", admission, controller, timedelta(seconds=150)) for number in range(50)]
    now = START
    while not all(each.state is State.READY for each in fleet):
        assert now < START + timedelta(hours=1), [each.state for each in fleet]
        for each in fleet:
            each.now = now
            in_turn = each.gateway is not None or (each.permit is not None and each.permit.state is PermitState.HELD)
            if in_turn or (now - START).seconds % 30 == 0:  # who waits in the row is looked at now and then
                each.step()
        waiting = [each for each in fleet if each.gateway is not None and each.told < 2]
        assert len(waiting) <= 4
        now += AIR
    assert [each.launches for each in fleet] == [1] * 50
    assert all([settled.outcome.counts for settled in each.settled] == [False] for each in fleet)


@pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
def test_max_startup_time_runs_from_the_login_window(controller: str) -> None:
    """A login that began after 200 s has its whole time; one whose window never shows is given up after `window_time`."""
    late = Start("late", Admission(parallel_starts=1), controller, timedelta(seconds=200))
    while late.state is not State.READY:
        late.step()
    assert late.launches == 1

    never = Start("never", Admission(parallel_starts=1), controller, timedelta(days=1))
    while not never.settled:
        never.step()
        assert never.now < START + timedelta(seconds=400)
    assert timedelta(seconds=300) <= never.now - START <= timedelta(seconds=330)
    assert any("login window did not appear in 300 s" in reason for reason in never.reasons)


def test_a_window_that_never_shows_gives_its_place_back() -> None:
    """After `window_time` the next in the row starts, whatever becomes of the first."""
    admission = Admission(parallel_starts=1)
    first, second = (Start(name, admission, "ibc", timedelta(days=1)) for name in ("a", "b"))
    while second.launches == 0:
        for each in (first, second):
            each.step()
        second.now = first.now = max(first.now, second.now)
        assert first.now < START + timedelta(seconds=400)
    assert first.now >= START + timedelta(seconds=300)


def test_a_container_that_ends_before_its_window_gives_its_place_back() -> None:
    """An exit is the end of a start as well."""
    start = Start("a", Admission(parallel_starts=1), "ibc", timedelta(days=1))
    while start.gateway is None:
        start.step()
    start.step()
    assert start.takes_a_place
    start.gateway = replace(start.gateway, phase=GatewayPhase.EXITED, exit_code=1)
    start.step()
    assert not start.takes_a_place


def test_a_log_that_cannot_be_read_holds_a_place_no_longer_than_window_time() -> None:
    """Without lines the API proves the login; until then the start counts, at most for `window_time`."""
    start = Start("a", Admission(parallel_starts=1), "ibc", timedelta(days=1))
    while start.gateway is None:
        start.step()
    start.step()
    seen = replace(start._observe(), login=None)
    begun = start.memory.clock
    assert not start_is_over(start.memory, seen, begun + timedelta(seconds=299))
    assert start_is_over(start.memory, seen, begun + timedelta(seconds=300))
    connected = replace(seen, connection=ConnectionView(is_open=True, accounts=(), last_heartbeat=None, link_lost_since=None))  # fmt: skip
    assert start_is_over(start.memory, connected, begun)
