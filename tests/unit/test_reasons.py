"""Every reason code occurs: each is brought about by what the world does, and found on the verdict or the login's end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from spreadpilot_core.ibkr import errors
from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Decision, severity_of
from spreadpilot_core.ibkr.deciding.failures import error_code
from spreadpilot_core.ibkr.deciding.observation import (
    ActionKind,
    Failure,
    FleetView,
    Limits,
    Outcome,
    PermitState,
    PermitView,
    Wanted,
)
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.supervision.desired import DesiredState, Holding
from support.controller_lines import ibc, read
from support.decide_world import World
from support.log_world import LogWorld

C = ReasonCode
IBC_START = ["Starting Gateway with this command:", ibc("Login attempt: 1"), ibc("Click button: Paper Log In")]


def seen_in(world: World, steps: int = 40) -> Iterator[Decision]:
    for _ in range(steps):
        yield world.step()


def decided(world: World, **seen: object) -> Decision:
    """The next decision, with this observed besides."""
    observation = replace(world.observe(), **seen)  # type: ignore[arg-type]  # the fields are Observation's
    return decide(world.memory, observation, FleetView(), world.now)


def ready() -> World:
    world = World()
    while world.memory.state is not State.READY:
        world.step()
    return world


def typing(**fields: object) -> World:
    """A login that was typed, and that IBKR has not answered."""
    world = World(**fields)  # type: ignore[arg-type]  # the fields are World's
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    return world


def launched() -> World:
    world = World()
    while world.gateway is None:
        world.step()
    return world


def log_says(phase: LoginPhase, **changes: object) -> Iterator[Decision]:
    world = typing()
    world.phase(phase, **changes)
    yield from seen_in(world, 6)


def dialog(line: str) -> Iterator[Decision]:
    """A controller's line about what IBKR shows, through the real parser."""
    world = typing()
    world.login = replace(read("ibc", [*IBC_START, line]).view, attempts=1)
    yield from seen_in(world, 6)


def ends_with(code: int | None, controller: str = "ibcontroller") -> Iterator[Decision]:
    world = typing()
    assert world.gateway is not None
    world.gateway = replace(world.gateway, controller=controller, phase=GatewayPhase.EXITED, exit_code=code)  # type: ignore[arg-type]
    yield from seen_in(world, 12)


def wanted(what: Wanted, why: Reason | None = None) -> Iterator[Decision]:
    yield decided(World(), wanted=what, wanted_why=why)


def by_record(document: dict[str, object] | None, record: Record, **holding: object) -> Iterator[Decision]:
    """What is wanted, by this reading of the follower store."""
    found = DesiredState(removal_delay=30)
    now = datetime(2026, 11, 24, 14, tzinfo=UTC)
    anna = {"id": "anna", "vault_secret_ref": "ibkr/anna", "enabled": True}
    held = Holding(record=record, has_gateway=True, **holding)  # type: ignore[arg-type]  # the fields are Holding's
    found.take(parse_roster([anna]), now)
    found.weigh({record.follower_id: held}, now)
    found.take(parse_roster([{**anna, **document}] if document is not None else []), now)
    found.weigh({record.follower_id: held}, now)
    desired = found.desired(record.follower_id, held)
    yield from wanted(desired.wanted, desired.why)


def action_fails(kind: ActionKind, failure: Failure, world: World | None = None) -> Iterator[Decision]:
    """Every action of this kind ends like this."""
    world = world or World()
    for _ in range(100):
        world.fail_next = failure if _comes(world, kind) else None
        yield world.step()
        world.fail_next = None


def _comes(world: World, kind: ActionKind) -> bool:
    action = decided(world).action
    return action is not None and action.kind is kind


def operator_takes_logins() -> Iterator[Decision]:
    world = LogWorld(always="rejected")
    world.until(lambda: world.memory.state is State.NEEDS_HUMAN and world.gateway is None)
    world.operator_says(retry_login=True)
    world.until(lambda: len(world.typed) == 2 and world.gateway is None and world.attempt is None)
    world.operator_says(retry_login=True)
    yield from seen_in(world, 10)


def limit(**limits: object) -> Iterator[Decision]:
    world = LogWorld(session=3600, limits=Limits(**limits), phone="olga")  # type: ignore[arg-type]  # its fields
    for _ in range(3000):
        yield world.step()


