from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from support.command import PROGRAM, Begun, Command
from support.home import Home
from support.terminal import terminal
from support.waiting import PATIENCE, wait_until

CLOCK = Path(__file__).parents[1] / "support/clock"


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
    assert header.split()[:3] == ["FOLLOWER", "MODE", "STATUS"]
    assert [row.split()[:3] for row in rows] == [[each, "paper", "RUNNING"] for each in ("alice", "bob", "carol")]
    assert done.stderr == ""
    assert _nothing_is_left(command)


def test_once_as_json_is_a_list_whatever_the_environment_says(command: Command) -> None:
    """Standard output holds the list alone; a user's own settings, right or wrong, and their state stay out of the demo."""
    foreign = {"PORT_RANGE_START": "x", "MONGO_URI": "mongodb://u:p@nowhere", "VAULT_ADDR": "http://nowhere"}
    done = command("demo", "--once", "--followers", "2", "--json", **foreign)
    gateways = json.loads(done.stdout)
    assert [(each["follower_id"], each["status"]) for each in gateways] == [("alice", "RUNNING"), ("bob", "RUNNING")]
    assert not any(command.home.directory.iterdir())


def test_it_passes_in_the_hours_in_which_ibkr_resets(command: Command) -> None:
    """On a Friday at 23:50 in New York no login is begun at IBKR; what is simulated has such hours only where a scenario asks."""
    friday = datetime(2026, 11, 27, 23, 50, tzinfo=ZoneInfo("America/New_York"))
    off = {"PYTHONPATH": str(CLOCK), "SECONDS_OFF_CLOCK": str(friday.timestamp() - time.time())}
    done = command("demo", "--once", "--json", **off)
    assert done.returncode == 0, done.stderr
    gateways = json.loads(done.stdout)
    assert [each["state"] for each in gateways] == ["ready"] * 3
    for each in gateways:
        assert friday < datetime.fromisoformat(each["since"]) < friday + timedelta(hours=1)


def test_three_mishaps_recover_before_your_eyes(command: Command) -> None:
    """A frozen gateway, a lost link and a changed password each recover; another terminal can look; Ctrl-C ends it well."""
    with command.begun("demo") as demo:
        demo.says("All 3 gateways are RUNNING")
        demo.says("recovered", times=3)
        demo.says(f"{PROGRAM} status")
        (offered,) = [line for line in demo.stdout.splitlines() if line.endswith(" status")]
        told = re.fullmatch(rf"GATEWAY_MANAGER_STATE_DIR=(\S+) {PROGRAM} status", offered)
        assert told is not None, offered
        directory = told[1]
        wait_until(lambda: _statuses(command, directory) == ["RUNNING"] * 3)
        for words in ("did not answer a heartbeat", "lost its link to IBKR", "did not accept user name and password"):
            assert words in demo.stdout
        _ends_well(command, demo, signal.SIGINT)


def _statuses(command: Command, directory: str) -> list[str]:
    told = command("status", "--json", GATEWAY_MANAGER_STATE_DIR=directory)
    return [each["status"] for each in json.loads(told.stdout)]


@pytest.mark.parametrize(
    ("words", "number"),
    [("was started at", signal.SIGINT), ("RUNNING", signal.SIGTERM), ("freezes", signal.SIGINT)],
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
    """At 80 columns each gateway has its mode, endpoint and account; table and sentences stay when it ends."""
    with terminal(command.environment, "demo", "--once", "--followers", "2") as shown:
        shown.until(lambda rows: "FOLLOWER" in rows[0])
        assert shown.ends() == 0
        header, alice, bob, *sentences = shown.after_the_end.splitlines()
    assert header.split()[:7] == ["FOLLOWER", "MODE", "STATUS", "STATE", "FOR", "ENDPOINT", "CLIENT"]
    for line, name in ((alice, "alice"), (bob, "bob")):
        assert re.match(rf"{name} +paper +RUNNING +ready +\d+ s +127\.0\.0\.1:\d+ +\d+ +DU\d{{7}}", line), line
        assert len(line) <= 80
    assert any("bob: The login completed." in each for each in sentences)


def test_what_does_not_fit_a_terminal_is_never_the_newest(command: Command) -> None:
    """At 80x24, made smaller and larger, the newest sentence is there whole and nothing of another size is left.

    At the end it offers a command that can be pasted into a shell which knows no gateway-manager, also where it is broken.
    """
    with terminal(command.environment, "demo") as shown:
        shown.until(lambda rows: any("All 3 gateways are RUNNING." in row for row in rows))
        for columns, lines in ((60, 14), (110, 40), (80, 24)):
            shown.resize(columns, lines)
            shown.until(lambda rows: _is_whole(rows, columns))  # noqa: B023  # called within this round
        for name in ("alice", "bob", "carol"):
            shown.until(lambda rows: any(f"  {name}: recovered." in row for row in rows))  # noqa: B023
        shown.until(lambda rows: "status" in rows[-1])
        shown.resize(50, 24)
        rows = shown.until(lambda rows: "status" in rows[-1] and rows[-2].endswith("\\"))
        begins = next(number for number, row in enumerate(rows) if row.startswith("GATEWAY_MANAGER_STATE_DIR="))
        looked = shown.reading(lambda: _pasted("\n".join(rows[begins:])))
        assert looked.returncode == 0, (rows, looked.stderr)
        assert looked.stdout.splitlines()[1].split()[:3] == ["alice", "paper", "RUNNING"]
        shown.process.send_signal(signal.SIGINT)
        assert shown.ends() == 0


def _pasted(text: str) -> subprocess.CompletedProcess[str]:
    """What a shell does with it that has the system's PATH."""
    return subprocess.run(
        ["/bin/sh", "-c", text],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE,
    )


def _is_whole(rows: list[str], columns: int) -> bool:
    """Whether it is drawn for this width: one heading, each gateway once, and the sentence that came last."""
    sentences = [row for row in rows if re.match(r"\d\d:\d\d:\d\d  ", row)]
    gateways = [row.split()[0] for row in rows if re.match(r"(alice|bob|carol) +paper", row)]
    headings = [row.split() for row in rows if row.startswith("FOLLOWER")]
    assert len(headings) <= 1
    assert len(gateways) <= 3
    is_wide = bool(headings) and headings[0][-1] == "WHAT"
    return is_wide == (columns > 100) and gateways == ["alice", "bob", "carol"] and bool(sentences)
