"""What protects an account, in made-up time: rejected passwords, budgets, phones, users, and what an operator may take."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import LoginRefusedError
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, BEN, PASSWORD, world_in
from support.made_up_time import in_made_up_time, until

REJECTED = {"wrong_password": True, "forever": True}
DAY = 24 * 3600.0
HOUR = 3600.0


@in_made_up_time
async def test_a_rejected_password_is_typed_once_and_never_again(tmp_path: Path) -> None:
    """A human is asked; a day later nothing more was typed. A new secret is tried at once."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", {"wrong_password": True})
        async with world.running() as manager:
            shown = await manager.state(State.NEEDS_HUMAN)
            assert shown.reason_code is ReasonCode.PASSWORD_REJECTED
            await asyncio.sleep(DAY)
            assert world.typed("anna") == 1
            world.broker.put("ibkr/anna", "user-anna", "another one")
            await manager.state(State.READY)
        assert world.outcomes("anna") == ["rejected", "succeeded"]


@in_made_up_time
async def test_a_word_for_live_that_brings_no_start_says_that_it_stands(tmp_path: Path) -> None:
    """Its next start is live, whoever brings it: nobody is to find that out by it."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.change("anna", trading_mode="live")
            await until(lambda: "goes on in paper" in " ".join(manager.seen().notices), manager.seen)
            world.broker.drop("ibkr/anna")
            with pytest.raises(
                LoginRefusedError, match="Live trading is confirmed all the same: its next start is live"
            ):
                await manager.launch(live=True)
            assert (manager.seen().state, manager.seen().trading_mode) == (State.READY, TradingMode.PAPER)
            with pytest.raises(LoginRefusedError) as again:
                await manager.restart()
            assert "confirmed" not in str(again.value)


@in_made_up_time
async def test_a_restart_that_could_not_have_its_login_is_told_by_its_gateway(tmp_path: Path) -> None:
    """Its key may be lost, which no version tells: whoever looks later is to know before the next login."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.broker.is_away = True
            with pytest.raises(LoginRefusedError):
                await manager.restart()
            assert any(
                "its login could not be had when it was last asked for" in each for each in manager.seen().notices
            )
            world.broker.is_away = False
            await manager.restart()
            await manager.state(State.READY)
            assert manager.seen().notices == ()


@in_made_up_time
async def test_a_stop_of_one_who_is_disabled_says_that_both_hold(tmp_path: Path) -> None:
    """Else its owner enables it, and waits for a gateway that nobody starts."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.change("anna", enabled=False)
            await manager.state(State.DISABLED)
            await manager.stop()
            await until(lambda: "launch anna" in (manager.seen().next_action or ""), manager.seen)
            world.change("anna", enabled=True)
            await manager.state(State.STOPPED)


@in_made_up_time
async def test_a_login_that_is_gone_is_told_while_its_gateway_runs(tmp_path: Path) -> None:
    """Its next login would fail, be it in a week: whoever looks is told today, until the login is back."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.broker.drop("ibkr/anna")
            await until(lambda: "could not log in again" in " ".join(manager.seen().notices), manager.seen)
            assert (manager.seen().state, world.typed("anna")) == (State.READY, 1)
            world.broker.put("ibkr/anna", "user-anna", "another")
            await until(lambda: manager.seen().notices == ("A new password waits for the next restart.",), manager.seen)


@in_made_up_time
async def test_a_rejection_outlives_the_manager(tmp_path: Path) -> None:
    """The next one reads it in the record, and types nothing."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", REJECTED)
        async with world.running() as manager:
            await manager.state(State.NEEDS_HUMAN)
            await until(lambda: len(world.engine.simulator) == 0)
        async with world.running() as manager:
            await manager.state(State.NEEDS_HUMAN)
            await asyncio.sleep(HOUR)
        assert world.typed("anna") == 1


@in_made_up_time
async def test_failing_logins_end_with_the_budget(tmp_path: Path) -> None:
    """With the pauses that grow in between; then a human is asked, and nothing more is typed."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", {"login_hangs": True, "forever": True})
        async with world.running(login_budget=3) as manager:
            await until(lambda: manager.seen().reason_code is ReasonCode.LOGIN_BUDGET_SPENT, manager.seen, within=DAY)
            await asyncio.sleep(DAY)
        pauses = [
            (after.reserved_at - before.reserved_at).total_seconds() for before, after in pairwise(world.logins("anna"))
        ]
        assert (len(pauses), pauses == sorted(pauses), pauses[0] >= 300) == (2, True, True)


