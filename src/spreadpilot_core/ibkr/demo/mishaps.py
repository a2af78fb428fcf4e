"""What goes wrong in the demo, and how long each may take to be well again.

Each mishap is done to the simulated gateway or to its login, never to the manager: what then happens is the product.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.demo.screens import Screen
from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.tasks import Tasks

_PAUSE = 3.0
"""Seconds to look at what there is before the next thing happens."""
_LINK_AWAY = 6.0
_POLL_EVERY = 0.05
_PATIENCE = 90.0
"""Seconds for a recovery, many times what it takes."""


def plant_login(store: EncryptedCredentials, follower_id: str) -> None:
    """Give a follower's simulated user a new password."""
    store.set(f"ibkr/{follower_id}", f"{follower_id}-user", secrets.token_urlsafe(12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """All that a mishap plays with."""

    manager: GatewayManager
    runtime: SimulatedRuntime
    store: EncryptedCredentials
    screen: Screen
    followers: tuple[str, ...]

    def seen(self, follower_id: str) -> GatewaySnapshot:
        """How the gateway stands now."""
        return self.manager.get_gateway(follower_id)

    async def until(self, follower_id: str, holds: Callable[[GatewaySnapshot], bool]) -> None:
        """Wait until it holds; raises `GatewayManagerError` when it takes far too long."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while not holds(self.seen(follower_id)):  # noqa: ASYNC110  # snapshots are there to be looked at
                    await asyncio.sleep(_POLL_EVERY)
        except TimeoutError:
            seen = self.seen(follower_id)
            raise GatewayManagerError(
                f"{follower_id} is still {seen.state.value} after {_PATIENCE:g} s: {seen.reason}"
            ) from None


async def everything_that_goes_wrong(stage: Stage) -> None:
    """All mishaps, one begun after the other; each on another gateway where there are enough, so that they overlap.

    Raises:
        GatewayManagerError: a gateway did not recover.
    """
    locks = {follower_id: asyncio.Lock() for follower_id in stage.followers}
    recoveries = Tasks("mishaps")
    begun: list[asyncio.Task[None]] = []
    try:
        for number, mishap in enumerate((freeze, lose_link, reject_password)):
            await asyncio.sleep(_PAUSE)
            follower_id = stage.followers[number % len(stage.followers)]
            begun.append(
                recoveries.begin(mishap.__name__, _run_exclusive(locks[follower_id], mishap(stage, follower_id)))
            )
        await asyncio.gather(*begun)
    finally:
        await recoveries.cancel()


async def _run_exclusive(lock: asyncio.Lock, mishap: Coroutine[Any, Any, None]) -> None:
    """One mishap at a time for each gateway."""
    async with lock:
        await mishap


async def freeze(stage: Stage, follower_id: str) -> None:
    """The process stands still and its sockets stay open: only the heartbeat finds that."""
    stage.screen.say("its gateway freezes now; the sockets stay open.", about=follower_id, loud=True)
    await stage.runtime.inject(FollowerId(follower_id), "freeze")
    await stage.until(follower_id, lambda seen: seen.state is not State.READY)
    await _until_well(stage, follower_id)


async def lose_link(stage: Stage, follower_id: str) -> None:
    """IBKR is away for some seconds: nothing is restarted, no login is spent."""
    stage.screen.say("IBKR goes away from its gateway for some seconds.", about=follower_id, loud=True)
    await stage.runtime.inject(FollowerId(follower_id), "link_lost", seconds=_LINK_AWAY)
    await stage.until(follower_id, lambda seen: seen.state is State.DEGRADED)
    await _until_well(stage, follower_id)


async def reject_password(stage: Stage, follower_id: str) -> None:
    """The gateway crashes and its password no longer works: one login, then a human, who sets a new one."""
    stage.screen.say("its gateway crashes, and its password was changed at IBKR.", about=follower_id, loud=True)
    await stage.runtime.script(FollowerId(follower_id), [{"wrong_password": True}])
    await stage.runtime.inject(FollowerId(follower_id), "crash")
    await stage.until(follower_id, lambda seen: seen.state is State.NEEDS_HUMAN)
    await asyncio.sleep(_PAUSE)
    stage.screen.say("somebody stores the new password (`credentials set`).", about=follower_id, loud=True)
    await asyncio.to_thread(plant_login, stage.store, follower_id)
    await _until_well(stage, follower_id)


async def _until_well(stage: Stage, follower_id: str) -> None:
    await stage.until(follower_id, lambda seen: seen.state is State.READY)
    stage.screen.say("recovered.", about=follower_id, loud=True)
