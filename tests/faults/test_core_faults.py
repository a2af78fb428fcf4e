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
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from support.home import Home, eventually, seen

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
