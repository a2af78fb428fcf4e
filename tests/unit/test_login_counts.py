"""What was counted decides: controllers that begin again by themselves, fed as log lines through the real parser."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from spreadpilot_core.ibkr.controller_log.reader import APPROVAL_LIMIT, LoginLog
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, Limits, Wanted
from spreadpilot_core.ibkr.deciding.pacing import LOSSES
from spreadpilot_core.ibkr.model.gateways import Controller
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from support.controller_lines import corpus
from support.log_world import LogWorld

BOTH = pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])
DELIVERIES: dict[str, dict[str, Any]] = {
    "as it is printed": {},
    "line by line": {"one_by_one": True},
    "late": {"delay": 2.0},
    "to a loaded machine": {"latency": 1.5},
    "late, to a loaded machine": {"delay": 2.0, "latency": 1.5},
}


def outcomes(world: LogWorld) -> list[LoginOutcome | None]:
    return [each.outcome for each in world.attempts]


def under_way(world: LogWorld) -> bool:
    return bool(world.typed) and world.login is not None and world.login.phase is LoginPhase.AUTHENTICATING


@BOTH
@pytest.mark.parametrize("failure", ["login error", "no server"])
@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_login_loop_never_passes_the_budget(controller: Controller, failure: str, budget: int, delivery: str) -> None:
    """The controller has left FAILED before anybody looks: its second lap, or the last login of the budget, ends it."""
    world = LogWorld(controller=controller, always=failure, limits=Limits(login_budget=budget), **DELIVERIES[delivery])
    world.run(timedelta(hours=6))

    assert len(world.typed) == budget
    assert all(world.typed_in(f"c{number + 1}") <= 2 for number in range(world.containers))
    assert world.memory.state is State.NEEDS_HUMAN
    assert {grace for _, grace in world.removals} == {1}
    assert [each.outcome for each in world.attempts] == [LoginOutcome.FAILED] * budget
    assert any(
        "Login error" in reason or "login error" in reason or "onnection to server" in reason
        for reason in world.reasons
    )
    assert world.broken == []


@BOTH
def test_login_failed_in_a_burst_is_a_rejection_at_its_first_lap(controller: Controller) -> None:
    """`Login failed` may be a wrong password, also when the next program's start is all that can be seen."""
    world = LogWorld(controller=controller, always="login failed", delay=2.0)
    world.run(timedelta(hours=6))
    assert (len(world.typed), outcomes(world)) == (1, [LoginOutcome.REJECTED])
    assert world.record.rejected_version == "1"


@BOTH
@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_phone_that_was_missed_is_not_asked_again_by_the_controller(controller: Controller, delivery: str) -> None:
    """What IBKR answered stays, although the controller begins a new login in the same burst."""
    world = LogWorld(controller=controller, always="phone missed", phone="olga", **DELIVERIES[delivery])
    world.limits = replace(world.limits, phone_approval_time=600)
    world.run(timedelta(hours=6))
    assert (len(world.typed), outcomes(world)) == (1, [LoginOutcome.SECOND_FACTOR_MISSED])
    assert world.memory.state is State.NEEDS_HUMAN


def test_the_real_logs_second_failure_ends_its_container_whatever_is_shown() -> None:
    """The corpus as it was printed, read up to any line: once the second login failed, the phase is no excuse."""
    real = corpus()["loginfailed"]
    lines = [line.replace("login failed", "login error") for line in real]  # the same burst, and no rejection
    second = [number for number, line in enumerate(lines) if "login error -- transient" in line][1]
    seen = set()
    for end in range(second - 14, second + 11):
        world = LogWorld(always="no window")
        world.until(lambda world=world: world.gateway is not None)  # type: ignore[misc]
        log = LoginLog("ibcontroller")
        for line in lines[: end + 1]:
            log.read(line)
        world.login, world._login_log = log.view, log  # the world's own controller prints nothing
        seen.add(log.view.phase)
        for _ in range(4):
            world.step()
        assert [grace for _, grace in world.removals[:1]] == ([1] if end >= second else []), lines[end]
    assert {LoginPhase.FAILED, LoginPhase.STARTING, LoginPhase.FORM, LoginPhase.AUTHENTICATING} <= seen


