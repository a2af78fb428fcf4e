"""Whatever answers on a gateway's port, in whatever pieces: no error, nothing that is kept, and no life without a decoded message."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ib_async import IB

from spreadpilot_core.ibkr.api_client.frames import LONGEST_FRAME, FrameGuard
from support.failing_peers import frame
from support.fuzzing import for_a_while, fuzzed, odd_bytes, odd_texts, some, spoiled

GREETING = frame(b"176\x0020261129 10:00:00 EST\0")
KNOWN = [
    b"9\x001\x001\0",
    b"15\x001\0DU1234567,DU7654321\0",
    b"49\x001\x001764410400\0",
    b"4\x002\0-1\x002104\0Market data farm connection is OK\0",
    b"3\x001\0Filled\x001\x000\x001.5\x007\x000\x001.5\x003\0\x000\0",
    b"6\x002\0NetLiquidation\x001000\0USD\0DU1234567\0",
    b"61\x003\0DU1234567\x00265598\0AAPL\0STK\0\x000\0\0\0SMART\0USD\0AAPL\0NMS\x001\x001\0",
    b"1\x006\x001\x004\x001.5\x00100\x000\0",
]


class Line:
    """The connection's other side, as far as a client's socket needs one."""

    def __init__(self) -> None:
        self.is_shut = False

    def write(self, data: bytes) -> None:
        """What the client says is not listened to."""
        assert data

    def abort(self) -> None:
        """It is over."""
        self.is_shut = True

    def pause_reading(self) -> None:
        """It sends all the same."""

    def resume_reading(self) -> None:
        """It has not stopped."""


known = st.sampled_from(KNOWN)
fields = st.lists(odd_texts | st.integers().map(str), max_size=12).map(
    lambda each: "\0".join(each).encode(errors="replace")
)
messages = st.one_of(known, known.flatmap(spoiled), st.tuples(known, fields).map(lambda it: it[0] + it[1] + b"\0"))
said = st.one_of(messages.map(frame), messages.map(frame), odd_bytes, odd_bytes.map(frame))


@fuzzed
def test_no_server_harms_its_client(seconds: float, caplog: pytest.LogCaptureFixture) -> None:
    """Real messages, spoiled, cut and mixed with anything: little is kept, and after a fault nothing."""

    @some
    @given(st.booleans(), st.lists(said, max_size=12), st.lists(st.integers(1, 90), min_size=1, max_size=8))
    def check(is_greeted: bool, sent: list[bytes], cuts: list[int]) -> None:
        asyncio.run(talk((GREETING if is_greeted else b"") + b"".join(sent), cuts))
        caplog.clear()

    for_a_while(seconds, check)


async def talk(stream: bytes, cuts: list[int]) -> None:
    """Hand it on as a socket does."""
    ib = IB()
    client = ib.client
    guard = FrameGuard(client)
    line = client.conn.transport = Line()
    client.connState = client.CONNECTING
    heard: list[int] = []
    guard.heard.add(lambda: heard.append(1))
    sent = 0
    for place in range(len(stream)):
        if sent >= len(stream):
            break
        piece = stream[sent : sent + cuts[place % len(cuts)] * (1 if len(stream) < 5000 else 1000)]
        sent += len(piece)
        client.conn.hasData.emit(piece)
        assert len(guard._held) <= sent
    for _ in range(20):
        await asyncio.sleep(0)  # what is handed on in later turns
    assert len(guard._held) <= LONGEST_FRAME
    assert line.is_shut is (guard.fault is not None)
    if guard.fault is not None:
        assert not guard._held
        assert len(guard.fault) < 300
    client.connState = client.DISCONNECTED  # so that its end looks for no connection
