"""The manager dies without a word; the next one finds everything as it was."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.runtimes.identity import living, read_note
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from spreadpilot_core.ibkr.store.local.records import FILE_NAME
from support.home import PATIENCE, Home, eventually, seen
from support.runtimes import logins_typed

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
    before = {each.follower_id: each for each in await runtime.list()}
    await kill(process)

    manager = home.manager()
    await manager.start()
    await ready(manager, followers)
    after = {each.follower_id: each for each in await runtime.list()}

    assert after == before
    assert {seen(manager, each).client_id for each in followers} == {each.client_id for each in before.values()}
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
            for gateway in await runtime.list():
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

    found = await runtime.list()
    assert sorted(each.follower_id for each in found) == followers
    assert all(each.phase is GatewayPhase.RUNNING for each in found)
    assert len({each.endpoint.port for each in found}) == 3
    await manager.stop()
    assert list(await runtime.list()) == []
    await runtime.close()


async def test_the_login_budget_holds_over_three_restarts_of_the_manager(home: Home) -> None:
    """A failed login is a failed login, whoever counts: no restart of the manager types another one."""
    await home.add("anna")
    runtime = home.runtime()
    await runtime.open()
    dies = {"login_hangs": True, "then": [{"after": 0.5, "fault": "crash"}], "forever": True}  # after it has typed
    await runtime.script(FollowerId("anna"), [dies])
    for _ in range(4):
        manager = home.manager(login_budget=1)
        await manager.start()
        await eventually(
            lambda manager=manager: seen(manager, "anna").state is State.NEEDS_HUMAN,
            lambda manager=manager: seen(manager, "anna"),
        )
        assert "budget" in (seen(manager, "anna").reason or "")
        await manager.detach()
        assert await operations(home, "start") == 1
    await runtime.close()


@pytest.mark.parametrize(("begins_in", "outcome"), [(15.0, "dropped_in_reset"), (3600.0, "unfinished")])
async def test_a_login_that_a_dead_manager_left_open_is_judged_by_the_reset_hours(
    home: Home, begins_in: float, outcome: str
) -> None:
    """What hung into IBKR's reset costs nothing, also when manager and container were gone before it was known."""
    await home.add("anna")
    begin = datetime.now(UTC) + timedelta(seconds=begins_in)
    script = {
        "reset_hours": f"Etc/UTC {begin:%H:%M:%S}-{begin + timedelta(hours=2):%H:%M:%S}",
        "followers": {"anna": {"laps": [{"login_hangs": True, "forever": True}]}},
    }
    await asyncio.to_thread((home.directory / SCRIPTS).write_text, json.dumps(script))
    process = await manager_process(home)
    async with asyncio.timeout(PATIENCE):
        while await operations(home, "start") == 0:
            await asyncio.sleep(0.02)
    runtime = home.runtime()
    await runtime.open()
    await eventually(lambda: logins_typed(home.directory, "anna") == 1)
    await kill(process)
    for gateway in await runtime.list():
        await runtime.remove(gateway.container_id, grace=0)
    await asyncio.sleep(max(0.0, (begin - datetime.now(UTC)).total_seconds()) if begins_in < PATIENCE else 0)

    manager = home.manager()
    await manager.start()
    await eventually(lambda: outcomes(home)[0] is not None, lambda: outcomes(home))
    first = outcomes(home)[0]
    await manager.stop()
    await runtime.close()
    assert first == outcome


def outcomes(home: Home) -> list[str | None]:
    """How the logins in the ledger ended, the oldest first."""
    with closing(sqlite3.connect(f"file:{home.directory / FILE_NAME}?mode=ro", uri=True)) as records:
        texts = [json.loads(text) for (text,) in records.execute("SELECT document FROM logins")]
    return [each["outcome"] for each in sorted(texts, key=lambda each: each["reserved_at"])]


async def test_a_manager_cancelled_while_it_lets_go_of_its_directory_has_let_go(home: Home) -> None:
    """The next one starts at once, however long letting go takes."""
    await home.add("anna")
    manager, reached = home.manager(), threading.Event()

    def slowly() -> None:
        reached.set()
        time.sleep(0.5)

    await manager.start()
    assert manager._wired is not None
    manager._wired.held.push_async_callback(asyncio.to_thread, slowly)
    ending = asyncio.create_task(manager.detach())
    await eventually(reached.is_set)
    ending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ending
    async with home.manager():
        pass


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_a_manager_cancelled_anywhere_in_its_end_has_ended(home: Home, iterations: int) -> None:
    """However far its end has come: nothing of it lives on, no sign of life, no task, no socket, and the next one acts."""
    await home.add("anna")
    manager = home.manager()
    await manager.start()
    await ready(manager, ["anna"])
    before = asyncio.all_tasks()
    ending = asyncio.create_task(manager.detach())
    for _ in range(iterations):
        await asyncio.sleep(0)
    ending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ending
    await manager.detach()
    identities = await asyncio.to_thread(read_note, manager.settings)
    assert identities is not None
    assert await asyncio.to_thread(living, identities.all) == []
    assert {task for task in before if not task.done()} <= {asyncio.current_task()}
    async with home.manager(on_exit="detach") as following:
        await ready(following, ["anna"])


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
