"""A fleet in trouble for minutes, and then exactly what is wanted runs: `make soak MINUTES=10`.

The manager is the installed service in a process of its own. Gateways are killed, frozen and cut off, IBKR goes away,
followers are edited in their file, an operator stops, launches and restarts, the manager is killed and started again, and
so is the host of all gateways, in an order that a seed decides (`SEED=7 make soak` repeats one; timing remains the machine's).
The test itself remembers what is wanted: the file's followers that are enabled and that no operator stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.client import ControlClient, RefusedByManagerError
from spreadpilot_core.ibkr.simulator.engine.files import OPERATIONS
from spreadpilot_core.ibkr.store.local.followers_file import add_follower, remove_follower, set_enabled
from spreadpilot_core.ibkr.store.local.records import FILE_NAME as RECORDS
from support.home import Home
from support.runtimes import end_host
from support.service import Service

MINUTES = float(os.environ.get("MINUTES", "10"))
SEED = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
FOLLOWERS = tuple(f"follower_{number}" for number in range(10))
AT_ONCE = 20
"""Troubles that go on at the same time."""
HEALS_WITHIN = 240.0
"""Seconds in which everything is well once nothing more goes wrong, on however busy a machine."""


@dataclass
class Wish:
    """What is wanted of one follower's gateway; changed under its lock alone."""

    is_there: bool = True
    is_enabled: bool = True
    is_stopped: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def runs(self) -> bool:
        """Whether its gateway is to run."""
        return self.is_there and self.is_enabled and not self.is_stopped


