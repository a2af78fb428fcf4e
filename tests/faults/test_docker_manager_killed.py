"""The manager is killed at twenty moments of starting, launching and stopping gateways on Docker; the next one mends all of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from support.docker_bench import (  # noqa: F401  # fixtures
    DEADLINE,
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.home import eventually
from support.killed_manager import (
    BROKER,
    CONNECT,
    FOLLOW_LOG,
    IBKR,
    LEDGER,
    OTHER,
    VICTIM,
    Lives,
    Moment,
    live_through,
    until_settled,
)

pytestmark = [pytest.mark.real_part("docker"), pytest.mark.timeout(600)]

ENGINE = f"{IBKR}.runtimes.docker.engine:Engine"
RUNTIME = f"{IBKR}.runtimes.docker.runtime:DockerRuntime"

STARTING = [
    Moment("the engine is reached, nothing is listed", f"{RUNTIME}.open", "after", command=None),
    Moment("what runs is listed, nothing is adopted", f"{RUNTIME}.list", "after", command=None),
    Moment("adopted, and not connected", CONNECT, "before", command=None),
]
CREATING = [
    Moment("the secret is read", f"{BROKER}.read", "after"),
    Moment("the login is reserved, nothing is created", f"{LEDGER}.reserve", "after"),
    Moment("whether there is a settings volume is known, nothing is created", f"{ENGINE}.inspect_volume", "after"),
    Moment("the engine is creating the container", f"{ENGINE}.create_container", "into", 0.01),
    Moment("created, its settings directory not its own yet", f"{ENGINE}.create_container", "after"),
    Moment("created, and waits for its secret", f"{RUNTIME}._create", "after"),
]
LOGGING_IN = [
    Moment("the secret is on its way", f"{BROKER}.deliver", "into", 0.005),
    Moment("the secret is inside, the login not marked as started", f"{BROKER}.deliver", "after"),
    Moment("marked as started, and not started", f"{LEDGER}.mark_started", "after"),
    Moment("the engine is starting it", f"{ENGINE}.start_container", "into", 0.03),
    Moment("started, and nobody was told", f"{ENGINE}.start_container", "after"),
    Moment("the login is under way", FOLLOW_LOG, "into", 0.15),
    Moment("logged in, its secret still inside", f"{RUNTIME}.forget_secret", "before"),
]
STOPPING = [
    Moment("one is asked to close", f"{ENGINE}.stop_container", "into", 0.02, hits_running=True),
    Moment("one has ended, and is not removed", f"{ENGINE}.stop_container", "after", hits_running=True),
    Moment("one is removed, and nobody was told", f"{ENGINE}.delete_container", "after", hits_running=True),
    Moment("all are asked to close", f"{ENGINE}.stop_container", "into", 0.02, command="stop", hits_running=True),
    Moment(
        "all are gone, their network is not", f"{ENGINE}.delete_network", "before", command="stop", hits_running=True
    ),
]
STAGES = {"starting": STARTING, "creating": CREATING, "logging in": LOGGING_IN, "stopping": STOPPING}


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench)
    await place.add_on("ibc", VICTIM)
    await place.add_on("ibcontroller", OTHER)
    yield place
    await place.end()


class OnDocker:
    """What is looked at between two lives."""

    def __init__(self, home: DockerHome) -> None:
        self._home = home

    async def running(self) -> Lives:
        """What runs, by the engine."""
        states = {row["Id"]: row["State"] for row in self._home.containers()}
        lives = [(each, life) for each, found in self._home.lives().items() for life in found]
        return {each: life for each, life in lives if states.get(life[0]) == "running"}

    async def expect_mended(self, must_run: Lives, doing: str) -> None:
        """One running gateway for each follower, none restarted that ran, nothing left over, and no login counts as lost."""
        home, now = self._home, await self.running()
        assert must_run.items() <= now.items(), f"restarted after: {doing}"
        assert sorted(home.lives()) == [VICTIM, OTHER], doing
        assert len(now) == len(home.containers()) == 2, doing
        assert home.networks() == [f"{home.bench.prefix}-network"], doing
        ports = [port["PublicPort"] for row in home.containers() for port in row["Ports"] if "PublicPort" in port]
        assert len(set(ports)) == 2, doing
        for container, _ in now.values():
            await eventually(
                lambda each=container: inside(home, each) == "", f"the secret stays: {doing}", within=DEADLINE
            )
        full = await until_settled(home, doing, within=DEADLINE)
        assert not [each for logins in full.values() for each in logins if each.counts], doing


def inside(home: DockerHome, container: str) -> str:
    """What is in the place for secrets."""
    return home.bench.api.execute(container, "ls", "/run/gateway-manager").strip()


def test_there_are_twenty_moments() -> None:
    """Each is another one."""
    moments = [moment for stage in STAGES.values() for moment in stage]
    assert len({moment.doing for moment in moments}) == len(moments) >= 20


@pytest.mark.parametrize("stage", STAGES)
async def test_killed_at_any_moment(home: DockerHome, stage: str) -> None:
    """The next start ends with one running gateway for each follower, restarts no healthy one, and leaves nothing over."""
    await live_through(home, OnDocker(home), STAGES[stage], patience=DEADLINE)
    assert (home.containers(), home.networks()) == ([], [])
