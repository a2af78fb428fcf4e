"""Connections of the API server: openings, limits, faults, and bytes that are no protocol at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct

import pytest
from ib_async import IB

from spreadpilot_core.ibkr.simulator.api_server import MOST_CLIENTS
from support.api_server import GENEROUS, HOST, RawClient, framed, request, serving, until, warnings_logged

__all__ = ["warnings_logged"]


async def test_the_opening() -> None:
    """The handshake's answer stands alone; after START_API come accounts, next id and the farms, in this order."""
    async with serving("DU1", "DU2") as served:
        client = await RawClient.connect(served.port)
        version, clock = await client.shake_hands()
        assert version == "178"
        assert clock.endswith(" UTC")
        assert await client.is_silent()
        client.send(71, 2, 7, "")
        messages = [await client.read() for _ in range(5)]
        assert messages[:2] == [["15", "1", "DU1,DU2"], ["9", "1", "1"]]
        assert [message[3] for message in messages[2:]] == ["2104", "2106", "2158"]
        client.close()


@pytest.mark.parametrize(
    ("hello", "version"),
    [("v100..157", "157"), ("v157..176", "176"), ("v157..999", "178"), ("v170 +PACEAPI", "170"), ("v157..158", "157")],
)
async def test_versions_are_agreed(hello: str, version: str) -> None:
    """The lower of both newest versions is spoken, whatever the form of the hello."""
    async with serving() as served:
        client = await RawClient.connect(served.port)
        assert (await client.shake_hands(hello))[0] == version
        client.close()


@pytest.mark.parametrize("hello", ["v179..200", "v100..156", "v158", "x157", "v", "v157..", "v" + "9" * 30])
async def test_no_common_version(hello: str) -> None:
    """A client without a common version is let go without an answer."""
    async with serving() as served:
        client = await RawClient.connect(served.port)
        client.writer.write(b"API\0" + framed(hello.encode()))
        assert await client.at_end() == []


async def test_bytes_may_be_cut_anywhere() -> None:
    """The opening and requests are understood byte by byte, and all in one piece."""
    opening = b"API\0" + framed(b"v157..178") + request(71, 2, 5, "") + request(49, 1) * 3
    async with serving() as served:
        for pieces in ([opening], [bytes([byte]) for byte in opening]):
            client = await RawClient.connect(served.port)
            for piece in pieces:
                client.writer.write(piece)
                await client.writer.drain()
                await asyncio.sleep(0)
            for _ in range(3):
                await client.until(49)
            client.close()
            await until(lambda: served.server.clients == 0)


async def test_a_client_id_is_given_once() -> None:
    """A second client with an id gets error 326 and is closed a little later; the holder notices nothing, and a drop frees it."""
    async with serving() as served:
        holder = await RawClient.started(served.port, 7)
        second = await RawClient.connect(served.port)
        await second.shake_hands()
        second.send(71, 2, 7, "")
        begun = asyncio.get_running_loop().time()
        (refusal,) = await second.at_end()
        assert refusal[2:4] == ["-1", "326"]
        assert asyncio.get_running_loop().time() - begun > 0.6
        holder.send(49, 1)
        assert (await holder.read())[0] == "49"
        holder.close()
        await until(lambda: served.server.clients == 0)
        again = await RawClient.started(served.port, 7)
        again.close()


async def test_thirty_two_clients() -> None:
    """The 33rd client is closed without a word, until one of the others leaves."""
    async with serving() as served:
        clients = [await RawClient.started(served.port, number) for number in range(MOST_CLIENTS)]
        assert served.server.clients == 32
        late = await RawClient.connect(served.port)
        await late.shake_hands()
        late.send(71, 2, 99, "")
        assert await late.at_end() == []
        clients.pop().close()
        await until(lambda: served.server.clients == 31)
        clients.append(await RawClient.started(served.port, 99))
        for client in clients:
            client.close()


async def test_too_many_messages() -> None:
    """More than fifty messages at once bring error 100; a client that goes on is cut off after the third time."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.writer.write(request(8, 1, 1) * 60)
        messages = await client.until(4)
        assert messages[-1][3] == "100"
        assert len(messages) >= 50
        end = asyncio.create_task(client.at_end())
        with contextlib.suppress(ConnectionError):
            while not end.done():
                client.writer.write(request(14, 1, 1) * 100)
                await client.writer.drain()
                await asyncio.sleep(0.05)
        strikes = [message[4][-3:] for message in await end if message[0] == "4"]
        assert strikes in (["(2)", "(3)"], ["(2)"], [])  # the close may overtake what was sent last
        await until(lambda: served.server.clients == 0)


async def test_half_closed_connections_are_gone() -> None:
    """A client that closes its own direction only, as ib_async does before closing, is gone and its id is free."""
    async with serving() as served:
        client = await RawClient.started(served.port, 3)
        client.writer.write_eof()
        assert await client.at_end() == []
        await until(lambda: served.server.clients == 0)


async def test_started_and_gone_clients_are_told() -> None:
    """The gateway's life hears of each client that starts and leaves, by its id, and of no other connection."""
    seen: list[tuple[str, int]] = []
    async with serving(
        on_client=lambda number: seen.append(("started", number)),
        on_client_gone=lambda number: seen.append(("gone", number)),
    ) as served:
        probe = await RawClient.connect(served.port)
        await probe.shake_hands()
        probe.close()
        client = await RawClient.started(served.port, 8)
        client.close()
        await until(lambda: len(seen) == 2)
        client = await RawClient.started(served.port, 9)
    assert seen == [("started", 8), ("gone", 8), ("started", 9), ("gone", 9)]


