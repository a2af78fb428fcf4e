"""The contract suite's place on a real Docker Engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from spreadpilot_core.ibkr.model.gateways import Controller, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import Identities
from spreadpilot_core.ibkr.runtimes.docker.runtime import DockerRuntime
from support.docker_bench import Bench
from support.docker_engine import EngineUnderTest
from support.docker_http import DockerApiError
from support.docker_images import simulator_image
from support.runtimes import OPTIONS, Place, make_spec


class DockerPlace(Place):
    """A prefix of its own on the engine."""

    sender = "docker"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.prefix)
        self._bench = bench

    async def runtime(self, owner: str | None = None, *, identity: str | None = None) -> DockerRuntime:
        identities = {} if identity is None else {"identities": Identities(identity)}
        return await self._bench.runtime(prefix=owner, **identities)

    def spec(
        self, follower_id: str = "alice", *, controller: Controller = "ibcontroller", **choices: Any
    ) -> GatewaySpec:
        image = simulator_image(self._bench.api, controller)
        choices = {"user": self._bench.user, **choices}
        return make_spec(follower_id, options=OPTIONS.model_copy(update={"image": image}), **choices)

    async def spec_playing(self, controller: Controller, *laps: Mapping[str, Any]) -> GatewaySpec:
        image = simulator_image(self._bench.api, controller, {"SIMULATOR_SCRIPT": json.dumps(laps)})
        return make_spec(options=OPTIONS.model_copy(update={"image": image}))

    async def typed(self, gateway: Gateway) -> int:
        return await asyncio.to_thread(self._bench.logins_typed, gateway.container_id)

    async def pause(self, gateway: Gateway) -> None:
        while True:
            try:
                await self._ask(gateway, "pause")
            except DockerApiError as error:
                if "unable to freeze" not in str(error):  # the kernel had no time for it
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def resume(self, gateway: Gateway) -> None:
        await self._ask(gateway, "unpause")

    async def kill(self, gateway: Gateway) -> None:
        await self._ask(gateway, "kill")
        await self._ask(gateway, "wait")

    async def restart(self, gateway: Gateway) -> None:
        await self._ask(gateway, "restart")

    async def hang(self, gateway: Gateway) -> None:
        await asyncio.to_thread(self._bench.api.execute, gateway.container_id, "gateway-simulator", "inject", "freeze")

    async def _ask(self, gateway: Gateway, act: str) -> None:
        await asyncio.to_thread(self._bench.api.ask, "POST", f"/containers/{gateway.container_id}/{act}")


@pytest.fixture(name="docker_place")
async def docker_place_fixture(engine: EngineUnderTest) -> AsyncIterator[DockerPlace]:
    """A place on the engine that is there, or on one of our own; the test runs where its ports are published."""
    with engine.inside():
        bench = Bench(engine)
        place = DockerPlace(bench)
        place.opened = await place.runtime()
        yield place
        await bench.close()
