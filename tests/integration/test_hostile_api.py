"""API servers that send what no gateway sends, before and after a client was accepted.

The same file runs with `ib_insync` (`test_connections_ib_insync.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from spreadpilot_core.ibkr.api_client import frames
from spreadpilot_core.ibkr.api_client.connection import Connection, HeartbeatError
from spreadpilot_core.ibkr.api_client.connector import ConnectError, Connector
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from support.failing_peers import frame, peer

LIBRARY = os.environ.get("TEST_CLIENT_LIBRARY", "ib_async")
IB: Any = importlib.import_module(LIBRARY).IB
HOST = "127.0.0.1"
MIB = 1024 * 1024
PATIENCE = 90.0
ENDLESS = struct.pack(">I", 4_000_000_000)
HANDSHAKE = frame(b"176\x0020261129 10:00:00 EST\0")
ACCOUNTS, NEXT_ID = frame(b"15\x001\0DU1234567\0"), frame(b"9\x001\x001\0")
NEWER = frame(b"9999\x001\0")
"""A message of a number that no library knows yet."""

CLOSED_FOR = {
    "a frame of 4 GB": (ENDLESS, "announced a message of 4,000,000,000 bytes"),
    "an empty frame": (frame(b""), "sent what no gateway sends: b''"),
    "a frame without a number": (frame(b"\xff\xfe<html>" * 10 + b"\0"), "sent what no gateway sends: b'"),
    "a number without end": (frame(b"9" * 5000), "sent what no gateway sends: b'9999"),
    "millions of fields": (frame(b"4\0" + b"\0" * (2 * MIB)), "sent a message of more than 1,000,000 fields"),
    "nothing that can be decoded": (frame(b"4\0x\0y\0z\0") * 300, "messages in a row that can't be decoded"),
    "tiny frames without end": (frame(b"1\0") * 50_000, "messages in a row that can't be decoded"),
}
"""What is sent, and what the reason must say."""
each_attack = pytest.mark.parametrize(("attack", "says"), CLOSED_FOR.values(), ids=CLOSED_FOR)


class Path:
    """A way to a healthy simulated gateway, on which a stranger can put bytes of its own before the gateway's."""

    def __init__(self, server: ApiServer, port: int) -> None:
        self.server = server
        self.port = port
        self.deaf = False
        """Nothing of the client's reaches the gateway any more."""
        self._writers: list[asyncio.StreamWriter] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there, onward = await asyncio.open_connection(HOST, self.port)
        self._writers.append(writer)
        back = asyncio.create_task(self._back(there, writer))
        try:
            while data := await reader.read(65536):
                if not self.deaf:
                    onward.write(data)
        finally:
            back.cancel()
            onward.close()

    async def _back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65536):
            writer.write(data)

    def put(self, data: bytes) -> None:
        """Send this to every client."""
        for writer in self._writers:
            if not writer.is_closing():
                writer.write(data)


@pytest.fixture
async def path() -> AsyncIterator[tuple[Path, int]]:
    """A healthy gateway behind a path that can be attacked, and its port."""
    server = ApiServer(accounts=["DU1234567"])
    inner = await server.listen(HOST, 0)
    way = Path(server, inner)
    async with peer(way.carry) as port:
        yield way, port
    await server.close()


async def connect(port: int, on_change: Callable[[], None] = lambda: None) -> Connection:
    """One try."""
    return await Connector(ib_factory=IB).connect(
        HOST, port, 7, account=None, read_only=False, timeout=PATIENCE, on_change=on_change
    )


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


@each_attack
async def test_open_connection_is_closed_with_the_reason(path: tuple[Path, int], attack: bytes, says: str) -> None:
    """What no gateway sends ends a connection that was ready, and the reason says what came."""
    way, port = path
    changed = asyncio.Event()
    connection = await connect(port, changed.set)
    way.put(attack)
    async with asyncio.timeout(PATIENCE):
        await changed.wait()
    assert not connection.is_open
    assert says in (connection.closed_reason or "")
    connection.disconnect()


