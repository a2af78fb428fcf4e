"""Two managers on one database and one engine: one acts, the other stands by, and no gateway pays for the change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.audit import AuditTrail
from spreadpilot_core.ibkr.protocols import FollowerId, Gateway
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from support.home import Home
from support.mongo import MongoServer, may_build
from support.waiting import until

TERM = 4.0
"""Seconds; what a request to the engine or the database may be held up without costing a holder its term."""
WITHIN = 60.0
"""Seconds that a busy machine may take for what takes about a term."""
FOLLOWERS = ["anna", "ben", "carl"]
VICTIMS = [f"victim{number}" for number in range(10)]
"""Whose gateways are killed, one before each change of the holder, so that somebody has something to start."""
RUN = """
import asyncio, json, sys
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

async def main():
    manager = GatewayManager(**json.loads(sys.argv[1]))

    async def tell():
        async for event in manager.events():
            if event.name == "NoticeGiven":
                print(event.at.timestamp(), event.sentence, flush=True)

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
        self.settings: dict[str, Any] = {
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
        self.pids: set[int] = set()
        self.terms: dict[int, float] = {}
        """The numbers of the terms that it began, and when."""

    async def start(self) -> None:
        """Start it, and collect what it says."""
        self.lines = []
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            RUN,
            json.dumps(self.settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.pids.add(self._process.pid)
        self._listening = asyncio.create_task(self._listen(self._process))

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.lines.append(line.decode().strip())
            if began := re.match(r"([0-9.]+) It take.* term (\d+) and acts", self.lines[-1]):
                self.terms[int(began[2])] = float(began[1])

    async def says(self, words: str, *, within: float = WITHIN) -> None:
        """Wait until its newest lines hold these words."""
        async with asyncio.timeout(within):
            while not any(words in line for line in self.lines):
                await asyncio.sleep(0.02)

    @property
    def pid(self) -> int:
        """Of the process that it runs in, or ran in last."""
        assert self._process is not None
        return self._process.pid

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
    place = Home(ports=40)
    yield place
    await place.end()


async def pair(
    home: Home, server: MongoServer, *more: str, other_engine: str = "engine"
) -> tuple[Process, Process, SimulatedRuntime]:
    engine = home.directory / "engine"
    engine.mkdir()
    (home.directory / other_engine).mkdir(exist_ok=True)
    await home.add(*FOLLOWERS, *more)
    stored = home.directory / "credentials.json"
    for name in ("one", "two"):
        (home.directory / name).mkdir()
        (home.directory / name / stored.name).write_bytes(stored.read_bytes())
    with pymongo.MongoClient(server.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in (*FOLLOWERS, *more)]
        )
    runtime = SimulatedRuntime(engine, owner="ibgateway-follower", manager_id="test")
    await runtime.open()
    two = Process("two", home, server, home.directory / other_engine)
    return Process("one", home, server, engine), two, runtime


async def found(runtime: SimulatedRuntime) -> dict[str, Gateway]:
    return {each.follower_id: each for each in await runtime.find()}


async def test_ten_changes_of_the_holder_restart_nothing_and_nobody_acts_out_of_term(
    home: Home, server: MongoServer, record_property: Callable[[str, object], None]
) -> None:
    """Killed and frozen in turn, each time with a gateway to start: the trail has no act of a manager out of its term."""
    one, two, runtime = await pair(home, server, *VICTIMS)
    took: list[float] = []
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says("stands by")
        for number, victim in enumerate(VICTIMS):
            holder, other = (one, two) if newest(one) > newest(two) else (two, one)
            last = newest(holder)
            await runtime.kill(before[FollowerId(victim)].follower_id)
            await asyncio.sleep(0.05 * number)
            asked = time.time()
            holder.send(signal.SIGKILL if number % 2 else signal.SIGSTOP)
            await until(lambda other=other, last=last: newest(other) > last, within=WITHIN)
            took.append(other.terms[newest(other)] - asked)
            if number % 2:
                await holder.end()
                await holder.start()
            holder.send(signal.SIGCONT)
            await until(lambda holder=holder, other=other: knows_its_place(holder, other), within=WITHIN)
        await until(lambda: newest(one) != newest(two), within=WITHIN)
        after, acts = await found(runtime), await operations(home)
    finally:
        await one.end()
        await two.end()
        await runtime.close()
    record_property("takeover_s", [round(each, 2) for each in took])
    assert max(took) < TERM + WITHIN
    assert {each: after[FollowerId(each)] for each in FOLLOWERS} == {
        each: before[FollowerId(each)] for each in FOLLOWERS
    }
    assert out_of_term(acts, one, two) == []


def knows_its_place(former: Process, other: Process) -> bool:
    """Whether a former holder has said last that it stands by, or holds the term again."""
    said = [line for line in former.lines if "stands by" in line or " and acts" in line]
    return (bool(said) and "stands by" in said[-1]) or newest(former) > newest(other)


def newest(manager: Process) -> int:
    """The number of the newest term that it began."""
    return max(manager.terms, default=0)


def out_of_term(acts: list[dict[str, Any]], *managers: Process) -> list[dict[str, Any]]:
    """What the engine did for one of them after the other's term had begun.

    A request that a freeze held back between its last check and its way out may still come: the engine refuses it, since
    the other has removed the container or bears its name.
    """
    terms = sorted((number, began, each.pids) for each in managers for number, began in each.terms.items())
    ends = [began for _, began, _ in terms[1:]] + [float("inf")]
    done = {each["number"] for each in acts if each["phase"] == "end" and each["result"] == "done"}
    begun = [each for each in acts if each["phase"] == "begin" and each["number"] in done]
    asked = [each for each in begun if each["operation"] in ("create", "start", "remove")]
    assert {"create", "start"} <= {each["operation"] for each in asked}

    def allowed(act: dict[str, Any]) -> bool:
        at, pid = datetime.fromisoformat(act["at"]).timestamp(), int(act["manager"].rpartition(":")[2])
        return any(
            pid in pids and at < end for (_, began, pids), end in zip(terms, ends, strict=True) if at >= began - 1
        )

    return [each for each in asked if not allowed(each)]


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
        async with asyncio.timeout(WITHIN):
            while (now := (await found(runtime)).get("anna")) is None or now.container_id == before[
                "anna"
            ].container_id:
                await asyncio.sleep(0.02)
        await until(lambda: [line for line in two.lines if line.endswith("ready")][-1] == "all ready", within=WITHIN)
        await asyncio.sleep(1)
        after = await operations(home, since=taken)

        managers = {each["manager"] for each in after if each["operation"] in ("create", "start", "remove")}
        assert len(managers) == 1, after
        assert (await found(runtime))["ben"] == before["ben"]
    finally:
        await one.end()
        await two.end()
        await runtime.close()


async def test_another_engine_is_acted_on_only_with_an_operators_word(home: Home, server: MongoServer) -> None:
    """With another engine the second waits for ever, and says for whom; `take_over` lets it act, and the trail says who did."""
    one, two, runtime = await pair(home, server, other_engine="engine2")
    other = SimulatedRuntime(home.directory / "engine2", owner="ibgateway-follower", manager_id="test")
    await other.open()
    try:
        await one.start()
        await one.says("all ready")
        before = await found(runtime)
        await two.start()
        await two.says(
            f"It stands by: {socket.gethostname()}:{home.directory / 'one'}, on another engine, holds the term"
        )
        await one.end()
        await two.says("start with `gateway-manager run --take-over`")
        await asyncio.sleep(TERM)
        assert (two.terms, await found(other)) == ({}, {})
        await two.end()
        assert await taken_over(home) == []

        two.settings["take_over"] = True
        await two.start()
        await two.says("all ready")
        acting = two.pid
        assert set(await found(other)) == set(FOLLOWERS)
        assert await found(runtime) == before
        async with asyncio.timeout(WITHIN):
            while not (lines := await taken_over(home)):
                await asyncio.sleep(0.1)
    finally:
        await one.end()
        await two.end()
        await other.close()
        await runtime.close()
    [line] = lines
    assert line["who"].startswith("manager, ")
    assert line["who"].endswith(f"process {acting}")
    assert f"takes over from {socket.gethostname()}:{home.directory / 'one'}, silent for" in line["detail"]


async def taken_over(home: Home) -> list[dict[str, Any]]:
    """The `take-over` lines in the second manager's audit trail."""

    def read() -> list[dict[str, Any]]:
        return [each for each in AuditTrail(home.directory / "two").entries() if each["act"] == "take-over"]

    return await asyncio.to_thread(read)


async def operations(home: Home, *, since: int = 0) -> list[dict[str, Any]]:
    text = await asyncio.to_thread((home.directory / "engine" / "operations.jsonl").read_text)
    return [each for line in text.splitlines() if (each := json.loads(line))["number"] > since]


async def last_operation(home: Home) -> int:
    return max(each["number"] for each in await operations(home))
