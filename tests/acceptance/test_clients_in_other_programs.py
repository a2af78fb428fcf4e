"""Bots in other processes keep trading, whatever becomes of their gateway and of the manager."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId
from support.bots import Bot, bot
from support.command import PROGRAM, Command
from support.home import Home
from support.other_clients import SCRIPTS, clients_python
from support.other_languages import may_build, node_bot, rust_bot
from support.service import Service

__all__ = ["clients_python", "node_bot", "rust_bot"]

ALICE = FollowerId("alice")


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    await place.add("alice")
    yield place
    await place.end()


@pytest.fixture
async def service(home: Home) -> AsyncIterator[Service]:
    service = Service(home, on_exit="detach")
    await service.start()
    yield service
    service.close()


async def inject(home: Home, fault: str) -> None:
    runtime = home.runtime()
    await runtime.open()
    await runtime.inject(ALICE, fault)
    await runtime.close()


async def kill_gateway(home: Home) -> None:
    runtime = home.runtime()
    await runtime.open()
    for gateway in await runtime.list():
        await runtime.remove(gateway.container_id, grace=0)
    await runtime.close()


async def outlive_everything(trading: Bot, home: Home, service: Service) -> set[int]:
    """Trade through a nightly restart, a killed gateway and a killed manager; the client ids that were used."""
    await trading.trades_on()
    await inject(home, "nightly_restart")
    await trading.trades_by_another_client()
    await kill_gateway(home)
    await trading.trades_by_another_client()
    await service.end(signal.SIGKILL)
    await trading.trades_on()
    await service.start()
    await trading.trades_on()
    await service.act("alice", "restart")
    await trading.trades_by_another_client()
    assert {each["status"] for each in trading.trades} == {"Filled"}
    return {each["client_id"] for each in trading.trades}


@pytest.mark.parametrize("style", ["async", "blocking"])
async def test_a_bot_on_ib_async_keeps_trading(home: Home, service: Service, style: str) -> None:
    """With one client id all the time, which it gives back at its end."""
    script = SCRIPTS / "remote_bot.py"
    async with bot(sys.executable, script, f"unix:{home.directory}", "ib_async", style) as trading:
        used = await outlive_everything(trading, home, service)
        code = await trading.end()
        assert code == 0, await trading.errors()
    assert len(used) == 1
    assert await service.ask(lambda client: client.clients()) == []


async def test_a_bot_on_ib_insync_keeps_trading(home: Home, service: Service, clients_python: Path) -> None:
    """The other library, in an environment of its own."""
    script = SCRIPTS / "remote_bot.py"
    async with bot(clients_python, script, f"unix:{home.directory}", "ib_insync") as trading:
        assert len(await outlive_everything(trading, home, service)) == 1


@pytest.mark.real_part("node")
@may_build
async def test_a_bot_in_node_keeps_trading(home: Home, service: Service, node_bot: list[str | Path]) -> None:
    """By `exec`, with a public library that knows nothing of us: it connects anew to the address and the client id that it was given."""
    async with bot(PROGRAM, "exec", "alice", "--", *node_bot, environment=Command(home).environment) as trading:
        assert len(await outlive_everything(trading, home, service)) == 1
        assert await trading.end() == 0


@pytest.mark.real_part("cargo")
@may_build
async def test_a_bot_in_rust_keeps_trading(home: Home, service: Service, rust_bot: list[str | Path]) -> None:
    """The same with another one."""
    async with bot(PROGRAM, "exec", "alice", "--", *rust_bot, environment=Command(home).environment) as trading:
        assert len(await outlive_everything(trading, home, service)) == 1
        assert await trading.end() == 0