@BOTH
def test_a_login_that_completes_forgives_the_laps_before_it(controller: Controller) -> None:
    """One relaunch is the controller's own good, and stays so in each of its logins."""
    world = LogWorld(controller=controller, fates=deque(["login error", "good"]))
    world.until(lambda: world.memory.state is State.READY)
    assert (world.containers, len(world.typed), world.removals) == (1, 2, [])
    assert outcomes(world) == [LoginOutcome.FAILED, LoginOutcome.SUCCEEDED]


@BOTH
def test_a_lap_of_an_earlier_login_is_no_loop_today(controller: Controller) -> None:
    """Each session that is lost may cost one failure and one relaunch; the second failure in a row is too many."""
    world = LogWorld(controller=controller)
    for failures, containers in (("login error", 1), ("login error", 1)):
        world.until(lambda: world.memory.state is State.READY)
        world.fates = deque([failures])
        world.lose_session()
        world.run(timedelta(minutes=5))
        assert (world.containers, world.memory.state) == (containers, State.READY)
    world.limits = Limits(login_budget=8)
    world.fates = deque(["login error", "login error"])
    world.lose_session()
    world.until(lambda: world.containers == 2)
    assert most_typed_in_a_row(world) == 2


def most_typed_in_a_row(world: LogWorld) -> int:
    return max(
        len(list(group)) for failed, group in itertools.groupby(world.typed, key=lambda each: each.failed) if failed
    )


@BOTH
def test_an_operators_login_is_one_login(controller: Controller) -> None:
    """With the budget spent, `--retry-login` takes one more: the controller's own repetition of it is not asked for."""
    world = LogWorld(controller=controller, always="login error")
    world.run(timedelta(hours=2))
    typed = len(world.typed)
    world.operator_says(retry_login=True)
    world.run(timedelta(hours=2))
    assert len(world.typed) == typed + 1
    assert world.typed[-1].by_operator


@BOTH
def test_a_loop_is_ended_also_while_nothing_may_be_started(controller: Controller) -> None:
    """The followers can't be read: what is logged in stays, and what types one login after the other does not."""
    world = LogWorld(controller=controller, always="login error")
    world.until(lambda: bool(world.typed))
    world.wanted = Wanted.KEEP
    world.run(timedelta(minutes=10))
    assert (len(world.typed), world.gateway) == (2, None)


@BOTH
def test_the_next_manager_ends_a_loop_that_it_finds(controller: Controller) -> None:
    """It reads the container's log from its start: what was typed before it came is counted and booked."""
    world = LogWorld(controller=controller, always="login error")
    world.until(lambda: len(world.typed) == 2)
    world.restart_manager()
    world.until(lambda: world.gateway is None)
    assert len(world.typed) == 2
    assert [each.outcome for each in world.attempts] == [LoginOutcome.FAILED] * 2


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_lost_lines_cost_at_most_a_few_logins(controller: Controller, seed: int) -> None:
    """Either kind of line tells of a lap; with a fifth of all lines gone the account is still far from its lock."""
    world = LogWorld(controller=controller, always="login error", losing=0.2, rng=random.Random(seed))
    world.run(timedelta(hours=6))
    assert len(world.typed) <= 6
    assert world.memory.state is State.NEEDS_HUMAN


# ------------------------------------------------------------------ nothing typed


