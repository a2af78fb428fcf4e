from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.command import PROGRAM, Begun, Command
from support.home import Home
from support.waiting import PATIENCE, wait_until


@pytest.fixture
def command() -> Iterator[Command]:
    home = Home()
    command = Command(home)
    with tempfile.TemporaryDirectory(prefix="gm-demo-", dir="/tmp") as place:
        command.environment["TMPDIR"] = place
        yield command
    asyncio.run(home.end())


def _nothing_is_left(command: Command, group: int | None = None) -> bool:
    if group is not None:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            group = None
    in_place = [command.environment["TMPDIR"] in line for line in _command_lines()]
    return group is None and not any(in_place) and not any(Path(command.environment["TMPDIR"]).iterdir())


def _command_lines() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


def test_once_shows_all_running_and_ends(command: Command) -> None:
    """`demo --once` prints how they got there and the final table, and leaves no process and no file."""
    done = command("demo", "--once")
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()[-4:]
    assert header.split()[:3] == ["FOLLOWER", "STATUS", "STATE"]
    assert [row.split()[:3] for row in rows] == [[each, "RUNNING", "ready"] for each in ("alice", "bob", "carol")]
    assert done.stderr == ""
    assert _nothing_is_left(command)


def test_once_as_json_is_a_list_whatever_the_environment_says(command: Command) -> None:
    """Standard output holds the list alone; a user's own settings, right or wrong, and their state stay out of the demo."""
    foreign = {"PORT_RANGE_START": "x", "MONGO_URI": "mongodb://u:p@nowhere", "VAULT_ADDR": "http://nowhere"}
    done = command("demo", "--once", "--followers", "2", "--json", **foreign)
    gateways = json.loads(done.stdout)
    assert [(each["follower_id"], each["status"]) for each in gateways] == [("alice", "RUNNING"), ("bob", "RUNNING")]
    assert not any(command.home.directory.iterdir())


def test_three_mishaps_recover_before_your_eyes(command: Command) -> None:
    """A frozen gateway, a lost link and a changed password each recover; another terminal can look; Ctrl-C ends it well."""
    with command.begun("demo") as demo:
        demo.says("All 3 gateways are RUNNING")
        demo.says("recovered", times=3)
        demo.says("GATEWAY_MANAGER_STATE_DIR=")
        directory = demo.stdout.partition("GATEWAY_MANAGER_STATE_DIR=")[2].split()[0]
        wait_until(lambda: _statuses(command, directory) == ["RUNNING"] * 3)
        for words in ("did not answer a heartbeat", "lost its link to IBKR", "did not accept user name and password"):
            assert words in demo.stdout
        _ends_well(command, demo, signal.SIGINT)


def _statuses(command: Command, directory: str) -> list[str]:
    told = command("status", "--json", GATEWAY_MANAGER_STATE_DIR=directory)
    return [each["status"] for each in json.loads(told.stdout)]


@pytest.mark.parametrize(
    ("words", "number"),
    [("was started on port", signal.SIGINT), ("RUNNING", signal.SIGTERM), ("freezes", signal.SIGINT)],
)
def test_it_ends_well_at_any_moment(command: Command, words: str, number: signal.Signals) -> None:
    """A signal while logging in, while all run, or while one is frozen: exit code 0, no process, no file."""
    with command.begun("demo") as demo:
        demo.says(words)
        _ends_well(command, demo, number)


@pytest.mark.parametrize("after", [0.3, 0.6, 1.2])
def test_a_very_early_signal_leaves_nothing(command: Command, after: float) -> None:
    """A signal while the program is still loading or planting its followers leaves nothing behind."""
    with command.begun("demo") as demo:
        time.sleep(after)  # any moment will do; the point is that there are several
        _insist(demo)
        wait_until(lambda: _nothing_is_left(command, demo.process.pid))


def _insist(demo: Begun) -> None:
    """Ctrl-C, again where Python itself swallowed it: its start drops whatever happens in a `.pth` file."""
    deadline = time.monotonic() + 2 * PATIENCE
    while demo.process.poll() is None and time.monotonic() < deadline:
        demo.signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            demo.process.wait(PATIENCE / 3)
    assert demo.process.poll() is not None


def _ends_well(command: Command, demo: Begun, number: signal.Signals) -> None:
    demo.signal(number)
    assert demo.ends() == 0
    assert "Traceback" not in demo.stderr
    wait_until(lambda: _nothing_is_left(command, demo.process.pid))


def test_on_a_terminal_it_is_a_live_table(command: Command) -> None:
    """On a terminal the table is drawn again and again in place, with the sentences below it."""
    ours, theirs = pty.openpty()
    environment = command.environment | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    arguments = [PROGRAM, "demo", "--once", "--followers", "1"]
    process = subprocess.Popen(
        arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := _read(ours):
            shown += chunk
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert shown.count(b"FOLLOWER") > 3
    assert b"\x1b[" in shown
    assert b"RUNNING" in shown
    assert b"The login completed." in shown


def _read(terminal: int) -> bytes:
    """What it showed, empty at its end."""
    assert select.select([terminal], [], [], PATIENCE)[0]
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
