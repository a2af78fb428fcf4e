"""From the close of a client's socket to a usable new client, while the gateway is up.

The clock runs from just before the simulated gateway is told to close the socket until `get_client` has given another
client that is connected: connected, synchronised, and with its first heartbeat answered.
"""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks.support.figures import Findings, at_most, number, percentile, run
from benchmarks.support.place import Place, place, started
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime

PAUSE = 0.3
"""Seconds of peace between two closes."""


async def measure(findings: Findings, closes: int, gateways: int) -> None:
    """The distribution of all closes, over all gateways in turn."""
    with place(gateways) as here:
        async with started(here) as (manager, runtime):
            times = [await _close_and_wait(manager, runtime, here, each) for each in range(closes)]
    median = percentile(times, 50)
    findings.figure(
        "How long from a closed socket to a usable new client, the gateway being up?",
        f"median {number(median)} ms, longest of {closes} closes {number(max(times))} ms",
        aim=at_most(median, 250, "ms", what="median"),
        median=(median, "ms"),
        p99=(percentile(times, 99), "ms"),
        max=(max(times), "ms"),
    )


async def _close_and_wait(manager: GatewayManager, runtime: SimulatedRuntime, here: Place, number: int) -> float:
    follower = here.followers[number % len(here.followers)]
    old = await manager.get_client(follower)
    begin = time.perf_counter()
    await runtime.inject(FollowerId(follower), "drop_clients")
    while (new := await manager.get_client(follower)) is old or new is None:  # noqa: ASYNC110  # as any caller would
        await asyncio.sleep(0)
    took = time.perf_counter() - begin
    assert new.isConnected()
    await asyncio.sleep(PAUSE)
    return took * 1000


if __name__ == "__main__":
    given = options(__doc__, closes=(60, 2), gateways=(3, 1))
    sys.exit(run(lambda findings: measure(findings, given.closes, given.gateways)))
