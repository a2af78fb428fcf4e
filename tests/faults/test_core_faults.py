"""The core of the manager under faults that come at the worst moment: between two of its own steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from spreadpilot_core.ibkr import presence
from spreadpilot_core.ibkr.deciding import logging_in
from spreadpilot_core.ibkr.errors import GatewayManagerError, LaunchError, RuntimeUnavailableError
from spreadpilot_core.ibkr.events import StateChanged
from spreadpilot_core.ibkr.gateway_manager import GatewayManager, State
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.ledger import Ledger
from spreadpilot_core.ibkr.protocols import ContainerId, FollowerId, Gateway
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from spreadpilot_core.ibkr.store.local import LocalFollowers
from spreadpilot_core.ibkr.supervisor import GatewaySupervisor
from support.home import PATIENCE, Home, eventually, seen

ANNA, BEN = FollowerId("anna"), FollowerId("ben")


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@pytest.fixture
async def runtime(home: Home) -> AsyncIterator[SimulatedRuntime]:
    client = home.runtime()
    await client.open()
    yield client
    await client.close()


@contextlib.asynccontextmanager
async def running(home: Home, **settings: Any) -> AsyncIterator[GatewayManager]:
    manager = home.manager(**settings)
    await manager.start()
    try:
        yield manager
    finally:
        await manager.stop()


def house_of(manager: GatewayManager) -> House:
    opened = manager._opened  # faults are planted between the manager and its adapters
    assert opened is not None
    return opened.house


def supervisor_of(manager: GatewayManager) -> GatewaySupervisor:
    fleet = manager._fleet
    assert fleet is not None
    return fleet.supervisors[ANNA]


async def state(manager: GatewayManager, wanted: State, follower_id: str = ANNA) -> None:
    await eventually(lambda: seen(manager, follower_id).state is wanted, lambda: seen(manager, follower_id))


class Gate:
    """Holds back one call of an adapter: `reached` when it came, and it goes on once `opened` is set."""

    def __init__(self, owner: object, method: str) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self._inner: Callable[..., Awaitable[Any]] = getattr(owner, method)
        self._owner, self._method = owner, method
        setattr(owner, method, self._call)

    async def _call(self, *arguments: Any, **named: Any) -> Any:
        setattr(self._owner, self._method, self._inner)
        self.reached.set()
        await self.opened.wait()
        return await self._inner(*arguments, **named)


async def test_a_refused_list_doesnt_end_the_watch(home: Home) -> None:
    """An engine that refuses to list, which is no outage, is asked again, and from then on as before."""
    await home.add(ANNA)
    async with running(home, full_comparison_interval=0.2) as manager:
        await state(manager, State.READY)
        real = house_of(manager).runtime
        find, asked = real.find, 0

        async def refused_once() -> Any:
            nonlocal asked
            asked += 1
            if asked == 1:
                msg = "The engine says 500."
                raise LaunchError(msg)
            return await find()

        real.find = refused_once  # type: ignore[method-assign]
        await eventually(lambda: asked > 2)
        assert manager.is_healthy(ANNA)


@pytest.mark.parametrize("first", ["followers", "records"])
async def test_a_login_left_open_is_settled_whatever_is_read_first(
    home: Home, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The open login of a dead manager blocks nobody for ever: neither when its container is gone, nor when it runs."""
    await home.add(ANNA, BEN)
    manager = home.manager()
    await manager.start()
    for each in (ANNA, BEN):
        await state(manager, State.READY, each)
    ledger = house_of(manager).ledger
    await manager.stop_gateway(ANNA)
    for each in (ANNA, BEN):
        attempt = ledger.new_attempt(each, user=f"user-{each}", secret_version="1", by_operator=False)
        assert await ledger.reserve(attempt, 3) is None
    await manager.detach()
    slow, method = (Ledger, "open") if first == "followers" else (LocalFollowers, "load")
    original = getattr(slow, method)

    async def late(self: Any) -> Any:
        await asyncio.sleep(0.5)
        return await original(self)

    monkeypatch.setattr(slow, method, late)
    async with running(home) as manager:
        await eventually(lambda: manager.is_healthy(BEN), lambda: seen(manager, BEN))
        ledger = house_of(manager).ledger
        async with asyncio.timeout(PATIENCE):
            while await ledger.unsettled():
                await asyncio.sleep(0.02)


