"""The raw handshake against a simulated gateway and against peers that fail."""

from __future__ import annotations

import asyncio

import pytest

from spreadpilot_core.ibkr.api_client.handshake import ProbeError, probe
from spreadpilot_core.ibkr.simulator.api_server import ApiServer
from support.failing_peers import closes_at_once, frame, peer, refusing_port, resets, says_nothing, sends

HOST = "127.0.0.1"
LONG = 60.0
"""A timeout that a test never waits for: what is seen at once comes long before."""
SOON = 15.0


@pytest.mark.parametrize(("offered", "spoken"), [(178, 178), (176, 176), (157, 157)])
async def test_a_gateway_answers_with_its_version(offered: int, spoken: int) -> None:
    """A probe gives the version, and takes no place among the clients."""
    server = ApiServer(accounts=["DU1234567"], server_version=offered)
    port = await server.listen(HOST, 0)
    try:
        assert await probe(HOST, port, timeout=LONG) == spoken
        assert server.clients == 0
    finally:
        await server.close()


@pytest.mark.parametrize(
    "reply", [b"219\x0020261124 12:00:00 EST\x00", b"178\x0020261124 12:00:00 Nowhere/Unknown\x00"]
)
async def test_a_newer_or_odd_gateway_answers_too(reply: bytes) -> None:
    """Any version from the oldest on is an answer, and the time's zone is not looked at."""
    async with peer(sends(frame(reply))) as port:
        assert await probe(HOST, port, timeout=LONG) == int(reply.split(b"\0")[0])


async def test_an_answer_in_pieces() -> None:
    """The reply may come byte by byte."""
    reply = frame(b"178\x0020261124 12:00:00 EST\x00")
    async with peer(sends(*(bytes([byte]) for byte in reply))) as port:
        assert await probe(HOST, port, timeout=LONG) == 178


async def test_refused_at_once() -> None:
    """Where nothing listens the error says so, and names the endpoint."""
    port = refusing_port()
    with pytest.raises(ProbeError, match=f"Nothing listens on 127.0.0.1:{port}") as caught:
        await probe(HOST, port, timeout=LONG)
    assert caught.value.trouble == "refused"


@pytest.mark.parametrize("serve", [closes_at_once, resets])
async def test_closed_before_it_answered(serve: object) -> None:
    """An outer port that accepts and closes is told from one that is silent, without waiting."""
    async with peer(serve) as port, asyncio.timeout(SOON):  # type: ignore[arg-type]  # both are peers
        with pytest.raises(ProbeError, match="closed it at once") as caught:
            await probe(HOST, port, timeout=LONG)
    assert caught.value.trouble == "closed"


@pytest.mark.parametrize("serve", [says_nothing, sends(b"\0\0\0"), sends(b"\0\0\0\x20178\0")])
async def test_silent_after_the_timeout(serve: object) -> None:
    """No answer, or the beginning of one and no more, is silence; the error names the seconds."""
    async with peer(serve) as port:  # type: ignore[arg-type]  # all are peers
        with pytest.raises(ProbeError, match=r"within 0\.2 s") as caught:
            await probe(HOST, port, timeout=0.2)
    assert caught.value.trouble == "silent"


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", frame(b"hello"), frame(b""), frame(b"x178\0t\0")],
)
async def test_garbage(answer: bytes) -> None:
    """Another program on the port is named as such, without waiting."""
    async with peer(sends(answer)) as port, asyncio.timeout(SOON):
        with pytest.raises(ProbeError, match="is no IB Gateway") as caught:
            await probe(HOST, port, timeout=LONG)
    assert caught.value.trouble == "garbage"


async def test_too_old() -> None:
    """A gateway older than the client libraries is told apart, with its version."""
    async with peer(sends(frame(b"100\x0020261124 12:00:00 EST\x00"))) as port:
        with pytest.raises(ProbeError, match="version 100") as caught:
            await probe(HOST, port, timeout=LONG)
    assert caught.value.trouble == "too_old"


async def test_unreachable() -> None:
    """An address that can't be reached is neither refused nor silent."""
    with pytest.raises(ProbeError, match="can't be reached") as caught:
        await probe("255.255.255.255", 4001, timeout=LONG)
    assert caught.value.trouble == "unreachable"