@each_attack
async def test_peer_is_told_when_a_client_connects(attack: bytes, says: str) -> None:
    """The same right after the handshake: the try fails at once, and its error says what came."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(HANDSHAKE)
        if await reader.read(64):  # not the probe, which hangs up
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(attack)
                    await writer.drain()
                    await asyncio.sleep(0)

    async with peer(serve) as port:
        with pytest.raises(ConnectError) as refused:
            await connect(port)
    assert refused.value.kind == "garbage"
    assert says in str(refused.value)


async def test_endless_frame_takes_no_memory(path: tuple[Path, int]) -> None:
    """A frame that is announced with 16 MiB and a byte, and sent, is never collected."""
    way, port = path
    connection = await connect(port)
    tracemalloc.start()
    try:
        way.put(struct.pack(">I", 16 * MIB + 1))
        await until(lambda: not connection.is_open)
        way.put(b"x" * 8 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        connection.disconnect()
    assert peak < 12 * MIB  # the 8 MiB are the attacker's own


async def test_raw_bytes_are_no_heartbeat(path: tuple[Path, int]) -> None:
    """A frame that comes byte by byte, and never whole, is no answer, however much of it arrives."""
    way, port = path
    connection = await connect(port)
    way.deaf = True
    way.put(struct.pack(">I", 1000))

    async def dribble() -> None:
        while True:
            way.put(b"49\0")
            await asyncio.sleep(0.05)

    dribbling = asyncio.create_task(dribble())
    with pytest.raises(HeartbeatError, match="did not answer a heartbeat within 2 s"):
        await connection.heartbeat(timeout=2)
    dribbling.cancel()
    connection.disconnect()


async def test_messages_that_nobody_can_decode_are_no_heartbeat(path: tuple[Path, int]) -> None:
    """Whole frames of a number that the library does not know prove nothing, and close nothing one by one."""
    way, port = path
    connection = await connect(port)
    way.deaf = True

    async def chatter() -> None:
        while True:
            way.put(NEWER)
            await asyncio.sleep(0.1)

    chattering = asyncio.create_task(chatter())
    with pytest.raises(HeartbeatError, match="did not answer a heartbeat within 2 s"):
        await connection.heartbeat(timeout=2)
    chattering.cancel()
    assert connection.is_open
    way.deaf = False
    await connection.heartbeat(timeout=PATIENCE)
    connection.disconnect()


async def test_newer_gateway_that_says_more_stays_connected(path: tuple[Path, int]) -> None:
    """Messages that the library does not know, between others that it does, are nobody's fault."""
    way, port = path
    connection = await connect(port)
    for _ in range(3 * frames.MOST_UNDECODABLE):
        way.put(NEWER + ACCOUNTS)
    await connection.heartbeat(timeout=PATIENCE)
    assert connection.is_open
    connection.disconnect()


async def test_everything_that_a_gateway_says_at_once_arrives(path: tuple[Path, int]) -> None:
    """A burst of thousands of messages, cut anywhere, is handed on whole and in its order, with turns for others between."""
    way, port = path
    connection = await connect(port)
    heard: list[int] = []
    connection.ib.errorEvent.connect(lambda _id, code, *_rest: heard.append(code))
    turns_of_others = 0

    async def others() -> None:
        nonlocal turns_of_others
        while True:
            await asyncio.sleep(0)
            turns_of_others += 1

    burst = b"".join(frame(f"4\x002\x00-1\x00{2104 + n % 3}\0text {n}\0\0".encode()) for n in range(5000))
    for start in range(0, len(burst), 65521):
        way.put(burst[start : start + 65521])
    counting = asyncio.create_task(others())
    await until(lambda: len(heard) >= 5000)
    counting.cancel()
    assert heard == [2104 + n % 3 for n in range(5000)]
    assert turns_of_others >= 5000 / frames.FRAMES_AT_ONCE
    connection.disconnect()


@pytest.mark.parametrize(
    "names", [b"DU1\x1b[2J", b"A" * 33, b"DU1\nDU2", ",".join(f"U{n}" for n in range(1001)).encode()]
)
async def test_accounts_that_no_gateway_manages_are_refused(names: bytes) -> None:
    """Names that would reach a terminal, or never end, fail their own follower's connect."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(HANDSHAKE)
        if await reader.read(64):
            writer.write(frame(b"15\x001\0" + names + b"\0") + NEXT_ID)
            await reader.read(-1)

    async with peer(serve) as port:
        with pytest.raises(ConnectError, match="names accounts as no gateway does"):
            await connect(port)


async def test_client_connected_again_by_its_program_is_guarded_anew(path: tuple[Path, int]) -> None:
    """What was left of a connection that was closed for its peer's fault does not spoil the next one of that client."""
    way, port = path
    connection = await connect(port)
    way.put(frame(b"") + ENDLESS)
    await until(lambda: not connection.is_open)
    await connection.ib.connectAsync(HOST, way.port, clientId=8, timeout=PATIENCE)
    assert connection.ib.managedAccounts() == ["DU1234567"]
    connection.disconnect()
