"""What `get_client` costs on a healthy gateway, as a ratio to the least that any coroutine could do.

The least is a coroutine that looks the client up and asks it `isConnected()`. Three hundred rounds of a thousand calls of each
run on the same loop in turn, so that whatever else the machine does slows both alike; the figure is the median of the rounds'
ratios.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.place import place, started
from benchmarks.support.sizes import options

CALLS = 1000


async def measure(findings: Findings, rounds: int) -> None:
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
            pairs = [(await _round(bare, follower), await _round(manager.get_client, follower)) for _ in range(rounds)]
            gc.enable()
    ratio = statistics.median(ours / least for least, ours in pairs)
    least, ours = (statistics.median(each) for each in zip(*pairs, strict=True))
    findings.figure(
        "What does `get_client` cost when the gateway is healthy?",
        f"{ratio:.2f} times a coroutine that does nothing but the look-up and `isConnected()`"
        f" ({number(ours)} ns, {number(least)} ns)",
        aim=at_most(ratio, 1.5, "times"),
        ratio=(ratio, "times"),
        get_client=(ours, "ns"),
        bare=(least, "ns"),
    )


async def _round(call: Callable[[str], Awaitable[Any]], follower: str) -> float:
    """Nanoseconds of one awaited call."""
    begin = time.perf_counter_ns()
    for _ in range(CALLS):
        await call(follower)
    return (time.perf_counter_ns() - begin) / CALLS


if __name__ == "__main__":
    given = options(__doc__, rounds=(300, 5))
    sys.exit(run(lambda findings: measure(findings, given.rounds)))
