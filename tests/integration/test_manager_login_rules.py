"""Rules that keep a running manager from logins that nobody should spend, both controllers, on simulated gateways."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from spreadpilot_core.ibkr.deciding.pacing import LOSSES
from spreadpilot_core.ibkr.errors import LoginRefusedError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.records import LoginAttempt, Record
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from support.home import PATIENCE, Home, eventually, running, seen

ANNA, BERT, CARL = FollowerId("anna"), FollowerId("bert"), FollowerId("carl")


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


async def state(manager: GatewayManager, wanted: State, follower_id: str = ANNA, *, within: float = PATIENCE) -> None:
    await eventually(
        lambda: seen(manager, follower_id).state is wanted, lambda: seen(manager, follower_id), within=within
    )


async def started(home: Home) -> list[tuple[str, datetime]]:
    """Whose gateway was started, and when."""
    trail = home.directory / "operations.jsonl"
    text = await asyncio.to_thread(lambda: trail.read_text() if trail.exists() else "")
    lines = [json.loads(line) for line in text.splitlines()]
    begun = [each for each in lines if each["operation"] == "start" and each["phase"] == "begin"]
    return [(each["follower"], datetime.fromisoformat(each["at"])) for each in begun]


async def counted(home: Home, user: str) -> list[LoginAttempt]:
    """What the ledger counts of this user, read after the manager ended."""
    records = LocalRecords.from_settings(Settings.read(**home.settings))
    await records.open()
    try:
        logins = await records.full_logins(user, datetime.now(UTC) - timedelta(days=1))
        return [each for each in logins if each.outcome and each.outcome.counts]
    finally:
        await records.close()


async def script(home: Home, laps: dict[str, list[dict[str, Any]]], **choices: Any) -> None:
    """In the file: what was told to a host is lost when a busy machine lets it end in between."""
    book = {**choices, "followers": {name: {"laps": given} for name, given in laps.items()}}
    await asyncio.to_thread((home.directory / SCRIPTS).write_text, json.dumps(book))


def hours(begin: datetime, end: datetime) -> str:
    return f"Etc/UTC {begin:%H:%M:%S}-{end:%H:%M:%S}"


async def test_a_gateway_waits_for_the_end_of_the_reset_hours(home: Home) -> None:
    """Queued with code and time, None at once, `launch` says so, `--retry-login` goes ahead, and nothing counts."""
    await home.add(ANNA, CARL)
    now = datetime.now(UTC)
    await script(home, {}, reset_hours=hours(now - timedelta(hours=1), now + timedelta(hours=6)))
    async with running(home) as manager:
        await eventually(
            lambda: seen(manager, ANNA).reason_code is ReasonCode.IBKR_RESET_WINDOW, lambda: seen(manager, ANNA)
        )
        assert (seen(manager, ANNA).state, seen(manager, ANNA).status.value) == (State.QUEUED, "STARTING")
        assert "UTC" in (seen(manager, ANNA).next_action or "")
        assert await manager.get_client(ANNA, timeout=6 * 3600) is None
        await manager.launch_gateway(ANNA)
        assert (seen(manager, ANNA).state, seen(manager, ANNA).container) == (State.QUEUED, None)
        await manager.launch_gateway(CARL, retry_login=True)
    assert [who for who, _ in await started(home)] == [CARL]
    assert await counted(home, "user-anna") == []


async def test_without_the_wait_a_login_goes_at_any_hour(home: Home) -> None:
    """`reset_window_wait` in the follower's `gateway` table is enough, and changes nothing of what runs."""
    await home.add(ANNA)
    text = await asyncio.to_thread(home.followers_file.read_text)
    await asyncio.to_thread(home.followers_file.write_text, f"{text}\n[follower.gateway]\nreset_window_wait = false\n")
    now = datetime.now(UTC)
    await script(home, {}, reset_hours=hours(now - timedelta(hours=1), now + timedelta(hours=6)))
    async with running(home) as manager:
        await eventually(lambda: seen(manager, ANNA).container is not None, lambda: seen(manager, ANNA))
        assert not seen(manager, ANNA).outdated