async def test_an_adopted_login_that_waits_for_a_phone_keeps_others_from_asking_it(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """One prompt at a time per phone owner, also when the login that asks was begun by the manager before."""
    await home.add(ANNA, BEN, live=True)
    text = await asyncio.to_thread(home.followers_file.read_text)
    owned = text.replace("enabled = true", 'enabled = true\nphone_owner = "olga"')
    await asyncio.to_thread(home.followers_file.write_text, owned)
    for each in (ANNA, BEN):
        await runtime.script(each, [{"second_factor": "pending"}])
    manager = home.manager(parallel_starts=1)
    await manager.start()
    asked = {State.AWAITING_2FA}
    await eventually(lambda: asked == {each.state for each in manager.list_gateways()} & asked)
    first = next(each.follower_id for each in manager.list_gateways() if each.state is State.AWAITING_2FA)
    other = BEN if first == ANNA else ANNA
    await state(manager, State.QUEUED, other)
    await manager.detach()

    async with running(home) as manager:
        await state(manager, State.AWAITING_2FA, first)
        await eventually(lambda: f"waits for the login of {first}" in (seen(manager, other).reason or ""))
        assert seen(manager, other).state is State.QUEUED


async def test_a_stop_during_a_launch_is_remembered(home: Home) -> None:
    """An operator's stop that comes while the container is being created stays, also over a restart of the manager."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        await manager.stop_gateway(ANNA)
        gate = Gate(house_of(manager).runtime, "create")
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await gate.reached.wait()
        stopping = asyncio.create_task(manager.stop_gateway(ANNA))
        await eventually(lambda: seen(manager, ANNA).state is State.STOPPED)
        gate.opened.set()
        await stopping
        with pytest.raises(GatewayManagerError):
            await launching
        await manager.reload_followers()
        assert seen(manager, ANNA).state is State.STOPPED
    async with running(home) as manager:
        await eventually(lambda: seen(manager, ANNA).state is State.STOPPED)


async def test_a_start_whose_answer_was_lost_is_the_login_that_was_reserved(home: Home) -> None:
    """Found running by the next list, it is adopted with its open login, which succeeds: nothing is counted as a failure."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        await manager.stop_gateway(ANNA)
        house = house_of(manager)
        start, inspect = house.runtime.start, house.runtime.inspect

        async def lost(container_id: ContainerId) -> Gateway:
            await start(container_id)
            house.runtime.start, house.runtime.inspect = start, away  # type: ignore[method-assign]
            msg = "The answer was lost."
            raise RuntimeUnavailableError(msg)

        async def away(_: ContainerId) -> Gateway | None:
            house.runtime.inspect = inspect  # type: ignore[method-assign]
            msg = "Nobody can be asked."
            raise RuntimeUnavailableError(msg)

        house.runtime.start = lost  # type: ignore[method-assign]
        launching = asyncio.create_task(manager.launch_gateway(ANNA))
        await state(manager, State.READY)
        await launching
        assert list(await house.ledger.unsettled()) == []
        assert list(await house.ledger.counted("user-anna")) == []


async def test_a_paused_gateway_is_not_ready_and_no_reason_to_launch_another(
    home: Home, runtime: SimulatedRuntime
) -> None:
    """While it is paused nothing is read, reserved or created; resumed, it is ready again in the same container."""
    await home.add(ANNA)
    async with running(home, heartbeat_timeout=20.0) as manager:
        await state(manager, State.READY)
        client = await manager.get_client(ANNA)
        heard: list[State] = []
        listening = asyncio.create_task(states_of(manager, heard))
        await asyncio.sleep(0)
        await runtime.pause(ANNA)
        await eventually(lambda: "paused" in (seen(manager, ANNA).reason or ""), lambda: seen(manager, ANNA))
        await asyncio.sleep(0.2)
        assert not manager.is_healthy(ANNA)
        await runtime.resume(ANNA)
        await state(manager, State.READY)

        assert await manager.get_client(ANNA) is client
        assert set(heard) == {State.RECONNECTING, State.READY}
        listening.cancel()


async def states_of(manager: GatewayManager, heard: list[State]) -> None:
    async for event in manager.events():
        heard.extend([event.after] if isinstance(event, StateChanged) else [])


async def test_a_list_that_is_older_than_a_launch_says_nothing_about_it(home: Home) -> None:
    """A launch that begins and ends while the runtime still writes its list isn't taken for gone."""
    await home.add(ANNA)
    async with running(home, full_comparison_interval=0.1) as manager:
        await state(manager, State.READY)
        await manager.stop_gateway(ANNA)
        house = house_of(manager)
        find, listed, answer = house.runtime.find, asyncio.Event(), asyncio.Event()

        async def slow() -> Sequence[Gateway]:
            house.runtime.find = find  # type: ignore[method-assign]
            found = await find()
            listed.set()
            await answer.wait()
            return found

        house.runtime.find = slow  # type: ignore[method-assign]
        await listed.wait()
        await manager.launch_gateway(ANNA)
        heard: list[State] = []
        listening = asyncio.create_task(states_of(manager, heard))
        await asyncio.sleep(0)
        answer.set()
        await state(manager, State.READY)
        assert set(heard) <= {State.LOGGING_IN, State.CONNECTING, State.READY}
        listening.cancel()


async def test_a_login_that_an_operator_took_is_taken_once(home: Home) -> None:
    """A start that failed after the login was marked spends the operator's leave: what follows keeps every rule again."""
    await home.add(ANNA)
    async with running(home) as manager:
        await state(manager, State.READY)
        await manager.stop_gateway(ANNA)
        house = house_of(manager)
        start = house.runtime.start

        async def lost(container_id: ContainerId) -> Gateway:
            house.runtime.start = start  # type: ignore[method-assign]
            await house.runtime.remove(container_id, grace=0)
            msg = "It was removed by somebody else."
            raise LaunchError(msg)

        house.runtime.start = lost  # type: ignore[method-assign]
        with pytest.raises(LaunchError, match="somebody else"):
            await manager.launch_gateway(ANNA, retry_login=True)

        assert [each.by_operator for each in await house.ledger.counted("user-anna")] == [True]
        assert not supervisor_of(manager).requests.operator_login
        assert house.ports.held() == {}


async def test_a_log_that_can_not_be_read_holds_up_no_replacement(
    home: Home, runtime: SimulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that refuses its logs (some drivers can't read them): proven by the API alone, and replaced when it ends."""
    monkeypatch.setattr(presence, "LOG_AGAIN", 0.05)
    monkeypatch.setattr(logging_in, "LOG_SILENCE", timedelta(seconds=0.2))
    await home.add(ANNA)
    manager = home.manager()

    async def refused(_: SimulatedRuntime, gateway: Gateway) -> AsyncIterator[str]:
        msg = "configured logging driver does not support reading"
        raise LaunchError(msg)
        yield gateway.name

    monkeypatch.setattr(SimulatedRuntime, "log", refused)
    await manager.start()
    try:
        await state(manager, State.READY)
        (first,) = await runtime.find()
        await runtime.kill(ANNA)
        await eventually(lambda: not manager.is_healthy(ANNA))
        await state(manager, State.READY)
        (second,) = await runtime.find()
        assert first.container_id != second.container_id
    finally:
        await manager.stop()
