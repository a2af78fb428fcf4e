"""A simulated gateway's API server on a loopback port, and clients that look at its bytes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest

from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from spreadpilot_core.ibkr.simulator.books.exchange import Exchange

HOST = "127.0.0.1"
GENEROUS = 20.0
"""Seconds that a busy machine may take for what takes milliseconds."""


class Served:
    """A listening server, its books and its port."""

    def __init__(self, server: ApiServer, port: int) -> None:
        self.server = server
        self.exchange = server.exchange
        self.port = port


@contextlib.asynccontextmanager
async def serving(
    *accounts: str, exchange: Exchange | None = None, port: int = 0, **options: Any
) -> AsyncIterator[Served]:
    """A server whose prices stand still until they are set."""
    names = accounts or ("DU1",)
    books = exchange if exchange is not None else Exchange(names, seed=1, step_seconds=None)
    server = ApiServer(accounts=names, exchange=books, **options)
    try:
        yield Served(server, await server.listen(HOST, port))
    finally:
        await server.close()
        await RawClient.close_all()


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until `condition` holds."""
    deadline = asyncio.get_running_loop().time() + GENEROUS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {what}"
        await asyncio.sleep(0.002)


class RawClient:
    """An API client that knows bytes and fields only."""

    _connected: ClassVar[list[RawClient]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._connected.append(self)

    @classmethod
    async def close_all(cls) -> None:
        while cls._connected:
            writer = cls._connected.pop().writer
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        return cls(*await asyncio.open_connection(HOST, port))

    @classmethod
    async def started(cls, port: int, client_id: int = 1, *, hello: str = "v157..178") -> RawClient:
        """A client whose session has started; the messages of the opening are read."""
        client = await cls.connect(port)
        await client.shake_hands(hello)
        client.send(71, 2, client_id, "")
        await client.until(9)
        for _ in range(3):  # the farms
            await client.read()
        return client

    async def shake_hands(self, hello: str = "v157..178") -> list[str]:
        self.writer.write(b"API\0" + framed(hello.encode()))
        return await self.read()

    def send(self, *fields: object) -> None:
        self.writer.write(request(*fields))

    async def read(self) -> list[str]:
        """The next message's fields.

        Raises:
            IncompleteReadError: the server closed the connection.
        """
        async with asyncio.timeout(GENEROUS):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return (await self.reader.readexactly(length)).decode().split("\0")[:-1]

    async def until(self, number: int) -> list[list[str]]:
        """Messages up to and with the first one of this number."""
        messages = [await self.read()]
        while messages[-1][0] != str(number):
            messages.append(await self.read())
        return messages

    async def at_end(self) -> list[list[str]]:
        """All messages until the server closes the connection."""
        messages = []
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                messages.append(await self.read())
        return messages

    async def is_silent(self) -> bool:
        """Whether nothing comes for a while, not even the end of the stream."""
        try:
            async with asyncio.timeout(0.15):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self.writer.close()


def framed(payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + payload


def request(*fields: object) -> bytes:
    return framed("".join(f"{field}\0" for field in fields).encode())


class LogRecords(logging.Handler):
    """What was logged at WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture
def warnings_logged() -> Iterator[list[str]]:
    """Texts of all log records at WARNING and above, of every logger."""
    records = LogRecords()
    logging.getLogger().addHandler(records)
    yield records.texts
    logging.getLogger().removeHandler(records)
