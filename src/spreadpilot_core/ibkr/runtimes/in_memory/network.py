"""The network of an engine in memory: which port has a listener, and connections to it. No socket."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.system.memory_pipe import connect_ends
from spreadpilot_core.ibkr.tasks import Tasks


class MemoryNetwork:
    """Ports of one host."""

    def __init__(self) -> None:
        self._bound: dict[int, MemoryPort] = {}
        self.taken: set[int] = set()
        """By other programs."""
        self.tasks = Tasks("in-memory network")

    def is_free(self, port: int) -> bool:
        """Whether nothing listens there."""
        return port not in self._bound and port not in self.taken

    def make_port(self, api: ApiServer, on_refused: Callable[[], None]) -> MemoryPort:
        """The published port of a gateway, not bound."""
        return MemoryPort(self, api, on_refused)

    def bind(self, number: int, port: MemoryPort) -> None:
        """Raises `OSError` when somebody has it."""
        if not self.is_free(number):
            raise OSError(errno.EADDRINUSE, "address already in use")
        self._bound[number] = port

    def release(self, number: int) -> None:
        """It is free again."""
        self._bound.pop(number, None)

    def connect(self, number: int, protocol: asyncio.Protocol) -> asyncio.Transport:
        """A connection of this client. Raises `ConnectionRefusedError` where nothing listens."""
        if number not in self._bound:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
        return self._bound[number].accept(protocol)


class MemoryPort:
    """Fulfils the simulator's `PublishedPort`."""

    def __init__(self, network: MemoryNetwork, api: ApiServer, on_refused: Callable[[], None]) -> None:
        self.is_open = False
        self._network = network
        self._api = api
        self._on_refused = on_refused
        self._number = 0
        self._accepts = asyncio.Event()

    @property
    def number(self) -> int:
        """0 when not bound."""
        return self._number

    def bind(self, host: str, port: int) -> int:  # noqa: ARG002  # there is one host
        """Take the port. Raises `OSError`."""
        if not self._number:
            self._network.bind(port, self)
            self._number = port
        return self._number

    def resume(self) -> None:
        """Accept connections."""
        self._accepts.set()

    def pause(self) -> None:
        """Accept nothing; who connects meanwhile waits."""
        self._accepts.clear()

    async def close(self) -> None:
        """Give the port up; the API ends its connections."""
        self.is_open = False
        self._network.release(self._number)
        self._number = 0
        self._api.drop_clients()

    def accept(self, client: asyncio.Protocol) -> asyncio.Transport:
        """Connect at once, as a kernel does; serve when this port accepts."""
        reader = asyncio.StreamReader()
        server = asyncio.StreamReaderProtocol(reader)
        ours, theirs = connect_ends(client, server)
        writer = asyncio.StreamWriter(theirs, server, reader, asyncio.get_running_loop())
        self._network.tasks.begin(f"serve port {self._number}", self._serve(reader, writer))
        return ours

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._accepts.wait()
            if self.is_open:
                await self._api.serve(reader, writer)
            else:
                self._on_refused()
        finally:
            writer.close()
