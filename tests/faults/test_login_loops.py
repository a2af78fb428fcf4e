"""The installed command with a controller that types its login again and again: IBKR never sees more than the budget."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import pytest

from spreadpilot_core.ibkr.runtimes.identity import read_note
from spreadpilot_core.ibkr.seams import GatewayRuntime
from spreadpilot_core.ibkr.service.client import RefusedByManagerError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tasks
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.home import Home
from support.service import Service

BUDGET = 2
TYPED = ("Login attempt: ", "credentials submitted, awaiting outcome")
FOR_EVER = [{"login_error": "Some text", "forever": True}]
CONTROLLERS = pytest.mark.parametrize("controller", ["ibc", "ibcontroller"])


class TypedLogins:
    """Counts what IBKR sees: every login in the log of every container, followed by a client of the test's own."""

    def __init__(self, runtime: GatewayRuntime) -> None:
        self._runtime = runtime
        self._tasks = Tasks("typed logins")
        self._followed: set[str] = set()
        self.count = 0

    async def __aenter__(self) -> Self:
        await self._runtime.open()
        self._tasks.begin("look for containers", self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.cancel()
        await self._runtime.close()

    async def _look(self) -> None:
        while True:
            for gateway in await self._runtime.list():
                if gateway.container_id not in self._followed and gateway.started_at is not None:
                    self._followed.add(gateway.container_id)
                    self._tasks.begin(f"follow {gateway.container_id}", self._follow(gateway))
            await asyncio.sleep(0.05)

    async def _follow(self, gateway: Any) -> None:
        async for line in self._runtime.log(gateway):
            self.count += any(words in line for words in TYPED)


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """A machine on which others work too."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


async def waits_for_a_human(service: Service) -> None:
    async with asyncio.timeout(180):
        while True:
            gateway = (await service.gateways()).get("alice", {})
            if gateway.get("state") == "needs_human" and gateway["container"] is None:
                return
            await asyncio.sleep(0.1)


async def loop_once(home: Home, runtime: GatewayRuntime, **settings: object) -> None:
    """One life of the command, from its first login to the operator's one login more."""
    service = Service(home, login_budget=BUDGET, **settings)
    try:
        async with TypedLogins(runtime) as typed:
            await service.start()
            noted = await asyncio.to_thread(read_note, Settings.read(**home.settings))
            assert noted is not None
            runtime.identities = noted  # its containers are found by who made them
            await waits_for_a_human(service)
            assert typed.count == BUDGET
            await service.act("alice", "launch", retry_login=True)
            await waits_for_a_human(service)
            assert typed.count == BUDGET + 1
            refused = await service.act("alice", "launch", retry_login=True)
            assert isinstance(refused, RefusedByManagerError)
            assert "60 s" in str(refused)
            stands = (await service.gateways())["alice"]
            assert stands["reason_code"] == "LOGIN_BUDGET_SPENT"
            assert "login budget" in stands["reason"]
            await service.end(signal.SIGTERM)
            assert typed.count == BUDGET + 1
    finally:
        service.close()


def script(home: Home, timings: object) -> None:
    content = {"followers": {"alice": {"laps": FOR_EVER, "timings": timings}}}
    (home.directory / "scripts.json").write_text(json.dumps(content))


@CONTROLLERS
async def test_a_looping_controller_types_no_more_than_the_budget(home: Home, controller: str) -> None:
    """Its failure, its relaunch and its next start come in one burst; the second failure ends its container."""
    home.settings["gateway_image_contract"] = controller
    await home.add("alice")
    await asyncio.to_thread(script, home, {"login_form": 3.0})
    await loop_once(home, home.runtime())


@pytest.mark.soak
@CONTROLLERS
@pytest.mark.parametrize("others", [0, 4])
async def test_a_looping_controller_types_no_more_than_the_budget_again_and_again(controller: str, others: int) -> None:
    """Twenty times at real speed, on a quiet machine and on a loaded one."""
    with busy(others):
        for _ in range(20):
            home = Home()
            try:
                home.settings["gateway_image_contract"] = controller
                await home.add("alice")
                await asyncio.to_thread(script, home, "real")
                await loop_once(home, home.runtime())
            finally:
                await home.end()


@pytest.mark.real_part("docker")
@CONTROLLERS
async def test_a_looping_controller_in_a_real_container_types_no_more_than_the_budget(
    bench: Bench, controller: Any
) -> None:
    """The same on an engine, where the log comes over a socket."""
    home = DockerHome(bench)
    try:
        environment = {"SIMULATOR_SCRIPT": json.dumps(FOR_EVER), "SIMULATOR_TIMINGS": "0.6"}
        await home.add_on(controller, "alice", environment=environment)
        await loop_once(home, await bench.runtime())
    finally:
        await home.end()