@in_made_up_time
async def test_an_operator_takes_one_more_login_and_not_two_at_once(tmp_path: Path) -> None:
    """`retry_login` passes the rejection once; within a minute it is refused with why."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", {"wrong_password": True}, {"wrong_password": True})
        async with world.running() as manager:
            await manager.state(State.NEEDS_HUMAN)
            await asyncio.sleep(HOUR)
            await manager.launch(retry_login=True)
            await until(lambda: world.typed("anna") == 2)
            await manager.state(State.NEEDS_HUMAN)
            with pytest.raises(LoginRefusedError):
                await manager.launch(retry_login=True)
            await asyncio.sleep(HOUR)
            await manager.launch(retry_login=True)
            await manager.state(State.READY)
        assert [each.by_operator for each in world.logins("anna")] == [False, True, True]


@in_made_up_time
async def test_one_phone_is_asked_by_one_login_at_a_time(tmp_path: Path) -> None:
    """The second login of an owner waits until the first is approved."""
    async with world_in(tmp_path) as world:
        for name in ("anna", "ben"):
            world.add(name, trading_mode="live", phone_owner="olga")
            world.script(name, {"second_factor": {"answer": "pending"}}, timings="real")
        async with world.running() as manager:
            await until(lambda: State.AWAITING_2FA in (manager.seen().state, manager.seen(BEN).state))
            first, second = (ANNA, BEN) if manager.seen().state is State.AWAITING_2FA else (BEN, ANNA)
            assert manager.seen(second).state is State.QUEUED
            assert world.typed(second) == 0
            manager.inject("approve_second_factor", first)
            await manager.state(State.READY, first)
            await manager.state(State.AWAITING_2FA, second)
            manager.inject("approve_second_factor", second)
            await manager.state(State.READY, second)
        assert (world.typed(first), world.typed(second)) == (1, 1)


@in_made_up_time
async def test_a_phone_that_nobody_answers_is_asked_a_few_times_a_day(tmp_path: Path) -> None:
    """At most four prompts in 24 hours that nobody asked for."""
    async with world_in(tmp_path) as world:
        world.add("anna", trading_mode="live")
        world.script("anna", {"second_factor": {"answer": "missed"}, "forever": True}, timings="real")
        async with world.running(login_budget=8):
            await asyncio.sleep(DAY / 2)
        assert 1 <= world.typed("anna") <= 4


@in_made_up_time
async def test_one_user_has_one_gateway(tmp_path: Path) -> None:
    """Two followers with one IBKR user: the second says so and never logs in beside the first."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.add("ben")
        world.broker.put("ibkr/ben", "USER-anna", PASSWORD)
        async with world.running() as manager:
            await until(lambda: State.READY in (manager.seen().state, manager.seen(BEN).state))
            first, second = (ANNA, BEN) if manager.seen().state is State.READY else (BEN, ANNA)
            await asyncio.sleep(HOUR)
            assert manager.seen(first).state is State.READY
            assert manager.seen(second).reason_code is ReasonCode.USER_LOGGED_IN_ELSEWHERE
            assert world.typed(second) == 0
            await manager.stop(first)
            await manager.state(State.READY, second)


@in_made_up_time
async def test_a_login_in_ibkrs_reset_is_not_typed_before_it_is_over(tmp_path: Path) -> None:
    """It waits, says until when, and then logs in; nothing is charged."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", reset_hours="America/New_York 10:00-11:00")
        async with world.running() as manager:
            shown = await manager.state(State.QUEUED)
            await until(lambda: manager.seen().reason_code is ReasonCode.IBKR_RESET_WINDOW, lambda: shown)
            await asyncio.sleep(HOUR / 2)
            assert world.typed("anna") == 0
            await manager.state(State.READY)
        assert world.outcomes("anna") == ["succeeded"]


@in_made_up_time
async def test_a_secret_that_is_away_is_waited_for(tmp_path: Path) -> None:
    """Nobody logs in, nothing is given up; once it can be read the login goes on."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.broker.is_away = True
        async with world.running() as manager:
            await until(lambda: ANNA in manager.fleet.supervisors)
            await asyncio.sleep(HOUR)
            assert manager.seen().state in (State.QUEUED, State.BACKING_OFF)
            world.broker.is_away = False
            await manager.state(State.READY)
        assert (world.typed("anna"), world.outcomes("anna")) == (1, ["succeeded"])


@in_made_up_time
async def test_the_logins_that_are_told_are_those_of_the_user(tmp_path: Path) -> None:
    """At half of a day's full logins it is said, each counted once; another user of the same follower has made none of them."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running(full_login_limit=6) as manager:
            for made in range(1, 4):
                await manager.state(State.READY)
                told = [each for each in manager.seen().notices if "full login" in each]
                assert bool(told) == (made == 3), told
                if made == 3:
                    assert "user-anna made 3 full logins" in told[0]
                    world.broker.put("ibkr/anna", "brandnew", PASSWORD)
                await asyncio.sleep(HOUR)
                await manager.restart()
            await manager.state(State.READY)
            assert not any("full login" in each for each in manager.seen().notices)
            assert world.outcomes("anna") == ["succeeded"] * 4
