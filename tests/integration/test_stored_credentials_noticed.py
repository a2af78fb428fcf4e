"""Logins that are stored beside a running manager count at once, at whatever moment, and not when it looks next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.home import Home, eventually, seen


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def test_logins_set_at_any_moment_are_noticed_at_once(home: Home) -> None:
    """Eight followers whose logins come before, during and after the manager's own look; none waits for the next one."""
    names = [f"follower_{number}" for number in range(8)]
    for name in names:
        await asyncio.to_thread(add_follower, home.followers_file, name, vault_secret_ref=f"ibkr/{name}")
    manager = home.manager(secret_poll_interval=3600, parallel_starts=8)
    await manager.start()
    try:
        for name in names:  # one after the other, while the first looks are under way
            await home.set_password(name)
            await asyncio.sleep(0.1)
        await eventually(
            lambda: all(manager.is_healthy(each) for each in names),
            lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        )
    finally:
        await manager.stop()


async def test_a_waiting_follower_says_how_to_make_it_count_at_once(home: Home) -> None:
    """Without a login: what to do, with a command that can be pasted; and a login that is stored ends the wait."""
    await asyncio.to_thread(add_follower, home.followers_file, "anna", vault_secret_ref="ibkr/anna")
    async with home.manager(secret_poll_interval=3600) as manager:
        await eventually(lambda: seen(manager, "anna").state is State.NEEDS_HUMAN)
        assert "credentials set ibkr/anna" in (seen(manager, "anna").reason or "")
        assert "launch anna`" in (seen(manager, "anna").next_action or "")
        await home.set_password("anna")
        await eventually(lambda: manager.is_healthy("anna"), lambda: seen(manager, "anna").reason)


async def test_a_new_password_of_a_running_gateway_is_told_at_once(home: Home) -> None:
    """It waits for the next login, and the snapshot says so."""
    await home.add("anna")
    async with home.manager(secret_poll_interval=3600) as manager:
        await eventually(lambda: manager.is_healthy("anna"))
        await home.set_password("anna", "another")
        await eventually(lambda: any("password" in each for each in seen(manager, "anna").notices))


async def test_the_next_manager_knows_of_a_password_that_waits(home: Home) -> None:
    """What was stored before it began, by whatever means, is told soon after its start and not hours later."""
    await home.add("anna")
    async with home.manager(on_exit="detach") as manager:
        await eventually(lambda: manager.is_healthy("anna"))
    await home.set_password("anna", "another")
    async with home.manager(secret_poll_interval=3600) as manager:
        await eventually(lambda: any("password" in each for each in seen(manager, "anna").notices))
        assert manager.is_healthy("anna")
