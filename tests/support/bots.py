"""Programs that trade beside the service, as processes whose lines are read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.home import PATIENCE


class Bot:
    """A process that prints a JSON line for each trade."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.trades: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            if line.startswith(b"{"):
                self.trades.append(json.loads(line))

    async def trades_on(self, more: int = 2) -> None:
        """Wait for more trades."""
        known = len(self.trades)
        await self._until(lambda: len(self.trades) >= known + more)

    async def trades_by_another_client(self) -> None:
        """Wait for a trade by a client that it did not have before."""
        known = self.trades[-1]["client"]
        await self._until(lambda: self.trades[-1]["client"] != known)

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + 2 * PATIENCE
        while not condition():
            assert self._process.returncode is None, (await self.errors()) or "it ended"
            assert asyncio.get_running_loop().time() < deadline, f"no such trade; {len(self.trades)} before"
            await asyncio.sleep(0.05)

    async def errors(self) -> str:
        """What it said on standard error; to its end."""
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()

    async def end(self) -> int:
        """Have it end by itself; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE):
            code = await self._process.wait()
        await self._reading
        return code

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        await self._reading


@asynccontextmanager
async def bot(*command: str | Path, environment: Mapping[str, str] | None = None) -> AsyncIterator[Bot]:
    """It runs while the block does."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment) if environment is not None else None,
    )
    running = Bot(process)
    try:
        yield running
    finally:
        await running.close()
