from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decide import decide
from spreadpilot_core.ibkr.deciding.decision import Memory
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Failure, FleetView, Wanted
from spreadpilot_core.ibkr.deciding.pacing import CONNECT_TRIES
from spreadpilot_core.ibkr.model.gateways import Controller, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from support.decide_world import START, World


def walk(world: World, steps: int = 60) -> World:
    for _ in range(steps):
        world.step()
        if world.memory.state is State.READY and world.memory.heartbeats:
            break
    return world


def settled(world: World, steps: int = 200) -> State:
    """Walk until ready, or until only a human helps."""
    for _ in range(steps):
        state = world.step().state
        if state in (State.READY, State.NEEDS_HUMAN, State.STOPPED, State.DISABLED, State.INVALID):
            return state
    return world.memory.state


def crash(world: World) -> None:
    if world.gateway is not None:
        world.gateway = replace(world.gateway, phase=GatewayPhase.EXITED, exit_code=137)
        world.connection = None


def vanish(world: World) -> None:
    world.gateway = world.login = world.connection = None


def restart_container(world: World) -> None:
    """By somebody else's hand: it runs again, and waits for a secret that never comes."""
    if world.gateway is not None and world.gateway.phase is GatewayPhase.RUNNING:
        world.gateway = replace(world.gateway, started_at=world.now, is_restarted=True)
        world.login, world.connection = LoginView(), None


def close_socket(world: World) -> None:
    if world.connection is not None:
        world.connection = replace(world.connection, is_open=False, closed_reason="closed by the gateway")


def lose_link(world: World) -> None:
    if world.connection is not None:
        world.connection = replace(world.connection, link_lost_since=world.now)


def restore_link(world: World) -> None:
    if world.connection is not None:
        world.connection = replace(world.connection, link_lost_since=None)


def fail_with(failure: Failure) -> Callable[[World], None]:
    def plant(world: World) -> None:
        world.fail_next = failure

    return plant


def log_says(phase: LoginPhase) -> Callable[[World], None]:
    def write(world: World) -> None:
        completed = {"completed": False} if phase is not LoginPhase.CONFLICT else {}
        world.phase(phase, **completed)
        if world.told_phases is not None:  # what the log does not tell, the API alone can
            close_socket(world)

    return write


def set_to(**changes: object) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name, value in changes.items():
            setattr(world, name, value)

    return change


def pass_time(seconds: float) -> Callable[[World], None]:
    def wait(world: World) -> None:
        world.now += timedelta(seconds=seconds)

    return wait


def controller_types_again(world: World) -> None:
    if world.gateway is not None and world.login is not None and world.login.phase is LoginPhase.FAILED:
        world.type_login()


def log_falls_silent(world: World) -> None:
    world.told_phases = world.login.phase_serial if world.login is not None else 1


MISHAPS: dict[str, Callable[[World], None]] = {
    "crash": crash,
    "vanish": vanish,
    "restarted by somebody": restart_container,
    "socket closed": close_socket,
    "link lost": lose_link,
    "link restored": restore_link,
    "api silent": set_to(api_answers=False),
    "api answers": set_to(api_answers=True),
    "wrong password": set_to(password_is_right=False),
    "right password, new version": set_to(password_is_right=True, version="2"),
    "container event": set_to(stale=True),
    "runtime away": set_to(runtime_fault="The runtime is away."),
    "runtime back": set_to(runtime_fault=None),
    "operator stop": set_to(wanted=Wanted.STOP),
    "wanted": set_to(wanted=Wanted.RUN),
    "disabled": set_to(wanted=Wanted.DISABLED),
    "followers unknown": set_to(wanted=Wanted.KEEP),
    "invalid": set_to(wanted=Wanted.INVALID),
    "operator takes a login": set_to(operator_login=True),
    "controller types again": controller_types_again,
    "log falls silent": log_falls_silent,
    "log speaks": set_to(told_phases=None),
    "a minute": pass_time(60),
    "an hour": pass_time(3600),
    "a day": pass_time(86_400),
    **{f"log: {phase.value}": log_says(phase) for phase in LoginPhase if phase is not LoginPhase.LOGGED_IN},
    **{f"fails: {failure.value}": fail_with(failure) for failure in Failure},
}


