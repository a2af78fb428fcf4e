"""Commands for several followers, questions before something live is ended, and gateways that no manager watches."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.service.client import ControlClient
from support.command import PROGRAM, Command
from support.control import Control
from support.fake_manager import a_snapshot
from support.home import Home
from support.waiting import PATIENCE, wait_until


@pytest.fixture
def command(home: Home) -> Command:
    return Command(home, log_format="json", on_exit="detach")


def _names_what_runs_unwatched(command: Command) -> None:
    """The doctor does, and so does `status`, with what to do."""
    findings = json.loads(command("doctor", "--json").stdout)
    told = next(each for each in findings if each["check"] == "manager")
    assert told["verdict"] == "warning"
    assert "unwatched: anna, bert, carl" in told["what"]
    looked = command("status")
    assert (looked.returncode, looked.stdout) == (1, "")
    assert "3 gateways run unwatched: anna, bert, carl." in looked.stderr
    assert "stop --offline --all" in looked.stderr


def _names_it_without_an_identity(home: Home, command: Command) -> None:
    """By the records, which know it as well; without both, as containers that look like gateways."""
    note, records = home.directory / "identity.json", home.directory / "records.sqlite3"
    note.rename(home.directory / "aside")
    _names_what_runs_unwatched(command)
    records.rename(home.directory / "records.aside")
    lost = command("status")
    assert (lost.returncode, "3 containers there look like gateways: " in lost.stderr) == (1, True)
    (home.directory / "records.aside").rename(records)
    (home.directory / "aside").rename(note)


def _states(command: Command) -> dict[str, str]:
    with ControlClient(command.home.directory) as client:
        return {each["follower_id"]: each["state"] for each in client.gateways()}


def test_gateways_that_nobody_watches_are_found_and_ended(home: Home, command: Command) -> None:
    """After a detach the doctor and `status` tell of them; `stop --offline` ends those that are named, for good, and no others."""
    asyncio.run(home.add("anna", "bert", "carl"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: set(_states(command).values()) == {"ready"})
        refused = command("stop", "--offline", "anna")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert str(serving.process.pid) in refused.stderr
        assert "without --offline" in refused.stderr
        done = command("detach")
        assert "stop --offline" in done.stdout
        assert serving.ends() == 0
    _names_what_runs_unwatched(command)
    _names_it_without_an_identity(home, command)
    unknown = command("stop", "--offline", "nobody")
    assert (unknown.returncode, "nobody" in unknown.stderr) == (1, True)
    stopped = command("stop", "--offline", "anna", "bert")
    named = [f"{each} is STOPPED. `gateway-manager launch {each}` starts it again" for each in ("anna", "bert")]
    assert [line.partition(",")[0] for line in stopped.stdout.splitlines()] == named
    assert asyncio.run(_running(home)) == ["carl"]
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _states(command) == {"anna": "stopped", "bert": "stopped", "carl": "ready"})
        launched = command("launch", "anna", "bert")
        assert launched.returncode == 0, launched.stderr
        wait_until(lambda: set(_states(command).values()) == {"ready"})
        serving.process.kill()
    ended = command("stop", "--offline", "--all")
    assert ended.stdout.count("is STOPPED") == 3, ended.stderr
    assert asyncio.run(_running(home)) == []
    assert command("stop", "--offline", "--all").stdout == "No gateway runs.\n"
    stops = [line for line in command.json("audit", "show", "carl") if line["act"] == "stop"]
    assert "detail" not in stops[-1]  # nobody had watched it
    whys = [line["who"] for line in stops]
    assert "without a manager" in whys[0]


def test_what_no_record_names_is_called_stopped_by_nobody(home: Home, command: Command) -> None:
    """Neither by the manager nor without one: it runs on, and the end of the manager names it."""
    asyncio.run(home.add("anna", "bert"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: set(_states(command).values()) == {"ready"})
        assert command("detach").returncode == 0
        assert serving.ends() == 0
    with closing(sqlite3.connect(home.directory / "records.sqlite3")) as records, records:
        records.execute("DELETE FROM records WHERE follower_id = 'anna'")
    refusal = "The gateway of anna was not stopped: The container "
    done = command("stop", "--offline", "--all")
    assert (done.returncode, refusal in done.stderr) == (1, True)
    assert "bert is STOPPED" in done.stdout
    assert asyncio.run(_running(home)) == ["anna"]
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: _states(command) == {"anna": "needs_human", "bert": "stopped"})
        done = command("stop", "anna")
        assert (done.returncode, refusal in done.stderr, _states(command)["anna"]) == (1, True, "needs_human")
        assert "looks like anna's gateway" in command("detach").stdout
        assert serving.ends() == 0
    assert asyncio.run(_running(home)) == ["anna"]


def test_a_stop_of_one_whose_record_is_gone_is_answered_by_what_it_did(home: Home, command: Command) -> None:
    """It is stopped, and there is no such follower any more: the one is no reason to call the other undone."""
    asyncio.run(home.add("anna", "bert", "carl"))
    with command.begun("run") as serving:
        serving.says("manager started")
        wait_until(lambda: set(_states(command).values()) == {"ready"})
        text = home.followers_file.read_text()
        home.followers_file.write_text(
            "[[follower]]".join(each for each in text.split("[[follower]]") if "bert" not in each)
        )
        wait_until(lambda: "record is gone" in str(command.json("status")))
        done = command("stop", "bert")
        assert (done.returncode, done.stderr) == (0, "")
        assert "bert is STOPPED (disabled). Its record is gone, and so is its gateway." in done.stdout
        assert _states(command) == {"anna": "ready", "carl": "ready"}
    assert asyncio.run(_running(home)) == ["anna", "carl"]


async def _running(home: Home) -> list[str]:
    runtime = home.runtime()
    await runtime.open()
    try:
        return sorted(each.follower_id for each in await runtime.list())
    finally:
        await runtime.close()


# ---------------------------------------------------------------------------------------------- on a fake manager


@pytest.fixture
def told(home: Home, command: Command) -> Iterator[Callable[..., tuple[Control, int, str]]]:
    """Runs a command on a terminal, or without one, beside a manager that only remembers what it is told."""

    def run(*arguments: str, answer: str | None = None) -> tuple[Control, int, str]:
        control = Control(home.directory)
        live = {"trading_mode": "live", "container": "c"}
        control.manager.snapshots = {
            "alice": a_snapshot("alice", container="a"),
            "lena": a_snapshot("lena", **live),
            "lutz": a_snapshot("lutz", State.STOPPED, trading_mode="live"),
            "otto": a_snapshot("otto", State.DISABLED),
        }
        return control, *asyncio.run(_beside(control, command, arguments, answer))

    return run


async def _beside(
    control: Control, command: Command, arguments: tuple[str, ...], answer: str | None
) -> tuple[int, str]:
    async with control.served():
        if answer is None:
            done = await asyncio.to_thread(command, *arguments)
            return done.returncode, done.stdout + done.stderr
        return await asyncio.to_thread(_on_a_terminal, command.environment, arguments, answer)


def _on_a_terminal(environment: dict[str, str], arguments: tuple[str, ...], answer: str) -> tuple[int, str]:
    """Exit code and all that the terminal shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown, answered = "", False
        while select.select([ours], [], [], PATIENCE)[0]:
            try:
                shown += os.read(ours, 65536).decode()
            except OSError:  # the other side has ended
                break
            if "[y/N]" in shown and not answered:
                answered = True
                os.write(ours, f"{answer}\n".encode())
    os.close(ours)
    return process.returncode, shown


