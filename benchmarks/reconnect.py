"""From the close of a client's socket to a usable new client, while the gateway is up.

The clock runs from just before the simulated gateway is told to close the socket until `get_client` has given another
client that is connected: connected, synchronised, and with its first heartbeat answered.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from benchmarks.support.figures import Figure, distribution, figure, report
from benchmarks.support.place import Place, place, started
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.protocols import FollowerId
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime

PAUSE = 0.3
"""Seconds of peace between two closes."""


async def measure(closes: int, gateways: int) -> list[Figure]:
    """The distribution of all closes, over all gateways in turn."""
    with place(gateways) as here:
        async with started(here) as (manager, runtime):
            times = [await _close_and_wait(manager, runtime, here, number) for number in range(closes)]
    return [
        *distribution("from socket close to a new client", times, "ms", median="under 250"),
        figure("closes", closes, ""),
    ]


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--closes", type=int, default=60)
    parser.add_argument("--gateways", type=int, default=3)
    given = parser.parse_args()
    report(asyncio.run(measure(given.closes, given.gateways)))