class Trouble:
    """Everything that can go wrong, each by name and with its weight."""

    def __init__(self, home: Home, service: Service, runtime: SimulatedRuntime, rng: random.Random) -> None:
        self._home = home
        self._service = service
        self._runtime = runtime
        self._rng = rng
        self._managing = asyncio.Lock()
        self.wishes = {follower: Wish() for follower in FOLLOWERS}
        self.counts: dict[str, int] = {}
        self.answers: deque[str] = deque(maxlen=100)
        """What the operator was told last."""
        self._kinds: dict[Callable[[str], Awaitable[None]], int] = {
            self.kill: 4,
            self.crash: 2,
            self.freeze: 4,
            self.lose_link: 4,
            self.drop_clients: 6,
            self.shut_api: 2,
            self.restart_nightly: 2,
            self.cut_streams: 1,
            self.edit: 6,
            self.stop: 3,
            self.launch: 10,
            self.restart: 2,
            self.reconnect: 2,
            self.kill_manager: 1,
            self.detach_manager: 1,
        }

    def next(self) -> Awaitable[None]:
        """The next trouble, on its way to a follower."""
        (kind,) = self._rng.choices(list(self._kinds), weights=list(self._kinds.values()))
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        return kind(self._rng.choice(FOLLOWERS))

    # ------------------------------------------------------------------ gateways

    async def kill(self, follower: str) -> None:
        """The container ends without a word."""
        await self._runtime.kill(FollowerId(follower))

    async def crash(self, follower: str) -> None:
        """The program dies; its controller may start it again."""
        await self._inject(follower, "crash")

    async def freeze(self, follower: str) -> None:
        """The process stands still for some seconds."""
        await self._inject(follower, "freeze")
        await asyncio.sleep(self._rng.uniform(0.5, 8))
        await self._inject(follower, "thaw")

    async def lose_link(self, follower: str) -> None:
        """IBKR is away for some seconds."""
        await self._inject(follower, "link_lost", seconds=self._rng.uniform(0.5, 5))

    async def drop_clients(self, follower: str) -> None:
        """Every API socket is closed."""
        await self._inject(follower, "drop_clients")

    async def shut_api(self, follower: str) -> None:
        """The API port is shut for some seconds."""
        await self._inject(follower, "api_shut")
        await asyncio.sleep(self._rng.uniform(0.5, 5))
        await self._inject(follower, "api_open")

    async def restart_nightly(self, follower: str) -> None:
        """The daily restart, now."""
        await self._inject(follower, "nightly_restart")

    async def cut_streams(self, _follower: str) -> None:
        """Every connection to the gateways' host is cut."""
        await self._runtime.ask_host("drop_streams")

    async def _inject(self, follower: str, fault: str, **arguments: Any) -> None:
        await self._runtime.inject(FollowerId(follower), fault, **arguments)

    # ------------------------------------------------------------------ followers and operators

    async def edit(self, follower: str) -> None:
        """Another line in the followers' file."""
        wish, path = self.wishes[follower], self._home.followers_file
        async with wish.lock:
            if not wish.is_there:
                await asyncio.to_thread(add_follower, path, follower, vault_secret_ref=f"ibkr/{follower}")
                wish.is_there = wish.is_enabled = True
            elif self._rng.random() < 0.3:
                await asyncio.to_thread(remove_follower, path, follower)
                wish.is_there = False
            else:
                await asyncio.to_thread(set_enabled, path, follower, enabled=not wish.is_enabled)
                wish.is_enabled = not wish.is_enabled

    async def stop(self, follower: str) -> None:
        """An operator stops it, for good."""
        wish = self.wishes[follower]
        async with wish.lock:
            if wish.is_there:
                await self._known(follower)
                answer = await self._act(follower, "stop")
                assert not isinstance(answer, RefusedByManagerError), answer
                wish.is_stopped = True

    async def launch(self, follower: str) -> None:
        """An operator launches it, and takes one more login where that is needed."""
        wish = self.wishes[follower]
        async with wish.lock:
            if wish.is_there and wish.is_enabled:
                await self._known(follower)
                await self._act(follower, "launch", retry_login=True)
                wish.is_stopped = False

    async def restart(self, follower: str) -> None:
        """An operator restarts it."""
        wish = self.wishes[follower]
        async with wish.lock:
            if wish.runs:
                await self._known(follower)
                await self._act(follower, "restart")

    async def reconnect(self, follower: str) -> None:
        """An operator wants another client."""
        wish = self.wishes[follower]
        async with wish.lock:
            if wish.runs:
                await self._known(follower)
                await self._act(follower, "reconnect")

    async def _act(self, follower: str, what: str, **body: Any) -> dict[str, Any] | RefusedByManagerError:
        answer = await self._service.act(follower, what, **body)
        told = str(answer) if isinstance(answer, RefusedByManagerError) else "done"
        self.answers.append(f"{datetime.now(UTC):%H:%M:%S.%f} {what} {follower}: {told}")
        return answer

    async def _known(self, follower: str) -> None:
        """Wait until the manager has read of the follower what the file holds."""
        enabled = self.wishes[follower].is_enabled
        async with asyncio.timeout(60):
            while True:
                seen = (await self._service.gateways()).get(follower)
                if seen is not None and enabled == (seen["state"] != "disabled"):
                    return
                await asyncio.sleep(0.1)

    # ------------------------------------------------------------------ the manager and the host

    async def kill_manager(self, _follower: str) -> None:
        """The manager is killed, and started again; now and then the host of all gateways with it."""
        async with self._managing:
            if self._rng.random() < 0.3:
                await asyncio.to_thread(end_host, self._home.directory, signal.SIGKILL)
            await self._service.end(signal.SIGKILL)
            await asyncio.sleep(self._rng.uniform(0, 2))
            await self._service.start()

    async def detach_manager(self, _follower: str) -> None:
        """The manager goes in peace and leaves the gateways; the next one adopts them."""
        async with self._managing:
            await self._service.ask(ControlClient.detach)
            assert await self._service.end() == 0
            await self._service.start()

    # ------------------------------------------------------------------ the end of it

    async def heal(self) -> None:
        """Nothing more goes wrong, and the operator launches what gave up."""
        for follower in FOLLOWERS:
            for fault in ("thaw", "api_open", "link_restored"):
                with contextlib.suppress(GatewayManagerError):
                    await self._inject(follower, fault)
        deadline = time.monotonic() + HEALS_WITHIN
        while unwell := await self._unwell():
            assert time.monotonic() < deadline, (
                f"{json.dumps(unwell)}\n{self.answers}\n{self._service.said_about(*unwell)}"
            )
            for follower in unwell:
                if self.wishes[follower].runs and unwell[follower] and unwell[follower]["status"] == "FAILED":
                    await self._act(follower, "launch", retry_login=True)
            await asyncio.sleep(0.5)

    async def _unwell(self) -> dict[str, Any]:
        """Followers whose gateway is not as it is wanted."""
        seen = await self._service.gateways()
        return {
            follower: seen.get(follower)
            for follower, wish in self.wishes.items()
            if not _is_as_wanted(wish, seen.get(follower))
        }


