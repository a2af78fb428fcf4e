"""How soon a dead gateway or a closed socket is known: the manager, `ib_async`'s own `Watchdog`, and polling every 30 s.

All three watch the same simulated gateways at the same time, each with a client of its own, and a fault meets all three at one
moment, which is a random one of the interval for each gateway. The clock runs from just before the fault is asked for. The manager
knows when its verdict on the gateway is another one; the `Watchdog` when it asks for its program to be ended, with the defaults of
the library (20 s without any traffic, then 4 s for a request that probes; 2 and 30 s from there to a new connection, and a login);
polling is a program that asks for the time every 30 s and waits 10 s for the answer, as the manager's heartbeats do. A closed socket
is one whose gateway is well; a killed gateway's process ends; a frozen one keeps its sockets open and answers nothing.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable

from benchmarks.support.figures import Findings, at_most, percentile, run, spread, time_span
from benchmarks.support.place import place, started
from benchmarks.support.sizes import options
from benchmarks.support.watchers import LibraryWatchdog, Polling
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import StateChanged
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.states import GatewayStatus
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime

Fault = Callable[[SimulatedRuntime, FollowerId], Awaitable[None]]
FAULTS: dict[str, Fault] = {
    "a closed socket": lambda runtime, follower: runtime.inject(follower, "drop_clients"),
    "a killed gateway": lambda runtime, follower: runtime.kill(follower),
    "a frozen gateway": lambda runtime, follower: runtime.inject(follower, "freeze"),
}
CLOSED, _, FROZEN = FAULTS
WATCHDOG_ID, POLLING_ID = 11, 12
"""API client ids, of those that are left to users' own programs."""
LONGEST = 300.0


class Verdicts:
    """When the manager said of each follower that it is not well, after its fault, and when that it is again."""

    def __init__(self, manager: GatewayManager) -> None:
        self.faults: dict[str, float] = {}
        self.known: dict[str, float] = {}
        self.usable: dict[str, float] = {}
        self._reading = asyncio.create_task(self._read(manager), name="the manager's verdicts")

    async def _read(self, manager: GatewayManager) -> None:
        async for event in manager.events():
            if isinstance(event, StateChanged) and event.follower_id in self.faults:
                is_well = event.after.status is GatewayStatus.RUNNING
                if not is_well:
                    self.known.setdefault(event.follower_id, time.monotonic())
                elif event.follower_id in self.known:
                    self.usable.setdefault(event.follower_id, time.monotonic())

    def stop(self) -> None:
        """No more."""
        self._reading.cancel()


async def measure(findings: Findings, given: Namespace) -> None:
    """Each kind of fault on a fleet of its own."""
    for name, fault in FAULTS.items():
        with findings.part(name):
            await _one_kind(findings, name, fault, given)


async def _one_kind(findings: Findings, name: str, fault: Fault, given: Namespace) -> None:
    settings = {"healthcheck_interval": given.interval, "heartbeat_timeout": given.timeout}
    with place(given.gateways) as here:
        async with started(here, **settings) as (manager, runtime):
            verdicts = Verdicts(manager)
            endpoints = {each.follower_id: each.endpoint or "" for each in manager.list_gateways()}
            watchdogs = {
                follower: LibraryWatchdog(
                    endpoint, WATCHDOG_ID, idle=given.idle, probe=given.probe, startup=given.startup
                )
                for follower, endpoint in endpoints.items()
            }
            polling = {
                follower: Polling(endpoint, POLLING_ID, every=given.interval, within=given.timeout)
                for follower, endpoint in endpoints.items()
            }
            watchers: list[LibraryWatchdog | Polling] = [*watchdogs.values(), *polling.values()]
            try:
                async with asyncio.timeout(LONGEST):
                    await _connect(watchers)
                    await asyncio.gather(
                        *(_strike(runtime, fault, follower, verdicts, given.interval) for follower in endpoints)
                    )
                    await _until_known(verdicts, watchers, watchdogs if name == CLOSED else {})
            finally:
                verdicts.stop()
                await asyncio.gather(*(each.stop() for each in watchers))
    ours = [1000 * (verdicts.known[each] - at) for each, at in verdicts.faults.items()]
    library = [1000 * ((watchdogs[each].known_at or 0) - at) for each, at in verdicts.faults.items()]
    polled = [1000 * ((polling[each].known_at or 0) - at) for each, at in verdicts.faults.items()]
    _tell_known(findings, name, (ours, library, polled), given)
    if name == CLOSED:
        again = [1000 * (verdicts.usable[each] - at) for each, at in verdicts.faults.items()]
        anew = [1000 * ((watchdogs[each].usable_at or 0) - at) for each, at in verdicts.faults.items()]
        _tell_usable(findings, again, anew)


async def _connect(watchers: list[LibraryWatchdog | Polling]) -> None:
    for each in watchers:
        each.start()
        await each.connected.wait()


async def _strike(runtime: SimulatedRuntime, fault: Fault, follower: str, verdicts: Verdicts, interval: float) -> None:
    """At a random moment of the interval."""
    await asyncio.sleep(random.uniform(0, interval))  # noqa: S311  # a moment, no secret
    verdicts.faults[follower] = time.monotonic()
    await fault(runtime, FollowerId(follower))


async def _until_known(
    verdicts: Verdicts, watchers: list[LibraryWatchdog | Polling], again: dict[str, LibraryWatchdog]
) -> None:
    """Until everybody knows, and those in `again` are connected again."""

    def is_over() -> bool:
        known = len(verdicts.known) == len(verdicts.faults) and all(each.known_at is not None for each in watchers)
        usable = not again or len(verdicts.usable) == len(verdicts.faults)
        return known and usable and all(each.usable_at is not None for each in again.values())

    while not is_over():  # noqa: ASYNC110  # three different things tell
        await asyncio.sleep(0.05)


def _tell_known(
    findings: Findings, name: str, known: tuple[list[float], list[float], list[float]], given: Namespace
) -> None:
    ours, library, polled = known
    medians = [percentile(each, 50) for each in known]
    bound = 1000 * (given.interval + given.timeout) + 2000 if name == FROZEN else 1000
    findings.figure(
        f"How soon is {name} known?",
        f"{spread(ours)}; `ib_async`'s `Watchdog`: {spread(library)};"
        f" polled every {given.interval:g} s: {spread(polled)}",
        aim=at_most(max(ours), bound, "ms", what="longest"),
        manager=(medians[0], "ms"),
        watchdog=(medians[1], "ms"),
        polling=(medians[2], "ms"),
        against_watchdog=(medians[0] / medians[1], "times"),
        against_polling=(medians[0] / medians[2], "times"),
    )


def _tell_usable(findings: Findings, again: list[float], anew: list[float]) -> None:
    ours, library = percentile(again, 50), percentile(anew, 50)
    findings.figure(
        "… and a connection there again?",
        f"median {time_span(ours)}, without a login; `ib_async`'s `Watchdog`: median {time_span(library)}, each with a"
        " login",
        aim=at_most(ours, 1000, "ms", what="median"),
        manager=(ours, "ms"),
        watchdog=(library, "ms"),
        against_watchdog=(ours / library, "times"),
    )


if __name__ == "__main__":
    asked = options(
        __doc__,
        gateways=(20, 2),
        interval=(30.0, 1.0),
        timeout=(10.0, 1.0),
        idle=(20.0, 1.0),
        probe=(4.0, 1.0),
        startup=(30.0, 0.2),
    )
    sys.exit(run(lambda findings: measure(findings, asked)))
