"""What measuring the IB API adds to a request, as a part of what the cheapest request costs the program by itself.

A request's own cost is the processor time of a program that makes real ones through a socket, at the pace that IBKR takes.
What measuring adds is a few microseconds and would drown in that figure's noise, so it is timed by itself, on a client
whose requests do nothing: with the meter and without, in alternating rounds.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from eventkit import Event
from ib_async import Stock
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.place import place, started
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.api_client.request_meter import RequestMeter
from spreadpilot_core.ibkr.instrumentation.meters import MeteredInstrumentation
from spreadpilot_core.ibkr.model.followers import FollowerId

CALLS = 2000
POSITIONS = 61


async def measure(findings: Findings, requests: int, rounds: int) -> None:
    """The cheapest request and a common one, and what is added."""
    with place(1) as here:
        async with started(here) as (manager, _):
            client = await manager.get_client(here.followers[0])
            assert client is not None
            apple = Stock("AAPL", "SMART", "USD")
            cheapest = await _own_cost(client.reqPositionsAsync, requests)
            common = await _own_cost(lambda: client.reqContractDetailsAsync(apple), requests)
    added = _added(rounds)
    of_cheapest, of_common = 100 * added / cheapest, 100 * added / common
    findings.figure(
        "What does measuring add to a request of the IB API?",
        f"{number(of_cheapest)} % of the processor time that the cheapest request (positions) costs the program,"
        f" {number(added)} of {number(cheapest)} µs; {number(of_common)} % of one for a contract",
        aim=at_most(of_cheapest, 3, "%"),
        of_cheapest=(of_cheapest, "%"),
        of_common=(of_common, "%"),
        added=(added, "us"),
        cheapest=(cheapest, "us"),
    )


async def _own_cost(request: Callable[[], Awaitable[Any]], requests: int) -> float:
    """Microseconds of processor time of one request, whoever waits for it meanwhile."""
    await request()
    begun = time.process_time()
    for _ in range(requests):
        await request()
    return (time.process_time() - begun) / requests * 1e6


def _added(count: int) -> float:
    """Microseconds that the meter adds: the median of the rounds."""
    plain, measured = _client(), _client()
    provider = MeterProvider(metric_readers=[InMemoryMetricReader()])
    RequestMeter(measured, FollowerId("anna"), MeteredInstrumentation(provider))
    _round(plain), _round(measured)
    gc.disable()
    rounds = [_round(measured) - _round(plain) for _ in range(count)]
    gc.enable()
    provider.shutdown()
    return statistics.median(rounds)


def _round(client: Any) -> float:
    """Microseconds of one request that does nothing."""
    wrapper, inner = client.wrapper, client.client
    begun = time.perf_counter()
    for _ in range(CALLS):
        wrapper.startReq("positions")
        inner.send(POSITIONS, 1)
        wrapper._endReq("positions")  # noqa: SLF001  # as the library ends a request
    return (time.perf_counter() - begun) / CALLS * 1e6


def _client() -> Any:
    """A client with the libraries' seams and nothing behind them."""

    def nothing(*_: Any, **__: Any) -> None:
        pass

    decoder = SimpleNamespace(interpret=nothing, handlers={4: nothing})
    inner = SimpleNamespace(send=nothing, decoder=decoder, throttleStart=Event("throttleStart"))
    return SimpleNamespace(client=inner, wrapper=SimpleNamespace(startReq=nothing, _endReq=nothing))


if __name__ == "__main__":
    given = options(__doc__, requests=(120, 5), rounds=(100, 3))
    sys.exit(run(lambda findings: measure(findings, given.requests, given.rounds)))