@BOTH
@pytest.mark.parametrize("fate", ["no window", "window late"])
def test_a_host_too_slow_for_the_login_window_spends_no_login(controller: Controller, fate: str) -> None:
    """IBKR has seen nothing: void, at a failed launch's pace, and the sentence says what was seen."""
    world = LogWorld(controller=controller, always=fate)
    world.run(timedelta(hours=2))
    assert (world.typed, world.counted(), world.recent()) == ([], [], [])
    assert set(outcomes(world)) <= {LoginOutcome.VOID, None}
    assert 6 <= world.containers <= 30
    assert "window did not appear" in " ".join(world.reasons)
    assert "the host is slow" in " ".join(world.reasons)
    world.always = "good"
    world.until(lambda: world.memory.state is State.READY)
    assert [each.failed for each in world.typed] == [False]


@BOTH
def test_a_login_whose_container_dies_after_it_was_typed_counts(controller: Controller) -> None:
    """What was typed may have been seen, whatever ended the container."""
    world = LogWorld(controller=controller, always="dies")
    world.run(timedelta(hours=6))
    assert (len(world.typed), world.memory.state) == (3, State.NEEDS_HUMAN)


# ------------------------------------------------------------------ logins that we break off


@BOTH
def test_a_stop_before_anything_was_typed_is_void(controller: Controller) -> None:
    """Ctrl-C while the program starts costs the account nothing."""
    world = LogWorld(controller=controller)
    world.until(lambda: world.login is not None and world.login.saw_first_line)
    world.unwanted()
    assert (world.typed, outcomes(world)) == ([], [LoginOutcome.VOID])


@BOTH
def test_a_stop_waits_for_a_login_that_is_under_way(controller: Controller) -> None:
    """Fifteen seconds are enough for most: it completes, and nothing counts."""
    world = LogWorld(controller=controller)
    world.until(lambda: under_way(world))
    asked = world.now
    world.unwanted()
    assert outcomes(world) == [LoginOutcome.SUCCEEDED]
    assert world.now - asked < timedelta(seconds=30)


@BOTH
def test_a_login_that_tells_nothing_within_fifteen_seconds_counts_and_costs_no_pause(controller: Controller) -> None:
    """Nobody knows whether IBKR took it for a failure; the next start need not wait for our own word."""
    world = LogWorld(controller=controller, fates=deque(["hangs"]))
    world.until(lambda: under_way(world))
    asked = world.now
    world.unwanted()
    assert outcomes(world) == [LoginOutcome.BROKEN_OFF]
    assert timedelta(seconds=15) <= world.removals[0][0] - asked < timedelta(seconds=17)
    assert len(world.counted()) == 1
    world.wanted, begun = Wanted.RUN, world.now
    world.until(lambda: world.memory.state is State.READY)
    assert world.now - begun < timedelta(seconds=60)


@BOTH
def test_a_login_broken_off_at_the_phone_is_no_failed_one(controller: Controller) -> None:
    """The password was accepted: it counts in the daily limit alone, and nobody waits for a phone at the end."""
    world = LogWorld(controller=controller, always="phone", phone="olga")
    world.until(lambda: world.memory.state is State.AWAITING_2FA)
    asked = world.now
    world.unwanted()
    assert outcomes(world) == [LoginOutcome.BROKEN_OFF_ACCEPTED]
    assert (len(world.counted()), len(world.recent())) == (0, 1)
    assert world.removals[0][0] - asked < timedelta(seconds=2)


@BOTH
def test_a_prompt_has_the_time_that_ibkr_gives_it(controller: Controller) -> None:
    """Three minutes from when it came, whoever watches: the controller's own end comes later and helps nobody."""
    world = LogWorld(controller=controller, always="phone", phone="olga")
    world.until(lambda: world.memory.state is State.AWAITING_2FA)
    by = world.now + timedelta(seconds=APPROVAL_LIMIT)
    assert world.decision is not None
    assert world.decision.next_action == f"It has until {by:%H:%M:%S} UTC."
    assert world.decision.why is not None
    assert str(world.decision.why.facts["until"])[:19] == by.isoformat()[:19]
    world.run(timedelta(seconds=60))
    world.restart_manager()
    world.until(lambda: world.memory.state is State.AWAITING_2FA)
    assert f"{by:%H:%M}" not in (world.decision.next_action or "")
    assert (world.decision.next_action or "").startswith("It was asked before ")


