"""A place on a real engine for one test: a prefix of its own, launches as the manager makes them, and nothing left after."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import pytest

from spreadpilot_core.ibkr.credentials.courier.encoding import encode
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.runtimes.docker.naming import FOLLOWER, OWNER
from spreadpilot_core.ibkr.runtimes.docker.runtime import DockerRuntime
from spreadpilot_core.ibkr.seams import CommitLogin
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.docker_engine import EngineUnderTest, engine_fixture, own_engine_fixture
from support.docker_http import DockerApi, DockerApiError
from support.docker_images import Generation, simulator_image
from support.docker_specs import spec as make_spec
from support.home import Home
from support.ports import free_ports, leases
from support.runtimes import committed

FIXTURES = (engine_fixture, own_engine_fixture)
"""What `bench` needs; a test module imports all three."""
DEADLINE = 60.0
"""Seconds for anything that takes milliseconds on an idle machine."""
PASSWORD = "Correct horse, battery \\ staple"


class Bench:
    """One test's place."""

    def __init__(self, under_test: EngineUnderTest) -> None:
        self.engine = under_test
        self.api: DockerApi = under_test.api
        self.prefix = f"gm-test-{os.getpid()}-{secrets.token_hex(3)}"
        self.user = f"alice-{self.prefix[-6:]}"  # tests may share the engine, and one IBKR user has one gateway there
        self._prefixes = [self.prefix]
        self._runtimes: list[DockerRuntime] = []

    async def runtime(self, *, prefix: str | None = None, **options: Any) -> DockerRuntime:
        """An open runtime of a manager of its own for each prefix; closed and cleaned up after the test."""
        if prefix is not None:
            self._prefixes.append(prefix)
        options = {"identities": Identities(prefix or self.prefix), "ports": leases(), **options}
        made = DockerRuntime(socket=self.engine.socket, prefix=prefix or self.prefix, **options)
        self._runtimes.append(made)
        await made.open()
        return made

    def spec(
        self,
        follower_id: str = "alice",
        generation: Generation = "ibcontroller",
        environment: Mapping[str, str] | None = None,
        **choices: Any,
    ) -> GatewaySpec:
        """A spec on a simulator image of this engine."""
        image = choices.pop("image", None) or simulator_image(self.api, generation, environment)
        return make_spec(follower_id, image=image, **{"user": self.user, **choices})

    async def create(self, runtime: DockerRuntime, spec: GatewaySpec, port: int | None = None) -> DeliveryTarget:
        """A container that waits for its password, as the first step of a launch leaves it."""
        await runtime.prepare(spec)
        return await runtime._create(spec, 1000, port or free_port())

    async def launch(
        self, runtime: DockerRuntime, spec: GatewaySpec, port: int | None = None, *, commit: CommitLogin | None = None
    ) -> Gateway:
        """A started gateway."""
        controller = await runtime.prepare(spec)
        runtime.ports.pin(spec.follower_id, port)

        async def secret(target: DeliveryTarget) -> None:
            await asyncio.to_thread(deliver, target.as_json(), encode(PASSWORD, controller))

        return await runtime.launch(spec, 1000, secret=secret, commit=commit or committed)

    async def ready(self, runtime: DockerRuntime, spec: GatewaySpec, port: int | None = None) -> Gateway:
        """A gateway whose API answers."""
        gateway = await self.launch(runtime, spec, port)
        await answers(gateway.endpoint.port)
        return gateway

    def logins_typed(self, container: str) -> int:
        """How many logins this follower's gateways typed, by the simulator's own book; the container may have ended."""
        book = f"/home/ibgateway/tws_settings/{LOGINS}"
        try:
            said: str = self.api.ask("GET", f"/containers/{container}/archive", path=book)
        except DockerApiError as error:
            if error.status != HTTPStatus.NOT_FOUND and "RWLayer" not in str(error):
                raise
            return 0  # none was typed yet, or it is being removed
        return said.count('"user"')

    def volumes(self) -> list[str]:
        """What gateways of this place have kept for their next start."""
        filters = json.dumps({"label": [f"{OWNER}={self.prefix}"]})
        return [each["Name"] for each in self.api.ask("GET", "/volumes", filters=filters)["Volumes"] or ()]

    async def close(self) -> None:
        """Close every runtime and remove everything that bears one of the prefixes."""
        for runtime in self._runtimes:
            with contextlib.suppress(Exception):
                await runtime.close()
        if self.api.is_there():
            for prefix in self._prefixes:
                self.api.remove_everything_of(f"{OWNER}={prefix}")