def _is_as_wanted(wish: Wish, seen: dict[str, Any] | None) -> bool:
    if wish.runs:
        return seen is not None and seen["state"] == "ready"
    return (seen is None and not wish.is_there) or (
        seen is not None and seen["status"] == "STOPPED" and seen["container"] is None
    )


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    yield place
    await place.end()


@pytest.mark.soak
@pytest.mark.timeout(60 * MINUTES + 600)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpx, when the manager is killed
async def test_after_minutes_of_trouble_exactly_what_is_wanted_runs(home: Home) -> None:
    """Wanted and running are compared one by one: followers, containers, ports, client ids, logins; no defect was logged."""
    await home.add(*FOLLOWERS)
    service = Service(home, login_budget=8, heartbeat_timeout=2.0, connect_time=8.0, log_format="json")
    runtime, rng = home.runtime(), random.Random(SEED)
    await runtime.open()
    try:
        await service.start()
        trouble = Trouble(home, service, runtime, rng)
        await _live_through(trouble, rng)
        await trouble.heal()

        found = list(await runtime.list())
        _compare(trouble, found, await service.gateways(), home)
        assert await service.end(signal.SIGTERM) == 0
        assert list(await runtime.list()) == []
        _check_logins(home)
        assert service.faults() == []
    finally:
        service.close()
        await runtime.close()


async def _live_through(trouble: Trouble, rng: random.Random) -> None:
    """Begin one trouble after the other until the minutes are over; then wait for the last to be through."""
    going: set[asyncio.Task[None]] = set()
    end = time.monotonic() + 60 * MINUTES
    while time.monotonic() < end:
        while len(going) >= AT_ONCE:
            going = await _first_through(going)
        going.add(asyncio.ensure_future(_outlive(trouble.next())))
        await asyncio.sleep(rng.uniform(0.02, 0.6))
    while going:
        going = await _first_through(going)
    print(f"seed {SEED}: {sum(trouble.counts.values())} troubles: {trouble.counts}")  # noqa: T201  # shown with -s, or on failure


async def _outlive(trouble: Awaitable[None]) -> None:
    """A trouble for a gateway that isn't there, or whose host isn't, is none."""
    with contextlib.suppress(GatewayManagerError):
        await trouble


async def _first_through(going: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done, left = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED, timeout=HEALS_WITHIN)
    assert done, f"nothing got through within {HEALS_WITHIN:g} s"
    for task in done:
        task.result()
    return left


def _compare(trouble: Trouble, found: list[Gateway], seen: dict[str, dict[str, Any]], home: Home) -> None:
    """What the runtime has against what is wanted, and both against what the manager says."""
    wanted = sorted(follower for follower, wish in trouble.wishes.items() if wish.runs)
    assert sorted(each.follower_id for each in found) == wanted
    ports = range(home.settings["port_range_start"], home.settings["port_range_end"] + 1)
    assert {each.phase for each in found} <= {GatewayPhase.RUNNING}
    assert len({each.endpoint.port for each in found} & set(ports)) == len(found)
    assert len({seen[each.follower_id]["client_id"] for each in found}) == len(found)
    for each in found:
        snapshot = seen[each.follower_id]
        assert snapshot["container"] == each.name
        assert snapshot["endpoint"] == f"127.0.0.1:{each.endpoint.port}"


def _check_logins(home: Home) -> None:
    """Every container that was ever started had its login written down first, and no login is left open."""
    trail = [json.loads(line) for line in (home.directory / OPERATIONS).read_text().splitlines()]
    started = {each["container"] for each in trail if each["operation"] == "start" and each["phase"] == "begin"}
    with contextlib.closing(sqlite3.connect(home.directory / RECORDS)) as records:
        logins = [json.loads(text) for (text,) in records.execute("SELECT document FROM logins")]
    assert started <= {each["container_id"] for each in logins}
    assert [each for each in logins if each["outcome"] is None] == []