async def test_ibkrs_shutdown_as_the_reset_begins_costs_nothing(home: Home) -> None:
    """Closed with exit code 0 it is not launched again before the hours are over, and nothing counts."""
    await home.add(ANNA)
    for delay in (8, 30, 120):  # a machine that was too busy to be ready before the hours is given more time
        begin = datetime.now(UTC) + timedelta(seconds=delay)
        end = begin + timedelta(seconds=6)
        await script(home, {}, reset_hours=hours(begin, end))
        before = len(await started(home))
        async with running(home) as manager:
            await state(manager, State.READY)
            if len(await started(home)) > before + 1 or datetime.now(UTC) >= begin:
                continue
            await eventually(lambda: seen(manager, ANNA).state is not State.READY, within=delay + PATIENCE)
            await state(manager, State.READY)
        break
    begun = [at for _, at in await started(home)][before:]
    assert len(begun) == 2
    assert begun[0] < begin
    assert begun[1] >= end.replace(microsecond=0)
    assert await counted(home, "user-anna") == []


async def test_a_slow_login_window_costs_no_login(home: Home) -> None:
    """Longer to the window than `max_startup_time`: one start at a time, each logs in once, and nothing counts."""
    await home.add(ANNA, BERT)
    await script(home, {each: [{"slow_start": 6}] for each in (ANNA, BERT)})
    async with running(home, max_startup_time=5.0, parallel_starts=1) as manager:
        await state(manager, State.READY)
        await state(manager, State.READY, BERT)
    begun = await started(home)
    assert sorted(who for who, _ in begun) == [ANNA, BERT]
    assert begun[1][1] - begun[0][1] >= timedelta(seconds=6)
    assert [await counted(home, f"user-{each}") for each in (ANNA, BERT)] == [[], []]


@pytest.mark.parametrize("text", ["Required PassKey is not supported, please upgrade to latest version GATEWAY"])
async def test_what_only_a_human_can_cure_takes_one_login(home: Home, text: str) -> None:
    """The controller would start over at once: the container goes, and the cure is told."""
    await home.add(ANNA)
    await script(home, {ANNA: [{"connection_failed": text, "forever": True}]})
    async with running(home) as manager:
        await eventually(
            lambda: seen(manager, ANNA).state is State.NEEDS_HUMAN and seen(manager, ANNA).container is None,
            lambda: seen(manager, ANNA),
        )
        assert "IB Key" in (seen(manager, ANNA).reason or "")
    assert len(await started(home)) == 1


async def test_one_user_in_other_letters_is_one_user(home: Home, runtime: SimulatedRuntime) -> None:
    """The controller gets lower case, which is said; a second follower of the same user is refused, as is a name with more wrong."""
    await home.add(ANNA, user="Alice123")
    await home.add(CARL, user="\uff41lice7")
    async with running(home) as manager:
        await state(manager, State.READY)
        [gateway] = await runtime.list()
        assert gateway.user == "alice123"
        assert any("'Alice123'" in notice and "'alice123'" in notice for notice in seen(manager, ANNA).notices)
        await home.add(BERT, user="ALICE123")
        await manager.reload_followers()
        await eventually(
            lambda: (
                BERT in {each.follower_id for each in manager.list_gateways()}
                and seen(manager, BERT).reason_code is ReasonCode.USER_LOGGED_IN_ELSEWHERE
            ),
            manager.list_gateways,
        )
        await state(manager, State.NEEDS_HUMAN, CARL)
        assert "its user name holds" in (seen(manager, CARL).reason or "")
        with pytest.raises(LoginRefusedError, match="alice123"):
            await manager.launch_gateway(BERT)
    assert [who for who, _ in await started(home)] == [ANNA]


