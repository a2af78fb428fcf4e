"""Logins around IBKR's reset, on the decision core in made-up time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, PermitState, PermitView
from spreadpilot_core.ibkr.deciding.pacing import spread
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.reset_windows import LONGEST_AIR, reset_hours
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from support.decide_world import FOLLOWER, World

NEW_YORK = ZoneInfo("America/New_York")


def new_york(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC)


def world_at(text: str) -> World:
    world = World(now=new_york(text))
    world.memory = replace(world.memory, since=world.now)
    return world


def ready(world: World) -> World:
    for _ in range(400):
        if world.step().state is State.READY:
            return world
    raise AssertionError(world.decision)


def ended_by_ibkr(world: World) -> None:
    """The cooperative shutdown: the program closes with exit code 0."""
    assert world.gateway is not None
    world.phase(LoginPhase.STOPPING)
    world.phase(LoginPhase.ENDED)
    world.gateway = replace(world.gateway, phase=GatewayPhase.EXITED, exit_code=0)
    world.connection = None


def until(world: World, moment: datetime) -> None:
    while world.now < moment:
        world.step()


def test_ibkrs_shutdown_at_night_spends_nothing_and_is_made_good_after_the_reset() -> None:
    """Closed at 23:45:12, it waits as `queued` with code and time, logs in once after 00:45, and no loss is counted."""
    world = ready(world_at("2026-11-24 23:00"))
    until(world, new_york("2026-11-24 23:45:12"))
    ended_by_ibkr(world)
    while world.gateway is not None or world.decision is None or world.decision.state is not State.QUEUED:
        assert world.step().state is not State.NEEDS_HUMAN
    waits = world.step()
    while waits.reason_code is not ReasonCode.IBKR_RESET_WINDOW:
        waits = world.step()
    own_end = new_york("2026-11-25 00:45") + timedelta(seconds=600 * spread(FOLLOWER))
    assert (waits.state.status, waits.reason_code) == (GatewayStatus.STARTING, ReasonCode.IBKR_RESET_WINDOW)
    assert f"{own_end:%H:%M:%S}" in (waits.next_action or "")
    ready(world)
    assert own_end <= world.logins_typed[-1][0] <= own_end + timedelta(minutes=2)
    assert [each.outcome for each in world.attempts] == [LoginOutcome.SUCCEEDED] * 2
    assert (world.record.losses, world.record.needs_human, world.broken) == (0, None, [])


def test_a_fleet_does_not_begin_in_one_second() -> None:
    """A hundred followers that wait for the same end begin over ten minutes."""
    hours = reset_hours(None)
    ends = [hours.short_span(new_york("2026-11-25 00:10"), spread(FollowerId(f"f{number}"))) for number in range(100)]
    seconds = sorted(end[1] for end in ends if end is not None)
    assert len(seconds) == 100
    assert seconds[-1] - seconds[0] > LONGEST_AIR * 0.8
    assert all(later - earlier < timedelta(minutes=1) for earlier, later in itertools.pairwise(seconds))


@pytest.mark.parametrize("begun", ["2026-11-24 23:31", "2026-11-25 00:56", "2026-11-27 22:46"])
def test_in_the_long_hours_it_tries_at_most_once_in_thirty_minutes_and_nothing_counts(begun: str) -> None:
    """Logins that are dropped there use up no budget, whatever the night brings, and nobody is called."""
    world = world_at(begun)
    world.password_is_right = True
    over = new_york("2026-11-28 03:00" if "27" in begun else "2026-11-25 01:45")
    while world.now < over:
        world.step()
        if world.login is not None and world.login.phase is LoginPhase.AUTHENTICATING:
            world.phase(LoginPhase.FAILED)  # IBKR is unreachable, and the controller starts over
            world.phase(LoginPhase.FAILED, laps=2)
    typed = [at for at, _ in world.logins_typed if at < over]
    assert typed
    assert all(later - earlier >= timedelta(minutes=29) for earlier, later in itertools.pairwise(typed))
    assert not any(reset_hours(None).short_span(at, 0.0) for at in typed)
    assert world.counted() == []
    assert world.record.needs_human is None


def test_a_login_that_hangs_over_the_end_of_the_hours_does_not_count_either() -> None:
    """It was typed in them: that its time was over a minute later says nothing of the password."""
    world = world_at("2026-11-25 01:44")
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.told_phases = world.login.phase_serial
    world.api_answers = False
    while world.attempts[0].outcome is None:
        world.step()
    assert world.now > new_york("2026-11-25 01:45")
    assert world.attempts[0].outcome is LoginOutcome.DROPPED_IN_RESET


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (LoginPhase.THROTTLED, LoginOutcome.THROTTLED),
        (LoginPhase.SECOND_FACTOR_MISSED, LoginOutcome.SECOND_FACTOR_MISSED),
        (LoginPhase.REJECTED, LoginOutcome.REJECTED),
    ],
)
def test_what_ibkr_answers_in_its_reset_counts_all_the_same(phase: LoginPhase, outcome: LoginOutcome) -> None:
    """Only silence and unreachable servers are the reset's; an answer is an answer at any hour."""
    world = world_at("2026-11-25 01:00")
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(phase)
    while world.attempts[0].outcome is None:
        world.step()
    assert world.attempts[0].outcome is outcome


