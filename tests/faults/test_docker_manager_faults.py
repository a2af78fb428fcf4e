"""The manager while its gateways and its engine are killed, frozen, stopped, removed and starved: all told, all made good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from spreadpilot_core.ibkr.service.doctor import docker_checks
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.actions import connect
from support.docker_bench import (  # noqa: F401  # fixtures
    DEADLINE,
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    faulty_bench_fixture,
    own_engine_fixture,
)
from support.docker_engine import OwnEngine
from support.home import eventually, seen

pytestmark = pytest.mark.real_part("docker")

VICTIM, OTHER = "alice", "bob"
UNANSWERED = 6.0
"""Seconds for a heartbeat where one is to be missed: the other follower's may be held up for some."""

STARVE = """
import os
for process in filter(str.isdecimal, os.listdir("/proc")):
    if int(process) not in (1, os.getpid()):
        try:
            with open(f"/proc/{process}/oom_score_adj", "w") as score:
                score.write("1000")
        except OSError:
            pass
eaten = []
while True:
    eaten.append(bytearray(16 << 20))
"""
"""Eats the container's memory until the kernel kills somebody, and offers it the gateway first."""


@dataclass
class ManagerUnderTest:
    """A manager with two gateways on Docker, and all that it says."""

    home: DockerHome
    manager: GatewayManager
    said: list[str] = field(default_factory=list)

    async def ready(self, *followers: str) -> None:
        """Wait until these are healthy."""
        await eventually(
            lambda: all(self.manager.is_healthy(each) for each in followers),
            lambda: (self.manager.list_gateways(), self.said),
            within=DEADLINE,
        )

    async def not_ready(self, follower: str) -> None:
        """Wait until it is seen that this one is not healthy, and see why."""
        await eventually(lambda: not self.manager.is_healthy(follower), "the loss", within=DEADLINE)
        snapshot = seen(self.manager, follower)
        assert snapshot.reason
        assert snapshot.next_action

    async def says(self, *either: str) -> None:
        """Wait until a sentence has one of these in it."""

        def told() -> bool:
            return any(words in sentence for words in either for sentence in self.said)

        await eventually(told, lambda: (either, self.said), within=DEADLINE)

    def container(self, follower: str) -> str:
        """The id of its only container."""
        ((container, _),) = self.home.lives()[follower]
        return container

    async def post(self, what: str) -> None:
        """Do this to the victim's container, behind the manager's back."""
        container = self.container(VICTIM)
        await asyncio.to_thread(self.home.bench.api.ask, "POST", f"/containers/{container}/{what}")

    async def run_inside(self, *command: str) -> None:
        """Run a command in the victim's container."""
        await asyncio.to_thread(self.home.bench.api.execute, self.container(VICTIM), *command)


@contextlib.asynccontextmanager
async def watched(bench: Bench, **settings: object) -> AsyncIterator[ManagerUnderTest]:
    """Both gateways are ready; in the end nothing of them may be left."""
    home = DockerHome(bench, **settings)
    await home.add_on("ibc", VICTIM)
    await home.add_on("ibcontroller", OTHER)
    it = ManagerUnderTest(home, home.manager())

    async def listen() -> None:
        async for event in it.manager.events():
            it.said.append(event.sentence)

    await it.manager.start()
    listening = asyncio.create_task(listen())
    try:
        await it.ready(VICTIM, OTHER)
        yield it
    finally:
        await it.manager.stop()
        await listening
        await home.end()
    assert home.containers() == []
    assert home.networks() == []


@contextlib.asynccontextmanager
async def replaced(bench: Bench, **settings: object) -> AsyncIterator[ManagerUnderTest]:
    """Whatever the block does to the victim: it gets another container, and the other follower keeps its own."""
    async with watched(bench, **settings) as it:
        before = it.home.lives()
        yield it
        await it.ready(VICTIM, OTHER)
        after = it.home.lives()
        assert after[OTHER] == before[OTHER]
        assert len(after[VICTIM]) == 1
        assert after[VICTIM] != before[VICTIM]


# ---------------------------------------------------------------------------------------------- one gateway