def test_a_wanted_gateway_becomes_ready_with_one_login() -> None:
    """From nothing to READY: one container, one login, every proof."""
    world = walk(World())

    assert world.memory.state is State.READY
    assert (world.containers, len(world.logins_typed), world.broken) == (1, 1, [])


def test_a_wrong_password_is_typed_once_and_then_a_human_must_look() -> None:
    """However long it is left alone, a rejected password is never typed again."""
    world = World(password_is_right=False)

    for _ in range(2000):
        world.step()

    assert world.memory.state is State.NEEDS_HUMAN
    assert len(world.logins_typed) == 1
    assert world.now - START > timedelta(hours=10)
    assert world.broken == []


def test_a_controller_whose_login_is_over_is_killed_before_it_can_type_again() -> None:
    """One that does not heed SIGTERM must not have seconds for another login; one that was logged in has its grace."""
    for phase in (LoginPhase.REJECTED, LoginPhase.THROTTLED, LoginPhase.SECOND_FACTOR_MISSED):
        world = World()
        while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
            world.step()
        world.phase(phase, completed=False)
        action = world.step().action

        assert action is not None
        assert (action.kind, action.grace) == (ActionKind.REMOVE, 1)


def test_a_new_version_of_a_rejected_secret_is_tried_once_by_itself() -> None:
    """A rejection ends by itself when the secret's version changes."""
    world = World(password_is_right=False)
    settled(world)
    walk(world, 20)

    world.password_is_right, world.version = True, "2"

    assert settled_ready(world)
    assert [version for _, version in world.logins_typed] == ["1", "2"]


def test_a_password_file_that_could_not_be_removed_is_tried_again_with_a_pause() -> None:
    """A failure is no success: it is tried again after 5 s, then 10, until it works, and costs the gateway nothing."""
    world = walk(World(forgettings_that_fail=2))
    while not world.secret_forgotten:
        assert world.step().state is State.READY

    pauses = [later - earlier for earlier, later in zip(world.forgettings, world.forgettings[1:], strict=False)]
    assert len(pauses) == 2
    assert timedelta(seconds=5) <= pauses[0] < timedelta(seconds=10) <= pauses[1] < timedelta(seconds=15)
    assert (world.containers, world.broken) == (1, [])


def settled_ready(world: World) -> bool:
    return any(world.step().state is State.READY for _ in range(100))


def test_the_first_loss_after_a_good_login_is_made_good_at_once() -> None:
    """A crash after READY costs no pause; the second one within minutes waits 30 s."""
    world = walk(World())
    crash(world)
    lost = world.now

    assert settled_ready(world)
    assert world.now - lost < timedelta(seconds=150)
    crash(world)
    lost = world.now
    while world.containers < 3:
        world.step()

    assert world.now - lost >= timedelta(seconds=30)


def test_containers_that_vanish_are_losses_too() -> None:
    """A container that somebody removes after each login is not replaced again and again without a pause."""
    world = walk(World())
    vanish(world)
    assert settled_ready(world)
    vanish(world)
    lost = world.now
    while world.containers < 3:
        world.step()

    assert world.now - lost >= timedelta(seconds=30)
    assert world.counted() == []


def test_a_paused_gateway_is_asked_on_and_nothing_is_launched_beside_it() -> None:
    """Paused with an open connection: not ready, heartbeats go on, and no secret is read for another one."""
    world = walk(World())
    assert world.gateway is not None
    world.gateway = replace(world.gateway, phase=GatewayPhase.PAUSED)
    kinds = set()
    for _ in range(20):
        decision = world.step()
        assert decision.state is State.RECONNECTING
        kinds.add(decision.action.kind if decision.action else None)

    assert kinds == {None, ActionKind.HEARTBEAT}


def test_a_clock_that_was_set_back_puts_no_heartbeat_off() -> None:
    """An hour back, and the next heartbeat is not an hour away: a frozen gateway would look ready all the while."""
    world = walk(World())
    world.now -= timedelta(hours=1)

    assert any((decision := world.step()).action and decision.action.kind is ActionKind.HEARTBEAT for _ in range(3))