def _acts(control: Control) -> set[str]:
    """Whom something was done to."""
    return {
        str(call[1])
        for call in control.manager.calls
        if call[0] in ("stop_gateway", "restart_gateway", "launch_gateway")
    }


@pytest.mark.parametrize("what", ["stop", "restart"])
@pytest.mark.parametrize("answer", ["y", "n"])
def test_something_live_is_ended_only_by_a_yes(
    told: Callable[..., tuple[Control, int, str]], what: str, answer: str
) -> None:
    """On a terminal the follower that trades live is named, and nothing is done to anybody without a yes."""
    control, code, shown = told(what, "alice", "lena", answer=answer)
    assert "lena trades LIVE" in shown
    assert "alice trades" not in shown
    assert (code, _acts(control)) == ((0, {"alice", "lena"}) if answer == "y" else (1, set())), shown


@pytest.mark.parametrize(("arguments", "answer"), [(["--yes"], ""), ([], None)])
def test_a_yes_beforehand_and_a_script_are_not_asked(
    told: Callable[..., tuple[Control, int, str]], arguments: list[str], answer: str | None
) -> None:
    """`--yes` is for people, and who has no terminal can't be asked."""
    control, code, shown = told("stop", "lena", *arguments, answer=answer)
    assert "LIVE" not in shown
    assert (code, _acts(control)) == (0, {"lena"})