def failing() -> Iterator[Decision]:
    world = LogWorld(always="login error")
    for _ in range(800):
        yield world.step()


def unstable() -> Iterator[Decision]:
    world = LogWorld(session=60)
    for _ in range(1500):
        yield world.step()


def restart() -> Iterator[Decision]:
    world = ready()
    world.restart_asked = world.now
    yield from seen_in(world, 4)


def gateway_is(**changes: object) -> Iterator[Decision]:
    world = ready()
    assert isinstance(world.gateway, Gateway)
    world.gateway = replace(world.gateway, **changes)  # type: ignore[arg-type]  # the fields are Gateway's
    yield from seen_in(world, 6)


def adopted_of_another_user() -> Iterator[Decision]:
    world = ready()
    assert isinstance(world.gateway, Gateway)
    world.gateway = replace(world.gateway, user="somebody")
    world.record = replace(world.record, user="somebody", user_unproven=True)
    yield from seen_in(world, 6)


def silent_api() -> Iterator[Decision]:
    world = ready()
    world.api_answers = False
    assert world.connection is not None
    yield from seen_in(world, 30)


def closed() -> Iterator[Decision]:
    world = ready()
    assert world.connection is not None
    world.connection = replace(world.connection, is_open=False, closed_reason="The gateway closed it.")
    yield decided(world)


def link_lost() -> Iterator[Decision]:
    world = ready()
    assert world.connection is not None
    world.connection = replace(world.connection, link_lost_since=world.now)
    yield from seen_in(world, 2)


def session_lost() -> Iterator[Decision]:
    world = ready()
    world.phase(LoginPhase.SESSION_LOST, completed=False)
    yield decided(world)


def removed_by_hand(*, started: bool) -> Iterator[Decision]:
    world = launched()
    if not started:
        assert world.attempt is not None
        world.attempt, world.memory = replace(world.attempt, started_at=None), replace(world.memory, life=None)
    world.gateway = world.login = None
    yield decided(world)


def typed_again() -> Iterator[Decision]:
    world = typing()
    world.phase(LoginPhase.AUTHENTICATING, attempts=2)
    yield world.step()


def hangs(world: World) -> Iterator[Decision]:
    world.api_answers, world.told_phases = False, world.login.phase_serial if world.login is not None else 1
    yield from seen_in(world, 40)


def rejected_after_a_session() -> Iterator[Decision]:
    world = ready()
    world.phase(LoginPhase.REJECTED, completed=False, completed_before=True)
    yield from seen_in(world, 3)


def disclaimer() -> Iterator[Decision]:
    world = typing()
    world.phase(LoginPhase.LOGGED_IN, completed=True, completed_before=True, paper_accepted=False)
    yield from seen_in(world, 3)


def permit(state: PermitState) -> Iterator[Decision]:
    yield decided(World(), permit=PermitView(state, "Somebody is first."))


def removal_fails() -> Iterator[Decision]:
    world = typing(password_is_right=False)
    for _ in range(20):
        world.fail_next = Failure.FAILED if world.gateway is not None else None
        yield world.step()


def outage() -> Iterator[Decision]:
    yield decided(World(), runtime_fault=Reason(C.RUNTIME_UNAVAILABLE, "The engine is away."))


def paper_record() -> Record:
    """Of a gateway that was adopted by its labels alone."""
    return Record(follower_id=FollowerId("anna"), trading_mode=TradingMode.PAPER)


def image_missing() -> Iterator[Decision]:
    failed = Outcome(serial=1, kind=ActionKind.CHECK_IMAGE, failure=Failure.FAILED, sentence="There is no image.")
    yield decided(World(), outcome=failed)


def launch_raises(error: errors.GatewayManagerError) -> Iterator[Decision]:
    failed = Outcome(
        serial=1,
        kind=ActionKind.LAUNCH,
        failure=Failure.FAILED,
        sentence=str(error),
        error_code=error_code(error),
    )
    yield decided(World(), outcome=failed)


