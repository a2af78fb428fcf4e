"""How logins go wrong, in both controllers' words, and what the manager makes of it. Every trouble is one of the simulated IBKR's own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.errors import LoginRefusedError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import Event, SecondFactorRequested
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from spreadpilot_core.ibkr.wiring import open_records
from support.home import Home, eventually, running, seen

ANNA = FollowerId("anna")


@pytest.fixture(params=["ibc", "ibcontroller"])
async def home(request: pytest.FixtureRequest) -> AsyncIterator[Home]:
    place = Home()
    place.settings["gateway_image_contract"] = request.param
    yield place
    await place.end()


@pytest.fixture
async def runtime(home: Home) -> AsyncIterator[SimulatedRuntime]:
    client = home.runtime()
    await client.open()
    yield client
    await client.close()


async def state(manager: GatewayManager, wanted: State, follower_id: str = ANNA) -> None:
    await eventually(lambda: seen(manager, follower_id).state is wanted, lambda: seen(manager, follower_id))


async def starts(home: Home) -> int:
    text = await asyncio.to_thread((home.directory / "operations.jsonl").read_text)
    lines = [json.loads(line) for line in text.splitlines()]
    return sum(each["operation"] == "start" and each["phase"] == "begin" for each in lines)


async def test_a_live_login_waits_for_its_phone_and_then_gets_ready(home: Home, runtime: SimulatedRuntime) -> None:
    """AWAITING_2FA is shown while the phone is asked, and get_client waits through it."""
    await home.add(ANNA, live=True)
    await runtime.script(ANNA, [{"second_factor": "pending"}])
    async with running(home) as manager:
        await state(manager, State.AWAITING_2FA)
        waiting = asyncio.create_task(manager.get_client(ANNA))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await runtime.inject(ANNA, "approve_second_factor")

        assert await waiting is not None
        await state(manager, State.READY)
        assert seen(manager, ANNA).trading_mode == "live"


async def test_a_missed_approval_waits_for_a_human_who_has_the_phone_at_hand(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """One push; then nothing until an operator says launch, which needs no other permission."""
    await home.add(ANNA, live=True)
    await runtime.script(ANNA, [{"second_factor": "missed"}])
    async with running(home) as manager:
        await state(manager, State.NEEDS_HUMAN)
        assert "phone" in (seen(manager, ANNA).reason or "")
        await asyncio.sleep(0.5)
        assert await starts(home) == 1
        await manager.launch_gateway(ANNA)
        await state(manager, State.READY)
        assert await starts(home) == 2


async def test_one_phone_is_never_asked_twice_at_once(home: Home, runtime: SimulatedRuntime) -> None:
    """Two live followers of one owner: the second prompt comes only after the first is answered."""
    await home.add(ANNA, "ben", live=True)
    text = await asyncio.to_thread(home.followers_file.read_text)
    owned = text.replace("enabled = true", 'enabled = true\nphone_owner = "olga"')
    await asyncio.to_thread(home.followers_file.write_text, owned)
    for each in (ANNA, FollowerId("ben")):
        await runtime.script(each, [{"second_factor": "pending"}])
    prompts: list[Event] = []
    async with running(home) as manager:
        listening = asyncio.create_task(listen_for_prompts(manager, prompts))
        await eventually(lambda: len(prompts) == 1)
        first = FollowerId(prompts[0].follower_id or "")
        other = "ben" if first == ANNA else ANNA
        await state(manager, State.QUEUED, other)
        await eventually(lambda: first in (seen(manager, other).reason or ""), lambda: seen(manager, other))
        await asyncio.sleep(0.5)
        assert len(prompts) == 1
        assert seen(manager, other).state is State.QUEUED

        await runtime.inject(first, "approve_second_factor")
        await eventually(lambda: len(prompts) == 2)
        await runtime.inject(FollowerId(other), "approve_second_factor")
        await state(manager, State.READY, other)
    await listening


async def listen_for_prompts(manager: GatewayManager, prompts: list[Event]) -> None:
    async for event in manager.events():
        if isinstance(event, SecondFactorRequested):
            prompts.append(event)  # noqa: PERF401  # the list is read while this still listens


async def test_too_many_attempts_waits_as_long_as_ibkr_said_also_for_an_operator(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """The stated wait is obeyed by everyone, `--retry-login` included."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"too_many_attempts": 1800}])
    async with running(home) as manager:
        await state(manager, State.BACKING_OFF)
        with pytest.raises(LoginRefusedError):
            await manager.launch_gateway(ANNA, retry_login=True)
        assert await starts(home) == 1
        await eventually(lambda: "Next" in (seen(manager, ANNA).next_action or ""), lambda: seen(manager, ANNA))