def test_a_detach_from_something_live_asks(told: Callable[..., tuple[Control, int, str]]) -> None:
    """Unwatched is not logged out, but nobody would notice its end."""
    control, code, shown = told("detach", answer="n")
    assert "lena trades LIVE" in shown
    assert (code, control.detached) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "acted_on"),
    [
        ("launch --all", {"alice", "lena", "lutz"}),
        ("stop --all", {"alice", "lena"}),
        ("restart --all", {"alice", "lena"}),
        ("launch alice lena alice", {"alice", "lena"}),
    ],
)
def test_all_means_those_that_it_can_mean(
    told: Callable[..., tuple[Control, int, str]], arguments: str, acted_on: set[str]
) -> None:
    """Nobody who is disabled is launched, nobody who has no gateway is stopped; each is acted on once."""
    control, code, shown = told(*arguments.split())
    assert (code, _acts(control)) == (0, acted_on), shown
    assert len([each for each in control.manager.calls if "gateway" in each[0] and len(each) > 1]) == len(acted_on)


def test_one_that_fails_keeps_the_others_from_nothing(told: Callable[..., tuple[Control, int, str]]) -> None:
    """Each failure is a sentence of its own, and the exit code is that of a failure."""
    control, code, shown = told("launch", "alice", "nobody", "lena")
    assert (code, {"alice", "lena"} <= _acts(control)) == (1, True)
    assert "'nobody'" in shown
    assert "1 of 3 could not be done" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        "stop",
        "stop --all alice",
        "launch",
        "restart --offline alice",
        "stop --offline",
        "launch --all --override-account-lock u",
        "launch alice lena --override-account-lock u",
    ],
)
def test_who_is_meant_must_be_said(command: Command, arguments: str) -> None:
    """Nobody and everybody at once are wrong usage."""
    done = command(*arguments.split())
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    "words", [("disable", "lena"), ("set", "lena", "enabled=false"), ("set", "lena", "state=PAUSED")]
)
def test_disabling_a_live_follower_asks(home: Home, command: Command, words: tuple[str, ...]) -> None:
    """It logs the gateway out as a stop does. What is disabled already, or paper, is not asked about."""
    for name, live in (("paula", []), ("lena", ["--live"])):
        assert command("followers", "add", name, "--vault-secret-ref", "ibkr/x", *live).returncode == 0
    before = Path(home.followers_file).read_text()
    code, shown = _on_a_terminal(command.environment, ("followers", *words), "n")
    assert (code, "lena trades LIVE" in shown) == (1, True)
    assert Path(home.followers_file).read_text() == before
    paper = tuple("paula" if each == "lena" else each for each in words)
    assert _on_a_terminal(command.environment, ("followers", *paper), "n")[0] == 0
    assert command("followers", *words).returncode == 0, "a script is not asked"
    assert _on_a_terminal(command.environment, ("followers", *words), "n")[0] == 0


