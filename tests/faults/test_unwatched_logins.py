"""Nobody watches a login that loops: the manager is killed or detaches in its middle, and no budget is passed all the same.

The installed command, on both runtimes and with both controllers. What was typed is counted by the simulator's own book, and
what the next manager has written down in its records.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing

import pytest

from spreadpilot_core.ibkr.controller_log.exit_codes import LOGIN_LOOP
from spreadpilot_core.ibkr.model.gateways import Controller, GatewayPhase
from spreadpilot_core.ibkr.service.client import ControlClient
from spreadpilot_core.ibkr.store.local.records import FILE_NAME
from support.command import Begun, Command
from support.docker_bench import Bench, DockerHome
from support.docker_engine import EngineUnderTest, engine_fixture, own_engine_fixture  # noqa: F401  # fixtures
from support.home import Home
from support.runtimes import logins_typed
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)
BUDGET = 3
CONTROLLERS: list[Controller] = ["ibc", "ibcontroller"]
LOOPS: list[dict[str, object]] = [{"login_error": "Some text", "forever": True}]
PATIENCE = 120.0


class Looping(ABC):
    """A follower whose login loops, a lap every few seconds, on one runtime."""

    home: Home

    @abstractmethod
    def typed(self) -> int:
        """How many logins were typed."""

    @abstractmethod
    def ended_by_its_guard(self) -> bool:
        """Whether its container has ended with the guard's code."""

    @abstractmethod
    def runs(self) -> bool:
        """Whether a container of it runs."""

    def booked(self) -> int:
        """How many logins the ledger has that count, each with its end."""
        with closing(sqlite3.connect(f"file:{self.home.directory / FILE_NAME}?mode=ro", uri=True)) as records:
            outcomes = [outcome for (outcome,) in records.execute("SELECT outcome FROM logins")]
        return sum(outcome not in (None, "void", "succeeded") for outcome in outcomes)


class Simulated(Looping):
    """On the simulated runtime."""

    def __init__(self, controller: Controller) -> None:
        self.home = Home()
        entry = {"laps": LOOPS, "controller": controller, "timings": {"login_form": 4.0}}
        (self.home.directory / "scripts.json").write_text(json.dumps({"followers": {"alice": entry}}))
        asyncio.run(self.home.add("alice"))

    def typed(self) -> int:
        """By its host's book."""
        return logins_typed(self.home.directory, "alice")

    def ended_by_its_guard(self) -> bool:
        """As the runtime tells it."""
        return (GatewayPhase.EXITED, LOGIN_LOOP) in asyncio.run(self._states())

    def runs(self) -> bool:
        """As the runtime tells it."""
        return any(state is GatewayPhase.RUNNING for state, _ in asyncio.run(self._states()))

    async def _states(self) -> list[tuple[GatewayPhase, int | None]]:
        runtime = self.home.runtime()
        await runtime.open()
        try:
            return [(each.phase, each.exit_code) for each in await runtime.list()]
        finally:
            await runtime.close()


class OnDocker(Looping):
    """On a real engine."""

    def __init__(self, bench: Bench, controller: Controller) -> None:
        self.home = self._home = DockerHome(bench)
        environment = {"SIMULATOR_SCRIPT": json.dumps(LOOPS), "SIMULATOR_TIMINGS": "0.4"}
        asyncio.run(self._home.add_on(controller, "alice", environment=environment))

    def typed(self) -> int:
        """As long as a container of it is there; the book is kept for the next one."""
        for row in self._home.containers():
            self._typed = max(self._typed, self._home.bench.logins_typed(row["Id"]))
        return self._typed

    _typed = 0

    def ended_by_its_guard(self) -> bool:
        """As the engine tells it."""
        states = [self._home.bench.api.inspect(row["Id"])["State"] for row in self._home.containers()]
        return any(state["Status"] == "exited" and state["ExitCode"] == LOGIN_LOOP for state in states)

    def runs(self) -> bool:
        """As the engine tells it."""
        return any(row["State"] == "running" for row in self._home.containers())


@pytest.fixture(name="looping", params=CONTROLLERS)
def looping_fixture(request: pytest.FixtureRequest) -> Iterator[Looping]:
    """On the simulated runtime, with each controller."""
    place = Simulated(request.param)
    yield place
    asyncio.run(place.home.end())


@pytest.fixture(name="looping_on_docker", params=CONTROLLERS)
def looping_on_docker_fixture(request: pytest.FixtureRequest, engine: EngineUnderTest) -> Iterator[Looping]:
    """On a real engine, with each controller."""
    with engine.inside():
        bench = Bench(engine)
        place = OnDocker(bench, request.param)
        yield place
        asyncio.run(place.home.end())
        asyncio.run(bench.close())