@BOTH
@pytest.mark.parametrize("answer", ["rejected", "throttled"])
def test_what_ibkr_answers_while_we_stop_is_not_lost(controller: Controller, answer: str) -> None:
    """A rejection that comes in the last moment keeps its meaning for the next manager."""
    world = LogWorld(controller=controller, fates=deque([answer]))
    world.until(lambda: bool(world.typed))
    world.unwanted()
    assert outcomes(world) == [LoginOutcome.REJECTED if answer == "rejected" else LoginOutcome.THROTTLED]
    assert (world.record.rejected_version == "1") is (answer == "rejected")


@BOTH
def test_a_controller_whose_login_failed_is_not_given_the_time_for_another_by_a_stop(controller: Controller) -> None:
    """It relaunches while the manager stops: one second, not the grace of a gateway that is logged in."""
    world = LogWorld(controller=controller, always="login error")
    world.until(lambda: world.login is not None and world.login.relaunches == 1)
    world.unwanted()
    assert (len(world.typed), world.removals[-1][1]) == (1, 1)


@BOTH
def test_a_success_ends_the_pause_of_the_failure_before_it(controller: Controller) -> None:
    """A gateway that is lost an hour after its login is back at once, although an earlier login failed."""
    world = LogWorld(controller=controller, fates=deque(["login error", "good"]))
    world.until(lambda: world.memory.state is State.READY)
    world._end()  # its container ends
    lost = world.now
    world.until(lambda: world.containers == 2 and world.memory.state is State.READY)
    assert world.now - lost < timedelta(seconds=30)


# ------------------------------------------------------------------ accepted, and never useful


@BOTH
def test_three_gateways_that_end_soon_after_their_login_are_enough(controller: Controller) -> None:
    """Each costs a full login: rising pauses, then a human with the evidence, and `launch` begins anew."""
    world = LogWorld(controller=controller, session=60)
    world.run(timedelta(hours=24))
    assert (len(world.typed), world.memory.state, world.containers) == (LOSSES, State.NEEDS_HUMAN, LOSSES)
    starts = [each.at for each in world.typed]
    assert starts[2] - starts[1] >= timedelta(seconds=90)
    assert world.decision is not None
    assert world.decision.reason_code is ReasonCode.SESSIONS_UNSTABLE
    assert "ended" in (world.decision.reason or "")


@BOTH
def test_who_asks_for_a_human_says_what_for_from_the_first_moment(controller: Controller) -> None:
    """While the last container is removed the cause is still how it ended: a human is asked once the code is that of asking."""
    world = LogWorld(controller=controller, session=60)
    told = []

    def asked() -> bool:
        if world.decision is not None and world.decision.state is State.NEEDS_HUMAN:
            told.append(world.decision.reason_code)
        return len(told) > 1

    world.until(asked)
    assert set(told) == {ReasonCode.SESSIONS_UNSTABLE}


@BOTH
def test_an_api_that_never_opens_is_a_loss_like_any_other(controller: Controller) -> None:
    """The login has completed, and nobody can connect: three containers, then a human."""
    world = LogWorld(controller=controller, api_answers=False)
    world.run(timedelta(hours=24))
    assert (len(world.typed), world.memory.state) == (LOSSES, State.NEEDS_HUMAN)


@BOTH
def test_a_stable_session_forgives_the_losses_before_it(controller: Controller) -> None:
    """One loss an hour is no reason to stop, only the limit of full logins is."""
    world = LogWorld(controller=controller, session=3600, limits=Limits(full_login_limit=12))
    world.run(timedelta(hours=23))
    assert (len(world.typed), world.memory.state) == (12, State.NEEDS_HUMAN)
    assert world.decision is not None
    assert world.decision.reason_code is ReasonCode.FULL_LOGIN_LIMIT
    assert "--retry-login" in (world.decision.next_action or "")