def test_nothing_is_concluded_or_begun_while_nobody_knows_what_is_there() -> None:
    """A launch whose answer was lost leaves its login open, and its user held, until the runtime was listed."""
    world = World()
    while world.gateway is None:
        world.step()
    vanish(world)
    world.stale = True
    for wanted in (Wanted.RUN, Wanted.STOP):
        world.wanted = wanted
        for _ in range(5):
            decision = world.step()
            assert decision.action is None
            assert decision.settle is None

    world.stale = False
    world.step()
    assert [each.outcome for each in world.counted()] == [LoginOutcome.UNFINISHED]


def test_every_login_that_the_controller_typed_is_written_down_one_by_one() -> None:
    """Three logins in the log of one container, seen at once: the first is failed, and two more are booked."""
    world = World()
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.AUTHENTICATING, attempts=3)
    booked = [world.step().book_login for _ in range(4)]

    assert booked == [True, True, False, False]
    assert world.record.logins_booked == 3
    assert len(world.counted()) == 1  # the world itself books nothing


def test_logins_that_a_container_typed_are_written_down_when_it_is_gone() -> None:
    """Eleven typed while nobody watched, one written down: ten more follow, and none is begun before."""
    world = World()
    world.record = replace(world.record, logins_booked=1)
    booked = 0
    for _ in range(40):
        seen = replace(world.observe(), last_login=LoginView(attempts=11))
        decision = decide(world.memory, seen, FleetView(), world.now)
        world.memory, world.record = decision.memory, decision.record
        booked += decision.book_login
        if booked < 10:
            assert decision.action is None
    assert booked == 10
    assert world.record.logins_booked == 11


def test_a_restart_is_refused_while_a_login_is_under_way_or_nothing_may_be_removed() -> None:
    """It would turn that login into a failed one; and a manager that may not act must not leave the caller waiting."""
    world = World()
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    asked = replace(world.observe(), restart_asked=world.now)
    during_login = decide(world.memory, asked, FleetView(), world.now)
    assert during_login.action is None
    assert "under way" in str(during_login.refuse_restart)
    assert during_login.refuse_restart is not None
    assert during_login.refuse_restart.code is ReasonCode.LOGIN_UNDER_WAY

    walk(world)
    acts = Reason(ReasonCode.NOT_LEADER, "Another one acts.")
    kept = replace(world.observe(), restart_asked=world.now, wanted=Wanted.KEEP, wanted_why=acts)
    assert decide(world.memory, kept, FleetView(), world.now).refuse_restart == acts


def test_a_restart_that_takes_long_to_prepare_does_not_keep_an_old_proof() -> None:
    """No heartbeat is sent while the secret is read: after an interval and its timeout it no longer counts as ready."""
    world = World()
    walk(world)
    assert world.connection is not None
    proven = world.connection.last_heartbeat
    assert proven is not None
    preparing = replace(world.observe(), restart_asked=world.now, running=ActionKind.PREPARE)
    limit = timedelta(seconds=world.limits.healthcheck_interval + world.limits.heartbeat_timeout)

    still = decide(world.memory, preparing, FleetView(), proven + limit - timedelta(seconds=1))
    assert still.state is State.READY
    assert still.recheck_after <= 1
    overdue = decide(still.memory, preparing, FleetView(), proven + limit)
    assert overdue.state is State.RECONNECTING
    assert "overdue" in (overdue.reason or "")


def test_failed_logins_wait_five_minutes_then_ten_and_then_a_human_must_look() -> None:
    """Logins that fail without a stated wait are spaced, and the budget of three ends them."""
    world = World()
    starts = []
    for _ in range(3000):
        world.step()
        if world.gateway is not None and world.login is not None and world.login.phase is LoginPhase.AUTHENTICATING:
            starts.append(world.gateway.started_at)
            crash(world)

    assert len(starts) == 3
    assert starts[1] - starts[0] >= timedelta(minutes=5)
    assert starts[2] - starts[1] >= timedelta(minutes=10)
    assert world.memory.state is State.NEEDS_HUMAN
    assert world.record.needs_human is not None
    assert world.broken == []


def test_ibkrs_stated_wait_is_kept_even_when_an_operator_asks() -> None:
    """Too many attempts: nobody logs in before the stated wait is over, an operator neither."""
    world = World()
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.THROTTLED, wait_seconds=1800.0)
    throttled = world.now
    world.operator_login = True

    while world.containers < 2:
        world.step()

    assert world.now - throttled >= timedelta(seconds=1800)
    assert world.broken == []


