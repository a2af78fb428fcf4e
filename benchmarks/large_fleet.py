"""Hundreds of simulated gateways in one manager: how late its loop is while they connect, live and are all cut off.

All settings have their defaults, so every gateway has a heartbeat each 30 s. A hundred times a second something falls due on the
manager's loop, and each is counted with its own lateness, also those that one long block swallowed. The gateways' host is a
process of its own that shares the processors with the manager. An idle process beside both shows how late a loop is that has
nothing to do on this machine at that time. From the audit trail it is counted how often each secret was read. `--profile 1` prints
where the time goes, `--gc 10000` sets the garbage collector's threshold, and `--gateways` takes any number: thousands need some ten
thousand open files.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import pstats
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from benchmarks.support.figures import Findings, at_most, number, percentile, run
from benchmarks.support.lag import Lag, bystander
from benchmarks.support.place import LONGEST, Place, hosted, place, until_all_ready
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

CONNECTING, LIVING = "while {} gateways connect", "with {} gateways, while heartbeats run"
CUT_OFF = "after all {} sockets closed"
KEYS = {CONNECTING: "connecting", LIVING: "living", CUT_OFF: "cut_off"}
"""How the names of a phase's values begin."""


class Phases:
    """When each phase began and ended, and the processor time it took of this process."""

    def __init__(self, *, lull: float, profile: bool) -> None:
        self.lull = lull
        """Seconds after each phase, so that what it began ends before the next one."""
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
        await asyncio.sleep(self.lull)

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


async def measure(findings: Findings, gateways: int, watch: float, phases: Phases) -> None:
    """Lateness in each of three phases, apart, and how long it takes until all are ready."""
    lag = Lag()
    with place(gateways) as here, bystander() as idle:
        async with hosted(here):
            lag.begin()
            with findings.part("the phases that are missing"):
                await _live(here.manager(), here, watch, phases)
            lag.end()
        acts = Counter(each["act"] for each in AuditTrail(here.directory).entries())
    if CONNECTING in phases.times:
        _tell_start(findings, phases, gateways, reads=acts["read"] / gateways)
    for name, (begin, end) in phases.times.items():
        _tell_lag(
            findings, name, phases, gateways=gateways, ours=lag.between(begin, end), idle=idle.between(begin, end)
        )


def _tell_start(findings: Findings, phases: Phases, gateways: int, *, reads: float) -> None:
    each, processor = (1000 * of / gateways for of in (phases.seconds(CONNECTING), phases.processor[CONNECTING]))
    findings.figure(
        f"What does one of {gateways} gateways cost, from start until ready?",
        f"{number(each)} ms, of which {number(processor)} ms are the manager's processor time;"
        f" each secret was read {number(reads)} times",
        aim=at_most(reads, 1, "time", what="each secret read"),
        time_per_gateway=(each, "ms"),
        processor_per_gateway=(processor, "ms"),
        secret_reads=(reads, "times"),
    )


def _tell_lag(
    findings: Findings, name: str, phases: Phases, *, gateways: int, ours: list[float], idle: list[float]
) -> None:
    p99, beside = percentile(ours, 99), percentile(idle, 99)
    processor = 100 * phases.processor[name] / phases.seconds(name)
    findings.figure(
        f"How late is the event loop {name.format(gateways)}?",
        f"median {number(percentile(ours, 50))} ms, p99 {number(p99)} ms (an idle process beside it {number(beside)} ms);"
        f" {number(processor)} % of a processor; it took {number(phases.seconds(name))} s",
        aim=at_most(p99, max(50, 2 * beside), "ms", what="p99") if name == LIVING else None,
        **{
            f"{KEYS[name]}_lag_median": (percentile(ours, 50), "ms"),
            f"{KEYS[name]}_lag_p99": (p99, "ms"),
            f"{KEYS[name]}_idle_p99": (beside, "ms"),
            f"{KEYS[name]}_processor": (processor, "%"),
            f"{KEYS[name]}_seconds": (phases.seconds(name), "s"),
        },
    )


async def _live(manager: GatewayManager, here: Place, watch: float, phases: Phases) -> None:
    """The three phases of a manager's life."""
    try:
        await phases.run(CONNECTING, _start(manager, here))
        await phases.run(LIVING, asyncio.sleep(watch))
        async with _scissors(here, phases.lull) as scissors:
            await phases.run(CUT_OFF, _cut_all_off(manager, here, scissors))
    finally:
        await manager.detach()


async def _start(manager: GatewayManager, here: Place) -> None:
    await manager.start()
    await until_all_ready(manager, here.enabled)


@asynccontextmanager
async def _scissors(here: Place, ready_after: float) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that is ready to cut, so that cutting costs this loop nothing."""
    command = [sys.executable, "-m", "benchmarks.support.cut_off", here.directory, here.settings["container_prefix"]]
    process = await asyncio.create_subprocess_exec(
        *command, *here.enabled, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        await asyncio.sleep(ready_after)
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
    given = options(__doc__, gateways=(300, 3), watch=(35.0, 0.5), lull=(3.0, 0.2), profile=(0, 0), gc=(0, 0))
    if given.gc:
        gc.set_threshold(given.gc, 10, 10)
    phases_of_it = Phases(lull=given.lull, profile=bool(given.profile))
    sys.exit(run(lambda findings: measure(findings, given.gateways, given.watch, phases_of_it)))