@BOTH
def test_losses_that_most_of_the_fleet_shares_count_for_nobody(controller: Controller) -> None:
    """Each is one outage: tried again, spread and ever more slowly, until the limit of full logins."""
    world = LogWorld(
        controller=controller, session=60, limits=Limits(full_login_limit=12), fleet=FleetView(total=3, lost=2)
    )
    world.run(timedelta(hours=24))
    assert len(world.typed) == 12
    assert world.record.losses == 0
    assert world.decision is not None
    assert world.decision.reason_code is ReasonCode.FULL_LOGIN_LIMIT


def test_an_outage_that_is_known_only_later_takes_the_human_back() -> None:
    """The first of a fleet to be lost for the third time can't know yet that the others follow."""
    world = LogWorld(session=60)
    world.until(lambda: world.record.losses == LOSSES)
    world.fleet = FleetView(total=40, lost=30)
    world.session = None
    world.until(lambda: world.memory.state is State.READY)
    assert world.record.losses == LOSSES - 1


@pytest.mark.parametrize("fleet", [FleetView(total=2, lost=2), FleetView(total=4, lost=2), FleetView(total=40, lost=1)])
def test_a_share_of_the_fleet_that_says_nothing_changes_nothing(fleet: FleetView) -> None:
    """Two gateways are no fleet, and half of one is not more than half."""
    world = LogWorld(session=60, fleet=fleet)
    world.run(timedelta(hours=6))
    assert (len(world.typed), world.memory.state) == (LOSSES, State.NEEDS_HUMAN)


def test_a_phone_is_asked_four_times_a_day_by_itself() -> None:
    """Whoever approves by phone is not called all night; an operator's word passes it."""
    world = LogWorld(session=3600, phone="olga", limits=Limits(full_login_limit=12))
    world.run(timedelta(hours=20))
    assert (len(world.typed), world.memory.state) == (4, State.NEEDS_HUMAN)
    assert world.decision is not None
    assert world.decision.reason_code is ReasonCode.PHONE_PROMPT_LIMIT
    world.operator_says(retry_login=True)
    world.until(lambda: world.memory.state is State.READY)
    assert len(world.typed) == 5


def test_the_sentence_names_on_exit_where_a_program_stops_its_gateways() -> None:
    """Twelve starts of a script are twelve full logins: the cure is to leave the gateways running."""
    world = LogWorld(limits=Limits(full_login_limit=2))
    for _ in range(2):
        world.wanted = Wanted.RUN
        world.until(lambda: world.memory.state is State.READY)
        world.unwanted()
    world.record = replace(world.record, ended_with_manager=True)  # as the supervisor writes it
    world.wanted = Wanted.RUN
    world.until(lambda: world.memory.state is State.NEEDS_HUMAN)
    assert world.decision is not None
    assert 'on_exit="detach"' in (world.decision.next_action or "")
    assert (len(world.typed), world.broken) == (2, [])


# ------------------------------------------------------------------ an operator's own logins


def refused(world: LogWorld) -> Reason:
    """An operator says `--retry-login` and is refused."""
    world.refused_login = None
    world.operator_says(retry_login=True)
    world.until(lambda: world.refused_login is not None, steps=10)
    assert world.refused_login is not None
    return world.refused_login


def test_an_operators_logins_end_at_eight_and_the_sentence_names_the_word() -> None:
    """Whoever asks, IBKR locks at ten: 60 s lie between two, eight that count are the end without another word."""
    world = LogWorld(always="login error")
    world.run(timedelta(hours=2))
    for _ in range(5):
        world.operator_says(retry_login=True)
        world.run(timedelta(minutes=3))
    assert len(world.typed) == 8
    assert "--override-account-lock user" in refused(world).next_action
    world.run(timedelta(hours=1))
    assert (len(world.typed), world.operator_login) == (8, False)


