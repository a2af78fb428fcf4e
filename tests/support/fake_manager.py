"""A hand-written stand-in for `GatewayManager`, for the program around it: it does what it is told and remembers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.errors import UnknownFollowerError
from spreadpilot_core.ibkr.events import Event, EventBus
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.snapshots import GatewaySnapshot

SINCE = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def a_snapshot(follower_id: str, state: State = State.READY, **facts: Any) -> GatewaySnapshot:
    """A plausible snapshot; `facts` replace its fields."""
    plausible: dict[str, Any] = {"reason": None, "next_action": None, "since": SINCE, "trading_mode": "paper"}
    if state is not State.READY:
        plausible |= {"reason": f"It is {state.value}.", "next_action": "Wait."}
    return GatewaySnapshot(follower_id=follower_id, status=state.status, state=state, **(plausible | facts))


class FakeManager:
    """Every call is in `calls`; a call named in `failing` raises what stands there."""

    def __init__(self, state_dir: Path, *snapshots: GatewaySnapshot) -> None:
        self.settings = Settings.read(state_dir=state_dir, store_url="local:", runtime_url="simulated:")
        self.snapshots = {each.follower_id: each for each in snapshots}
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Exception] = {}
        self.stop_takes = asyncio.Event()
        self.stop_takes.set()
        self.reconnects = True
        self.bus = EventBus()

    async def start(self) -> None:
        self._called("start")

    async def stop(self) -> None:
        self._called("stop")
        await self.stop_takes.wait()
        self.bus.close()

    async def detach(self) -> None:
        self._called("detach")
        self.bus.close()

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        self._called("list_gateways")
        return tuple(self.snapshots.values())

    async def launch_gateway(self, follower_id: str, *, retry_login: bool = False) -> None:
        self._about("launch_gateway", follower_id, retry_login)

    async def stop_gateway(self, follower_id: str) -> None:
        self._about("stop_gateway", follower_id)
        self.snapshots[follower_id] = a_snapshot(follower_id, State.STOPPED)

    async def restart_gateway(self, follower_id: str) -> None:
        self._about("restart_gateway", follower_id)

    async def reconnect(self, follower_id: str) -> bool:
        self._about("reconnect", follower_id)
        return self.reconnects

    async def reload_followers(self) -> None:
        self._called("reload_followers")

    async def events(self) -> AsyncIterator[Event]:
        subscription = self.bus.subscribe()
        self._called("events")
        try:
            async for event in subscription:
                yield event
        finally:
            await subscription.aclose()

    def _about(self, call: str, follower_id: str, *rest: Any) -> None:
        self._called(call, follower_id, *rest)
        if follower_id not in self.snapshots:
            raise UnknownFollowerError(follower_id, len(self.snapshots))

    def _called(self, call: str, *rest: Any) -> None:
        self.calls.append((call, *rest))
        if call in self.failing:
            raise self.failing[call]