async def test_a_launch_while_the_old_container_is_being_removed_gets_the_answer_of_the_next_login(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """A gateway that is given up is no success of a launch, although its process still runs."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"too_many_attempts": 1800}])
    await runtime.ask_host("answer_late", operation="remove", seconds=1.0)
    async with running(home) as manager:
        await state(manager, State.BACKING_OFF)
        with pytest.raises(LoginRefusedError):
            await manager.launch_gateway(ANNA, retry_login=True)
        assert await starts(home) == 1


async def test_login_failed_outside_the_reset_is_one_login_and_then_a_human(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """A controller that starts over by itself is stopped before it has burnt the budget."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"login_failed": True, "forever": True}])
    async with running(home) as manager:
        await eventually(lambda: seen(manager, ANNA).status.value == "FAILED", lambda: seen(manager, ANNA))
        await eventually(lambda: seen(manager, ANNA).container is None)
        await asyncio.sleep(0.3)
        assert await starts(home) == 1


async def test_programs_that_stop_their_gateways_meet_the_limit_of_full_logins(home: Home) -> None:
    """Each start is a full login: the sentence names on_exit, an operator's word passes it, and a restart asks before it stops."""
    await home.add(ANNA)
    for made in range(2):
        async with running(home, full_login_limit=2) as manager:
            await state(manager, State.READY)
            notices = " ".join(seen(manager, ANNA).notices)
            assert f"user-anna made {('1 full login', '2 full logins')[made]} within 24 h" in notices
    async with running(home, full_login_limit=2) as manager:
        await state(manager, State.NEEDS_HUMAN)
        assert 'on_exit="detach"' in (seen(manager, ANNA).next_action or "")
        with pytest.raises(LoginRefusedError, match="--retry-login"):
            await manager.launch_gateway(ANNA)
        assert await starts(home) == 2
        await manager.launch_gateway(ANNA, retry_login=True)
        await state(manager, State.READY)
        container = seen(manager, ANNA).container
        with pytest.raises(LoginRefusedError, match="full_login_limit"):
            await manager.restart_gateway(ANNA)
        assert (seen(manager, ANNA).state, seen(manager, ANNA).container) == (State.READY, container)
        assert await starts(home) == 3


async def test_a_stop_in_the_middle_of_a_login_waits_for_it(home: Home, runtime: SimulatedRuntime) -> None:
    """A typed login that is broken off would count as failed: it completes first, and the next manager finds nothing counted."""
    await home.add(ANNA)
    await runtime.script(ANNA, [], timings={"login": 3.0})
    manager = home.manager()
    await manager.start()
    await eventually(lambda: "IBKR is asked" in (seen(manager, ANNA).reason or ""), lambda: seen(manager, ANNA))
    await manager.stop()
    records = open_records(manager.settings)
    await records.open()
    made = await records.full_logins("user-anna", datetime.now(UTC) - timedelta(days=1))
    await records.close()
    assert [each.outcome for each in made] == [LoginOutcome.SUCCEEDED]


async def test_the_nightly_restart_costs_no_login_and_keeps_the_container(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """RESTARTING, then READY again with a new client in the same container."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        old, container = await manager.get_client(ANNA), seen(manager, ANNA).container
        await runtime.inject(ANNA, "nightly_restart")
        await eventually(lambda: not manager.is_healthy(ANNA))
        await state(manager, State.READY)

        assert await manager.get_client(ANNA) is not old
        assert seen(manager, ANNA).container == container
        assert await starts(home) == 1


async def test_a_program_that_dies_is_replaced(home: Home, runtime: SimulatedRuntime) -> None:
    """A crash after READY is a loss: a new container at once, and the old exit code is told."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        await runtime.inject(ANNA, "crash")
        await eventually(lambda: not manager.is_healthy(ANNA))
        await state(manager, State.READY)
        assert await starts(home) == 2


async def test_an_api_that_stays_shut_after_the_login_costs_six_tries_and_then_a_new_container(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """The cheapest cure first; the second container works."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"then": [{"after": 0, "fault": "api_shut"}]}])
    async with running(home, connect_time=6.0) as manager:
        await state(manager, State.READY)
        assert await starts(home) == 2


async def test_a_login_that_hangs_is_given_up_within_max_startup_time(home: Home, runtime: SimulatedRuntime) -> None:
    """FAILED with the reason, and the next login has its time."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"login_hangs": True}])
    async with running(home, max_startup_time=2.0) as manager:
        await state(manager, State.BACKING_OFF)
        await eventually(
            lambda: "1 login of user-anna failed" in (seen(manager, ANNA).reason or ""), lambda: seen(manager, ANNA)
        )
        assert await starts(home) == 1


async def test_a_window_that_only_a_human_can_close_is_named(home: Home, runtime: SimulatedRuntime) -> None:
    """NEEDS_HUMAN says what to do; the gateway is left for the human to look at."""
    await home.add(ANNA)
    await runtime.script(ANNA, [{"login_notice": "Login Messages"}])
    async with running(home) as manager:
        await state(manager, State.NEEDS_HUMAN)
        assert seen(manager, ANNA).next_action


async def test_a_login_that_manages_another_account_is_not_running(home: Home, runtime: SimulatedRuntime) -> None:
    """RUNNING needs the follower's own account among the managed ones."""
    await home.add(ANNA, account="DU7654321")
    await runtime.script(ANNA, accounts=["DU1111111"])
    async with running(home) as manager:
        await state(manager, State.NEEDS_HUMAN)
        assert await manager.get_client(ANNA) is None
        assert await starts(home) == 1


async def test_a_session_lost_for_good_is_replaced_or_handed_to_a_human(home: Home, runtime: SimulatedRuntime) -> None:
    """The known false rejection after a re-login gets one new container, which logs in."""
    await home.add(ANNA)
    async with running(home, max_startup_time=10.0) as manager:
        await state(manager, State.READY)
        await runtime.inject(ANNA, "session_lost")
        await eventually(lambda: not manager.is_healthy(ANNA))
        await eventually(lambda: manager.is_healthy(ANNA), lambda: seen(manager, ANNA))
        assert await starts(home) == 2


async def test_the_engine_dies_with_everything_in_it_and_everything_comes_back(home: Home) -> None:
    """A killed host takes its gateways along without an event: they are missed and started again."""
    await home.add(ANNA, "ben")
    async with running(home) as manager:
        await state(manager, State.READY)
        await state(manager, State.READY, "ben")
        await kill_host(home)
        await eventually(lambda: not manager.is_healthy(ANNA))
        await state(manager, State.READY)
        await state(manager, State.READY, "ben")
        assert await starts(home) == 4


async def kill_host(home: Home) -> None:
    address = await asyncio.to_thread(read_address, home.directory)
    assert address is not None
    os.kill(address.pid, signal.SIGKILL)
