"""Memory of one more connected gateway in the manager, over what the client library takes by itself.

Two processes in one run, against the same simulated gateways: a manager, and a program that holds bare `ib_async.IB`
clients. Each first gets a few connections, so that everything is loaded that is loaded once, and is weighed before and
after it gets the others. Weighed is what the process has for itself alone (private pages); Linux only.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

from ib_async import IB

from benchmarks.support.figures import Findings, number, run
from benchmarks.support.place import Place, hosted, place, until_all_ready
from benchmarks.support.running import measured_apart
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.gateway_manager import GatewayManager

FIRST = 10
"""Connections before the first weighing."""
PATIENCE = 600.0


async def measure(findings: Findings, gateways: int, settle: float) -> None:
    """Kilobytes a gateway, of the manager and of the bare library."""
    with place(FIRST + gateways, enabled=FIRST) as here:
        async with hosted(here):
            manager = here.manager()
            await manager.start()
            try:
                ours = await _weigh_manager(manager, here, settle) / gateways
                endpoints = [each.endpoint or "" for each in manager.list_gateways()]
                library = await _weigh_library(endpoints, settle) / gateways
            finally:
                await manager.detach()
    findings.figure(
        "What does a connected gateway take in memory?",
        f"{number(ours)} kB, {ours / library:.2f} times the library's own client ({number(library)} kB)",
        manager=(ours, "kB"),
        library=(library, "kB"),
        ratio=(ours / library, "times"),
    )


async def _weigh_manager(manager: GatewayManager, here: Place, settle: float) -> float:
    """What the followers after the first few took, in kB."""
    await until_all_ready(manager, here.enabled)
    await asyncio.sleep(settle)
    before = private_memory()
    here.enable()
    await manager.reload_followers()
    await until_all_ready(manager, here.enabled)
    await asyncio.sleep(settle)
    return private_memory() - before


async def _weigh_library(endpoints: Sequence[str], settle: float) -> float:
    """The same for bare clients, in a process of their own."""
    return float(await asyncio.to_thread(measured_apart, "memory", str(settle), *endpoints, within=PATIENCE))


async def _hold_bare_clients(settle: float, endpoints: Sequence[str]) -> float:
    clients = [await connect(each) for each in endpoints[:FIRST]]
    await asyncio.sleep(settle)
    before = private_memory()
    clients += [await connect(each) for each in endpoints[FIRST:]]
    await asyncio.sleep(settle)
    taken = private_memory() - before
    for client in clients:
        client.disconnect()
    return taken


async def connect(endpoint: str) -> IB:
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
    if sys.argv[1:2] == ["--child"]:
        print(asyncio.run(_hold_bare_clients(float(sys.argv[2]), sys.argv[3:])))
        sys.exit()
    given = options(__doc__, gateways=(100, 3), settle=(3.0, 0.2))
    sys.exit(run(lambda findings: measure(findings, given.gateways, given.settle)))