def test_a_missed_phone_approval_waits_for_a_human() -> None:
    """Another push without anybody there would only spend another login."""
    world = World()
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.SECOND_FACTOR_MISSED)

    assert settled(world) is State.NEEDS_HUMAN
    walk(world, 500)

    assert len(world.logins_typed) == 1
    assert world.record.needs_human is not None


def test_a_pending_phone_approval_has_its_own_longer_limit() -> None:
    """max_startup_time does not run while a phone is asked."""
    world = World()
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.AWAITING_2FA)
    asked = world.now
    while world.step().state is State.AWAITING_2FA:
        pass

    assert world.now - asked >= timedelta(seconds=world.limits.phone_approval_time)


def test_a_login_under_way_is_told_as_good_news() -> None:
    """It has its time; nothing that is merely waited for reads as a threat."""
    world = World()
    told = set()
    while world.step().state is not State.READY:
        if world.decision is not None and world.decision.state in (State.LOGGING_IN, State.AWAITING_2FA):
            told.add(world.decision.next_action or "")
    assert told
    assert all(each.startswith("It has until ") for each in told if "UTC" in each)
    assert not any("given up" in each for each in told)


# What the sheets say of each exit code, where no line of the log told more: (controller, code), what follows, login's outcome.
CODES = [
    ("ibcontroller", 69, State.BACKING_OFF, LoginOutcome.FAILED),
    ("ibcontroller", 75, State.NEEDS_HUMAN, LoginOutcome.SECOND_FACTOR_MISSED),
    ("ibcontroller", 77, State.NEEDS_HUMAN, LoginOutcome.REJECTED),
    *(("ibcontroller", code, State.NEEDS_HUMAN, LoginOutcome.FAILED) for code in (2, 78, 125, 126, 127)),
    *(("ibcontroller", code, State.BACKING_OFF, LoginOutcome.FAILED) for code in (0, 1, 96, 97, 134, 137, 139)),
    *(("ibc", code, State.NEEDS_HUMAN, LoginOutcome.FAILED) for code in (*range(2, 9), *range(77, 86), 126, 127)),
    *(("ibc", code, State.BACKING_OFF, LoginOutcome.FAILED) for code in (0, 1, 76, 86, 87, 88, 96, 97, 137, 143, 159)),
]


@pytest.mark.parametrize("log_is_readable", [True, False])
@pytest.mark.parametrize(("controller", "code", "state", "outcome"), CODES)
def test_what_follows_an_exit_code_that_no_line_explains(
    controller: Controller, code: int, state: State, outcome: LoginOutcome, *, log_is_readable: bool
) -> None:
    """The same number means different things: wrong settings are mended by a human, a refused login is not typed again."""
    world = World(log_is_readable=log_is_readable)
    while world.gateway is None:
        world.step()
    world.type_login()
    world.gateway = replace(world.gateway, controller=controller, phase=GatewayPhase.EXITED, exit_code=code)
    for _ in range(30):
        if world.memory.state is state and world.gateway is None:
            break
        world.step()
    assert (world.memory.state, world.containers) == (state, 1)
    assert world.attempts[0].outcome is outcome
    assert world.decision is not None
    assert f"ended with code {code}" in (world.decision.reason or "") or outcome is LoginOutcome.REJECTED


@pytest.mark.parametrize("code", [1, 78, 69])
def test_a_gateway_that_was_logged_in_is_started_again_whatever_its_code(code: int) -> None:
    """Its settings have worked in this container: it was lost."""
    world = walk(World())
    assert world.gateway is not None
    world.gateway = replace(world.gateway, controller="ibcontroller", phase=GatewayPhase.EXITED, exit_code=code)
    world.connection = None
    assert settled_ready_with(world, containers=2)


def test_a_refused_login_after_a_good_one_gets_one_new_container_by_its_code_alone() -> None:
    """77 right after a nightly restart is the known false rejection, also when the log's last lines were lost."""
    world = walk(World())
    assert world.gateway is not None
    world.phase(LoginPhase.AUTHENTICATING, completed=False)
    world.gateway = replace(world.gateway, controller="ibcontroller", phase=GatewayPhase.EXITED, exit_code=77)
    world.connection = None
    assert settled_ready_with(world, containers=2)
    assert world.record.false_rejection_used is not None


