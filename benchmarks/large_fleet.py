"""Three hundred simulated gateways in one manager: how late its loop is while they connect, live and are all cut off.

The gateways' host is a process of its own that shares the processors with the manager. An idle process beside both
shows how late a loop is that has nothing to do on this machine at that time.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from benchmarks.support.figures import Figure, distribution, figure, report
from benchmarks.support.lag import Lag, bystander
from benchmarks.support.place import LONGEST, Place, hosted, place, until_all_ready
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

CONNECTING, LIVING, CUT_OFF = "while connecting", "while heartbeats run", "after all sockets closed"
LULL = 3.0
"""Seconds after each phase, so that what it began ends before the next one."""


class Phases:
    """When each phase began and ended, and the processor time it took of this process."""

    def __init__(self, *, profile: bool) -> None:
        self._profile = profile
        self.times: dict[str, tuple[float, float]] = {}
        self.processor: dict[str, float] = {}

    async def run(self, name: str, work: Awaitable[Any]) -> None:
        """One phase is as long as its work."""
        begin, used = time.monotonic(), time.process_time()
        with self._profiled(name):
            await work
        self.times[name] = (begin, time.monotonic())
        self.processor[name] = time.process_time() - used
        await asyncio.sleep(LULL)

    def seconds(self, name: str) -> float:
        """How long it took."""
        begin, end = self.times[name]
        return end - begin

    @contextmanager
    def _profiled(self, name: str) -> Iterator[None]:
        if not self._profile:
            yield
            return
        profiler = cProfile.Profile()
        profiler.enable()
        try:
            yield
        finally:
            profiler.disable()
            print(f"===== {name}", file=sys.stderr)
            for order in ("tottime", "cumulative"):
                pstats.Stats(profiler, stream=sys.stderr).strip_dirs().sort_stats(order).print_stats(45)


async def measure(gateways: int, watch: float, *, profile: bool) -> list[Figure]:
    """Lateness in each of three phases, apart, and how long it takes until all are ready."""
    lag, phases = Lag(), Phases(profile=profile)
    with place(gateways) as here, bystander() as idle:
        async with hosted(here):
            lag.begin()
            await _live(here.manager(), here, watch, phases)
            lag.end()
    figures = [
        figure("gateways", gateways, ""),
        figure("from start until all are ready", phases.seconds(CONNECTING), "s"),
        figure("from all sockets closed until all are ready", phases.seconds(CUT_OFF), "s"),
    ]
    for name, (begin, end) in phases.times.items():
        targets = {"p99": "under 50"} if name == LIVING else {}
        figures += distribution(f"loop lag {name}", lag.between(begin, end), "ms", **targets)
        figures += distribution(f"loop lag of an idle process {name}", idle.between(begin, end), "ms")
        figures.append(figure(f"processor taken {name}", 100 * phases.processor[name] / phases.seconds(name), "%"))
    return figures


async def _live(manager: GatewayManager, here: Place, watch: float, phases: Phases) -> None:
    """The three phases of a manager's life."""
    try:
        await phases.run(CONNECTING, _start(manager, here))
        await phases.run(LIVING, asyncio.sleep(watch))
        async with _scissors(here) as scissors:
            await phases.run(CUT_OFF, _cut_all_off(manager, here, scissors))
    finally:
        await manager.detach()


async def _start(manager: GatewayManager, here: Place) -> None:
    await manager.start()
    await until_all_ready(manager, here.enabled)


@asynccontextmanager
async def _scissors(here: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that is ready to cut, so that cutting costs this loop nothing."""
    command = [sys.executable, "-m", "benchmarks.support.cut_off", here.directory, here.settings["container_prefix"]]
    process = await asyncio.create_subprocess_exec(
        *command, *here.enabled, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        await asyncio.sleep(LULL)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _cut_all_off(manager: GatewayManager, here: Place, scissors: asyncio.subprocess.Process) -> None:
    """Cut, and wait until everybody has another client."""
    old = [await manager.get_client(each) for each in here.enabled]
    cutting = asyncio.create_task(scissors.communicate(b"now\n"))
    async with asyncio.timeout(LONGEST):
        while any(client is not None and client.isConnected() for client in old):  # noqa: ASYNC110  # the library's word
            await asyncio.sleep(0.02)
    await until_all_ready(manager, here.enabled)
    output, _ = await cutting
    begin, end = json.loads(output)
    print(f"All {len(old)} sockets were closed within {1000 * (end - begin):.0f} ms.", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, default=300)
    parser.add_argument("--watch", type=float, default=35.0, help="seconds over which heartbeats are watched")
    parser.add_argument("--profile", action="store_true", help="print each phase's profile (it slows everything down)")
    parser.add_argument("--gc", type=int, metavar="N", help="gc.set_threshold(N, 10, 10) first; Python's own N is 700")
    given = parser.parse_args()
    if given.gc is not None:
        gc.set_threshold(given.gc, 10, 10)
    report(asyncio.run(measure(given.gateways, given.watch, profile=given.profile)))