def removal_raises(error: errors.GatewayManagerError) -> Iterator[Decision]:
    failed = Outcome(
        serial=1000,
        kind=ActionKind.REMOVE,
        failure=Failure.UNAVAILABLE,
        sentence=str(error),
        error_code=error_code(error),
    )
    world = typing(password_is_right=False)
    while world.memory.life is None or world.memory.life != world.memory.concluded:
        world.fail_next = Failure.FAILED if world.gateway is not None else None
        yield world.step()
    yield decided(world, outcome=failed)


def ended_by(code: ReasonCode) -> Iterator[Decision]:
    """The runtime knows why."""
    world = typing()
    assert world.gateway is not None
    world.gateway = replace(world.gateway, phase=GatewayPhase.EXITED, exit_code=137, ended_by=code)
    yield from seen_in(world, 12)


SCENARIOS: dict[ReasonCode, Callable[[], Iterator[Decision]]] = {
    C.STOPPED_BY_OPERATOR: lambda: wanted(Wanted.STOP),
    C.NOT_ENABLED: lambda: by_record({"enabled": False}, Record(follower_id=FollowerId("anna"))),
    C.RECORD_INVALID: lambda: by_record({"enabled": True, "account": "?"}, Record(follower_id=FollowerId("anna"))),
    C.RECORD_MISSING: lambda: by_record(None, Record(follower_id=FollowerId("anna"))),
    C.LIVE_TRADING_UNCONFIRMED: lambda: by_record({"trading_mode": "live"}, paper_record()),
    C.MANAGER_STOPPING: lambda: wanted(Wanted.SHUTDOWN),
    C.MANAGER_DETACHING: lambda: wanted(Wanted.DETACH, Reason(C.MANAGER_DETACHING, "The manager detaches.")),
    C.RESTART_REQUESTED: restart,
    C.RECONNECT_REQUESTED: lambda: iter([decided(ready(), reconnect_asked=True)]),
    C.NOT_OBSERVED_YET: lambda: iter([decided(World(), runtime_fault=Reason(C.NOT_OBSERVED_YET, "Not asked yet."))]),
    C.FOLLOWERS_UNKNOWN: lambda: wanted(Wanted.KEEP),
    C.STORE_UNAVAILABLE: lambda: wanted(Wanted.KEEP, Reason(C.STORE_UNAVAILABLE, "It is away.")),
    C.NOT_LEADER: lambda: wanted(Wanted.KEEP, Reason(C.NOT_LEADER, "Another one acts.")),
    C.RUNTIME_UNAVAILABLE: outage,
    C.GATEWAY_UNCLAIMED: lambda: seen_in(World(unclaimed="The container c looks like it."), 2),
    C.RECORD_DAMAGED: lambda: iter([decided(World(), record_fault="The record of follower anna is damaged.")]),
    C.GATEWAY_LEFT_ELSEWHERE: lambda: iter([decided(World(), left_elsewhere="It was left on engine b")]),
    C.IMAGE_NEEDED: lambda: iter([decided(World(), image_checked=False)]),
    C.IMAGE_UNAVAILABLE: image_missing,
    C.CREDENTIALS_NEEDED: lambda: seen_in(World()),
    C.CREDENTIALS_UNAVAILABLE: lambda: action_fails(ActionKind.PREPARE, Failure.UNAVAILABLE),
    C.CREDENTIALS_REFUSED: lambda: action_fails(ActionKind.PREPARE, Failure.REFUSED),
    C.PERMIT_REQUESTED: lambda: seen_in(World()),
    C.WAITING_FOR_PERMIT: lambda: permit(PermitState.WAITING),
    C.USER_LOGGED_IN_ELSEWHERE: lambda: permit(PermitState.TAKEN),
    C.LOGIN_BEING_RECORDED: lambda: iter([decided(World(), last_login=LoginView(attempts=3))]),
    C.IBKR_RESET_WINDOW: lambda: iter([World(now=datetime(2026, 11, 25, 4, 55, tzinfo=UTC)).step()]),
    C.LOGIN_PAUSE: failing,
    C.LOGIN_BUDGET_SPENT: failing,
    C.FULL_LOGIN_LIMIT: lambda: limit(full_login_limit=2),
    C.PHONE_PROMPT_LIMIT: lambda: limit(full_login_limit=12),
    C.OPERATOR_LOGIN_REFUSED: operator_takes_logins,
    C.LOGIN_UNDER_WAY: lambda: iter([decided(typing(), restart_asked=datetime(2026, 11, 24, 15, tzinfo=UTC))]),
    C.LOGIN_RESERVATION_REFUSED: lambda: action_fails(ActionKind.LAUNCH, Failure.LOGIN_REFUSED),
    C.CONTAINER_STARTING: lambda: seen_in(World()),
    C.LAUNCH_FAILED: lambda: action_fails(ActionKind.LAUNCH, Failure.FAILED),
    C.PORT_TAKEN: lambda: action_fails(ActionKind.LAUNCH, Failure.PORT_TAKEN),
    C.NAME_TAKEN: lambda: launch_raises(errors.NameHeldError("The container c belongs to another manager.")),
    C.RANGE_EXHAUSTED: lambda: launch_raises(errors.PortsExhaustedError(4100, 4101, {4100: "anna"}, 1)),
    C.DISK_FULL: lambda: launch_raises(errors.NoSpaceError("create the container")),
    C.LAUNCH_RESULT_UNKNOWN: lambda: seen_in(World(stale=True), 2),
    C.CONTAINER_CHANGED: lambda: iter([decided(typing(), gateway_stale=True)]),
    C.CONTAINER_PAUSED: lambda: gateway_is(phase=GatewayPhase.PAUSED),
    C.CONTAINER_NEVER_STARTED: lambda: gateway_is(phase=GatewayPhase.AWAITING_SECRET),
    C.CONTAINER_RESTARTED: lambda: gateway_is(is_restarted=True),
    C.CONTAINER_ENDED: lambda: ends_with(137),
    C.OUT_OF_MEMORY: lambda: ended_by(C.OUT_OF_MEMORY),
    C.POD_EVICTED: lambda: ended_by(C.POD_EVICTED),
    C.POD_UNSCHEDULABLE: lambda: launch_raises(errors.PodUnschedulableError("anna", "0/3 nodes are available.", 300)),
    C.POD_NOT_STARTED: lambda: launch_raises(errors.PodNotStartedError("anna", "node-a", "FailedMount")),
    C.QUOTA_EXCEEDED: lambda: launch_raises(errors.QuotaExceededError("anna", "exceeded quota: pods")),
    C.ADMISSION_REFUSED: lambda: launch_raises(errors.AdmissionRefusedError("anna", "violates PodSecurity")),
    C.NODE_LOST: lambda: removal_raises(errors.NodeLostError("anna", "node-a", "Kubelet stopped posting node status.")),
    C.REMOVAL_FAILED: removal_fails,
    C.SESSIONS_UNSTABLE: unstable,
    C.LOGIN_IN_PROGRESS: lambda: seen_in(World()),
    C.LOGIN_COMPLETED: lambda: seen_in(World()),
    C.LOGIN_FAILED: lambda: log_says(LoginPhase.FAILED),
    C.LOGIN_REPEATED: typed_again,
    C.LOGIN_TIMEOUT: lambda: hangs(typing()),
    C.LOGIN_OUTCOME_UNKNOWN: lambda: removed_by_hand(started=True),
    C.LOGIN_WINDOW_MISSING: lambda: hangs(launched()),
    C.LOGIN_THROTTLED: lambda: log_says(LoginPhase.THROTTLED),
    C.PASSWORD_REJECTED: lambda: log_says(LoginPhase.REJECTED),
    C.SESSION_REJECTED: rejected_after_a_session,
    C.PHONE_APPROVAL_PENDING: lambda: log_says(LoginPhase.AWAITING_2FA),
    C.PHONE_APPROVAL_MISSED: lambda: ends_with(75),
    C.PHONE_APPROVALS_USED_UP: lambda: dialog(ibc("Login error: 2FA maximum attempts reached")),
    C.PASSKEY_REQUIRED: lambda: dialog(ibc("Login error: Required PassKey is not supported")),
    C.API_NOT_INCLUDED: lambda: dialog(ibc("Login error: API support is not available for free trading")),
    C.PAPER_USER_AMBIGUOUS: lambda: dialog(ibc("Login error: The user has multiple Paper Trading users")),
    C.GATEWAY_VERSION_REFUSED: lambda: dialog(ibc("Login error: This release is no longer supported")),
    C.IMAGE_TOO_OLD: lambda: log_says(LoginPhase.AWAITING_2FA, too_old=True),
    C.CONTROLLER_FAILED: lambda: ends_with(78),
    C.OPERATOR_INPUT_NEEDED: lambda: dialog(ibc("detected dialog entitled: Login Messages; event=Opened")),
    C.COMPETING_SESSION: lambda: log_says(LoginPhase.CONFLICT),
    C.SCHEDULED_RESTART: lambda: log_says(LoginPhase.RESTARTING),
    C.SESSION_ENDED: session_lost,
    C.API_CONNECTING: lambda: seen_in(World()),
    C.PAPER_DISCLAIMER_PENDING: disclaimer,
    C.API_UNREACHABLE: lambda: action_fails(ActionKind.CONNECT, Failure.FAILED),
    C.CLIENT_ID_IN_USE: lambda: action_fails(ActionKind.CONNECT, Failure.ID_IN_USE),
    C.WRONG_USER: adopted_of_another_user,
    C.WRONG_ACCOUNT: lambda: action_fails(ActionKind.CONNECT, Failure.WRONG_ACCOUNT, World(account="DU7")),
    C.CONNECTION_CLOSED: closed,
    C.HEARTBEAT_MISSED: silent_api,
    C.IBKR_LINK_LOST: link_lost,
}