async def test_a_killed_gateway(bench: Bench) -> None:
    """`docker kill`: told with its exit code, and replaced."""
    async with replaced(bench) as it:
        await it.post("kill")
        await it.not_ready(VICTIM)
        await it.says("container ended with code 137 (it was killed)")


async def test_a_gateway_that_somebody_stops(bench: Bench) -> None:
    """`docker stop` is nobody's word to the manager: told as what it was, and replaced."""
    async with replaced(bench) as it:
        await it.post("stop")
        await it.not_ready(VICTIM)
        await it.says("container ended with code 143 (it was asked to stop)")


async def test_a_gateway_that_somebody_removes(bench: Bench) -> None:
    """`docker rm -f`: told as killed or as gone, as the engine is asked before or after it is; and replaced."""
    async with replaced(bench) as it:
        await asyncio.to_thread(bench.api.remove, it.container(VICTIM))
        await it.not_ready(VICTIM)
        await it.says(f"{VICTIM} is gone.", "container is gone.", "container ended with code 137 (it was killed)")


async def test_a_gateway_that_the_kernel_kills_for_want_of_memory(bench: Bench) -> None:
    """The kernel's own kill at the container's limit: told with the limit and the cure, and replaced."""
    async with replaced(bench) as it:
        await it.run_inside("python3", "-c", STARVE)
        await it.not_ready(VICTIM)
        await it.says("code 137 (it was killed). It was OOM-killed at 1024 MiB; java_heap_mib raises")


@pytest.fixture
def short_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries to connect end after a second, so that what never answers is given up in a few."""
    monkeypatch.setattr(connect, "CONNECT_TRY", 1.0)


@pytest.mark.usefixtures("short_tries")
async def test_a_frozen_gateway(bench: Bench) -> None:
    """Every process stands still and nobody says so: the heartbeat finds it within interval and timeout; it is replaced."""
    async with replaced(bench, heartbeat_timeout=UNANSWERED, connect_time=2.0, stop_grace=3.0) as it:
        await it.run_inside("sh", "-c", "kill -STOP -1")
        frozen_at, busy = datetime.now(UTC), await time_until_not_running(it)
        allowed = it.home.settings["healthcheck_interval"] + it.home.settings["heartbeat_timeout"] + busy
        assert (seen(it.manager, VICTIM).since - frozen_at).total_seconds() <= allowed
        await it.says(f"did not answer a heartbeat within {UNANSWERED:g} s")


async def time_until_not_running(it: ManagerUnderTest) -> float:
    """Wait until the victim is no longer RUNNING; gives the seconds for which this loop itself was held up."""
    held_up, loop = 0.1, asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE
    while it.manager.get_gateway_status(VICTIM) is GatewayStatus.RUNNING:
        before = loop.time()
        assert before < deadline
        await asyncio.sleep(0.01)
        held_up += max(0.0, loop.time() - before - 0.01)
    return held_up


@pytest.mark.usefixtures("short_tries")
async def test_a_paused_gateway(bench: Bench) -> None:
    """`docker pause`: told at once, never RUNNING meanwhile, and replaced when it goes on not answering."""
    async with replaced(bench, heartbeat_timeout=UNANSWERED, connect_time=2.0) as it:
        await it.post("pause")
        await it.not_ready(VICTIM)
        assert seen(it.manager, VICTIM).reason == "Its container is paused."
        await it.says(f"did not answer a heartbeat within {UNANSWERED:g} s")


async def test_a_paused_gateway_that_is_resumed(bench: Bench) -> None:
    """`docker unpause` in time, however long this machine takes for it: the same container goes on, with the same client."""
    async with watched(bench, heartbeat_timeout=300.0) as it:
        before, client = it.home.lives(), await it.manager.get_client(VICTIM)
        await it.post("pause")
        await it.not_ready(VICTIM)
        await it.post("unpause")
        await it.ready(VICTIM, OTHER)
        assert it.home.lives() == before
        assert await it.manager.get_client(VICTIM) is client


# ---------------------------------------------------------------------------------------------- the engine


def own(bench: Bench) -> OwnEngine:
    """The engine that this test may end."""
    assert bench.engine.own is not None
    return bench.engine.own


async def test_an_engine_that_is_restarted(faulty_bench: Bench) -> None:
    """It takes its containers down with it: each is told, and each follower has one new gateway."""
    async with watched(faulty_bench) as it:
        before = it.home.lives()
        await asyncio.to_thread(own(faulty_bench).end)
        await it.not_ready(VICTIM)
        await it.not_ready(OTHER)
        await asyncio.to_thread(own(faulty_bench).start)
        await it.ready(VICTIM, OTHER)
        after = it.home.lives()
        for follower in (VICTIM, OTHER):
            assert len(after[follower]) == 1
            assert after[follower] != before[follower]
        await it.says("ended with code 143")


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.soak)])
async def test_an_engine_that_is_away_for_a_while(faulty_bench: Bench, seconds: int) -> None:
    """Everybody's snapshot says that the engine is away and what happens next; all run again soon after it is back."""
    async with watched(faulty_bench) as it:
        await asyncio.to_thread(own(faulty_bench).end)
        for follower in (VICTIM, OTHER):
            await eventually(
                lambda follower=follower: "Docker Engine" in (seen(it.manager, follower).reason or ""),
                it.manager.list_gateways,
                within=DEADLINE,
            )
            assert seen(it.manager, follower).status is GatewayStatus.STARTING
        await asyncio.sleep(seconds)
        assert all(each.next_action for each in it.manager.list_gateways())
        await asyncio.to_thread(own(faulty_bench).start)
        await it.ready(VICTIM, OTHER)
        assert sum("Docker Engine" in sentence and "docker.sock" in sentence for sentence in it.said) <= 8


