"""Two managers on one database and one engine: one acts, the other stands by, and no gateway pays for the change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.protocols import Gateway
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from support.home import Home
from support.mongo import MongoServer, may_build

TERM = 2.0
FOLLOWERS = ["anna", "ben", "carl"]
RUN = """
import asyncio, json, sys
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

async def main():
    manager = GatewayManager(**json.loads(sys.argv[1]))

    async def tell():
        async for event in manager.events():
            if event.name == "NoticeGiven":
                print(event.sentence, flush=True)

    telling = asyncio.create_task(tell())
    await asyncio.sleep(0)
    await manager.start()
    said = None
    while True:
        gateways = manager.list_gateways()
        now = "all ready" if gateways and all(each.status == "RUNNING" for each in gateways) else "not ready"
        if now != said:
            said = now
            print(now, flush=True)
        await asyncio.sleep(0.05)

asyncio.run(main())
"""

pytestmark = [may_build]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo") as running:
        yield running


class Process:
    """One manager in a process of its own."""

    def __init__(self, name: str, home: Home, server: MongoServer, engine: Path) -> None:
        self.name = name
        self._settings: dict[str, Any] = {
            **{key: str(value) if isinstance(value, Path) else value for key, value in home.settings.items()},
            "state_dir": str(home.directory / name),
            "runtime_url": f"simulated:{engine}",
            "store_url": "mongodb:",
            "mongo_uri": server.uri,
            "credentials_key_file": str(home.directory / "credentials.key"),
            "term": TERM,
            "poll_interval": 0.5,
        }
        self._process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []

    async def start(self) -> None:
        """Start it, and collect what it says."""
        self.lines = []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            json.dumps(self._settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._listening = asyncio.create_task(self._listen(self._process))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode().strip())

    async def says(self, words: str, *, within: float = 40) -> None:
        """Wait until its newest lines hold these words."""
        async with asyncio.timeout(within):
            while not any(words in line for line in self.lines):
                await asyncio.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """A real signal."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def end(self) -> None:
        """Kill it, whatever state it is in."""
        if self._process is not None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            await self._process.wait()
            await self._listening


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


async def pair(home: Home, server: MongoServer) -> tuple[Process, Process, SimulatedRuntime]:
    engine = home.directory / "engine"
    engine.mkdir()
    await home.add(*FOLLOWERS)
    stored = home.directory / "credentials.json"
    for name in ("one", "two"):
        (home.directory / name).mkdir()
        (home.directory / name / stored.name).write_bytes(stored.read_bytes())
    with pymongo.MongoClient(server.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in FOLLOWERS]
        )
    runtime = SimulatedRuntime(engine, owner="ibgateway-follower", manager_id="test")
    await runtime.open()
    return Process("one", home, server, engine), Process("two", home, server, engine), runtime


async def found(runtime: SimulatedRuntime) -> dict[str, Gateway]:
    return {each.follower_id: each for each in await runtime.find()}


async def test_a_standby_takes_over_from_a_killed_holder_and_restarts_nothing(home: Home, server: MongoServer) -> None:
    """After kill -9 of the holder, back and forth: the other one acts after the term, and no gateway notices."""
    one, two, runtime = await pair(home, server)
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        holder, other = one, two
        for _ in range(3):
            holder.send(signal.SIGKILL)
            await holder.end()
            await other.says("all ready")
            assert await found(runtime) == before
            await holder.start()
            await holder.says("stands by")
            holder, other = other, holder
    finally:
        await one.end()
        await two.end()
        await runtime.close()


async def test_a_frozen_holder_does_nothing_after_its_term(home: Home, server: MongoServer) -> None:
    """SIGSTOP and SIGCONT of the holder: the trail of the engine shows no act of it after the other took over."""
    one, two, runtime = await pair(home, server)
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        one.send(signal.SIGSTOP)
        await two.says("takes over")
        await runtime.kill(before["anna"].follower_id)
        taken = await last_operation(home)
        one.send(signal.SIGCONT)
        await one.says("stands by")
        await two.says("all ready")
        await asyncio.sleep(1)
        after = await operations(home, since=taken)

        managers = {each["manager"] for each in after if each["operation"] in ("create", "start", "remove")}
        assert len(managers) == 1, after
        assert (await found(runtime))["ben"] == before["ben"]
    finally:
        await one.end()
        await two.end()
        await runtime.close()


async def operations(home: Home, *, since: int = 0) -> list[dict[str, Any]]:
    text = await asyncio.to_thread((home.directory / "engine" / "operations.jsonl").read_text)
    return [each for line in text.splitlines() if (each := json.loads(line))["number"] > since]


async def last_operation(home: Home) -> int:
    return max(each["number"] for each in await operations(home))
