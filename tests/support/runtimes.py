"""Where the gateways of one adapter run in a test: a `Place` for each adapter, and what tests of any of them wait for.

The contract suite asks for the fixture `place`, which stands for each adapter in turn. An adapter joins by a class below
`Place` and a fixture that gives it (see `simulated_place_fixture`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.credentials.courier.encoding import encode
from spreadpilot_core.ibkr.credentials.courier.stdin_delivery import deliver
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.gateways import Controller, DeliveryTarget, Endpoint, Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.records import ContainerId, Identities
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.seams import CommitLogin, GatewayRuntime
from spreadpilot_core.ibkr.simulator.engine.files import OPERATIONS, read_address
from spreadpilot_core.ibkr.simulator.login_book import LOGINS
from support.home import FAR_RESTART_TIME
from support.ports import leases

PASSWORD = "Correct horse, battery \\ staple"
PATIENCE = 60.0
"""Seconds for anything that takes milliseconds on an idle machine."""
HOST_MODULE = b"spreadpilot_core.ibkr.simulator.host"
_TIDY_END = 20.0
"""Seconds that a host gets to end by itself."""
OPTIONS = GatewayOptions(
    image="example.org/ib-gateway:test",
    read_only_api=False,
    existing_session_action="primary",
    auto_restart_time=FAR_RESTART_TIME,
    time_zone="America/New_York",
    java_heap_mib=768,
    vnc=False,
)


class Place(ABC):
    """One test's place on one adapter's engine; what was made in it is gone after the test."""

    opened: GatewayRuntime
    """A runtime of this place's owner, which the fixture has opened."""
    sender: str
    """The courier's sender for its delivery targets."""
    publishes = True
    """Whether its gateways are published on ports of this host; else they run while they wait for their password."""

    pauses = True
    """Whether somebody may freeze a container so that the engine says so."""

    kills_at_once = True
    """Whether a removal without a grace sends no SIGTERM before."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    # ------------------------------------------------------------------ what an adapter gives

    @abstractmethod
    async def runtime(self, owner: str | None = None, *, identity: str | None = None) -> GatewayRuntime:
        """Another open runtime on the same engine, under this prefix or another; its identity is its prefix unless said."""

    @abstractmethod
    def spec(
        self, follower_id: str = "alice", *, controller: Controller = "ibcontroller", **choices: Any
    ) -> GatewaySpec:
        """A spec that this engine can launch; `choices` are fields of `GatewaySpec`."""

    @abstractmethod
    async def spec_playing(self, controller: Controller, *laps: Mapping[str, Any]) -> GatewaySpec:
        """A spec whose gateway has these faults, one mapping for each start of its program."""

    @abstractmethod
    async def typed(self, gateway: Gateway) -> int:
        """How many logins reached IBKR from its follower's gateways, by the simulator's own book."""

    @abstractmethod
    async def pause(self, gateway: Gateway) -> None:
        """Freeze a gateway from outside, as an operator does."""

    @abstractmethod
    async def resume(self, gateway: Gateway) -> None:
        """Let it go on."""

    @abstractmethod
    async def kill(self, gateway: Gateway) -> None:
        """Kill it from outside (SIGKILL); its container stays."""

    @abstractmethod
    async def restart(self, gateway: Gateway) -> None:
        """End it and start it again from outside, as `docker restart` does."""

    @abstractmethod
    async def hang(self, gateway: Gateway) -> None:
        """Make a gateway that is ready hang inside, so that it obeys no SIGTERM any more."""

    # ------------------------------------------------------------------ the same everywhere

    def name_of(self, follower_id: str) -> str:
        """What the follower's container is called."""
        return f"{self.owner}-{follower_id}"

    async def must_accept(self, endpoint: Endpoint) -> None:
        """Somebody accepts connections there."""
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()

    @contextlib.asynccontextmanager
    async def taking(self, port: int) -> AsyncIterator[None]:
        """Another program that has this port."""
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
            yield

    async def deliver(self, target: DeliveryTarget, secret: bytes) -> None:
        """As the courier does it."""
        await asyncio.to_thread(deliver, target.as_json(), secret)

    async def launch(
        self,
        runtime: GatewayRuntime,
        spec: GatewaySpec | None = None,
        *,
        client_id: int = 1000,
        port: int | None = None,
        password: str = PASSWORD,
        commit: CommitLogin | None = None,
    ) -> Gateway:
        """A gateway that may log in; with `port` on this one, or not at all."""
        spec = spec or self.spec()
        controller = await runtime.prepare(spec)
        runtime.ports.pin(spec.follower_id, port)

        async def secret(target: DeliveryTarget) -> None:
            await self.deliver(target, encode(password, controller))

        return await runtime.launch(spec, client_id, secret=secret, commit=commit or committed)

    async def cut_off(
        self, runtime: GatewayRuntime, spec: GatewaySpec | None = None, *, with_secret: bool = True, **choices: Any
    ) -> ContainerId:
        """What a launch leaves whose manager died right before its login was committed, or before the password was delivered."""
        spec = spec or self.spec()
        left: asyncio.Future[ContainerId] = asyncio.get_running_loop().create_future()

        async def die(container_id: ContainerId) -> None:
            left.set_result(container_id)
            await asyncio.Event().wait()

        async def die_before(target: DeliveryTarget) -> None:
            await die(target.container_id)

        if with_secret or not self.publishes:
            launching = asyncio.create_task(self.launch(runtime, spec, commit=die, **choices))
        else:
            await runtime.prepare(spec)
            launching = asyncio.create_task(runtime.launch(spec, 1000, secret=die_before, commit=committed))
        await asyncio.wait({left, launching}, return_when=asyncio.FIRST_COMPLETED)
        launching.cancel()
        await asyncio.gather(launching, return_exceptions=True)
        return left.result() if left.done() else launching.result().container_id