def test_login_failed_inside_a_reset_window_is_ibkrs_maintenance() -> None:
    """In the nightly reset the same words say nothing about the password, and cost nothing."""
    world = World(now=START + timedelta(hours=16))  # 01:00 in New York, in the long hours alone
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.FAILED, laps=2, login_failed=True)
    for _ in range(10):
        world.step()

    assert world.record.rejected_version is None
    assert world.decision is not None
    assert (world.decision.state, world.decision.reason_code) == (State.QUEUED, ReasonCode.IBKR_RESET_WINDOW)
    assert [each.outcome for each in world.attempts] == [LoginOutcome.DROPPED_IN_RESET]


def test_a_rejection_in_a_session_that_was_logged_in_gets_one_new_container() -> None:
    """The known false rejection after a re-login: one full login more, then a human."""
    world = walk(World())
    world.phase(LoginPhase.REJECTED, completed=False)
    close_socket(world)
    assert settled_ready_with(world, containers=2)

    world.phase(LoginPhase.REJECTED, completed=False)
    close_socket(world)

    assert settled(world, 400) is State.NEEDS_HUMAN
    assert world.containers == 2


def settled_ready_with(world: World, *, containers: int) -> bool:
    return any(world.step().state is State.READY and world.containers == containers for _ in range(400))


def test_a_scheduled_restart_spends_no_login() -> None:
    """The nightly restart is waited for, and the client is connected anew."""
    world = walk(World())
    world.phase(LoginPhase.RESTARTING, completed=False)
    close_socket(world)
    assert world.step().state is State.RESTARTING

    world.phase(LoginPhase.LOGGED_IN, completed=True)

    assert settled_ready(world)
    assert (world.containers, len(world.logins_typed)) == (1, 1)


def test_a_gateway_whose_api_stays_shut_is_replaced_after_six_tries() -> None:
    """The cheapest cure first: six connects, then a new container, which costs a permit."""
    world = walk(World())
    close_socket(world)
    world.api_answers = False
    tries = 0
    for _ in range(100):
        decision = world.step()
        tries += decision.action is not None and decision.action.kind is ActionKind.CONNECT
        if decision.action is not None and decision.action.kind is ActionKind.REMOVE:
            break

    assert tries == 6


def test_a_gateway_is_not_given_up_for_what_an_absent_runtime_hides() -> None:
    """Its shut ports and its unread log are the runtime's trouble: tries go on, and count anew once it answers."""
    world = walk(World())
    world.runtime_fault, world.api_answers = "The engine is away.", False
    close_socket(world)
    for _ in range(60):
        decision = world.step()
        assert decision.state is State.RECONNECTING
        assert decision.action is None or decision.action.kind is not ActionKind.REMOVE
    assert "The engine is away." in (decision.reason or "")

    world.runtime_fault = None
    for _ in range(3):
        world.step()
        assert world.gateway is not None
    world.api_answers = True
    assert settled(world) is State.READY
    assert world.containers == 1


def test_a_login_that_nobody_can_watch_keeps_its_time() -> None:
    """With the runtime away the log is silent: the login is neither failed nor late before it can be read again."""
    world = World()
    while world.gateway is None:
        world.step()
    world.runtime_fault = "The engine is away."
    for _ in range(20):
        decision = decide(world.memory, world.observe(), FleetView(), world.now)
        world.memory = decision.memory
        world.now += timedelta(seconds=60)
        assert (decision.state, decision.action) == (State.LOGGING_IN, None)
        assert "away" in (decision.reason or "")
    world.runtime_fault = None
    assert settled(world) is State.READY
    assert (world.containers, len(world.logins_typed)) == (1, 1)


def test_the_age_of_a_program_goes_on_through_heartbeats_and_begins_anew_with_its_restart() -> None:
    """Not with each proof that it lives, and not with the container, which may be weeks old."""
    world = World()
    assert settled(world) is State.READY
    began = world.memory.program_since
    assert began is not None
    for _ in range(10):
        world.step()
    assert world.memory.program_since == began
    world.phase(LoginPhase.RESTARTING, completed=False, completed_before=True)
    world.step()
    restarted = world.memory.program_since
    assert restarted is not None
    assert restarted > began
    world.phase(LoginPhase.LOGGED_IN, completed=True, completed_before=True, warm=True)
    assert settled(world) is State.READY
    assert world.memory.program_since == restarted