def test_two_logins_of_an_operator_lie_a_minute_apart() -> None:
    """The word is not kept for later: it is said again after the time that the sentence names."""
    world = LogWorld(always="rejected")
    world.until(lambda: world.memory.state is State.NEEDS_HUMAN and world.gateway is None)
    world.operator_says(retry_login=True)
    world.until(lambda: len(world.typed) == 2 and world.gateway is None and world.attempt is None)
    refusal = refused(world)
    assert refusal.code is ReasonCode.OPERATOR_LOGIN_REFUSED
    assert "60 s" in refusal.sentence
    world.run(timedelta(hours=1))
    assert len(world.typed) == 2


def test_a_refused_operators_login_leaves_the_reason_that_stood() -> None:
    """Whoever asked is told why not; the gateway goes on to say what it waits for, and with which word it goes on."""
    world = LogWorld(always="login error")
    world.run(timedelta(hours=2))
    world.operator_says(retry_login=True)
    world.until(lambda: len(world.typed) == 4 and world.gateway is None and world.memory.state is State.NEEDS_HUMAN)
    assert world.decision is not None
    stood, told = world.decision, len(world.reasons)
    assert stood.reason_code is ReasonCode.LOGIN_BUDGET_SPENT
    refused(world)
    world.run(timedelta(minutes=10))
    now = world.decision
    assert (now.reason, now.next_action, now.reason_code) == (stood.reason, stood.next_action, stood.reason_code)
    assert len(world.reasons) == told


def test_a_refused_operators_login_begins_nothing_and_forgets_no_human() -> None:
    """What a human was asked for before stays asked for: a word that was refused has seen to nothing."""
    world = LogWorld(always="phone missed")
    world.until(lambda: world.memory.state is State.NEEDS_HUMAN and world.gateway is None)
    stood, typed = world.record.needs_human, len(world.typed)
    world.overridden_user = "somebody"
    refused(world)
    world.overridden_user = None
    world.run(timedelta(minutes=10))
    assert world.record.needs_human == stood is not None
    assert len(world.typed) == typed


def test_an_override_names_the_right_user_or_is_refused() -> None:
    """The word that lets an account be locked says which: another follower's is none."""
    world = LogWorld(always="login error")
    world.run(timedelta(hours=2))
    world.attempts += [
        replace(world.attempts[0], id=f"more-{number}", container_id=ContainerId("old"), reserved_at=world.now)  # type: ignore[arg-type]
        for number in range(6)
    ]
    world.overridden_user = "somebody"
    assert "somebody" in refused(world).sentence
    world.overridden_user, typed = "USER", len(world.typed)
    world.operator_says(retry_login=True)
    world.until(lambda: len(world.typed) == typed + 1)


# ------------------------------------------------------------------ restart


def test_a_restart_asks_every_rule_before_it_stops_the_gateway() -> None:
    """A spent limit, a pause, another follower's user: refused, with the gateway as it was."""
    world = LogWorld(limits=Limits(full_login_limit=1))
    world.until(lambda: world.memory.state is State.READY)
    for change, words in (
        ({}, "full_login_limit"),
        ({"limits": Limits(), "user_taken_by": "ben"}, "ben"),
        ({"limits": Limits(login_budget=1), "fails": 1}, "login budget"),
    ):
        world.limits = change.get("limits", world.limits)  # type: ignore[assignment]
        world.user_taken_by = change.get("user_taken_by")  # type: ignore[assignment]
        if change.get("fails"):
            failed = replace(world.attempts[0], id="x", outcome=LoginOutcome.BROKEN_OFF, reserved_at=world.now)  # type: ignore[arg-type]
            world.attempts.append(failed)
        world.restart_asked, world.preflight = world.now, None
        sentence = None
        for _ in range(10):
            decision = world.step()
            assert decision.action is None or decision.action.kind is not ActionKind.REMOVE
            sentence = sentence or decision.refuse_restart
            if sentence is not None:
                break
        assert words in str(sentence), sentence
        world.restart_asked = None
    assert world.containers == 1
