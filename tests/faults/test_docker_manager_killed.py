"""The manager is killed at twenty moments of starting, launching and stopping gateways on Docker; the next one mends all of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.records import LoginAttempt
from spreadpilot_core.ibkr.store.local.records import FILE_NAME, LocalRecords
from support.docker_bench import (  # noqa: F401  # fixtures
    DEADLINE,
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.home import PASSWORD, eventually

pytestmark = [pytest.mark.real_part("docker"), pytest.mark.timeout(600)]

PROGRAM = Path(__file__).with_name("manager_that_dies.py")
VICTIM, OTHER = "alice", "bob"
_IBKR = "spreadpilot_core.ibkr"
ENGINE = f"{_IBKR}.runtimes.docker.engine:Engine"
RUNTIME = f"{_IBKR}.runtimes.docker.runtime:DockerRuntime"
BROKER = f"{_IBKR}.credentials.broker:CourierBroker"
LEDGER = f"{_IBKR}.supervision.ledger:Ledger"


@dataclass(frozen=True)
class Moment:
    """When the manager dies: what it was doing, and where that is in the code."""

    doing: str
    call: str
    when: str
    seconds: float = 0
    command: str | None = f"restart {VICTIM}"
    """What it is told once its gateways are ready; None: it dies on its way there."""
    hits_running: bool = False
    """Whether it has begun to end gateways that run; else whatever runs at its death must go on running."""

    @property
    def as_json(self) -> str:
        """For the program."""
        armed = self.command is None
        return json.dumps({"call": self.call, "when": self.when, "seconds": self.seconds, "armed": armed})


STARTING = [
    Moment("the engine is reached, nothing is listed", f"{RUNTIME}.open", "after", command=None),
    Moment("what runs is listed, nothing is adopted", f"{RUNTIME}.list", "after", command=None),
    Moment("adopted, and not connected", f"{_IBKR}.api_client.connector:Connector.connect", "before", command=None),
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
    Moment("the login is under way", f"{_IBKR}.supervision.gateway_view:GatewayView._follow_log", "into", 0.15),
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


class Life:
    """One process of the manager."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def begin(cls, home: DockerHome, moment: Moment | None) -> Life:
        """Start it; with a moment it dies there."""
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in home.settings.items()}
        log = (home.directory / "manager.log").open("ab")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), json.dumps(settings), moment.as_json if moment else "null"),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        log.close()
        return cls(process)

    async def ready(self) -> None:
        """Wait until all its gateways are ready."""
        assert self._process.stderr is not None
        said = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DEADLINE):
                while line := await self._process.stderr.readline():
                    if line == b"ready\n":
                        return
                    said.append(line.decode())
        raise AssertionError(f"it died on its way, or never got ready: {''.join(said)}")

    def tell(self, command: str) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    async def end(self) -> int:
        """Wait until it has ended by itself, and nothing that it started is left; gives its exit code."""
        async with asyncio.timeout(DEADLINE):
            await self._process.communicate()
        await eventually(lambda: not session_members(self._process.pid), "its couriers end", within=DEADLINE)
        assert self._process.returncode is not None
        return self._process.returncode

    def kill(self) -> None:
        """Whatever happened."""
        if self._process.returncode is None:
            self._process.kill()


def session_members(session: int) -> list[int]:
    """The processes of this session."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(place.name)) == session:
                found.append(int(place.name))
    return found


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench)
    await place.add_on("ibc", VICTIM)
    await place.add_on("ibcontroller", OTHER)
    yield place
    await place.end()


def running(home: DockerHome) -> dict[str, tuple[str, str]]:
    """Container and start of what runs, by container."""
    states = {row["Id"]: row["State"] for row in home.containers()}
    lives = [life for each in home.lives().values() for life in each]
    return {life[0]: life for life in lives if states.get(life[0]) == "running"}


async def expect_mended(home: DockerHome, must_run: Mapping[str, tuple[str, str]], doing: str) -> None:
    """One running gateway for each follower, none restarted that ran, nothing left over, and no login counts as lost."""
    now = running(home)
    assert must_run.items() <= now.items(), f"restarted after: {doing}"
    assert sorted(home.lives()) == [VICTIM, OTHER], doing
    assert len(now) == len(home.containers()) == 2, doing
    assert home.networks() == [f"{home.bench.prefix}-network"], doing
    ports = [port["PublicPort"] for row in home.containers() for port in row["Ports"] if "PublicPort" in port]
    assert len(set(ports)) == 2, doing
    for container in now:
        await eventually(lambda each=container: inside(home, each) == "", f"the secret stays: {doing}", within=DEADLINE)
    deadline = asyncio.get_running_loop().time() + DEADLINE
    while any(logins := await logins_that_count(home)):  # the last one is written down a moment after it is ready
        assert asyncio.get_running_loop().time() < deadline, (doing, logins)
        await asyncio.sleep(0.1)


async def logins_that_count(home: DockerHome) -> list[Sequence[LoginAttempt]]:
    """What stands against each user, and what is not settled."""
    records = LocalRecords(home.directory / FILE_NAME)
    await records.open()
    day = datetime.now(UTC) - timedelta(days=1)
    counted = [await records.full_logins(f"user-{each}", day) for each in (VICTIM, OTHER)]
    open_logins = await records.unsettled_logins()
    await records.close()
    return [*counted, open_logins]


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
    life = await Life.begin(home, None)
    try:
        await life.ready()
        must_run, doing = running(home), "all were ready"
        life.kill()
        await life.end()
        for moment in STAGES[stage]:
            life = await Life.begin(home, moment)
            if moment.command is not None:
                await life.ready()
                await expect_mended(home, must_run, doing)
                life.tell(moment.command)
            assert await life.end() == -signal.SIGKILL, moment.doing
            doing, must_run = moment.doing, {} if moment.hits_running else running(home)
            if moment.command == f"restart {VICTIM}":
                must_run |= {each: it for each, it in running(home).items() if it in home.lives()[OTHER]}
        life = await Life.begin(home, None)
        await life.ready()
        await expect_mended(home, must_run, doing)
        life.tell("stop")
        assert await life.end() == 0
        assert (home.containers(), home.networks()) == ([], [])
        assert PASSWORD not in (home.directory / "manager.log").read_text()
    except BaseException:
        print((home.directory / "manager.log").read_text()[-8000:])  # noqa: T201  # for whoever looks into it
        raise
    finally:
        life.kill()
