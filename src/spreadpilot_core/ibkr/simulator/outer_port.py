"""The port that a container publishes: it accepts from the first moment, whether or not the API behind it is open.

In the real container `socat` listens long before the gateway does, and closes what it accepted while nothing listens
behind it; a TCP connect proves nothing. This is that listener. It knows the API server it hands connections to, and
nothing of logins.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Protocol

from spreadpilot_core.ibkr.simulator.api_server import ApiServer

_BACKLOG = 128
_AFTER_A_FAILED_ACCEPT = 0.05
"""Seconds."""


class PublishedPort(Protocol):
    """What a gateway needs of its port."""

    is_open: bool
    """Whether the API behind the port is open."""

    @property
    def number(self) -> int:
        """The port's number; 0 when not bound."""

    def bind(self, host: str, port: int) -> int:
        """Take the port (0: any free one) and give its number. Raises `OSError` when it is taken; bound already: fine."""

    def resume(self) -> None:
        """Accept connections (again), as long as the port is bound."""

    def pause(self) -> None:
        """Accept nothing; who connects meanwhile waits."""

    async def close(self) -> None:
        """Give the port up and end every connection; later connects are refused."""


class OuterPort:
    """One listener; hands accepted connections to the API while that is open, and closes them at once while it is not."""

    def __init__(self, api: ApiServer, on_refused: Callable[[], None]) -> None:
        self.is_open = False
        """Whether the API behind the port is open."""
        self._api = api
        self._on_refused = on_refused
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def number(self) -> int:
        """The port's number; 0 when not bound."""
        number: int = self._listener.getsockname()[1] if self._listener is not None else 0
        return number

    def bind(self, host: str, port: int) -> int:
        """Take the port (0: any free one) and give its number. Raises `OSError` when it is taken; bound already: fine."""
        if self._listener is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
            self._listener.setblocking(False)
        return self.number

    def resume(self) -> None:
        """Accept connections (again), as long as the port is bound."""
        if self._accepting is None and self._listener is not None:
            self._accepting = asyncio.create_task(self._accept(self._listener), name=f"outer port {self.number}")

    def pause(self) -> None:
        """Accept nothing; the kernel still completes connects, as it does for a stopped process."""
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None

    async def close(self) -> None:
        """Give the port up and end every connection; later connects are refused."""
        self.is_open = False
        self.pause()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._api.drop_clients()
        for task in (serving := list(self._serving)):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # out of descriptors, or the client has gone already
                await asyncio.sleep(_AFTER_A_FAILED_ACCEPT)
                continue
            if self.is_open:
                task = asyncio.create_task(self._serve(connection))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
            else:
                connection.close()
                self._on_refused()

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with contextlib.suppress(OSError):
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            await self._api.serve(reader, writer)
