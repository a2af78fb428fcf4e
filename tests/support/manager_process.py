"""A manager in a process of its own, to be killed, frozen and woken."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError, SilentManagerError
from support.home import Home

T = TypeVar("T")

LEASE = 4.0
"""Seconds; what a request to the engine or the database may be held up without costing a holder its lease."""
WITHIN = 60.0
"""Seconds that a busy machine may take for what takes about a lease."""
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


class Process:
    """One manager in a process of its own."""

    def __init__(self, name: str, home: Home, **settings: Any) -> None:
        """`settings` beside those of the home."""
        self.name = name
        self.settings: dict[str, Any] = {
            **{key: str(value) if isinstance(value, Path) else value for key, value in home.settings.items()},
            "state_dir": str(home.directory / name),
            "credentials_key_file": str(home.directory / "credentials.key"),
            "leader_lease": LEASE,
            "poll_interval": 0.5,
            **settings,
        }
        self._process: asyncio.subprocess.Process | None = None
        self.lines: list[str] = []
        self.pids: set[int] = set()
        self.leases: dict[int, float] = {}
        """The numbers of the leases that it began, and when."""

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
            if began := re.match(r"([0-9.]+) It take.* leader lease (\d+) and acts", self.lines[-1]):
                self.leases[int(began[2])] = float(began[1])

    async def says(self, words: str, *, within: float = WITHIN) -> None:
        """Wait until its newest lines hold these words."""
        try:
            async with asyncio.timeout(within):
                while not any(words in line for line in self.lines):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not say {words!r}: {self.lines[-20:]}") from None

    async def ask(self, call: Callable[[ControlClient], T]) -> T:
        """Over its control socket, once it answers."""

        def ask() -> T:
            with ControlClient(Path(self.settings["state_dir"])) as client:
                return call(client)

        async with asyncio.timeout(WITHIN):
            while True:
                try:
                    return await asyncio.to_thread(ask)
                except (NoManagerError, SilentManagerError):
                    await asyncio.sleep(0.1)

    async def gateways(self) -> dict[str, dict[str, Any]]:
        """Every snapshot by follower."""
        return {each["follower_id"]: each for each in await self.ask(ControlClient.gateways)}

    async def shows(self, states: Mapping[str, str], *, within: float = WITHIN) -> None:
        """Wait until its gateways are in these states."""
        seen: dict[str, dict[str, Any]] = {}
        try:
            async with asyncio.timeout(within):
                while {name: each["state"] for name, each in seen.items() if name in states} != states:
                    seen = await self.gateways()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError({name: (each["state"], each["reason"]) for name, each in seen.items()}) from None

    async def detach(self) -> list[str]:
        """End it so that its gateways stay; gives what it says of logins under way."""
        left: list[str] = (await self.ask(ControlClient.detach))["left"]
        assert self._process is not None
        await self.end()
        return left

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


def knows_its_place(former: Process, other: Process) -> bool:
    """Whether a former holder has said last that it stands by, or is the leader again."""
    said = [line for line in former.lines if "stands by" in line or " and acts" in line]
    return (bool(said) and "stands by" in said[-1]) or newest(former) > newest(other)


def newest(manager: Process) -> int:
    """The number of the newest lease that it began."""
    return max(manager.leases, default=0)
