"""What a program asks of the IB API is measured at its client object, against the simulated API server.

The same file runs with `ib_insync` in an environment that holds both libraries (`test_connections_ib_insync.py`).
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from spreadpilot_core.ibkr.api_client.request_meter import RequestMeter
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.seams import Instrumentation
from support.api_server import Served, serving, until

library: Any = importlib.import_module(os.environ.get("TEST_CLIENT_LIBRARY", "ib_async"))
ANNA = FollowerId("anna")
Ended = tuple[str, str, int | None]
"""Kind, outcome, code."""


@dataclass
class Heard(Instrumentation):
    """What it is told of requests."""

    ended: list[tuple[str, float | None, str, int | None]] = field(default_factory=list)
    is_on = True

    def request_ended(
        self, follower_id: FollowerId, kind: str, seconds: float | None, outcome: str, code: int | None = None
    ) -> None:
        """Keep it."""
        assert follower_id == ANNA
        self.ended.append((kind, seconds, outcome, code))

    @property
    def outcomes(self) -> Counter[Ended]:
        """How often each kind ended how."""
        return Counter((kind, outcome, code) for kind, _, outcome, code in self.ended)


class Bench:
    """A connected client that is measured by a clock of the test's."""

    def __init__(self, served: Served, ib: Any) -> None:
        self.served = served
        self.ib = ib
        self.heard = Heard()
        self.now = 100.0
        self.meter = RequestMeter(ib, ANNA, self.heard, clock=lambda: self.now)

    async def apple(self) -> Any:
        """A contract with its id."""
        (details,) = await self.ib.reqContractDetailsAsync(library.Stock("AAPL", "SMART", "USD"))
        return details.contract


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with serving() as served:
        ib = library.IB()
        await ib.connectAsync("127.0.0.1", served.port, clientId=3)
        yield Bench(served, ib)
        ib.disconnect()


async def test_six_kinds_of_request_one_of_them_failing_and_one_slow(bench: Bench) -> None:
    """Which, how slow, how often, and with which of IBKR's codes."""
    ib, apple = bench.ib, await bench.apple()
    assert await ib.reqContractDetailsAsync(library.Stock("NOSUCH", "SMART", "USD")) in ([], None)
    await ib.reqPositionsAsync()
    await ib.reqPositionsAsync()
    await ib.reqCurrentTimeAsync()
    bench.served.server.behaviour.frozen = True
    slow = asyncio.ensure_future(ib.reqMatchingSymbolsAsync("AA"))
    await asyncio.sleep(0)
    bench.now += 7.5
    bench.served.server.behaviour.frozen = False
    await slow
    ib.reqMktData(apple)
    trade = ib.placeOrder(apple, library.LimitOrder("BUY", 1, 1.0))
    await until(lambda: ("placeOrder", "ok", None) in bench.heard.outcomes, "an answered order")
    await until(lambda: ("reqMktData", "ok", None) in bench.heard.outcomes, "a first tick")
    assert bench.heard.outcomes == {
        ("reqContractDetails", "ok", None): 1,
        ("reqContractDetails", "error", 200): 1,
        ("reqPositions", "ok", None): 2,
        ("reqCurrentTime", "ok", None): 1,
        ("reqMatchingSymbols", "ok", None): 1,
        ("reqMktData", "ok", None): 1,
        ("placeOrder", "ok", None): 1,
    }
    assert {kind: seconds for kind, seconds, *_ in bench.heard.ended if seconds} == {"reqMatchingSymbols": 7.5}
    assert trade.orderStatus.status != "Inactive"


async def test_while_nothing_waits_for_a_first_answer_no_message_is_looked_at(bench: Bench) -> None:
    """Ticks by the thousand cost a program nothing; they are looked at only until the first has come."""
    before = bench.ib.client.decoder.interpret
    bench.ib.reqMktData(await bench.apple())
    assert bench.ib.client.decoder.interpret != before
    await until(lambda: ("reqMktData", "ok", None) in bench.heard.outcomes, "a first tick")
    assert bench.ib.client.decoder.interpret == before


