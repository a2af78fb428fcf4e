from __future__ import annotations

import asyncio
import json
import signal

import pytest

from spreadpilot_core.ibkr.service.log_commands import shown
from spreadpilot_core.ibkr.simulator.engine.files import read_address
from support.command import Command
from support.home import PASSWORD, Home
from support.waiting import wait_until


def _ready(command: Command) -> bool:
    gateways = command.json("status")
    return bool(gateways) and all(each["state"] == "ready" for each in gateways)


def test_the_lines_of_a_living_gateway(home: Home, command: Command) -> None:
    """Beside a running manager: all lines of this life, its newest ones, and none of another follower's or a password."""
    asyncio.run(home.add("alice", "bob"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _ready(command))
        done = command("logs", "alice", "--last", "1000")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) > 5
        assert PASSWORD not in done.stdout
        assert command("logs", "alice", "--last", "2").stdout.splitlines() == lines[-2:]
        operations = (home.directory / "operations.jsonl").read_text()
        assert "reader" not in operations


def test_following_ends_with_the_gateway(home: Home, command: Command) -> None:
    """`--follow` shows what was and what comes, and ends when the gateway does."""
    asyncio.run(home.add("alice"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _ready(command))
        with command.begun("logs", "alice", "--follow", "--last", "3") as following:
            wait_until(lambda: following.stdout.count("\n") >= 3)
            before = following.stdout
            assert command("stop", "alice").returncode == 0
            assert following.ends() == 0
            assert following.stdout.startswith(before)
            assert following.stdout.count("\n") > before.count("\n")


def test_following_ends_with_ctrl_c(home: Home, command: Command) -> None:
    """Ctrl-C is how a follower of lines is ended, and no failure."""
    asyncio.run(home.add("alice"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _ready(command))
        with command.begun("logs", "alice", "--follow") as following:
            wait_until(lambda: following.stdout.count("\n") >= 3)
            following.signal(signal.SIGINT)
            assert following.ends() == 0
            assert following.stderr == ""


def test_last_words_of_a_gateway_that_is_gone(home: Home, command: Command) -> None:
    """After the manager has stopped its gateways, what the record kept is shown; no host is started for it."""
    asyncio.run(home.add("alice"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _ready(command))
        serving.signal(signal.SIGTERM)
        assert serving.ends() == 0
    wait_until(lambda: read_address(home.directory) is None)
    done = command("logs", "alice")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("exit code ")
    assert read_address(home.directory) is None
    _words_that_may_be_old(command, home, done.stdout)


def _words_that_may_be_old(command: Command, home: Home, words: str) -> None:
    """Where the engine can't be asked whether another gateway runs, that is said, and is no success; also after a detach."""
    away = {"GATEWAY_MANAGER_RUNTIME_URL": "docker:", "DOCKER_HOST": f"unix://{home.directory}/no.sock"}
    done = command("logs", "alice", **away)
    assert (done.returncode, done.stdout) == (1, words)
    why = f"There is no Docker Engine at {home.directory}/no.sock."
    assert f"whether it has another one now can't be seen: {why} Install Docker" in done.stderr
    looked = command("status", **away)
    assert looked.returncode == 1
    told = f"No manager is running on {home.directory}. Whether gateways run unwatched can't be seen: {why}"
    assert looked.stderr.startswith(f"{told} Install Docker"), looked.stderr
    found = json.loads(command("doctor", "--json", **away).stdout)
    assert [(each["verdict"], each["what"]) for each in found if each["check"] == "manager"] == [("warning", told)]


@pytest.mark.parametrize("follower", ["alice", "nobody"])
def test_nothing_to_show(home: Home, command: Command, follower: str) -> None:
    """No gateway and no last words: one sentence and exit code 1, and nothing is made."""
    asyncio.run(home.add("alice"))
    before = sorted(home.directory.iterdir())
    done = command("logs", follower)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert follower in done.stderr
    assert sorted(home.directory.iterdir()) == before


@pytest.mark.parametrize("arguments", ["logs", "logs alice --last 0", "logs alice bob"])
def test_wrong_usage(command: Command, arguments: str) -> None:
    """What can't be meant is exit code 2."""
    assert command(*arguments.split()).returncode == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-11-24 IBC: Login has completed", "2026-11-24 IBC: Login has completed"),
        ("\x1b[2Jgone\ttab", "\\u001b[2Jgone\ttab"),
        ("IBController > env IBC_PASSWORD=hunter2 x", "IBController > env IBC_PASSWORD=**********"),
        ("cycle aborted: unrecognized username or password", "cycle aborted: unrecognized username or password"),
    ],
)
def test_how_a_line_is_shown(line: str, expected: str) -> None:
    """As it is, but for control characters and for values that are named a password."""
    assert shown(line) == expected
