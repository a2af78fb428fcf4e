"""A whole manager's process for the memory search: launches its fleet through Vault, prints snapshots and spans, stands still.

Arguments: settings as JSON, and how many followers must be RUNNING.
"""

from __future__ import annotations

import asyncio
import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from spreadpilot_core.ibkr.gateway_manager import GatewayManager


async def main() -> None:
    """Start, wait for the fleet, print its snapshots, wait until standard input ends, stop."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    settings, wanted = json.loads(sys.argv[1]), int(sys.argv[2])
    async with GatewayManager(**settings) as manager:
        while sum(one.status.value == "RUNNING" for one in manager.list_gateways()) < wanted:
            await asyncio.sleep(0.1)
        for snapshot in manager.list_gateways():
            sys.stdout.write(f"{snapshot}\n")
        sys.stdout.write("launched\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