def test_removing_a_login_that_somebody_uses_asks(command: Command) -> None:
    """Whoever is logged in stays so, and can't log in again: all of them are named. One that nobody uses goes at once."""
    for ref in ("ibkr/one", "ibkr/two"):
        assert command("credentials", "set", ref, "--username", "u", "--password-stdin", said=b"pw").returncode == 0
    for name, more in (("lena", ["--live"]), ("paula", []), ("dora", ["--disabled"])):
        assert command("followers", "add", name, "--vault-secret-ref", "ibkr/one", *more).returncode == 0
    code, shown = _on_a_terminal(command.environment, ("credentials", "remove", "ibkr/one"), "n")
    assert (code, "lena (LIVE), paula log in with ibkr/one" in " ".join(shown.split())) == (1, True)
    assert "ibkr/one" in command("credentials", "list").stdout
    assert _on_a_terminal(command.environment, ("credentials", "remove", "ibkr/two"), "n")[0] == 0
    assert _on_a_terminal(command.environment, ("credentials", "remove", "ibkr/one"), "y")[0] == 0
    assert "ibkr/one" not in command("credentials", "list").stdout


def test_one_ibkr_user_under_two_references_is_told(command: Command) -> None:
    """However it is written; a new password under the same reference is no second one."""
    words = ("--password-stdin", "--username")
    first = command("credentials", "set", "ibkr/one", *words, "someone", said=b"pw")
    again = command("credentials", "set", "ibkr/one", *words, "someone", said=b"pw-2")
    assert "as well" not in first.stderr + again.stderr
    second = command("credentials", "set", "ibkr/two", *words, "SomeOne", said=b"pw")
    assert (second.returncode, "ibkr/one is of SomeOne as well" in second.stderr) == (0, True)


def test_a_change_to_live_says_what_it_waits_for(command: Command) -> None:
    """Once: who is live already is told nothing."""
    assert command("followers", "add", "anna", "--vault-secret-ref", "ibkr/anna").returncode == 0
    word = "stays in paper until `gateway-manager launch anna --live`"
    assert word in command("followers", "set", "anna", "trading_mode=live").stdout
    assert word not in command("followers", "set", "anna", "trading_mode=live", "account=U1234567").stdout


def test_a_login_given_to_a_second_follower_is_told(command: Command) -> None:
    """Beforehand, and by `followers check`: IBKR has one user logged in once."""
    for name in ("lena", "paula"):
        assert command("followers", "add", name, "--vault-secret-ref", f"ibkr/{name}", "--live").returncode == 0
    told = "paula: Its login ibkr/lena is lena's as well"
    done = command("followers", "set", "paula", "vault_secret_ref=ibkr/lena")
    assert (done.returncode, told in done.stderr) == (0, True)
    assert told in command("followers", "check").stdout
    assert "as well" not in command("followers", "set", "paula", "enabled=false").stderr


def test_removing_a_live_follower_asks(home: Home, command: Command) -> None:
    """The record of one that trades live goes only by a yes; a paper one goes at once."""
    for name, live in (("paula", []), ("lena", ["--live"])):
        assert command("followers", "add", name, "--vault-secret-ref", "ibkr/x", *live).returncode == 0
    code, shown = _on_a_terminal(command.environment, ("followers", "remove", "lena"), "n")
    assert (code, "lena trades LIVE" in shown) == (1, True)
    assert "lena" in Path(home.followers_file).read_text()
    assert _on_a_terminal(command.environment, ("followers", "remove", "paula"), "n")[0] == 0
    assert _on_a_terminal(command.environment, ("followers", "remove", "lena"), "y")[0] == 0
    assert "lena" not in Path(home.followers_file).read_text()