async def test_a_paper_login_that_asked_the_phone_counts_for_that_phone(home: Home, runtime: SimulatedRuntime) -> None:
    """Two followers of one phone, both on paper: once each was asked, their logins go one after the other."""
    await home.add(ANNA, BERT)
    text = await asyncio.to_thread(home.followers_file.read_text)
    one_phone = text.replace("[[follower]]", '[[follower]]\nphone_owner = "Olga"')
    await asyncio.to_thread(home.followers_file.write_text, one_phone)
    prompts = {
        ANNA: [{"second_factor": "approved"}, {"second_factor": "pending"}],
        BERT: [{"second_factor": "approved"}],
    }
    await script(home, {**prompts})
    async with running(home) as manager:
        await state(manager, State.READY)
        await state(manager, State.READY, BERT)
        restarting = asyncio.create_task(manager.restart_gateway(ANNA))
        await state(manager, State.AWAITING_2FA)
        await runtime.kill(BERT)
        await eventually(
            lambda: seen(manager, BERT).reason_code is ReasonCode.WAITING_FOR_PERMIT, lambda: seen(manager, BERT)
        )
        assert "phone" in (seen(manager, BERT).reason or "")
        await runtime.inject(ANNA, "approve_second_factor")
        await restarting
        await state(manager, State.READY)
        await state(manager, State.READY, BERT)


@pytest.mark.parametrize("rounds", [1, pytest.param(LOSSES, marks=pytest.mark.soak)])
async def test_an_outage_that_a_fleet_shares_counts_for_nobody(
    home: Home, runtime: SimulatedRuntime, rounds: int
) -> None:
    """All gateways end within seconds, as often as would make a human look: all come back by themselves, and none is counted."""
    await home.add(ANNA, BERT, CARL)
    async with running(home) as manager:
        for _ in range(rounds):
            for each in (ANNA, BERT, CARL):
                await state(manager, State.READY, each, within=PATIENCE + 120)
            lost = {each: seen(manager, each).container for each in (ANNA, BERT, CARL)}
            for each in lost:
                await runtime.kill(each)
            await eventually(
                lambda lost=lost: all(seen(manager, each).container != before for each, before in lost.items())
            )
        for each in (ANNA, BERT, CARL):
            await state(manager, State.READY, each, within=PATIENCE + 120)
    assert {each: record.losses for each, record in (await records_of(home)).items()} == {ANNA: 0, BERT: 0, CARL: 0}
    assert Counter(who for who, _ in await started(home)) == dict.fromkeys((ANNA, BERT, CARL), rounds + 1)


async def test_losses_that_the_fleet_does_not_share_ask_a_human(home: Home, runtime: SimulatedRuntime) -> None:
    """Three gateways of one follower that end soon after each login, beside two that run on, are its own trouble."""
    await home.add(ANNA, BERT, CARL)
    async with running(home) as manager:
        for each in (BERT, CARL):
            await state(manager, State.READY, each)
        for _ in range(LOSSES):
            await state(manager, State.READY, within=PATIENCE + 120)
            await runtime.kill(ANNA)
            await eventually(lambda: seen(manager, ANNA).state is not State.READY)
        unstable = (State.NEEDS_HUMAN, ReasonCode.SESSIONS_UNSTABLE)  # once the last container, which ended, is removed
        await eventually(lambda: (seen(manager, ANNA).state, seen(manager, ANNA).reason_code) == unstable)
        assert [seen(manager, each).state for each in (BERT, CARL)] == [State.READY] * 2
        await asyncio.sleep(1)
    assert Counter(who for who, _ in await started(home)) == {ANNA: LOSSES, BERT: 1, CARL: 1}


async def records_of(home: Home) -> Mapping[FollowerId, Record]:
    """What the manager has kept, read after its end."""
    records = LocalRecords.from_settings(Settings.read(**home.settings))
    await records.open()
    try:
        return (await records.load()).usable
    finally:
        await records.close()
