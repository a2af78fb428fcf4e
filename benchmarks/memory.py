"""Memory of one more connected gateway in the manager, over what the client library takes by itself.

Two processes in one run, against the same simulated gateways: a manager, and a program that holds bare `ib_async.IB`
clients. Each first gets a few connections, so that everything is loaded that is loaded once, and is weighed before and
after it gets the others. Weighed is what the process has for itself alone (private pages); Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ib_async import IB

from benchmarks.support.figures import Figure, figure, report
from benchmarks.support.place import Place, hosted, place, until_all_ready
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

FIRST = 10
"""Connections before the first weighing."""
SETTLE = 3.0
"""Seconds until what a connection began has ended."""


async def measure(gateways: int) -> list[Figure]:
    """Kilobytes a gateway, of the manager and of the bare library."""
    with place(FIRST + gateways, enabled=FIRST) as here:
        async with hosted(here):
            manager = here.manager()
            await manager.start()
            try:
                ours = await _weigh_manager(manager, here)
                endpoints = [each.endpoint or "" for each in manager.list_gateways()]
                library = await _weigh_library(endpoints)
            finally:
                await manager.detach()
    return [
        figure("a connected gateway in the manager", ours / gateways, "kB"),
        figure("a connected client of the library alone", library / gateways, "kB"),
        figure("a gateway over the library's own", (ours - library) / gateways, "kB"),
        figure("a gateway against the library's own", ours / library, "times"),
        figure("gateways", gateways, ""),
    ]


async def _weigh_manager(manager: GatewayManager, here: Place) -> float:
    """What the followers after the first few took, in kB."""
    await until_all_ready(manager, here.enabled)
    await asyncio.sleep(SETTLE)
    before = private_memory()
    here.enable()
    await manager.reload_followers()
    await until_all_ready(manager, here.enabled)
    await asyncio.sleep(SETTLE)
    return private_memory() - before


async def _weigh_library(endpoints: Sequence[str]) -> float:
    """The same for bare clients, in a process of their own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--bare", *endpoints]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    return float(json.loads(output))


async def _hold_bare_clients(endpoints: Sequence[str]) -> float:
    clients = [await _connect(each) for each in endpoints[:FIRST]]
    await asyncio.sleep(SETTLE)
    before = private_memory()
    clients += [await _connect(each) for each in endpoints[FIRST:]]
    await asyncio.sleep(SETTLE)
    taken = private_memory() - before
    for client in clients:
        client.disconnect()
    return taken


async def _connect(endpoint: str) -> IB:
    host, _, port = endpoint.partition(":")
    client = IB()
    await client.connectAsync(host, int(port), clientId=7)
    return client


def private_memory() -> float:
    """What this process has for itself alone, in kB, after its garbage is gone."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return float(sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, default=100)
    parser.add_argument("--bare", nargs="*", default=[], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        print(asyncio.run(_hold_bare_clients(given.bare)))
    else:
        report(asyncio.run(measure(given.gateways)))
