"""The core of the manager under faults that come at the worst moment: between two of its own steps."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import LaunchError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager, State
from spreadpilot_core.ibkr.house import House
from spreadpilot_core.ibkr.ledger import Ledger
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from spreadpilot_core.ibkr.store.local import LocalFollowers
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
