"""What telemetry costs: processor time of launches and of heartbeats with it, against the same without it.

With it: traces and metrics leave by OTLP over HTTP to a receiver in another process, the metrics every 15 s (four times as often as
by default), and Prometheus's page is served at `metrics_address` and read every 15 s. Without it: nothing is set up. Each round is a
manager in a fresh process, with and without in turn; launches are from its start until every gateway is ready, heartbeats from then on
for as long as each gateway has one. The figures are the medians of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import suppress
from typing import Any
from urllib.request import urlopen

from benchmarks.support.figures import Findings, at_most, number, run
from benchmarks.support.place import place, started
from benchmarks.support.running import measured_apart
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr.instrumentation.setup import set_up_sdk
from support.otlp import Receiver, receiving_http
from support.ports import free_ports

EXPORTED_EVERY = 15.0
PATIENCE = 600.0


def measure(findings: Findings, gateways: int, watch: float, rounds: int) -> None:
    """Both in turn."""
    with receiving_http() as receiver:
        pairs = [(_one(gateways, watch, None), _one(gateways, watch, receiver)) for _ in range(rounds)]
        spans = len(receiver.spans)
    if not spans or not receiver.metrics:
        raise RuntimeError("nothing arrived at the receiver")
    for name, question in (
        ("launch", f"What does telemetry add to the processor time of a launch, {gateways} at once?"),
        ("beat", f"… and to that of {gateways} gateways' heartbeats?"),
    ):
        without, with_it = (statistics.median(each[name] for each in side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(on[name] / off[name] for off, on in pairs)
        findings.figure(
            question,
            f"{ratio:.2f} times ({number(with_it)} ms, {number(without)} ms a gateway)",
            aim=at_most(ratio, 1.25, "times") if name == "launch" else None,
            ratio=(ratio, "times"),
            on=(with_it, "ms"),
            off=(without, "ms"),
        )


def _one(gateways: int, watch: float, receiver: Receiver | None) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if receiver is not None:
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        environment["OTEL_METRIC_EXPORT_INTERVAL"] = str(int(EXPORTED_EVERY * 1000))
    address = f"127.0.0.1:{free_ports(1)}" if receiver is not None else ""
    found: dict[str, float] = measured_apart(
        "telemetry", str(gateways), str(watch), address, within=PATIENCE + watch, environment=environment
    )
    return found


async def one_manager(gateways: int, watch: float, address: str) -> dict[str, float]:
    """Milliseconds of processor time for each gateway."""
    more: dict[str, Any] = {"metrics_address": address} if address else {}
    with place(gateways) as here, set_up_sdk():
        begun = time.process_time()
        async with started(here, **more):
            launched = time.process_time() - begun
            begun = time.process_time()
            scraping = asyncio.create_task(_scrape(address)) if address else None
            await asyncio.sleep(watch)
            if scraping is not None:
                scraping.cancel()
                with suppress(asyncio.CancelledError):
                    await scraping
            beaten = time.process_time() - begun
    return {"launch": 1000 * launched / gateways, "beat": 1000 * beaten / gateways}


async def _scrape(address: str) -> None:
    """As Prometheus does."""
    while True:
        await asyncio.to_thread(_read, f"http://{address}/metrics")
        await asyncio.sleep(EXPORTED_EVERY)


def _read(url: str) -> None:
    with urlopen(url, timeout=30) as page:  # noqa: S310  # our own
        page.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(asyncio.run(one_manager(int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))))
        sys.exit()
    given = options(__doc__, gateways=(100, 2), watch=(30.0, 0.5), rounds=(3, 1))
    sys.exit(run(lambda findings: measure(findings, given.gateways, given.watch, given.rounds)))