def test_of_an_adopted_gateway_that_was_restarted_before_the_age_counts_from_its_adoption() -> None:
    """When that restart was, nobody knows; a container of weeks tells of no session of weeks."""
    world = World()
    assert settled(world) is State.READY
    world.phase(LoginPhase.LOGGED_IN, completed=True, completed_before=True, warm=True)
    world.memory, world.now = Memory(since=world.now), world.now + timedelta(days=7)
    adopted = world.now
    world.step()
    assert world.memory.program_since == adopted


@pytest.mark.parametrize("seconds", [10, 60, 110])
def test_a_gateway_whose_log_cannot_be_read_proves_itself_by_its_api(seconds: float) -> None:
    """It is tried again and again within its startup time: giving it up earlier would cost a login."""
    world = World(log_is_readable=False, api_answers=False)
    while world.gateway is None:
        world.step()
    begun, tries = world.now, 0
    while world.now - begun < timedelta(seconds=seconds):
        decision = world.step()
        tries += decision.action is not None and decision.action.kind is ActionKind.CONNECT
    world.api_answers = True
    assert settled(world) is State.READY
    assert (world.containers, world.broken) == (1, [])
    assert tries >= seconds / 40


def test_a_gateway_whose_log_cannot_be_read_is_given_up_at_the_end_of_its_startup_time() -> None:
    """Not before, and at most half a round of tries after it."""
    world = World(log_is_readable=False, api_answers=False)
    while world.gateway is None:
        world.step()
    begun, given_up = world.now, None
    for _ in range(200):
        if (action := world.step().action) is not None and action.kind is ActionKind.REMOVE:
            given_up = world.now - begun
            break
    assert given_up is not None
    limits = world.limits
    assert limits.max_startup_time <= given_up.total_seconds() <= limits.max_startup_time + limits.connect_time
    assert "max_startup_time" in (world.decision.reason or "" if world.decision else "")


def an_hour_later_without_its_socket(world: World) -> None:
    """Ready for an hour, and then its connection is gone."""
    begun = world.now
    while world.now - begun < timedelta(hours=1):
        assert world.step().state is State.READY
    close_socket(world)
    assert world.step().state is State.RECONNECTING


def test_a_gateway_whose_log_cannot_be_read_is_connected_to_again_long_after_its_login() -> None:
    """Its startup time does not run from its start: that a socket closes costs no container and no login."""
    world = walk(World(log_is_readable=False))
    for _ in range(2):
        an_hour_later_without_its_socket(world)
        assert settled(world) is State.READY
    assert (world.containers, len(world.logins_typed), world.broken) == (1, 1, [])


@pytest.mark.parametrize("told", [1, 2])
def test_a_login_that_the_log_tells_no_end_of_is_proven_by_the_api(told: int) -> None:
    """Lines that were lost, or that a newer controller words anew, cost time and no login; later ones neither."""
    world = World(told_phases=told)
    assert settled(world) is State.READY
    limits = world.limits
    assert limits.max_startup_time <= (world.now - START).total_seconds() <= limits.max_startup_time + 10
    assert [each.outcome for each in world.attempts] == [LoginOutcome.SUCCEEDED]
    an_hour_later_without_its_socket(world)
    assert settled(world) is State.READY
    world.runtime_fault = "It is away."
    close_socket(world)
    for _ in range(20):
        world.step()
    world.runtime_fault = None
    assert settled(world) is State.READY
    assert (world.containers, len(world.logins_typed), world.broken) == (1, 1, [])


def test_a_restarted_container_is_replaced_without_waiting_for_its_login() -> None:
    """Its password is gone: that is said at once, and after a good login the next one follows at once."""
    world = World()
    walk(world)
    restart_container(world)
    at = world.now
    decision = world.step()
    assert decision.action is not None
    assert decision.action.kind is ActionKind.REMOVE
    assert "started again by somebody else" in (decision.reason or "")
    assert settled(world) is State.READY
    assert (world.containers, world.counted(), world.broken) == (2, [], [])
    assert world.attempts[1].reserved_at - at < timedelta(seconds=5)