async def test_a_refused_order_is_an_error_with_its_code_and_a_refused_subscription_too(bench: Bench) -> None:
    """Neither has a future that would tell."""
    unknown = library.Stock("NOSUCH", "SMART", "USD", conId=999_999_999)
    bench.ib.placeOrder(unknown, library.LimitOrder("BUY", 1, 1.0))
    bench.ib.reqMktData(unknown)
    await until(lambda: len(bench.heard.ended) == 2, "two refusals")
    assert {(kind, outcome) for kind, outcome, _ in bench.heard.outcomes} == {
        ("placeOrder", "error"),
        ("reqMktData", "error"),
    }
    assert all(code is not None for *_, code in bench.heard.outcomes)


async def test_what_is_never_answered_was_cancelled_or_cut_off(bench: Bench) -> None:
    """A request that its library gives up, and those that the end of the connection takes along."""
    ib, apple = bench.ib, await bench.apple()
    bench.served.server.behaviour.frozen = True
    late = asyncio.ensure_future(ib.reqHistoricalDataAsync(apple, "", "1 D", "1 hour", "TRADES", True, timeout=0.05))
    lost = asyncio.ensure_future(ib.reqPositionsAsync())
    await late
    bench.meter.end()
    bench.served.server.behaviour.frozen = False
    await lost
    ended = bench.heard.outcomes
    assert ended["reqHistoricalData", "cancelled", None] == 1
    assert ended["reqPositions", "disconnected", None] == 1
    assert ended["cancelHistoricalData", "sent", None] == 1
    assert ("reqPositions", "ok", None) not in ended


async def test_a_request_after_the_end_of_the_connection_is_counted_and_raises_as_before(bench: Bench) -> None:
    """The program sees what the library says."""
    bench.ib.disconnect()
    with pytest.raises(ConnectionError):
        await bench.ib.reqPositionsAsync()
    assert bench.heard.outcomes == {("reqPositions", "disconnected", None): 1}


async def test_the_managers_own_heartbeat_is_no_request_of_the_program(bench: Bench) -> None:
    """It is sent raw; a program's call for the time waits for its answer."""
    bench.ib.client.reqCurrentTime()
    await bench.ib.reqPositionsAsync()
    assert bench.heard.outcomes == {("reqPositions", "ok", None): 1}


async def test_messages_queue_and_subscriptions_are_read_from_the_client(bench: Bench) -> None:
    """What the library holds back, and how often it began to; the messages stay counted when the socket is gone."""
    ib, apple = bench.ib, await bench.apple()
    before = bench.meter.figures()
    ib.reqMktData(apple)
    assert bench.meter.figures().subscriptions == 1
    ib.client.MaxRequests, ib.client.RequestsInterval = 2, 0.05
    waiting = [asyncio.ensure_future(ib.reqMatchingSymbolsAsync("AA")) for _ in range(3)]
    await asyncio.sleep(0)
    assert bench.meter.figures().queued > 0
    assert bench.meter.figures().throttles == 1
    await asyncio.wait(waiting)
    last = bench.meter.figures()
    assert (last.queued, last.sent - before.sent) == (0, 4)
    assert last.received > before.received
    ib.disconnect()
    assert (bench.meter.figures().sent, bench.meter.figures().received) == (last.sent, last.received)


async def test_nothing_of_the_meter_stays_on_the_client(bench: Bench) -> None:
    """The client belongs to the program, also after the manager let it go."""
    bench.meter.end()
    await bench.ib.reqPositionsAsync()
    assert bench.heard.ended == []
    parts = (bench.ib.client, bench.ib.wrapper, bench.ib.client.decoder)
    held = [value for part in parts for value in vars(part).values()] + list(bench.ib.client.decoder.handlers.values())
    assert not [each for each in held if getattr(each, "__self__", None) is bench.meter]


async def test_another_client_of_the_same_library_is_not_touched(bench: Bench) -> None:
    """Measured is the object, never the class."""
    other = library.IB()
    await other.connectAsync("127.0.0.1", bench.served.port, clientId=4)
    await other.reqPositionsAsync()
    other.disconnect()
    assert bench.heard.ended == []