def test_an_operators_login_goes_ahead_and_counts() -> None:
    """`--retry-login` waits for no window; dropped, it is one login of the budget, so that insisting has an end."""
    world = world_at("2026-11-24 23:50")
    world.operator_login = True
    while not world.logins_typed:
        world.step()
    assert world.now < new_york("2026-11-24 23:52")
    world.attempt = replace(world.attempt, by_operator=True) if world.attempt is not None else None
    world.phase(LoginPhase.FAILED)
    world.phase(LoginPhase.FAILED, laps=2)
    while world.attempts[0].outcome is None:
        world.step()
    assert world.attempts[0].outcome is LoginOutcome.FAILED


def test_without_the_wait_a_login_goes_at_any_hour_and_counts_at_any_hour() -> None:
    """`reset_window_wait = false` is for who knows better: it logs in at 23:50, and a failure there is a failure."""
    world = world_at("2026-11-24 23:50")
    for _ in range(20):
        seen = replace(world.observe(), reset_window_wait=False)
        decision = decide(world.memory, seen, FleetView(), world.now)
        world.memory, world.record, world.decision = decision.memory, decision.record, decision
        if decision.action is not None and decision.action.kind is ActionKind.LAUNCH:
            assert decision.action.before is None
            return
        assert decision.reason_code is not ReasonCode.IBKR_RESET_WINDOW
        if decision.action is not None:
            world._carry_out(decision.action)
    raise AssertionError(world.decision)


def test_a_simulated_gateway_waits_for_no_hour_unless_a_scenario_states_one() -> None:
    """With hours stated as empty the login goes at Friday 23:50; with hours of a scenario's own it waits for those."""
    world = world_at("2026-11-27 23:50")
    for stated, waits in (("", False), ("America/New_York 23:49-23:51", True), (None, True)):
        seen = replace(world.observe(), stated_reset_hours=stated)
        code = decide(world.memory, seen, FleetView(), world.now).reason_code
        assert (code is ReasonCode.IBKR_RESET_WINDOW) is waits, stated


def test_who_waits_for_the_reset_holds_no_permit() -> None:
    """A permit that was given a moment before the hours began goes back: others may need place, phone or user."""
    world = world_at("2026-11-24 23:44:59")
    while world.preflight is None:
        world.step()
    world.permit = PermitView(PermitState.HELD, user="user")
    world.now = new_york("2026-11-24 23:45:00")
    decision = world.step()
    assert decision.reason_code is ReasonCode.IBKR_RESET_WINDOW
    assert decision.action is not None
    assert decision.action.kind is ActionKind.RETURN_PERMIT
    assert world.step().action is None
    assert world.containers == 0


def test_a_launch_names_the_moment_from_which_it_is_too_late() -> None:
    """An image that is pulled, or a secret that is slow, must not bring a login into the reset hours."""
    world = world_at("2026-11-24 23:44:50")
    decision = world.step()
    while decision.action is None or decision.action.kind is not ActionKind.LAUNCH:
        decision = world.step()
    assert decision.action.before == new_york("2026-11-24 23:45")


@pytest.mark.parametrize(("at", "refused"), [("2026-11-24 23:50", True), ("2026-11-24 23:00", False)])
def test_a_restart_in_the_reset_hours_is_refused_before_the_gateway_is_stopped(at: str, *, refused: bool) -> None:
    """The healthy gateway stays, and the sentence says from when on a restart may be asked."""
    world = ready(world_at("2026-11-24 22:00"))
    until(world, new_york(at))
    asked = world.now
    world.step()
    world.now += timedelta(seconds=1)
    while world.preflight is None or world.preflight.at < asked:
        seen = replace(world.observe(), restart_asked=asked)
        decision = decide(world.memory, seen, FleetView(), world.now)
        assert decision.refuse_restart is None
        assert decision.action is not None
        world._carry_out(decision.action)
    decision = decide(world.memory, replace(world.observe(), restart_asked=asked), FleetView(), world.now)
    assert (decision.refuse_restart is not None) is refused
    if refused:
        assert decision.state is State.READY
        assert "05:4" in str(decision.refuse_restart) or "05:5" in str(decision.refuse_restart)
        assert "--retry-login" in str(decision.refuse_restart)
    else:
        assert decision.action is not None
        assert decision.action.kind is ActionKind.REMOVE


@settings(max_examples=60)
@given(
    st.datetimes(datetime(2026, 10, 25), datetime(2026, 12, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # made aware
    st.lists(st.sampled_from(["fail", "end", "hang", "wait"]), max_size=40),
)
def test_whatever_the_nights_bring_no_login_is_begun_in_the_short_hours(begun: datetime, mishaps: list[str]) -> None:
    """Over days of failures, exits and hangs the manager itself begins none there, and the budget is kept."""
    world = World(now=begun)
    for mishap in mishaps:
        for _ in range(12):
            world.step()
        if world.login is None or world.gateway is None:
            continue
        if mishap == "fail":
            world.phase(LoginPhase.FAILED, laps=world.login.laps + 2, completed=False)
            world.connection = None
        elif mishap == "end" and world.gateway.phase is GatewayPhase.RUNNING:
            ended_by_ibkr(world)
        elif mishap == "hang":
            world.now += timedelta(minutes=47)
    started = [each.reserved_at for each in world.attempts]
    assert not any(reset_hours(None).short_span(at, 0.0) for at in started)
    assert len(world.counted()) <= world.limits.login_budget