def test_a_container_that_is_restarted_during_its_login_costs_that_login() -> None:
    """What its controller had typed is not known, so it counts, and the next one waits as after any failure."""
    world = World()
    while world.gateway is None:
        world.step()
    restart_container(world)
    world.step()
    assert world.gateway is None
    assert settled(world) is State.READY
    assert [attempt.outcome for attempt in world.attempts] == [LoginOutcome.UNFINISHED, LoginOutcome.SUCCEEDED]
    assert world.broken == []


def test_nothing_is_started_beside_a_container_that_may_be_its_gateway() -> None:
    """No record names it, so it is not touched either; a human is told."""
    world = World(unclaimed="The container c looks like it.")
    assert settled(world) is State.NEEDS_HUMAN
    assert world.decision is not None
    assert (world.decision.reason, world.decision.action) == ("The container c looks like it.", None)
    world.operator_login = True
    assert settled(world) is State.NEEDS_HUMAN
    assert world.containers == 0


def test_an_approval_whose_line_was_lost_is_proven_by_the_api() -> None:
    """Nobody is told that nobody approved, and no gateway is removed, while its API says that somebody did."""
    world = World(told_phases=3)
    while world.login is None or world.login.phase is not LoginPhase.AUTHENTICATING:
        world.step()
    world.phase(LoginPhase.AWAITING_2FA)
    world.step()
    world.phase(LoginPhase.LOGGED_IN, completed=True, completed_before=True, paper_accepted=True)
    assert settled(world) is State.READY
    assert (world.containers, world.record.needs_human, world.broken) == (1, None, [])


def test_a_login_that_hangs_is_asked_for_its_api_once_and_then_given_up() -> None:
    """The log is right: nothing answers, and the gateway is removed as it was before."""
    world = World(told_phases=1, api_answers=False)
    while world.gateway is None:
        world.step()
    begun = world.now
    while world.gateway is not None:
        assert not any((world.step().state is State.READY, world.connection))
    limits = world.limits
    assert limits.window_time <= (world.now - begun).total_seconds() <= limits.window_time + 10
    world.step()
    assert (world.connects, world.attempts[0].outcome, world.broken) == (1, LoginOutcome.FAILED, [])


def test_an_api_that_proves_another_account_needs_a_human() -> None:
    """It is asked once, and what it answers stands."""
    world = World(told_phases=1, account="U1")
    while world.connects == 0 and world.memory.refused_account is None and world.now < START + timedelta(hours=1):
        world.fail_next = Failure.WRONG_ACCOUNT if world.memory.state is State.LOGGING_IN else None
        world.step()
    assert settled(world) is State.NEEDS_HUMAN
    walk(world, 100)
    assert (world.containers, world.connects) == (1, 0)


@pytest.mark.parametrize("is_late", [True, False])
def test_an_image_is_too_old_when_its_configuration_does_not_follow_either(*, is_late: bool) -> None:
    """The configuration comes in the container's other stream, which an engine that was away may bring a moment later."""
    world = World()
    while world.login is None:
        world.step()
    world.type_login()
    world.phase(LoginPhase.AWAITING_2FA, too_old=True)
    decision = world.step()
    assert (decision.state, world.gateway is None) == (State.LOGGING_IN, False)
    if is_late:
        world.phase(LoginPhase.LOGGED_IN, completed=True, paper_accepted=True, too_old=False)
    assert settled(world) is (State.READY if is_late else State.NEEDS_HUMAN)
    assert (world.containers, "0.1.4" in str(world.record.needs_human)) == (1, not is_late)


def test_nothing_is_started_or_removed_while_the_followers_are_unknown() -> None:
    """With the follower store away, what runs stays connected and nobody logs in."""
    world = walk(World())
    world.wanted = Wanted.KEEP
    crash(world)
    for _ in range(50):
        decision = world.step()
        assert decision.action is None or decision.action.kind not in (ActionKind.REMOVE, ActionKind.LAUNCH)


