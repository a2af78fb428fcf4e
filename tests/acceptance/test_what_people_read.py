"""What the installed command prints for people: on a narrow terminal, in a pipe, in their own time zone; JSON stays as it is."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.model.states import State
from support.command import Command
from support.control import Control
from support.fake_manager import a_snapshot
from support.home import Home
from support.terminal import terminal

WELL = {"endpoint": "127.0.0.1:4100", "client_id": 1000, "container": "c"}
TOKYO = {"TZ": "Asia/Tokyo"}


@pytest.fixture
def control(home: Home) -> Iterator[Control]:
    """A manager that shows one paper and one live gateway, served beside the test."""
    control = Control(home.directory)
    control.manager.snapshots = {
        "alice": a_snapshot("alice", accounts=("DU1000001",), **WELL),
        "bob": a_snapshot("bob", trading_mode="live", accounts=("U1000002",), last_heartbeat=_HEARD, **WELL),
    }
    with _served(control):
        yield control


_HEARD = datetime(2026, 11, 30, 16, 3, 5, tzinfo=UTC)


@contextmanager
def _served(control: Control) -> Iterator[None]:
    started, end = threading.Event(), threading.Event()

    async def serve() -> None:
        async with control.served():
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield
    finally:
        end.set()
        thread.join()


@pytest.mark.usefixtures("control")
def test_status_at_80_columns_has_mode_endpoint_and_account(command: Command) -> None:
    """Live is marked, in a colour of its own, and in a pipe by its capitals."""
    with terminal(command.environment, "status") as shown:
        assert shown.ends() == 0
    header, alice, bob, *_ = shown.rows
    assert header.split()[:2] == ["FOLLOWER", "MODE"]
    assert {"alice", "paper", "127.0.0.1:4100", "DU1000001"} <= set(alice.split())
    assert {"bob", "LIVE", "127.0.0.1:4100", "U1000002"} <= set(bob.split())
    assert re.search(rb"\x1b\[1;\d+mLIVE\x1b\[0m", shown.shown)
    piped = command("status").stdout
    assert [line.split()[1] for line in piped.splitlines()[:3]] == ["MODE", "paper", "LIVE"]
    assert "\x1b" not in piped
    assert [each["trading_mode"] for each in command.json("status")] == ["paper", "live"]
    assert "trading mode      LIVE" in command("status", "bob").stdout


def test_credentials_on_a_narrow_terminal_lose_nothing(command: Command) -> None:
    """What has no room stands below its login with a word before it; a program gets the names of the store."""
    command("credentials", "set", "ibkr/alice", "--username", "alice-user", "--password-stdin", said=b"planted-pw\n")
    with terminal(command.environment, "credentials", "list", columns=30) as shown:
        assert shown.ends() == 0
    text = " ".join(" ".join(shown.rows).split())
    assert text.startswith("REF")
    assert re.search(r"of \d{4}-\d\d-\d\d", text)
    assert "alice-user" in text
    (entry,) = command.json("credentials", "list")
    assert sorted(entry) == ["origin", "ref", "user", "version", "written_at"]


def test_times_are_the_readers_and_utcs_in_json(control: Control, command: Command) -> None:
    """In a table, in a sentence of the manager and in a refusal; a program gets what the manager said."""
    until = datetime.now(UTC) + timedelta(minutes=5)
    said = f"Next try at {until:%H:%M:%S} UTC."
    shown = f"Next try at {until + timedelta(hours=9):%H:%M:%S} JST."
    control.manager.snapshots["alice"] = a_snapshot("alice", State.BACKING_OFF, next_action=said)
    assert shown in command("status", **TOKYO).stdout
    detail = command("status", "alice", **TOKYO).stdout
    assert shown in detail
    assert "2026-11-24 18:30:00 JST" in detail
    assert "2026-12-01 01:03:05 JST" in command("status", "bob", **TOKYO).stdout
    assert shown in command("launch", "alice", **TOKYO).stdout
    alice, bob = json.loads(command("status", "--json", **TOKYO).stdout)
    assert (alice["next_action"], alice["since"]) == (said, "2026-11-24T09:30:00Z")
    assert bob["last_heartbeat"] == "2026-11-30T16:03:05Z"


def test_the_doctor_says_the_time_of_the_readers_clock(command: Command) -> None:
    """So that it can be compared with the one on the wall; JSON has UTC."""
    assert re.search(r"The clock says \d{4}-\d\d-\d\d \d\d:\d\d:\d\d JST\.", command("doctor", **TOKYO).stdout)
    assert " UTC." in command("doctor", "--json", **TOKYO).stdout


def test_watching_in_a_pipe_tells_when_and_why(control: Control, command: Command) -> None:
    """Each line has its time, with its zone, and the sentence that the change came with."""
    with command.begun("status", "--watch") as watching:
        watching.says("bob is LIVE, RUNNING (ready).")
        control.manager.snapshots["alice"] = a_snapshot("alice", State.RECONNECTING, reason="IBKR went away.")
        watching.says("IBKR went away.")
        watching.signal(signal.SIGINT)
        assert watching.ends() == 0
        lines = watching.stdout.splitlines()
    assert len(lines) == 3
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+  (alice|bob) is ", each) for each in lines)
    assert lines[-1].endswith("alice is FAILED (reconnecting). IBKR went away. Wait.") or "reconnecting" in lines[-1]


def test_watching_on_a_terminal_survives_its_sizes(control: Control, command: Command) -> None:
    """Nothing of another size is left, and what was seen last stays when it ends."""
    control.manager.snapshots["bob"] = a_snapshot("bob", State.NEEDS_HUMAN, reason="The login waits for a human. " * 2)
    with terminal(command.environment, "status", "--watch") as shown:
        for columns, lines in ((80, 24), (50, 10), (130, 30), (80, 24)):
            shown.resize(columns, lines)
            shown.until(_is_whole(columns))
        shown.process.send_signal(signal.SIGINT)
        assert shown.ends() == 0
    assert [line.split()[0] for line in shown.after_the_end.splitlines()][:3] == ["FOLLOWER", "alice", "bob"]


def _is_whole(columns: int) -> Callable[[list[str]], bool]:
    """Whether headings, gateways and the last line are there once, drawn for this width."""

    def holds(rows: list[str]) -> bool:
        begun = [row.split()[0] for row in rows if row and not row.startswith(" ")]
        named = [each for each in begun if each in ("FOLLOWER", "alice", "bob")]
        assert len(named) <= 3
        is_wide = rows[0].endswith("WHAT")
        ends = sum("Ctrl-C ends." in row for row in rows)
        return named == ["FOLLOWER", "alice", "bob"] and ends == 1 and is_wide == (columns > 100)

    return holds


def test_what_does_not_fit_is_counted(control: Control, command: Command) -> None:
    """A fleet on a small terminal: the last line says how many lines more there are, and who needs a human is seen."""
    fleet = {f"f{each:02}": a_snapshot(f"f{each:02}", **WELL) for each in range(30)}
    fleet["f28"] = a_snapshot("f28", State.NEEDS_HUMAN, reason="The login waits for a human.")
    fleet["f29"] = a_snapshot("f29", State.AWAITING_2FA, reason="The phone is asked.")
    control.manager.snapshots = fleet
    with terminal(command.environment, "status", "--watch", lines=12) as shown:
        rows = shown.until(lambda rows: "Ctrl-C ends." in rows[-1])
        assert re.search(r"… \d+ lines more", "\n".join(rows))
        assert rows[0].startswith("FOLLOWER")
        assert [row.split()[0] for row in rows if re.match(r"f\d\d", row)][:3] == ["f28", "f29", "f00"]
        shown.resize(100, 80)
        rows = shown.until(lambda rows: any(row.startswith("f27") for row in rows))
        assert [row.split()[0] for row in rows if re.match(r"f\d\d", row)] == sorted(fleet)


def test_audit_and_followers_are_whole_at_80_columns(home: Home, command: Command) -> None:
    """Every text of a line of the trail and of a record can be read: below it, where it has no column."""
    account_owner = "the-owner-of-an-account-with-a-very-long-id"
    command(
        "followers",
        "add",
        account_owner,
        "--vault-secret-ref",
        f"ibkr/{account_owner}",
        "--live",
        "--account",
        "U1234567",
    )
    AuditTrail(home.directory).append(
        "read",
        who="somebody on some host, process 4711",
        follower=account_owner,
        ref=f"ibkr/{account_owner}",
        version="3",
        detail="x " * 60 + "end",
    )
    for arguments, parts in (
        (("followers", "list"), (account_owner, "LIVE", f"ibkr/{account_owner}", "U1234567")),
        (
            ("audit", "show"),
            (account_owner, "read", f"ibkr/{account_owner}", "process 4711", "x end", "version 3", " JST"),
        ),
    ):
        with terminal(command.environment | TOKYO, *arguments) as shown:
            assert shown.ends() == 0
        text = "".join("".join(row.split()) for row in shown.rows)  # a long one may be folded
        assert [each for each in parts if each.replace(" ", "") not in text] == [], shown.rows
    (line,) = json.loads(command("audit", "show", "--json", **TOKYO).stdout)
    assert line["at"].endswith("+00:00")


def test_live_is_marked_among_followers(command: Command) -> None:
    """In the list for people; the field of JSON keeps its name and its words."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/a")
    command("followers", "add", "lena", "--vault-secret-ref", "ibkr/l", "--live")
    header, alice, lena = command("followers", "list").stdout.splitlines()
    assert (header.split()[1], alice.split()[1], lena.split()[1]) == ("MODE", "paper", "LIVE")
    assert [each["trading_mode"] for each in command.json("followers", "list")] == ["paper", "live"]
