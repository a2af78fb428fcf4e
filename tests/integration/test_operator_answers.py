"""What an operator's command answers is about what happened after it was given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.errors import GatewayManagerError, LoginRefusedError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import Event, StateChanged
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.store.local.followers_file import add_follower
from support.home import Home, eventually, seen


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def _scripted(home: Home, **followers: list[dict[str, object]]) -> None:
    script = {"followers": {name: {"laps": laps} for name, laps in followers.items()}}
    await asyncio.to_thread((home.directory / "scripts.json").write_text, json.dumps(script))


async def _state_is_told(events: AsyncIterator[Event], state: State) -> None:
    async with asyncio.timeout(60):
        async for event in events:
            if isinstance(event, StateChanged) and event.after is state:
                return


async def test_a_launch_after_a_rejection_answers_for_the_new_login(home: Home) -> None:
    """With the right password stored, a launch in the moment of the rejection does not repeat why the last one failed."""
    await home.add("anna")
    await _scripted(home, anna=[{"wrong_password": True}, {}])
    manager = home.manager(secret_poll_interval=300)
    events = manager.events()
    await manager.start()
    try:
        await _state_is_told(events, State.NEEDS_HUMAN)
        await home.set_password("anna")
        await manager.launch_gateway("anna")
        await eventually(lambda: manager.is_healthy("anna"), lambda: seen(manager, "anna").reason)
    finally:
        await manager.stop()


async def test_a_launch_reads_the_secret_anew_even_while_it_is_being_read(home: Home) -> None:
    """A secret that is stored while the manager looks for it in vain counts for the launch that follows."""
    for number in range(6):
        name = f"follower_{number}"
        await asyncio.to_thread(add_follower, home.followers_file, name, vault_secret_ref=f"ibkr/{name}")
    manager = home.manager(secret_poll_interval=300)
    await manager.start()
    try:

        async def mend(number: int) -> None:
            name = f"follower_{number}"
            await asyncio.sleep(number * 0.05)  # at several moments of the first look
            await home.set_password(name)
            await manager.launch_gateway(name)

        await asyncio.gather(*(mend(number) for number in range(6)))
    finally:
        await manager.stop()


async def test_a_restart_uses_the_secret_of_its_own_moment(home: Home) -> None:
    """A refusal speaks of the secret as it is when the restart is asked for, and stands no more once that is mended."""
    await home.add("anna")
    async with _running(home) as manager:
        await asyncio.to_thread(EncryptedCredentials.at(home.directory).remove, "ibkr/anna")
        with pytest.raises(LoginRefusedError, match="There are no stored credentials"):
            await manager.restart_gateway("anna")
        await home.set_password("anna")
        await manager.restart_gateway("anna")
        await eventually(lambda: manager.is_healthy("anna"), lambda: seen(manager, "anna").reason)


async def test_commands_at_the_same_time_each_get_their_own_answer(home: Home) -> None:
    """A stop that a launch overtakes says so; launches and reconnects that come together all end well."""
    await home.add("anna", "bert")
    async with _running(home) as manager:
        stopping = asyncio.create_task(manager.stop_gateway("anna"))
        await eventually(lambda: seen(manager, "anna").state is State.STOPPED)
        await asyncio.gather(manager.launch_gateway("anna"), manager.launch_gateway("anna"))
        with pytest.raises(GatewayManagerError, match="launched again"):
            await stopping
        assert await asyncio.gather(manager.reconnect("bert"), manager.reconnect("bert")) == [True, True]
        assert manager.is_healthy("bert")


class _running:  # noqa: N801  # reads as a context manager
    def __init__(self, home: Home) -> None:
        self._manager = home.manager(secret_poll_interval=300)

    async def __aenter__(self) -> GatewayManager:
        await self._manager.start()
        names = [each.follower_id for each in self._manager.list_gateways()]
        await eventually(lambda: all(self._manager.is_healthy(each) for each in names))
        return self._manager

    async def __aexit__(self, *_: object) -> None:
        await self._manager.stop()


async def test_a_launch_asks_for_the_user_that_the_secret_names_now(home: Home) -> None:
    """A follower that named another's IBKR user, and whose secret was mended, is launched without the old refusal."""
    await home.add("anna", "bert", user="shared-user")
    manager = home.manager(secret_poll_interval=300)
    await manager.start()
    try:
        await eventually(lambda: any(each.state is State.NEEDS_HUMAN for each in manager.list_gateways()))
        refused = next(each for each in manager.list_gateways() if each.state is State.NEEDS_HUMAN)
        assert "shared-user" in (refused.reason or "")
        await home.set_password(refused.follower_id)
        await manager.launch_gateway(refused.follower_id)
        await eventually(lambda: manager.is_healthy("anna") and manager.is_healthy("bert"))
    finally:
        await manager.stop()
