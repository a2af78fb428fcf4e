"""The control socket before anybody has come: it listens, and what serves it is loaded with the first connection.

A web framework takes 0.3 s of a processor and some 20 MB, which a program whose manager nobody asks anything need not spend.
Whoever connects first waits that long in the backlog.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from spreadpilot_core.ibkr.errors import SettingsError
from spreadpilot_core.ibkr.http_api.address import SOCKET, listening_socket
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold


class Part(Protocol):
    """Something that runs beside the manager."""

    async def start(self) -> None:
        """Begin. Raises `SettingsError` where that can't be done."""

    async def close(self) -> None:
        """End, and leave nothing behind."""


class OnDemand:
    """Listens in the state directory from `start()` to `close()`."""

    def __init__(
        self, state_dir: Path, make: Callable[[socket.socket], Sequence[Part]], *, tell: Tell = untold
    ) -> None:
        """`make` is called off the loop, with the socket on which the first one waits: what serves it, not started."""
        self._state_dir = state_dir
        self._make = make
        self._tell = tell
        self._listening: socket.socket | None = None
        self._served: list[Part] = []
        self._tasks = Tasks("control socket")

    async def start(self) -> None:
        """Listen. Raises `SettingsError` where that can't be done."""
        making = asyncio.ensure_future(asyncio.to_thread(listening_socket, self._state_dir))
        try:
            self._listening = await asyncio.shield(making)
        except asyncio.CancelledError:
            with suppress(SettingsError):
                (await making).close()
            raise
        asyncio.get_running_loop().add_reader(self._listening, self._somebody_comes, self._listening)

    def _somebody_comes(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listening)
        name = "load what serves the control socket"
        self._tasks.begin(name, keep_running(name, lambda: self._serve(listening), tell=self._tell, may_end=True))

    async def _serve(self, listening: socket.socket) -> None:
        made = await asyncio.to_thread(self._make, listening)
        self._listening = None  # from here on it is the server's
        for part in made:
            self._served.append(part)
            await part.start()

    async def close(self) -> None:
        """End, and leave no socket behind."""
        await self._tasks.cancel()
        while self._served:
            await self._served.pop().close()
        listening, self._listening = self._listening, None
        if listening is not None:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
            with suppress(OSError):  # somebody removed it
                await asyncio.to_thread((self._state_dir / SOCKET).unlink)
