"""A simulated gateway on the test's own loop: its log, its exit code, and waiting for what it says."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.script import Script, Timings

ACCOUNT = "DU1234567"
DEADLINE = 30.0
"""Seconds after which a busy machine is no excuse any more."""
QUICK = Timings.FAST.scaled(0.1)
ANY_PASSWORD = "pässword"
CONTROLLERS = ("ibc", "ibcontroller")
_STAMP = re.compile(r"^\d{4}[-/]\d\d[-/]\d\d \d\d:\d\d:\d\d(?:[:,]\d{3})? ")


class Life:
    """One gateway from its start to its end."""

    def __init__(self, controller: str, laps: Sequence[Mapping[str, Any]] = (), **options: Any) -> None:
        self.lines: list[str] = []
        self._said = asyncio.Event()
        options = {"timings": QUICK, "accounts": [ACCOUNT], "script": Script.from_json(laps), **options}
        self.gateway = SimulatedGateway(controller=controller, on_line=self._take_line, **options)
        self.task: asyncio.Task[int] | None = None

    def _take_line(self, line: str) -> None:
        self.lines.append(line)
        self._said.set()

    def start(self, password: str = ANY_PASSWORD) -> None:
        """Let it live in a task of its own."""
        self.gateway.bind()
        self.task = asyncio.create_task(self.gateway.run(password))

    @property
    def messages(self) -> list[str]:
        """What it has printed, without stamps."""
        return [_STAMP.sub("", line) for line in self.lines]

    def count(self, fragment: str) -> int:
        """How often it has said something."""
        return sum(fragment in line for line in self.lines)

    async def said(self, fragment: str, times: int = 1) -> None:
        """Return once it has said something this often."""
        async with asyncio.timeout(DEADLINE):
            while self.count(fragment) < times:
                self._said.clear()
                await self._said.wait()

    async def usable(self) -> None:
        """Return once an API client is served."""
        async with asyncio.timeout(DEADLINE):
            await self.gateway.until_usable()

    async def unusable(self) -> None:
        """Return once no API client is served any more."""
        await until(lambda: not self.gateway.is_usable)

    async def ended(self) -> int:
        """Return its exit code once it has ended by itself."""
        assert self.task is not None
        async with asyncio.timeout(DEADLINE):
            return await self.task

    async def stopped(self) -> int:
        """Stop it and return its exit code."""
        self.gateway.terminate()
        return await self.ended()


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # what is looked at says nothing when it changes
            await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def living(
    controller: str, laps: Sequence[Mapping[str, Any]] = (), *, password: str = ANY_PASSWORD, **options: Any
) -> AsyncIterator[Life]:
    """A gateway that is started, and killed at the end when it still lives."""
    life = Life(controller, laps, **options)
    life.start(password)
    assert life.task is not None
    await asyncio.sleep(0)  # a task that is cancelled before its first step would never give the port back
    try:
        yield life
    finally:
        life.task.cancel()
        await asyncio.gather(life.task, return_exceptions=True)


async def whole_life(
    controller: str, laps: Sequence[Mapping[str, Any]] = (), *, password: str = ANY_PASSWORD, **options: Any
) -> tuple[int, Life]:
    """A gateway that ends by itself: its exit code, and itself."""
    async with living(controller, laps, password=password, **options) as life:
        return await life.ended(), life


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection to a gateway."""
    return await asyncio.open_connection("127.0.0.1", port)


async def handshake(port: int, *, seconds: float = DEADLINE) -> bytes:
    """What a raw handshake is answered with; empty when the connection was closed instead."""
    reader, writer = await connect(port)
    try:
        writer.write(b"API\0\0\0\0\tv100..178")
        async with asyncio.timeout(seconds):
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
