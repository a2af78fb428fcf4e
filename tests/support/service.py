"""The manager as a service in a process of its own that may die at any moment, and its operator on the control socket."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from spreadpilot_core.ibkr.service.client import (
    ControlClient,
    NoManagerError,
    RefusedByManagerError,
    SilentManagerError,
)
from support.command import PROGRAM, Command
from support.home import Home

T = TypeVar("T")


class Service:
    """`gateway-manager run` on one home, again and again; all that its lives say goes into one log."""

    def __init__(self, home: Home, **settings: object) -> None:
        self._home = home
        self._environment = Command(home, **settings).environment
        self._process: subprocess.Popen[bytes] | None = None
        self.log = home.directory.with_name(f"{home.directory.name}.log")
        self.lives = 0

    async def start(self) -> None:
        """Begin another life; returns when it answers."""
        await asyncio.to_thread(self._start)
        await self.ask(ControlClient.gateways)

    def _start(self) -> None:
        self.lives += 1
        with self.log.open("ab") as stream:
            self._process = subprocess.Popen(
                [PROGRAM, "run"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    async def end(self, how: signal.Signals | None = None) -> int:
        """Send it a signal, if it does not end by itself, and wait for its exit code."""
        process = self._process
        assert process is not None
        if how is not None:
            process.send_signal(how)
        return await asyncio.to_thread(process.wait, 60)

    def close(self) -> None:
        """Leave no process and no log behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.log.unlink(missing_ok=True)

    async def ask(self, call: Callable[[ControlClient], T], *, within: float = 60.0) -> T:
        """Ask the manager, and again while it is away. Raises `RefusedByManagerError`, and `TimeoutError`."""
        async with asyncio.timeout(within):
            while True:
                try:
                    return await asyncio.to_thread(self._ask, call)
                except (NoManagerError, SilentManagerError):
                    await asyncio.sleep(0.1)
                except RefusedByManagerError as refusal:
                    if "needs a started manager" not in str(refusal):  # it ends just now
                        raise
                    await asyncio.sleep(0.1)

    def _ask(self, call: Callable[[ControlClient], T]) -> T:
        with ControlClient(self._home.directory) as client:
            return call(client)

    async def act(self, follower_id: str, what: str, **body: Any) -> dict[str, Any] | RefusedByManagerError:
        """`launch`, `stop`, `restart` or `reconnect`, as often as it takes until the manager answers; its refusal is an answer."""
        try:
            return await self.ask(lambda client: client.act(follower_id, what, body or None))
        except RefusedByManagerError as refusal:
            return refusal

    async def gateways(self) -> dict[str, dict[str, Any]]:
        """Every snapshot by follower."""
        return {each["follower_id"]: each for each in await self.ask(ControlClient.gateways)}

    def said_about(self, *follower_ids: str, lines: int = 25) -> str:
        """The last lines about each follower, and about the lives themselves."""
        said = Path(self.log).read_text().splitlines()
        lives = [line for line in said if '"event": "manager' in line]
        about = [[line for line in said if f'"follower": "{each}"' in line][-lines:] for each in follower_ids]
        return "\n\n".join("\n".join(each) for each in (*about, lives[-lines:]))

    def faults(self) -> list[str]:
        """Lines in which a life told of a defect of its own."""
        return [line for line in Path(self.log).read_text().splitlines() if '"level": "error"' in line]