async def committed(container_id: ContainerId) -> None:
    """The login is written down, wherever."""


class SimulatedPlace(Place):
    """A directory with a host of its own."""

    sender = "simulated"

    def __init__(self) -> None:
        super().__init__(f"gm-test-{secrets.token_hex(3)}")
        self.directory = Path(tempfile.mkdtemp(prefix="gm-sim-", dir="/tmp"))  # short: it holds a Unix socket
        self._runtimes: list[SimulatedRuntime] = []

    async def runtime(
        self,
        owner: str | None = None,
        *,
        identity: str | None = None,
        manager_id: str = "test",
        ports: PortLeases | None = None,
    ) -> SimulatedRuntime:
        owner = owner or self.owner
        runtime = SimulatedRuntime(
            self.directory,
            owner=owner,
            manager_id=manager_id,
            identities=Identities(identity or owner),
            ports=ports or leases(),
        )
        self._runtimes.append(runtime)
        await runtime.open()
        return runtime

    def spec(
        self, follower_id: str = "alice", *, controller: Controller = "ibcontroller", **choices: Any
    ) -> GatewaySpec:
        return make_spec(follower_id, options=OPTIONS.model_copy(update={"image_contract": controller}), **choices)

    async def spec_playing(self, controller: Controller, *laps: Mapping[str, Any]) -> GatewaySpec:
        await self._operator().script(FollowerId("alice"), laps)
        return self.spec(controller=controller)

    async def typed(self, gateway: Gateway) -> int:
        return logins_typed(self.directory, gateway.follower_id)

    async def pause(self, gateway: Gateway) -> None:
        await self._operator().pause(gateway.follower_id)

    async def resume(self, gateway: Gateway) -> None:
        await self._operator().resume(gateway.follower_id)

    async def kill(self, gateway: Gateway) -> None:
        await self._operator().kill(gateway.follower_id)

    async def restart(self, gateway: Gateway) -> None:
        await self._operator().restart(gateway.follower_id)

    async def hang(self, gateway: Gateway) -> None:
        await self._operator().inject(gateway.follower_id, "freeze")

    @property
    def host_pid(self) -> int | None:
        """Process id of the directory's living host, or None."""
        return host_of(self.directory)

    def operations(self, *names: str) -> list[dict[str, Any]]:
        """The operations' trail, oldest first; only the named ones, when there are any."""
        trail = self.directory / OPERATIONS
        lines = trail.read_text().splitlines() if trail.exists() else []
        return [line for line in map(json.loads, lines) if not names or line["operation"] in names]

    async def close(self) -> None:
        """End every runtime and the host, and leave nothing behind."""
        for runtime in self._runtimes:
            await runtime.close()
        await asyncio.to_thread(end_host, self.directory)
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    def _operator(self) -> SimulatedRuntime:
        return self._runtimes[0]


