"""An IB Gateway's API server on a real socket, as far as its clients can tell.

A simulated gateway owns one and switches its `behaviour`; the server listens by itself or is handed accepted connections.
It knows nothing of logins and of the gateway's life. Orders, cash and positions are in its `exchange`, which outlives it
and may be handed to the next server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from spreadpilot_core.ibkr.simulator.api import wire
from spreadpilot_core.ibkr.simulator.api.session import Session
from spreadpilot_core.ibkr.simulator.behaviour import Behaviour
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange

MOST_CLIENTS = 32
"""API clients that one gateway takes."""


def _ignore(_client_id: int) -> None:
    pass


class ApiServer:
    """The API of one gateway."""

    def __init__(
        self,
        *,
        accounts: Sequence[str],
        server_version: int = wire.NEWEST_VERSION,
        read_only: bool = False,
        seed: int | None = None,
        exchange: Exchange | None = None,
        on_client: Callable[[int], None] = _ignore,
        on_client_gone: Callable[[int], None] = _ignore,
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            accounts: names of the managed accounts; a new account holds cash only.
            server_version: the highest protocol version it offers.
            read_only: whether orders are refused, as with the gateway's read-only API setting.
            seed: of the prices; drawn when None.
            exchange: the books to serve instead of new ones; `accounts` and `seed` are then its own.
            on_client: called with the client id of a session that has started.
            on_client_gone: called with the client id of a session that had started and has ended.

        Raises:
            ValueError: the server version can't be served; the text says why.
        """
        self.server_version = wire.check_server_version(server_version)
        self.exchange = exchange if exchange is not None else Exchange(accounts, seed=seed)
        self.read_only = read_only
        self.behaviour = Behaviour()
        self._on_client = on_client
        self._on_client_gone = on_client_gone
        self._listener: asyncio.Server | None = None
        self._connections: dict[Session, asyncio.Event] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._beating: asyncio.Task[None] | None = None

    @property
    def clients(self) -> int:
        """Sessions that have started."""
        return sum(session.has_started for session in self._connections)

    async def listen(self, host: str, port: int) -> int:
        """Listen by itself; gives the port, which `port` 0 leaves to the system."""
        self._listener = await asyncio.start_server(self._accept, host, port)
        bound: int = self._listener.sockets[0].getsockname()[1]
        return bound

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one accepted connection; returns when it is closed."""
        session = Session(self, self.exchange, reader, writer, read_only=self.read_only)
        ended = self._connections[session] = asyncio.Event()
        try:
            await session.run()
        finally:
            self._leave(session)
            try:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            finally:  # cancelled here too: `close` waits for it
                del self._connections[session]
                ended.set()

    async def close(self) -> None:
        """Stop listening and close every connection, also those of a frozen server, which ends being frozen."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.drop_clients()
        self.behaviour.frozen = False
        if self._beating is not None:
            self._beating.cancel()
        for ended in list(self._connections.values()):
            await ended.wait()

    def drop_clients(self) -> None:
        """Close every connection (the clients read the end of the stream); the books stay."""
        for session in list(self._connections):
            session.line.close()

    def broadcast(self, code: int, text: str) -> None:
        """Send a notice (an error message with request id -1) to every started session."""
        for session in list(self._connections):
            if session.has_started:
                session.line.error(-1, code, text)

    # --- what sessions ask

    def is_full(self) -> bool:
        """Whether the gateway has all the clients it takes."""
        return self.clients >= MOST_CLIENTS

    def has_client(self, client_id: int) -> bool:
        """Whether a started session has this client id."""
        return any(session.has_started and session.client_id == client_id for session in self._connections)

    def started(self, session: Session) -> None:
        """A session has started."""
        self._on_client(session.client_id)

    def handled(self) -> None:
        """A session has handled what it had read: perhaps somebody watches the prices now."""
        if self._beating is None and self.is_watched():
            self._beating = asyncio.create_task(self._beat(), name="simulator: prices")

    # --- prices

    def is_watched(self) -> bool:
        """Whether somebody, or a waiting order, needs prices to move."""
        if self.exchange.market.step_seconds is None:
            return False
        return self.exchange.is_waiting or any(session.desks.is_watching for session in self._connections)

    async def _beat(self) -> None:
        """Move the prices for as long as somebody watches them or an order waits for them."""
        try:
            while self.is_watched():
                await asyncio.sleep(self.exchange.market.step_seconds or 0)
                await self.behaviour.while_frozen()
                self.exchange.beat()
        finally:
            self._beating = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self.serve(reader, writer), name="simulator: API client")
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _leave(self, session: Session) -> None:
        if session.has_started:
            session.has_started = False
            self._on_client_gone(session.client_id)
