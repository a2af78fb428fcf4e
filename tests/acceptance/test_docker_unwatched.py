"""Gateways that run on a real Docker Engine although no manager does: found by the doctor, ended by `stop --offline`."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator

import pytest

from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import Begun, Command
from support.docker_bench import (  # noqa: F401  # fixtures
    Bench,
    DockerHome,
    bench_fixture,
    engine_fixture,
    own_engine_fixture,
)
from support.waiting import wait_until

pytestmark = pytest.mark.real_part("docker")


@pytest.fixture(name="home")
async def home_fixture(bench: Bench) -> AsyncIterator[DockerHome]:
    place = DockerHome(bench)
    yield place
    await place.end()


@pytest.fixture(name="neighbour")
async def neighbour_fixture(home: DockerHome) -> AsyncIterator[DockerHome]:
    """Another manager's state on the same engine, with the same container prefix."""
    place = DockerHome(home.bench)
    place.users = f"other-{place.users}"
    yield place
    await place.end()


async def run(command: Command, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in the network of the engine."""
    return await asyncio.to_thread(command, *arguments)


async def states(command: Command, serving: Begun, **wanted: str) -> None:
    """Wait until the service's gateways are in these states."""

    def are_there() -> bool:
        with ControlClient(command.home.directory) as client:
            return {each["follower_id"]: each["state"] for each in client.gateways()} == wanted

    await asyncio.to_thread(serving.says, "manager started")
    await asyncio.to_thread(wait_until, are_there)


async def doctors_word(command: Command) -> tuple[str, str]:
    """What the doctor says of managers: its verdict, and why."""
    findings = json.loads((await run(command, "doctor", "--json")).stdout)
    told = [each for each in findings if each["check"] == "manager"]
    assert len(told) == 1
    return told[0]["verdict"], told[0]["what"]


async def test_the_doctor_finds_what_a_dead_manager_left_and_a_command_ends_it(
    home: DockerHome, neighbour: DockerHome
) -> None:
    """Of both generations, after a SIGKILL: what is named ends, closed well and for good; what is another manager's runs on."""
    command, other = Command(home), Command(neighbour)
    await home.add_on("ibc", "anna")
    await home.add_on("ibcontroller", "bert", "carl")
    await neighbour.add_on("ibcontroller", "zoe")
    with command.begun("run") as serving, other.begun("run") as beside:
        await states(command, serving, anna="ready", bert="ready", carl="ready")
        await states(other, beside, zoe="ready")
        refused = await run(command, "stop", "--offline", "anna")
        assert (refused.returncode, "without --offline" in refused.stderr) == (1, True)
        serving.process.kill()
        serving.process.wait()
        assert await doctors_word(command) == (
            "warning",
            f"No manager is running on {home.directory}. 3 gateways run unwatched: anna, bert, carl.",
        )
        before = home.lives()

        stopped = await run(command, "stop", "--offline", "anna", "bert")
        assert (stopped.returncode, stopped.stdout.count("is STOPPED")) == (0, 2), stopped.stderr
        assert home.lives() == {name: before[name] for name in ("carl", "zoe")}
        assert (await doctors_word(command))[1].endswith("1 gateway runs unwatched: carl.")
        assert (await run(command, "stop", "--offline", "--all")).stdout.startswith("carl is STOPPED")
        assert home.lives() == {"zoe": before["zoe"]}
        assert (await doctors_word(command))[0] == "ok"
        assert (await run(command, "stop", "--offline", "--all")).stdout == "No gateway runs.\n"
        await states(other, beside, zoe="ready")
        beside.signal(signal.SIGTERM)
        assert await asyncio.to_thread(beside.ends) == 0
    with command.begun("run") as serving:
        await states(command, serving, anna="stopped", bert="stopped", carl="stopped")
        assert home.lives() == {}
        serving.signal(signal.SIGTERM)
        assert await asyncio.to_thread(serving.ends) == 0
    ends = [line for line in command.json("audit", "show") if line["act"] == "stop"]
    assert {line["follower"] for line in ends} == {"anna", "bert", "carl"}
    assert all("without a manager" in line["who"] for line in ends)


async def test_an_image_that_can_not_be_pulled_is_told_once(home: DockerHome) -> None:
    """Of four followers with one image that is nowhere: one sentence says why, in the log and in `status`."""
    names = ("anna", "bert", "carl", "dora")
    await home.add_with("127.0.0.1:1/nowhere/ib-gateway:latest", *names)
    command = Command(home, log_format="json")
    with command.begun("run") as serving:
        await asyncio.to_thread(serving.says, '"state": "backing_off"', times=len(names))
        lines = [json.loads(line) for line in serving.stderr.splitlines()]
        failed = [line for line in lines if line.get("state") == "backing_off"]
        assert sorted(line["follower"] for line in failed) == sorted(names)
        (told,) = [line for line in failed if line["level"] == "warning"]
        assert "127.0.0.1:1/nowhere/ib-gateway:latest can't be pulled from 127.0.0.1:1" in told["sentence"]
        table = (await run(command, "status")).stdout
        assert table.count("can't be pulled") == 1
        assert table.count("The same as anna.") == 3
        serving.signal(signal.SIGTERM)
        assert await asyncio.to_thread(serving.ends) == 0