@pytest.fixture(name="simulated_place")
async def simulated_place_fixture() -> AsyncIterator[SimulatedPlace]:
    """A place on a simulated engine."""
    place = SimulatedPlace()
    place.opened = await place.runtime()
    yield place
    await place.close()


def make_spec(follower_id: str = "alice", **choices: Any) -> GatewaySpec:
    """A spec without an engine's peculiarities."""
    fields: dict[str, Any] = {
        "trading_mode": TradingMode.PAPER,
        "options": OPTIONS,
        "digest": "d1g35t",
        "user": "user1",
        **choices,
    }
    return GatewaySpec(follower_id=FollowerId(follower_id), **fields)


# ---------------------------------------------------------------------------------------------- hosts


def is_alive(pid: int) -> bool:
    """Whether a process runs (a zombie doesn't)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def logins_typed(directory: Path, follower_id: str) -> int:
    """How many logins a follower's gateways typed, by the book of the directory's hosts."""
    book = directory / LOGINS
    lines = book.read_text().splitlines() if book.exists() else []
    return sum(json.loads(line)["follower"] == follower_id for line in lines)


def host_of(directory: Path) -> int | None:
    """Process id of the directory's living host, or None; never that of a process which got a dead host's number."""
    address = read_address(directory)
    return address.pid if address is not None and address.pid in hosts_in(directory) else None


def hosts_in(directory: Path) -> set[int]:
    """Process ids of the hosts that live in a directory, whoever started them."""
    here = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if HOST_MODULE in words and os.fsencode(directory) in words and is_alive(int(process.name)):
                here.add(int(process.name))
    return here


def end_host(directory: Path, how: signal.Signals = signal.SIGTERM) -> None:
    """End the host of a directory, by its own process id, and wait until it is gone; one that doesn't end is killed."""
    if (pid := host_of(directory)) is None:
        return
    for signal_number in (how, signal.SIGKILL):
        deadline = time.monotonic() + _TIDY_END
        if is_alive(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not is_alive(pid)


# ---------------------------------------------------------------------------------------------- what tests wait for


async def until(condition: Callable[[], bool], what: Callable[[], object] | object = "") -> None:
    """Wait until `condition` holds, with a deadline that only something broken reaches; `what` tells what was seen."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            pytest.fail(f"waited {PATIENCE:.0f} s: {what() if callable(what) else what}")
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watching(runtime: GatewayRuntime) -> AsyncIterator[list[ContainerId | None]]:
    """Which containers changed as it comes, from the first None on."""
    seen: list[ContainerId | None] = []

    async def watch() -> None:
        async for changed in runtime.changes():
            seen.append(changed)  # noqa: PERF401  # one by one, as they come

    task = asyncio.create_task(watch())
    try:
        await until(lambda: bool(seen), "for the subscription")
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def following(runtime: GatewayRuntime, gateway: Gateway) -> AsyncIterator[tuple[list[str], asyncio.Task[None]]]:
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


async def found(runtime: GatewayRuntime, container_id: ContainerId) -> Gateway:
    """The one gateway of `list` with this id."""
    (gateway,) = [each for each in await runtime.list() if each.container_id == container_id]
    return gateway