@pytest.fixture
def live_restore(faulty_bench: Bench) -> Iterator[Bench]:
    """An engine whose containers outlive it."""
    own(faulty_bench).end()
    own(faulty_bench).start("--live-restore")
    yield faulty_bench
    if faulty_bench.api.is_there():
        own(faulty_bench).end()
    own(faulty_bench).start()


@pytest.mark.parametrize(
    ("how", "seconds"),
    [(signal.SIGTERM, 6), (signal.SIGKILL, 6), pytest.param(signal.SIGKILL, 60, marks=pytest.mark.soak)],
)
async def test_gateways_that_outlive_their_engine(live_restore: Bench, how: signal.Signals, seconds: int) -> None:
    """Restarted as `systemctl restart docker` does, or killed: their ports are shut while the engine is away, which is told; none is
    given up for it, and none logs in again.

    The outage is longer than all tries to connect together.
    """
    async with watched(live_restore, connect_time=2.0) as it:
        before = it.home.lives()
        (told,) = await docker_checks.engine(Settings.read(**it.home.settings))
        assert "Gateways outlive a restart of it" in told.what
        await asyncio.to_thread(own(live_restore).end, how)
        await it.not_ready(VICTIM)
        await it.not_ready(OTHER)
        await it.says("There is no Docker Engine at" if how is signal.SIGTERM else "No Docker Engine listens on")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(own(live_restore).start, "--live-restore")
        await it.ready(VICTIM, OTHER)
        assert it.home.lives() == before


async def test_a_login_under_way_while_the_engine_is_away(live_restore: Bench) -> None:
    """Its log can't be read meanwhile, so its time is not up before the engine is back: the same login is completed."""
    home = DockerHome(live_restore, max_startup_time=12.0)
    slow = {"SIMULATOR_SCRIPT": json.dumps([{"slow_start": 7.0}])}  # a stall of seconds must not end the login first
    await home.add_on("ibcontroller", VICTIM, environment=slow)
    manager = home.manager()
    await manager.start()
    try:
        await eventually(
            lambda: seen(manager, VICTIM).state is State.LOGGING_IN, manager.list_gateways, within=DEADLINE
        )
        before = home.lives()
        await asyncio.to_thread(own(live_restore).end, signal.SIGKILL)
        await asyncio.sleep(14)
        assert seen(manager, VICTIM).state is State.LOGGING_IN
        assert "Docker Engine" in (seen(manager, VICTIM).reason or "")
        await asyncio.to_thread(own(live_restore).start, "--live-restore")
        await eventually(lambda: manager.is_healthy(VICTIM), manager.list_gateways, within=DEADLINE)
        assert home.lives() == before
    finally:
        await manager.stop()
        await home.end()
