"""The manager with its default runtime: a fleet on a real Docker Engine, from `start()` to nothing left."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.instrumentation.catalogue import METRICS
from spreadpilot_core.ibkr.model.events import GatewayLaunched, LoginRejected
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.runtimes.docker import runtime as docker_runtime
from spreadpilot_core.ibkr.runtimes.images import SCREEN_PASSWORD_FILE
from spreadpilot_core.ibkr.supervision import measurements
from support.command import Command
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.docker_images import GENERATIONS, Generation
from support.home import PASSWORD, eventually, seen
from support.ports import free_ports

pytestmark = pytest.mark.real_part("docker")
PATIENCE = 90.0
CONTAINER = re.compile(r'^(gateway_manager_container_(?!exits)\w+)\{follower="alice"\} (\S+)$', re.MULTILINE)


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench)
    yield place
    await place.end()


async def healthy(manager: GatewayManager, *follower_ids: str) -> None:
    await eventually(
        lambda: all(manager.is_healthy(each) for each in follower_ids),
        lambda: [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()],
        within=PATIENCE,
    )


def secret_file(home: DockerHome, container: str) -> str:
    return home.bench.api.execute(container, "ls", "/run/gateway-manager").strip()


async def test_ten_followers_on_both_generations(home: DockerHome) -> None:
    """All run with connected clients; nothing of a secret shows or stays; `stop()` leaves no container and no network."""
    names = {"ibc": [f"old{i}" for i in range(5)], "ibcontroller": [f"new{i}" for i in range(5)]}
    await home.add_on("ibc", *names["ibc"])
    await home.add_on("ibcontroller", *names["ibcontroller"])
    everyone = [*names["ibc"], *names["ibcontroller"]]
    manager = home.manager()
    await manager.start()
    try:
        await healthy(manager, *everyone)
        for name in everyone:
            client = await manager.get_client(name)
            assert client is not None
            assert client.isConnected()
            assert manager.get_gateway_status(name) is GatewayStatus.RUNNING
        for row in home.containers():
            told = json.dumps(home.bench.api.inspect(row["Id"])) + home.bench.api.logs(row["Id"])
            assert PASSWORD not in told
            assert all(port.get("IP") in {None, "127.0.0.1"} for port in row["Ports"])
        container = str(seen(manager, "new0").container)
        await eventually(lambda: secret_file(home, container) == "", "the password file is removed", within=PATIENCE)
    finally:
        await manager.stop()
    assert home.containers() == []
    networks = {network["Name"] for network in home.bench.api.ask("GET", "/networks")}
    assert f"{home.bench.prefix}-network" not in networks


async def test_a_next_manager_adopts_without_a_login(home: DockerHome) -> None:
    """Detached gateways go on running; the next manager finds them, connects, and restarts none."""
    await home.add_on("ibcontroller", "alice", "bob")
    first = home.manager()
    await first.start()
    await healthy(first, "alice", "bob")
    before = {row["Id"]: home.bench.api.inspect(row["Id"])["State"]["StartedAt"] for row in home.containers()}
    await first.detach()
    second = home.manager()
    await second.start()
    try:
        await healthy(second, "alice", "bob")
        after = {row["Id"]: home.bench.api.inspect(row["Id"])["State"]["StartedAt"] for row in home.containers()}
        assert after == before
    finally:
        await second.stop()
    assert home.containers() == []


async def test_the_engines_figures_of_a_container_are_scraped(
    home: DockerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health, memory and processor time, of the follower; the dashboard shows them."""
    monkeypatch.setattr(measurements, "USAGE_EVERY", 0.5)
    monkeypatch.setattr(docker_runtime, "HealthCheck", partial(docker_runtime.HealthCheck, interval=1.0))
    await home.add_on("ibcontroller", "alice")
    port = free_ports(1)
    manager = home.manager(metrics_address=str(port))
    await manager.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as probe:
            async with asyncio.timeout(PATIENCE):
                while len(found := CONTAINER.findall((await probe.get("/metrics")).text)) < 3:
                    await asyncio.sleep(0.2)
    finally:
        await manager.stop()
    values = {name: float(value) for name, value in found}
    assert set(values) == {METRICS[f"container.{each}"].prometheus for each in ("healthy", "memory.usage", "cpu.time")}
    assert values[METRICS["container.memory.usage"].prometheus] > 1e6
    assert values[METRICS["container.cpu.time"].prometheus] > 0