def codes_of(decision: Decision) -> set[ReasonCode]:
    """Wherever a decision names a reason."""
    reasons = [decision.why, decision.refuse_restart, decision.refuse_login]
    reasons += [decision.settle.reason] if decision.settle is not None else []
    return {each.code for each in reasons if each is not None}


@pytest.mark.parametrize("code", ReasonCode, ids=lambda code: code.value)
def test_each_code_occurs(code: ReasonCode) -> None:
    """Something that can happen leads to it, and every decision on the way has a code, and facts that are JSON."""
    found: set[ReasonCode] = set()
    for decision in SCENARIOS[code]():
        found |= codes_of(decision)
        assert (decision.why is None) is (decision.state is State.READY)
        if decision.why is not None:
            json.dumps(dict(decision.why.facts))
        if code in found:
            return
    pytest.fail(f"{code.value} is not among {sorted(each.value for each in found)}")


def test_what_waits_for_a_human_is_an_error_whatever_its_code() -> None:
    """A code that is a warning elsewhere, such as a container that ended, is not one where nothing happens by itself."""
    assert C.CONTAINER_ENDED.severity is Severity.WARNING
    assert severity_of(State.NEEDS_HUMAN, C.CONTAINER_ENDED) is Severity.ERROR
    assert severity_of(State.BACKING_OFF, C.CONTAINER_ENDED) is Severity.WARNING
    assert severity_of(State.READY, None) is Severity.INFO


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.PortTakenError(4100), C.PORT_TAKEN),
        (errors.ImageMissingError("image", pulled=True), C.IMAGE_UNAVAILABLE),
        (errors.StoreUnavailableError("It is away."), C.STORE_UNAVAILABLE),
        (errors.RuntimeUnavailableError("It is away."), C.RUNTIME_UNAVAILABLE),
        (errors.CredentialStoreError("It is damaged."), C.CREDENTIALS_REFUSED),
        (errors.CourierFailedError("It ended."), C.CREDENTIALS_UNAVAILABLE),
        (errors.DeliveryUnsureError("It ended."), C.CREDENTIALS_UNAVAILABLE),
        (errors.LaunchError("It failed."), None),
    ],
)
def test_an_error_of_an_adapter_has_the_code_of_what_it_is_about(
    error: errors.GatewayManagerError, code: ReasonCode | None
) -> None:
    """Whatever was being done when it came."""
    assert error_code(error) is code


def test_an_operators_limit_is_a_fact_for_programs() -> None:
    """The number of logins and the time are in the facts, and not in the sentence alone."""
    world = LogWorld(always="login error")
    world.until(lambda: world.decision is not None and world.decision.reason_code is C.LOGIN_BUDGET_SPENT)
    assert world.decision is not None
    assert world.decision.why is not None
    facts = world.decision.why.facts
    assert facts["logins"] == world.limits.login_budget
    assert datetime.fromisoformat(str(facts["until"])) > world.now