def _loop_is_killed(place: Looping) -> None:
    """The manager dies once a login was typed; the guard ends the loop, and the next manager knows of every login."""
    command = Command(place.home, login_budget=BUDGET)
    with command.begun("run") as serving:
        wait_until(lambda: place.typed() >= 1, within=PATIENCE)
        serving.signal(signal.SIGKILL)
        serving.ends()
    wait_until(place.ended_by_its_guard, within=PATIENCE)
    typed = place.typed()
    assert 2 <= typed <= BUDGET
    with command.begun("run") as serving:
        _all_are_booked(place, serving)
        assert place.typed() <= BUDGET
        serving.signal(signal.SIGKILL)


def _loop_is_left(place: Looping) -> None:
    """A detach waits for the login, which loops meanwhile: its container goes, the answer names it, and all is booked."""
    command = Command(place.home, login_budget=BUDGET)
    with command.begun("run") as serving:
        serving.says("manager started")  # the socket is there; the first gateway may be launched before that
        serving.says("GatewayLaunched")
        with ControlClient(place.home.directory) as client:  # as the command does, which takes seconds to load here
            left = client.detach()["left"]
        assert [line.partition(". ")[0] for line in left] == [
            "alice: its login did not succeed and its container was removed"
        ]
        assert serving.ends() == 0
    assert not place.runs()
    assert place.booked() == place.typed() or place.typed() == 0  # without a container Docker's book can't be read
    assert 2 <= place.booked() <= BUDGET


def _loop_is_terminated(place: Looping) -> None:
    """SIGTERM with `on_exit=detach` waits as the command does: the looping container goes, the log names it, and all is booked."""
    command = Command(place.home, login_budget=BUDGET, on_exit="detach", log_format="json")
    with command.begun("run") as serving:
        serving.says("GatewayLaunched")
        serving.says("manager started")
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
        assert "alice: its login did not succeed and its container was removed" in serving.stdout + serving.stderr
    assert not place.runs()
    assert place.booked() == place.typed() or place.typed() == 0  # without a container Docker's book can't be read
    assert 2 <= place.booked() <= BUDGET


def _last_one_is_killed(place: Looping) -> None:
    """The budget has a single place: the guard ends the loop before a second login, though the manager died in the first."""
    command = Command(place.home, login_budget=1)
    with command.begun("run") as serving:
        wait_until(lambda: place.typed() >= 1, within=PATIENCE)
        serving.signal(signal.SIGKILL)
        serving.ends()
    wait_until(place.ended_by_its_guard, within=PATIENCE)
    assert place.typed() == 1
    with command.begun("run") as serving:
        _all_are_booked(place, serving)
        serving.says("and the login budget is 1")
        serving.signal(signal.SIGKILL)
    assert place.typed() == 1


def _all_are_booked(place: Looping, serving: Begun) -> None:
    def booked() -> bool:
        assert serving.process.poll() is None, serving.stderr
        return place.booked() >= place.typed()

    wait_until(booked, within=PATIENCE)


def test_a_kill_in_the_middle_of_a_loop(looping: Looping) -> None:
    """The guard is all that watches then."""
    _loop_is_killed(looping)


def test_a_kill_in_the_last_login_of_the_budget(looping: Looping) -> None:
    """The launch has told the guard."""
    _last_one_is_killed(looping)


@pytest.mark.real_part("docker")
def test_a_kill_in_the_last_login_of_the_budget_on_docker(looping_on_docker: Looping) -> None:
    """As above."""
    _last_one_is_killed(looping_on_docker)


def test_a_sigterm_that_detaches_in_the_middle_of_a_loop(looping: Looping) -> None:
    """What a service manager sends."""
    _loop_is_terminated(looping)


@pytest.mark.real_part("docker")
def test_a_sigterm_that_detaches_in_the_middle_of_a_loop_on_docker(looping_on_docker: Looping) -> None:
    """As above."""
    _loop_is_terminated(looping_on_docker)


def test_a_detach_in_the_middle_of_a_loop(looping: Looping) -> None:
    """Nobody leaves a loop behind."""
    _loop_is_left(looping)


@pytest.mark.real_part("docker")
def test_a_kill_in_the_middle_of_a_loop_on_docker(looping_on_docker: Looping) -> None:
    """The guard in a real container."""
    _loop_is_killed(looping_on_docker)


@pytest.mark.real_part("docker")
def test_a_detach_in_the_middle_of_a_loop_on_docker(looping_on_docker: Looping) -> None:
    """As above."""
    _loop_is_left(looping_on_docker)


@pytest.mark.soak
@pytest.mark.parametrize("repeat", range(20))
def test_kills_and_detaches_again_and_again(looping: Looping, repeat: int) -> None:
    """At other moments of the loop each time, as the machine has it."""
    (_loop_is_killed if repeat % 2 else _loop_is_left)(looping)


@pytest.mark.soak
@pytest.mark.real_part("docker")
@pytest.mark.parametrize("repeat", range(20))
def test_kills_and_detaches_again_and_again_on_docker(looping_on_docker: Looping, repeat: int) -> None:
    """As above."""
    (_loop_is_killed if repeat % 2 else _loop_is_left)(looping_on_docker)