# --- faults


async def test_mute_from_the_first_byte() -> None:
    """A mute gateway accepts connections and answers nothing at all; sessions that had started go on."""
    async with serving() as served:
        before = await RawClient.started(served.port, 1)
        served.server.behaviour.mute_handshake = True
        client = await RawClient.connect(served.port)
        client.writer.write(b"API\0" + framed(b"v157..178") + request(71, 2, 2, ""))
        assert await client.is_silent()
        before.send(49, 1)
        assert (await before.read())[0] == "49"
        client.close()
        before.close()


async def test_mute_after_the_handshake() -> None:
    """A gateway whose login was lost shakes hands and then never tells accounts or ids, nor answers anything else."""
    async with serving() as served:
        served.server.behaviour.mute_start = True
        client = await RawClient.connect(served.port)
        assert (await client.shake_hands())[0] == "178"
        client.send(71, 2, 2, "")
        client.send(49, 1)
        assert await client.is_silent()
        assert served.server.clients == 0
        client.close()


async def test_closed_early() -> None:
    """A gateway that closes early does so at START_API, without an error."""
    async with serving() as served:
        served.server.behaviour.close_early = True
        client = await RawClient.connect(served.port)
        await client.shake_hands()
        client.send(71, 2, 2, "")
        assert await client.at_end() == []


async def test_a_pending_disclaimer() -> None:
    """A paper gateway whose disclaimer nobody accepted sends 10141 and closes; once accepted it serves."""
    async with serving() as served:
        served.server.behaviour.disclaimer_pending = True
        client = await RawClient.connect(served.port)
        await client.shake_hands()
        client.send(71, 2, 2, "")
        (message,) = await client.at_end()
        assert message[2:4] == ["-1", "10141"]
        served.server.behaviour.disclaimer_pending = False
        (await RawClient.started(served.port, 2)).close()


async def test_frozen_and_thawed() -> None:
    """A frozen gateway reads, answers and sends nothing on any connection; once thawed it goes on where it was."""
    async with serving() as served:
        old = await RawClient.started(served.port, 1)
        served.server.behaviour.frozen = True
        old.send(49, 1)
        served.server.broadcast(1100, "Connectivity between IB and Trader Workstation has been lost.")
        new = await RawClient.connect(served.port)
        new.writer.write(b"API\0" + framed(b"v157..178"))
        assert await old.is_silent()
        assert await new.is_silent()
        served.server.behaviour.frozen = False
        assert sorted([(await old.read())[0] for _ in range(2)]) == ["4", "49"]
        assert (await new.read())[0] == "178"
        old.close()
        new.close()


async def test_a_frozen_gateway_can_be_closed() -> None:
    """Closing a frozen server (its container is killed) ends its connections."""
    async with serving() as served:
        client = await RawClient.started(served.port, 1)
        served.server.behaviour.frozen = True
        await served.server.close()
        assert await client.at_end() == []


async def test_notices_reach_every_client(warnings_logged: list[str]) -> None:
    """Notices of IBKR's connection arrive at every started session as errors without a request, in order."""
    async with serving() as served:
        clients = [IB(), IB()]
        seen: list[list[int]] = [[], []]
        for number, ib in enumerate(clients):
            await ib.connectAsync(HOST, served.port, number + 1, timeout=GENEROUS)
            ib.errorEvent += lambda request_id, code, *_, mine=seen[number]: mine.append(
                code if request_id == -1 else 0
            )
        for code in (1100, 2103, 2104, 1102):
            served.server.broadcast(code, "a notice")
        await until(lambda: all(len(mine) == 4 for mine in seen))
        assert [text for text in warnings_logged if "2103" in text or "2104" in text] == []
        assert seen == [[1100, 2103, 2104, 1102]] * 2
        for ib in clients:
            ib.disconnect()


# --- garbage

