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
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.credentials.doors import deliver
from spreadpilot_core.ibkr.credentials.encoding import encode
from spreadpilot_core.ibkr.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.protocols import (
    ContainerId,
    Created,
    Dialect,
    FollowerId,
    Gateway,
    GatewayRuntime,
    GatewaySpec,
    Leases,
    RuntimeEvent,
    TradingMode,
)
from spreadpilot_core.ibkr.runtimes.simulated import SimulatedRuntime
from spreadpilot_core.ibkr.simulator.engine.files import OPERATIONS, read_address
from support.home import FAR_RESTART_TIME
from support.ports import free_ports

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

    def __init__(self, owner: str) -> None:
        self.owner = owner

    # ------------------------------------------------------------------ what an adapter gives

    @abstractmethod
    async def runtime(self, owner: str | None = None) -> GatewayRuntime:
        """Another open runtime on the same engine, of this place's owner or of another one."""

    @abstractmethod
    def spec(self, follower_id: str = "alice", *, dialect: Dialect = "ibcontroller", **choices: Any) -> GatewaySpec:
        """A spec that this engine can launch; `choices` are fields of `GatewaySpec`."""

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
    async def hang(self, gateway: Gateway) -> None:
        """Make a gateway that is ready hang inside, so that it obeys no SIGTERM any more."""

    # ------------------------------------------------------------------ the same everywhere

    async def create(
        self, runtime: GatewayRuntime, spec: GatewaySpec, leases: Leases | None = None, *, password: str = PASSWORD
    ) -> Created:
        """Prepare, create, and bring the password through the door."""
        dialect = await runtime.prepare(spec)
        created = await runtime.create(spec, leases or Leases(free_ports(1), 1000))
        await asyncio.to_thread(deliver, created.door, encode(password, dialect))
        return created

    async def launch(
        self, runtime: GatewayRuntime, spec: GatewaySpec | None = None, leases: Leases | None = None
    ) -> Gateway:
        """A started gateway."""
        created = await self.create(runtime, spec or self.spec(), leases)
        return await runtime.start(created.container_id)


class SimulatedPlace(Place):
    """A directory with a host of its own."""

    def __init__(self) -> None:
        super().__init__(f"gm-test-{secrets.token_hex(3)}")
        self.directory = Path(tempfile.mkdtemp(prefix="gm-sim-", dir="/tmp"))  # short: it holds a Unix socket
        self._runtimes: list[SimulatedRuntime] = []

    async def runtime(self, owner: str | None = None, *, manager_id: str = "test") -> SimulatedRuntime:
        runtime = SimulatedRuntime(self.directory, owner=owner or self.owner, manager_id=manager_id)
        self._runtimes.append(runtime)
        await runtime.open()
        return runtime

    def spec(self, follower_id: str = "alice", *, dialect: Dialect = "ibcontroller", **choices: Any) -> GatewaySpec:
        return make_spec(follower_id, options=OPTIONS.model_copy(update={"image_contract": dialect}), **choices)

    async def pause(self, gateway: Gateway) -> None:
        await self._operator().pause(gateway.follower_id)

    async def resume(self, gateway: Gateway) -> None:
        await self._operator().resume(gateway.follower_id)

    async def kill(self, gateway: Gateway) -> None:
        await self._operator().kill(gateway.follower_id)

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
async def watching(runtime: GatewayRuntime) -> AsyncIterator[list[RuntimeEvent]]:
    """The runtime's events as they come, from the first `GAP` on."""
    seen: list[RuntimeEvent] = []

    async def watch() -> None:
        async for event in runtime.events():
            seen.append(event)  # noqa: PERF401  # one by one, as they come

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
    """The one gateway of `find` with this id."""
    (gateway,) = [each for each in await runtime.find() if each.container_id == container_id]
    return gateway


def kinds(events: list[RuntimeEvent], container_id: ContainerId) -> list[str]:
    """What happened to one container, in order."""
    return [event.kind.value for event in events if event.container_id == container_id]
