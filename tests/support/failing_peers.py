"""Peers on loopback that answer an API client as no healthy gateway does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from support.ports import free_ports

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def refusing_port() -> int:
    """A port on which nothing listens."""
    return free_ports(1)


@contextlib.asynccontextmanager
async def peer(serve: Serve) -> AsyncIterator[int]:
    """A listener that treats each connection with `serve`; gives its port."""
    busy: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            try:
                await serve(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()
        busy.discard(asyncio.current_task())

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(busy):
            assert task is not None
            task.cancel()
            await asyncio.wait([task])


async def closes_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """As the outer port does while the API is shut."""


async def resets(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close with a reset instead of an end of stream."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def says_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Accept, read, never answer."""
    await reader.read(-1)


def sends(*chunks: bytes) -> Serve:
    """Answer anything with these bytes, piece by piece, and then nothing more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        for chunk in chunks:
            writer.write(chunk)
            await asyncio.sleep(0.01)
        await reader.read(-1)

    return serve


def frame(text: bytes) -> bytes:
    """A message of the API: length and text."""
    return struct.pack(">I", len(text)) + text
