"""What the manager takes of a processor while a hundred gateways are ready and nothing happens but their heartbeats.

All settings have their defaults: a heartbeat for each gateway every 30 s. Beside it a program with nothing but as many bare
`ib_async.IB` clients of the same gateways, each asked for the time every 30 s, says what the connections take by themselves. Both
are the processor time of the process, whoever else runs on the machine; that of the simulated gateways is in neither.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence

from ib_async import IB

from benchmarks.memory import connect
from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.place import place, started
from benchmarks.support.running import measured_apart
from benchmarks.support.sizes import options

PATIENCE = 600.0


async def measure(findings: Findings, gateways: int, watch: float, settle: float) -> None:
    """Percent of one processor, of the manager and of the bare library."""
    with place(gateways) as here:
        async with started(here) as (manager, _):
            ours = await _processor(watch, settle)
            endpoints = [each.endpoint or "" for each in manager.list_gateways()]
            every = str(here.settings["healthcheck_interval"])
            asked = (str(watch), str(settle), every, *endpoints)
            library = await asyncio.to_thread(measured_apart, "idle", *asked, within=PATIENCE + watch)
    findings.figure(
        f"What does the manager take of a processor while {gateways} gateways are idle?",
        f"{number(ours)} %; as many bare clients of the library with the same heartbeats take {number(library)} %",
        aim=at_most(ours, 1, "% of one processor"),
        manager=(ours, "%"),
        library=(library, "%"),
        ratio=(ours / library, "times"),
    )


async def _processor(watch: float, settle: float) -> float:
    """Percent of one processor that this process takes, once what its start began has ended."""
    await asyncio.sleep(settle)
    begun, used = time.monotonic(), time.process_time()
    await asyncio.sleep(watch)
    return 100 * (time.process_time() - used) / (time.monotonic() - begun)


async def bare_clients(watch: float, settle: float, every: float, endpoints: Sequence[str]) -> float:
    """The same of a program that only holds connections and asks for the time."""
    clients = [await connect(each) for each in endpoints]
    beating = [asyncio.create_task(_beat(client, every)) for client in clients]
    taken = await _processor(watch, settle)
    for beat in beating:
        beat.cancel()
    await asyncio.gather(*beating, return_exceptions=True)
    for client in clients:
        client.disconnect()
    return taken


async def _beat(client: IB, every: float) -> None:
    await asyncio.sleep(random.uniform(0, every))  # noqa: S311  # a moment, no secret
    while True:
        await client.reqCurrentTimeAsync()
        await asyncio.sleep(every)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        *times, addresses = (*map(float, sys.argv[2:5]), sys.argv[5:])
        print(json.dumps(asyncio.run(bare_clients(*times, addresses))))
        sys.exit()
    given = options(__doc__, gateways=(100, 2), watch=(60.0, 0.5), settle=(3.0, 0.2))
    sys.exit(run(lambda findings: measure(findings, given.gateways, given.watch, given.settle)))
