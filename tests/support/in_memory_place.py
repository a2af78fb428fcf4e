"""The contract suite's places on engines in memory, of both shapes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Controller, DeliveryTarget, Endpoint, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases
from spreadpilot_core.ibkr.runtimes.in_memory.engine import InMemoryEngine
from spreadpilot_core.ibkr.runtimes.in_memory.runtime import SENDER, InMemoryPods, InMemoryRuntime
from support.runtimes import OPTIONS, Place, make_spec

CONFIRMED_AFTER = 0.05
"""Seconds until a node confirms the end of a pod."""


class InMemoryPlace(Place):
    """An engine of its own, shaped like Docker."""

    sender = SENDER

    def __init__(self) -> None:
        super().__init__(f"gm-test-{secrets.token_hex(3)}")
        self.engine = InMemoryEngine()
        self._runtimes: list[InMemoryRuntime | InMemoryPods] = []

    async def runtime(self, owner: str | None = None, *, identity: str | None = None) -> InMemoryRuntime | InMemoryPods:
        runtime = self._make(owner or self.owner, Identities(identity or owner or self.owner))
        self._runtimes.append(runtime)
        await runtime.open()
        return runtime

    def _make(self, owner: str, identities: Identities) -> InMemoryRuntime | InMemoryPods:
        ports = PortLeases(4100, 4115, is_free=self.engine.network.is_free)
        return InMemoryRuntime(self.engine, owner=owner, identities=identities, ports=ports)

    def spec(
        self, follower_id: str = "alice", *, controller: Controller = "ibcontroller", **choices: Any
    ) -> GatewaySpec:
        return make_spec(follower_id, options=OPTIONS.model_copy(update={"image_contract": controller}), **choices)

    async def spec_playing(self, controller: Controller, *laps: Mapping[str, Any]) -> GatewaySpec:
        self.engine.script(FollowerId("alice"), *laps)
        return self.spec(controller=controller)

    async def deliver(self, target: DeliveryTarget, secret: bytes) -> None:
        await asyncio.sleep(0)
        self.engine.deliver(target, secret)

    async def typed(self, gateway: Gateway) -> int:
        return self.engine.typed.count(gateway.follower_id)

    async def pause(self, gateway: Gateway) -> None:
        self.engine.container(gateway.follower_id).pause()

    async def resume(self, gateway: Gateway) -> None:
        self.engine.container(gateway.follower_id).unpause()

    async def kill(self, gateway: Gateway) -> None:
        await self.engine.container(gateway.follower_id).stop(0)

    async def restart(self, gateway: Gateway) -> None:
        await self.engine.container(gateway.follower_id).restart()

    async def hang(self, gateway: Gateway) -> None:
        self.engine.container(gateway.follower_id).gateway("running").inject("freeze")

    async def must_accept(self, endpoint: Endpoint) -> None:
        transport = self.engine.connect(endpoint, asyncio.Protocol())
        transport.close()

    @contextlib.asynccontextmanager
    async def taking(self, port: int) -> AsyncIterator[None]:
        self.engine.network.taken.add(port)
        yield
        self.engine.network.taken.remove(port)

    async def close(self) -> None:
        """End everything in it."""
        for runtime in self._runtimes:
            await runtime.close()
        await self.engine.close()


class PodPlace(InMemoryPlace):
    """An engine of its own, shaped like Kubernetes, whose nodes confirm an end a little later."""

    publishes = False

    def _make(self, owner: str, identities: Identities) -> InMemoryPods:
        return InMemoryPods(self.engine, owner=owner, identities=identities, confirmed_after=CONFIRMED_AFTER)


@pytest.fixture(name="in_memory_place")
async def in_memory_place_fixture() -> AsyncIterator[InMemoryPlace]:
    """A place in memory, shaped like Docker."""
    place = InMemoryPlace()
    place.opened = await place.runtime()
    yield place
    await place.close()


@pytest.fixture(name="pod_place")
async def pod_place_fixture() -> AsyncIterator[PodPlace]:
    """A place in memory, shaped like Kubernetes."""
    place = PodPlace()
    place.opened = await place.runtime()
    yield place
    await place.close()