async def test_only_the_status_of_one_gateway_shows_its_screens_password(home: DockerHome) -> None:
    """Who asks for one gateway is shown its screen's password; no list, JSON, watch, log or answer of the manager has it."""
    home.settings["vnc"] = True
    await home.add_on("ibc", "alice")
    command = Command(home)
    with command.begun("run") as serving:
        await asyncio.to_thread(serving.says, "GatewayReady")
        (gateway,) = await asyncio.to_thread(command.json, "status", "alice")
        password = home.bench.api.execute(gateway["container"], "cat", SCREEN_PASSWORD_FILE).strip()
        assert len(password) == 8

        detail = await asyncio.to_thread(command, "status", "alice")
        assert detail.returncode == 0, detail.stderr
        rows = {name: value for name, _, value in (line.partition("  ") for line in detail.stdout.splitlines())}
        assert rows["vnc"].strip() == gateway["vnc"]
        assert rows["vnc password"].strip() == password
        assert password not in detail.stderr

        silent = [json.dumps(gateway)]
        for arguments in (["status"], ["status", "--json"], ["status", "alice", "--json"], ["logs", "alice"]):
            done = await asyncio.to_thread(command, *arguments)
            assert done.returncode == 0, done.stderr
            silent.append(done.stdout + done.stderr)
        with command.begun("status", "alice", "--watch") as watching:
            await asyncio.to_thread(watching.says, "alice is RUNNING")
            silent.append(watching.stdout + watching.stderr)
        away = await asyncio.to_thread(command, "status", "alice", DOCKER_HOST="unix:///nowhere/docker.sock")
        assert away.returncode == 0, away.stderr
        assert "not known: There is no Docker Engine at /nowhere/docker.sock." in away.stdout
        silent.append(away.stdout)
        serving.signal(signal.SIGTERM)
        assert await asyncio.to_thread(serving.ends) == 0
        silent.append(serving.stdout + serving.stderr)
        assert not any(password in said for said in silent)


async def test_an_older_ibcontroller_is_refused_with_the_cure(home: DockerHome) -> None:
    """Its log shows it before its login is over, though the password is right, and a human is told what to do."""
    old = {"SIMULATOR_OLD_CONTROLLER": "yes", "SIMULATOR_TIMINGS": "0.5"}
    await home.add_on("ibcontroller", "alice", environment=old)
    manager = home.manager()
    await manager.start()
    try:
        await eventually(
            lambda: seen(manager, "alice").state is State.NEEDS_HUMAN and not home.containers(),
            lambda: seen(manager, "alice"),
            within=PATIENCE,
        )
        assert "older than 0.1.4" in str(seen(manager, "alice").reason)
        assert "use a newer image" in str(seen(manager, "alice").reason)
    finally:
        await manager.stop()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_rejected_password_is_typed_once(home: DockerHome, generation: Generation) -> None:
    """Both controllers would stay: the older in a window, the newer in laps. Its container goes, and none is started again."""
    await home.add_on(generation, "alice", environment={"SIMULATOR_PASSWORD_SHA256": "0" * 64})
    manager = home.manager()
    happened = manager.events()
    await manager.start()
    await eventually(
        lambda: seen(manager, "alice").state is State.NEEDS_HUMAN and home.containers() == [],
        lambda: (seen(manager, "alice"), home.containers()),
        within=PATIENCE,
    )
    await manager.stop()
    told = [type(event) async for event in happened]
    assert (told.count(GatewayLaunched), told.count(LoginRejected)) == (1, 1)