def test_a_gateway_that_may_not_be_replaced_is_connected_to_again_and_again() -> None:
    """However long the store is away, one that comes back by itself is ready again; the tries grow rare, never too rare."""
    world = walk(World())
    world.wanted, world.api_answers = Wanted.KEEP, False
    close_socket(world)
    begun, tries = world.now, list[float]()
    while world.now - begun < timedelta(hours=3):
        decision = world.step()
        assert decision.state is State.RECONNECTING
        if decision.action is not None and decision.action.kind is ActionKind.CONNECT:
            tries.append((world.now - begun).total_seconds())
    pauses = [after - before for before, after in itertools.pairwise(tries[CONNECT_TRIES:])]
    assert max(pauses) < 310  # five minutes, and the try itself
    assert len(pauses) < 80
    waiting = next(said for _ in range(20) if (said := world.step()).action is None)
    assert "tries failed" in (waiting.reason or "")
    assert "Next try at" in (waiting.next_action or "")
    assert "Nothing is removed before that changes." in (waiting.next_action or "")

    world.api_answers, back = True, world.now
    walk(world)
    assert world.memory.state is State.READY
    assert world.now - back < timedelta(seconds=310)
    assert (world.containers, len(world.logins_typed), world.broken) == (1, 1, [])


def test_a_gateway_that_came_back_between_two_rare_tries_is_not_replaced_when_it_may_be_again() -> None:
    """A try of minutes ago says nothing of now: a replacement would cost a login. One that stays away is replaced."""
    for answers in (True, False):
        world = walk(World())
        world.wanted, world.api_answers = Wanted.KEEP, False
        close_socket(world)
        while world.memory.connect_failures < CONNECT_TRIES + 4:
            world.step()
        world.wanted, world.api_answers = Wanted.RUN, answers
        for _ in range(60):
            world.step()

        assert world.broken == []
        assert (world.containers == 1) is answers


@pytest.mark.parametrize("wanted", [Wanted.STOP, Wanted.DISABLED, Wanted.INVALID, Wanted.SHUTDOWN])
def test_what_is_not_wanted_is_removed_in_every_state(wanted: Wanted) -> None:
    """Stopping works while launching, logging in, ready and lost."""
    for steps in range(25):
        world = World()
        for _ in range(steps):
            world.step()
        world.wanted = wanted
        for _ in range(10):
            world.step()

        assert world.gateway is None, steps
        assert world.permit is None, steps
        assert world.attempt is None, steps
        assert world.memory.state.status in (GatewayStatus.STOPPED, GatewayStatus.FAILED), steps


@settings(max_examples=150)
@example([("a day", 6), ("log: starting", 0), ("a day", 2)])
@example([("a day", 3), ("runtime away", 5), ("runtime back", 1)])
@given(st.lists(st.tuples(st.sampled_from(sorted(MISHAPS)), st.integers(0, 6)), max_size=40))
def test_no_history_of_mishaps_breaks_a_rule(history: list[tuple[str, int]]) -> None:
    """READY only with proof, LAUNCH only with a permit and within every login rule, always a reason and a next action."""
    world = World()
    for mishap, steps in history:
        MISHAPS[mishap](world)
        for _ in range(steps):
            world.step()

    assert world.broken == []
    per_day = [
        sum(when <= other < when + timedelta(days=1) for other, _ in world.logins_typed)
        for when, _ in world.logins_typed
    ]
    assert max(per_day, default=0) <= 3 + len(history)  # each success or operator's own login may add one, never a loop


@settings(max_examples=80)
@given(st.lists(st.tuples(st.sampled_from(sorted(MISHAPS)), st.integers(0, 4)), max_size=25))
def test_once_the_mishaps_end_it_ends_ready_or_names_what_a_human_must_do(history: list[tuple[str, int]]) -> None:
    """Nothing is stuck for ever: with everything well again, the end is READY, or a state with a next action."""
    world = World()
    for mishap, steps in history:
        MISHAPS[mishap](world)
        for _ in range(steps):
            world.step()
    world.fail_next, world.api_answers, world.runtime_fault, world.stale = None, True, None, False
    world.wanted, world.password_is_right = Wanted.RUN, True
    restore_link(world)

    state = settled(world, 3000)

    assert state in (State.READY, State.NEEDS_HUMAN)
    assert state is State.READY or (world.decision is not None and world.decision.next_action)
