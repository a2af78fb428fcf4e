"""An IB Gateway's API server on a real socket, as far as its clients can tell.

A simulated gateway owns one and switches its `behaviour`; it can listen by itself or be handed accepted connections. It
knows nothing of logins and of the gateway's life.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.session import Session
from spreadpilot_core.ibkr.simulator.behaviour import Behaviour


class ApiServer:
    """The API of one gateway."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        server_version: int = wire.NEWEST_VERSION,
        read_only: bool = False,
        seed: int | None = None,
    ) -> None:
        self.accounts = tuple(accounts)
        self.server_version = wire.check_server_version(server_version)
        self.read_only = read_only
        self.seed = seed
        self.behaviour = Behaviour()
        self._listener: asyncio.Server | None = None
        self._connections: dict[Session, asyncio.Task[None] | None] = {}

    @property
    def clients(self) -> int:
        """Sessions that have started."""
        return sum(session.started for session in self._connections)

    async def listen(self, host: str, port: int) -> int:
        """Listen by itself; gives the port, which `port` 0 leaves to the system."""
        self._listener = await asyncio.start_server(self.serve, host, port)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one accepted connection; returns when it is closed."""
        session = Session(self, reader, writer)
        self._connections[session] = asyncio.current_task()
        try:
            await session.run()
        finally:
            del self._connections[session]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop_clients()
        tasks = [task for task in self._connections.values() if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop_clients(self) -> None:
        """Close every connection (the clients read the end of the stream); the books stay."""
        for session in list(self._connections):
            session.close()

    def broadcast(self, code: int, text: str) -> None:
        """Send a notice (an error message with request id -1) to every started session."""
        for session in list(self._connections):
            if session.started:
                session.error(-1, code, text)

    def admit(self, session: Session) -> bool:
        """Whether `session` may start: its client id is free."""
        return all(
            other is session or not other.started or other.client_id != session.client_id for other in self._connections
        )

    def now(self) -> int:
        """The gateway's clock, in whole epoch seconds."""
        return int(time.time())
