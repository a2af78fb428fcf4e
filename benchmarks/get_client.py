"""What `get_client` costs on a healthy gateway, as a ratio to the least that any coroutine could do.

Both run on the same loop in alternating rounds, so that whatever else the machine does slows both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.support.figures import Figure, figure, report
from benchmarks.support.place import place, started

ROUNDS, CALLS = 300, 1000


async def measure() -> list[Figure]:
    """Median of the rounds' ratios, and both costs."""
    with place(1) as here:
        async with started(here) as (manager, _):
            (follower,) = here.followers
            clients = {follower: await manager.get_client(follower)}

            async def bare(follower_id: str) -> Any | None:
                client = clients.get(follower_id)
                return client if client is not None and client.isConnected() else None

            await _round(bare, follower), await _round(manager.get_client, follower)
            gc.disable()
            pairs = [(await _round(bare, follower), await _round(manager.get_client, follower)) for _ in range(ROUNDS)]
            gc.enable()
    ratio = statistics.median(ours / least for least, ours in pairs)
    return [
        figure("get_client against a bare look-up", ratio, "times", target="at most 1.5"),
        figure("a bare look-up", statistics.median(least for least, _ in pairs), "ns"),
        figure("get_client", statistics.median(ours for _, ours in pairs), "ns"),
    ]


async def _round(call: Callable[[str], Awaitable[Any]], follower: str) -> float:
    """Nanoseconds of one awaited call."""
    begin = time.perf_counter_ns()
    for _ in range(CALLS):
        await call(follower)
    return (time.perf_counter_ns() - begin) / CALLS


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    report(asyncio.run(measure()))
