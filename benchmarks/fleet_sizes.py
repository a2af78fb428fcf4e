"""Time, processor time and memory of one gateway in fleets of a hundred, three hundred, a thousand and three thousand.

Each size is a manager in a fresh process with a fresh host of simulated gateways, from its start until every gateway is ready. What
a gateway takes in memory is what the process has for itself alone (private pages, garbage collected) after that, less what it had
before it started, by the number of gateways; Linux only. All settings have their defaults but the range of ports. A fleet must not
cost more for each gateway because it is large: the largest is compared with the one of three hundred, in the same run. Three
thousand need some ten thousand open files.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from argparse import Namespace
from collections import Counter
from typing import Any

from benchmarks.memory import private_memory
from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.place import hosted, place, until_all_ready
from benchmarks.support.running import measured_apart
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.audit.trail import AuditTrail


def measure(findings: Findings, sizes: list[int], given: Namespace) -> None:
    """Each size in a process of its own; the largest against one of them."""
    against: int = given.against
    found = dict[int, Any]()
    for size in sizes:
        with findings.part(f"{size} gateways"):
            found[size] = measured_apart("fleet_sizes", str(size), str(given.settle), within=given.longest)
            _tell(findings, size, found[size])
    if against in found and (largest := max(found)) != against:
        wall, processor = (found[largest][each] / found[against][each] for each in ("time", "processor"))
        findings.figure(
            f"What does a gateway cost more among {largest:,} than among {against}?",
            f"{wall:.2f} times the time, {processor:.2f} times the processor time",
            aim=at_most(wall, 1.1, "times"),
            time=(wall, "times"),
            processor=(processor, "times"),
        )


def _tell(findings: Findings, size: int, found: dict[str, float]) -> None:
    findings.figure(
        f"What does one of {size:,} gateways cost, from start until ready, and in memory?",
        f"{number(found['time'])} ms, of which {number(found['processor'])} ms are the manager's processor time,"
        f" and {number(found['memory'])} kB; its secret was read {found['reads']:g} times",
        aim=at_most(found["reads"], 1, "time", what="each secret read"),
        time=(found["time"], "ms"),
        processor=(found["processor"], "ms"),
        memory=(found["memory"], "kB"),
        reads=(found["reads"], "times"),
    )


async def one_fleet(size: int, settle: float) -> dict[str, float]:
    """What each of its gateways cost."""
    with place(size) as here:
        async with hosted(here):
            manager = here.manager()
            before, begun, used = private_memory(), time.monotonic(), time.process_time()
            await manager.start()
            try:
                await until_all_ready(manager, here.enabled)
                took, processor = time.monotonic() - begun, time.process_time() - used
                await asyncio.sleep(settle)  # until what the connections began has ended
                memory = private_memory() - before
            finally:
                await manager.detach()
        reads = Counter(each["act"] for each in AuditTrail(here.directory).entries())["read"]
    found = {"time": took * 1000, "processor": processor * 1000, "memory": memory, "reads": float(reads)}
    return {name: value / size for name, value in found.items()}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(asyncio.run(one_fleet(int(sys.argv[2]), float(sys.argv[3])))))
        sys.exit()
    given = options(
        __doc__, sizes=("100,300,1000,3000", "1,2"), against=(300, 1), settle=(3.0, 0.2), longest=(1800.0, 200.0)
    )
    asked = [int(each) for each in given.sizes.split(",")]
    sys.exit(run(lambda findings: measure(findings, asked, given)))
