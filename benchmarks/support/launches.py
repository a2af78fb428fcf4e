"""Until a manager's gateways run, on an engine whose containers are real processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.events import Event, GatewayLaunched
from spreadpilot_core.ibkr.settings import Settings

PATIENCE = 600.0


def as_shipped() -> dict[str, Any]:
    """Settings that the tests' home makes quick: with those, fifty gateways are looked at every second while others start."""
    names = ("healthcheck_interval", "heartbeat_timeout", "connect_time", "secret_poll_interval")
    return {name: Settings.model_fields[name].default for name in names}


async def until_all_run(manager: GatewayManager, count: int) -> tuple[float, float]:
    """Start it; the seconds until `count` gateways' processes run, and its own CPU time until then."""
    running = asyncio.create_task(_told_of(manager.events(), count))
    begun, begun_cpu = time.perf_counter(), time.process_time()
    await manager.start()
    await running
    return time.perf_counter() - begun, time.process_time() - begun_cpu


async def _told_of(happened: AsyncIterator[Event], count: int) -> None:
    """Wait for `count` launches by what the manager tells: asking it again and again would take CPU from the launches."""
    running = set[str]()
    async with asyncio.timeout(PATIENCE):
        async for event in happened:
            if isinstance(event, GatewayLaunched):
                running.add(event.follower_id)
            if len(running) == count:
                return