@pytest.fixture(name="bench")
async def bench_fixture(engine: EngineUnderTest) -> AsyncIterator[Bench]:
    """A place on the engine that is there, or on one of our own; the test runs where its ports are published."""
    with engine.inside():
        place = Bench(engine)
        yield place
        await place.close()


@pytest.fixture(name="faulty_bench")
async def faulty_bench_fixture(own_engine: EngineUnderTest) -> AsyncIterator[Bench]:
    """A place on an engine of our own, which the test may end and start."""
    assert own_engine.own is not None
    with own_engine.inside():
        place = Bench(own_engine)
        try:
            yield place
        finally:
            if not own_engine.api.is_there():
                own_engine.own.start()
            await place.close()


class DockerHome(Home):
    """A manager's home whose gateways run on the bench's engine."""

    def __init__(self, bench: Bench, **settings: Any) -> None:
        super().__init__()
        self.users = f"{bench.prefix[-6:]}-"
        self.bench = bench
        self.settings |= {
            "runtime_url": "docker:",
            "docker_host": f"unix://{bench.engine.socket}",
            "container_prefix": bench.prefix,
            "max_startup_time": DEADLINE,
            "stop_grace": 20.0,
        } | settings

    async def add_on(
        self, generation: Generation, *follower_ids: str, environment: Mapping[str, str] | None = None
    ) -> None:
        """Followers whose gateways are of one generation, as a user writes them; the image has these variables more."""
        await self.add_with(
            await asyncio.to_thread(simulator_image, self.bench.api, generation, environment), *follower_ids
        )

    async def add_with(self, image: str, *follower_ids: str) -> None:
        """Followers whose gateways are of this image."""
        for follower_id in follower_ids:
            await self.add(follower_id)
            with self.followers_file.open("a") as file:
                file.write(f'\n[follower.gateway]\nimage = "{image}"\n')

    def containers(self) -> list[dict[str, Any]]:
        """What the engine has of ours."""
        return self.bench.api.containers(f"{OWNER}={self.bench.prefix}")

    def lives(self) -> dict[str, list[tuple[str, str]]]:
        """Container and start time of every container of each follower, whatever its state."""
        found: dict[str, list[tuple[str, str]]] = {}
        for row in self.containers():
            try:
                life = (row["Id"], self.bench.api.inspect(row["Id"])["State"]["StartedAt"])
            except DockerApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                continue  # it went meanwhile
            found.setdefault(row["Labels"][FOLLOWER], []).append(life)
        return found

    def networks(self) -> list[str]:
        """The networks that bear our label."""
        asked = json.dumps({"label": [f"{OWNER}={self.bench.prefix}"]})
        return [network["Name"] for network in self.bench.api.ask("GET", "/networks", filters=asked)]


# ---------------------------------------------------------------------------------------------- what tests wait for


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds, with a deadline that only something broken reaches."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while not condition():  # what is waited for happens in another process
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"waited {DEADLINE:.0f} s for {what}")
        await asyncio.sleep(0.02)


async def handshake(port: int) -> bytes:
    """What the API answers to a client's first words; nothing when it closes instead."""
    hello = b"v157..178"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(b"API\0" + struct.pack(">I", len(hello)) + hello)
        async with asyncio.timeout(5):
            return await reader.read(64)
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.close()


async def answers(port: int) -> None:
    """Wait until the API behind a published port answers."""
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while b"178" not in await handshake(port):
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"nothing answered on port {port} within {DEADLINE:.0f} s")
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def watching(runtime: DockerRuntime) -> AsyncIterator[list[ContainerId | None]]:
    """Which containers changed as it comes, from the first None on."""
    seen: list[ContainerId | None] = []

    async def watch() -> None:
        async for changed in runtime.changes():
            seen.append(changed)  # noqa: PERF401  # one by one, as they come

    task = asyncio.create_task(watch())
    try:
        await until(lambda: bool(seen), "the subscription")
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def following(runtime: DockerRuntime, gateway: Gateway) -> AsyncIterator[tuple[list[str], asyncio.Task[None]]]:
    """A gateway's lines as they come, and the task that ends with them."""
    lines: list[str] = []

    async def follow() -> None:
        async for line in runtime.log(gateway):
            lines.append(line)  # noqa: PERF401  # one by one, as they come

    task = asyncio.create_task(follow())
    try:
        yield lines, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def free_port() -> int:
    """A port that nobody has, in the network where this thread is."""
    return free_ports(1)


@contextlib.contextmanager
def holding(port: int) -> Iterator[None]:
    """Another program that has the port."""
    with socket.create_server(("127.0.0.1", port)):
        yield
