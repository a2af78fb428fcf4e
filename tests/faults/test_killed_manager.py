"""The manager dies without a word; the next one finds everything as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager, GatewayStatus, State
from spreadpilot_core.ibkr.protocols import FollowerId, RuntimeState
from support.home import PATIENCE, Home, eventually, seen

RUN = """
import asyncio, json, sys
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

async def main():
    manager = GatewayManager(**json.loads(sys.argv[1]))
    await manager.start()
    print("started", flush=True)
    while True:
        gateways = manager.list_gateways()
        if gateways and all(manager.is_healthy(each.follower_id) for each in gateways):
            print("all ready", flush=True)
        await asyncio.sleep(0.1)

asyncio.run(main())
"""


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def manager_process(home: Home) -> asyncio.subprocess.Process:
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in home.settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        json.dumps(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def line(process: asyncio.subprocess.Process, wanted: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(2 * PATIENCE):
        while (await process.stdout.readline()).decode().strip() != wanted:
            pass


async def kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.communicate()


async def operations(home: Home, kind: str) -> int:
    path = home.directory / "operations.jsonl"
    if not path.exists():
        return 0
    lines = [json.loads(each) for each in (await asyncio.to_thread(path.read_text)).splitlines()]
    return sum(each["operation"] == kind and each["phase"] == "begin" for each in lines)


async def ready(manager: GatewayManager, followers: list[str]) -> None:
    await eventually(
        lambda: all(manager.is_healthy(each) for each in followers),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
    )


async def test_ten_gateways_outlive_a_killed_manager_and_are_adopted_unchanged(home: Home) -> None:
    """After kill -9 with ten gateways: the next manager adopts all ten, restarts none, keeps ports and client ids."""
    followers = [f"follower_{number}" for number in range(10)]
    await home.add(*followers)
    process = await manager_process(home)
    await line(process, "all ready")
    runtime = home.runtime()
    await runtime.open()
    before = {each.follower_id: each for each in await runtime.find()}
    await kill(process)

    manager = home.manager()
    await manager.start()
    await ready(manager, followers)
    after = {each.follower_id: each for each in await runtime.find()}

    assert after == before
    assert {seen(manager, each).client_id for each in followers} == {each.leases.client_id for each in before.values()}
    assert await operations(home, "start") == 10
    await manager.stop()
    await runtime.close()


async def test_killed_at_any_moment_of_a_launch_the_next_start_ends_with_one_gateway_each(home: Home) -> None:
    """Wherever the manager dies, nothing is left over, nobody is logged in twice, and no port or login leaks."""
    followers = ["anna", "ben", "carl"]
    await home.add(*followers)
    rng = random.Random(7)
    runtime = home.runtime()
    await runtime.open()
    for round_ in range(8):
        process = await manager_process(home)
        await line(process, "started")
        await asyncio.sleep(rng.uniform(0, 0.9))
        await kill(process)
        if round_ % 3 == 2:  # now and then nothing is left running, so that launches are cut as well as adoptions
            for gateway in await runtime.find():
                await runtime.remove(gateway.container_id, grace=0)
    manager = home.manager(login_budget=8)
    await manager.start()
    for each in followers:  # logins that were cut short count, as they must: an operator takes one more
        if manager.get_gateway_status(each) is GatewayStatus.FAILED or seen(manager, each).state is State.BACKING_OFF:
            await manager.launch_gateway(each, retry_login=True)
    await eventually(
        lambda: all(
            seen(manager, each).state in (State.READY, State.BACKING_OFF, State.NEEDS_HUMAN) for each in followers
        ),
        manager.list_gateways,
    )
    for each in followers:
        if not manager.is_healthy(each):
            await manager.launch_gateway(each, retry_login=True)
    await ready(manager, followers)

    found = await runtime.find()
    assert sorted(each.follower_id for each in found) == followers
    assert all(each.state is RuntimeState.RUNNING for each in found)
    assert len({each.leases.host_port for each in found}) == 3
    await manager.stop()
    assert list(await runtime.find()) == []
    await runtime.close()


async def test_the_login_budget_holds_over_three_restarts_of_the_manager(home: Home) -> None:
    """Three failed logins are three failed logins, whoever counts: the fourth needs a human."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    await runtime.script(FollowerId("anna"), [{"crash_at_start": 1, "forever": True}])
    typed = 0
    for _ in range(4):
        manager = home.manager()
        await manager.start()
        await eventually(lambda manager=manager: seen(manager, "anna").status is GatewayStatus.FAILED)
        if seen(manager, "anna").state is State.BACKING_OFF:
            with contextlib.suppress(Exception):
                await manager.launch_gateway("anna", retry_login=True)
            await eventually(lambda manager=manager: seen(manager, "anna").status is GatewayStatus.FAILED)
        await manager.detach()
        typed = await operations(home, "start")
    manager = home.manager()
    await manager.start()
    await eventually(lambda: seen(manager, "anna").state is State.NEEDS_HUMAN, lambda: seen(manager, "anna"))

    assert "budget" in (seen(manager, "anna").reason or "")
    assert await operations(home, "start") == typed
    assert typed <= 6
    await manager.stop()
    await runtime.close()


async def test_a_manager_cancelled_while_it_lets_go_of_its_directory_has_let_go(home: Home) -> None:
    """The next one starts at once, however long letting go takes."""
    await home.add("anna")
    manager, reached = home.manager(), threading.Event()

    def slowly() -> None:
        reached.set()
        time.sleep(0.5)

    await manager.start()
    assert manager._opened is not None
    manager._opened._held.callback(slowly)
    ending = asyncio.create_task(manager.detach())
    await eventually(reached.is_set)
    ending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ending
    async with home.manager():
        pass


async def test_a_manager_cancelled_at_any_await_leaves_what_the_next_one_can_use(home: Home) -> None:
    """start(), get_client() and stop() cancelled half-way: the next manager works, and nothing is there twice."""
    await home.add("anna", "ben")

    async def life(manager: GatewayManager) -> None:
        await manager.start()
        await manager.get_client("anna")
        await manager.stop()

    for delay in (0.01, 0.05, 0.1, 0.2, 0.4, 0.8):
        manager = home.manager(login_budget=8)
        task: asyncio.Task[Any] = asyncio.create_task(life(manager))
        await asyncio.sleep(delay)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await manager.detach()
    last = home.manager(login_budget=8)
    await last.start()
    for each in ("anna", "ben"):
        if not last.is_healthy(each):
            await last.launch_gateway(each, retry_login=True)
    await ready(last, ["anna", "ben"])
    await last.stop()