RANDOM = random.Random(7)
GARBAGE = {
    "nothing": b"",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "almost the prefix": b"API\1" + framed(b"v157..178"),
    "an oversize hello": b"API\0" + struct.pack(">I", 0x01000000),
    "a negative length": b"API\0" + b"\xff\xff\xff\xff",
    "an empty hello": b"API\0" + framed(b""),
    "a request before the hello": b"API\0" + request(71, 2, 1, ""),
    "random bytes": RANDOM.randbytes(4096),
    "another first request": b"API\0" + framed(b"v157..178") + request(49, 1),
    "no client id": b"API\0" + framed(b"v157..178") + request(71, 2),
    "a client id that is none": b"API\0" + framed(b"v157..178") + request(71, 2, "seven", ""),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_instead_of_an_opening(name: str) -> None:
    """Bytes that open no session end their own connection and nothing else."""
    async with serving() as served:
        client = await RawClient.connect(served.port)
        client.writer.write(GARBAGE[name])
        client.writer.write_eof()
        await client.at_end()
        (await RawClient.started(served.port)).close()


async def test_an_oversize_frame_ends_the_session() -> None:
    """A started session that announces a frame beyond the protocol's limit is closed at once."""
    async with serving() as served:
        client = await RawClient.started(served.port)
        client.writer.write(struct.pack(">I", 0xFFFFFF + 1))
        assert await client.at_end() == []


@pytest.mark.parametrize("seed", range(8))
async def test_fuzzed_requests(seed: int, warnings_logged: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with wrong, missing, superfluous and absurd fields never break the server or go unanswered for good."""
    monkeypatch.setattr("spreadpilot_core.ibkr.simulator.api.pace.LIMIT", 1_000_000)
    chance = random.Random(seed)
    odd = ["", "0", "1", "-1", "x", "1e308", "-1e14", "nan", "inf", "Infinite", "2147483647", "1.7976931348623157E308"]
    odd += [
        "AAPL",
        "SMART",
        "STK",
        "CASH",
        "USD",
        "BUY",
        "SELL",
        "MKT",
        "LMT",
        "DU1",
        "All",
        "\\x00\\N{DASH}",
        "ä\u2028",
        "9" * 500,
    ]
    odd += ["1 D", "5 mins", "00010101 00:00:00", "20261120 22:00:00", "$LEDGER:ALL", "265598", "12087792", "5.5"]
    async with serving() as served:
        client = await RawClient.started(served.port)
        for _ in range(400):
            fields = [chance.choice(odd) for _ in range(chance.randrange(0, 40))]
            start = ["265598", "AAPL", "STK", "", "0.0", "", "", "SMART", "", "USD", "", ""] * chance.randrange(2)
            client.send(chance.randrange(1, 106), chance.choice(["1", "2", "11"]), *start, *fields)
        client.send(104, 424242)
        while (await client.read())[:2] != ["107", "424242"]:
            pass
        client.close()
        await until(lambda: served.server.clients == 0)
        (await RawClient.started(served.port)).close()
    assert warnings_logged == []


@pytest.mark.parametrize("seed", range(4))
async def test_fuzzed_bytes(seed: int) -> None:
    """A healthy opening followed by flipped, cut and inserted bytes ends at most its own connection."""
    chance = random.Random(seed)
    async with serving() as served:
        for _ in range(40):
            stream = bytearray(
                b"API\0" + framed(b"v157..178") + request(71, 2, 5, "") + request(61, 1) + request(49, 1)
            )
            for _ in range(chance.randrange(1, 6)):
                place = chance.randrange(len(stream))
                stream[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
            client = await RawClient.connect(served.port)
            client.writer.write(bytes(stream))
            client.writer.write_eof()
            await client.at_end()
        await until(lambda: served.server.clients == 0)
        (await RawClient.started(served.port)).close()


async def test_a_client_that_never_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and never reads is cut off once too much waits for it; others are served all the while."""
    monkeypatch.setattr("spreadpilot_core.ibkr.simulator.api.pace.LIMIT", 1_000_000)
    monkeypatch.setattr("spreadpilot_core.ibkr.simulator.api.line._MOST_UNREAD", 1024)
    async with serving() as served:
        deaf = await RawClient.started(served.port, 1)
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport is a read transport
        other = await RawClient.started(served.port, 2)
        while served.server.clients == 2:
            deaf.writer.write(request(76, 1, 5, "DU1", "", 0) * 20)
            other.send(49, 1)
            assert (await other.read())[0] == "49"
        deaf.writer.transport.abort()
        other.close()


async def test_a_connection_cut_off_at_its_very_end_does_not_hold_up_the_server() -> None:
    """Who served it may be cancelled while the socket closes (a container stopped in that moment): closing ends all the same."""
    closing = asyncio.Event()
    async with serving() as served:

        async def never() -> None:
            closing.set()
            await asyncio.Event().wait()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.wait_closed = never  # type: ignore[method-assign]  # a socket that takes its time
            await served.server.serve(reader, writer)

        tasks: list[asyncio.Task[None]] = []
        delivery_target = await asyncio.start_server(
            lambda reader, writer: tasks.append(asyncio.create_task(serve(reader, writer))), HOST, 0
        )
        _, writer = await asyncio.open_connection(HOST, delivery_target.sockets[0].getsockname()[1])
        writer.close()
        async with asyncio.timeout(GENEROUS):
            await closing.wait()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(GENEROUS):
            await served.server.close()
        delivery_target.close()
