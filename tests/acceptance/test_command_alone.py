from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from spreadpilot_core.ibkr.credentials.encrypted import EncryptedCredentials
from support.command import PROGRAM, Command
from support.home import Home
from support.waiting import PATIENCE

PASSWORD = "pl4nted $ecret \\'\"ü"


@pytest.fixture
def home() -> Iterator[Home]:
    place = Home()
    yield place
    asyncio.run(place.end())


@pytest.fixture
def command(home: Home) -> Command:
    return Command(home)


def _one_sentence(text: str) -> bool:
    return text.count("\n") == 1 and text.rstrip()[-1] in ".)" and "Traceback" not in text


# ---------------------------------------------------------------------------------------------- usage


def test_help_names_every_command(command: Command) -> None:
    """A newcomer finds each command of the documentation in the help."""
    done = command("--help")
    assert done.returncode == 0
    for name in [
        "demo",
        "run",
        "status",
        "launch",
        "stop",
        "restart",
        "reconnect",
        "detach",
        "followers",
        "credentials",
        "audit",
        "logs",
        "doctor",
    ]:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("demo", "--followers --once"),
        ("status", "--watch --json"),
        ("logs", "--follow --last"),
        ("doctor", "--json"),
        ("launch", "--retry-login"),
        ("followers add", "--vault-secret-ref --live --account --disabled"),
        ("followers list", "--json"),
        ("credentials set", "--username --password-stdin"),
        ("credentials list", "--json"),
        ("credentials", "list set remove"),
        ("followers", "list add enable disable remove"),
    ],
)
def test_help_names_every_option(command: Command, arguments: str, options: str) -> None:
    """Each command's own help names its options, and no password is one of them."""
    done = command(*arguments.split(), "--help")
    assert done.returncode == 0
    for option in options.split():
        assert option in done.stdout
    assert "--password " not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "status --nonsense",
        "status a b",
        "launch",
        "stop",
        "restart",
        "reconnect",
        "demo --followers 0",
        "demo --followers many",
        "followers add alice",
        "followers enable",
        "credentials set ibkr/alice",
        "credentials set --username u",
        "credentials set ibkr/alice --username u",
        "credentials remove",
    ],
)
def test_wrong_usage_is_exit_code_2(command: Command, arguments: str) -> None:
    """What can't be meant is refused before anything is done, on standard error, also a password without a terminal."""
    done = command(*arguments.split())
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage" in done.stderr
    assert not list(command.home.directory.iterdir())


def test_its_version_is_the_distributions(command: Command) -> None:
    """`--version` tells what is installed."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", command("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    ["status", "status alice", "status --json", "launch a", "stop a", "restart a", "reconnect a", "detach"],
)
def test_without_a_manager_one_sentence(command: Command, arguments: str) -> None:
    """A command for a running manager says in one sentence that none is there, and how to start one."""
    done = command(*arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)
    assert "gateway-manager run" in done.stderr


def test_a_wrong_setting_is_named(command: Command) -> None:
    """A setting that can't be used ends each command with its name, its value and what is allowed."""
    for arguments in (["run"], ["status"], ["followers", "list"], ["credentials", "list"]):
        done = command(*arguments, PORT_RANGE_START="seventy")
        assert done.returncode == 1
        assert _one_sentence(done.stderr)
        assert "port_range_start is 'seventy'" in done.stderr


def test_a_reader_that_has_enough_is_no_failure_of_ours(command: Command) -> None:
    """`gateway-manager … | head` ends without a traceback."""
    for number in range(3):
        command("followers", "add", f"follower_{number}", "--vault-secret-ref", "ibkr/x")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [PROGRAM, "followers", "list"],
        env=command.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["followers list", "followers list --json", "--version", "doctor"])
def test_an_output_that_takes_nothing_is_told_in_one_sentence(command: Command, arguments: str) -> None:
    """A full disk behind `>` is a failure with its reason and no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [PROGRAM, *arguments.split()],
            env=command.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert _one_sentence(done.stderr)
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_failure(command: Command, closed: str) -> None:
    """Whoever starts a command may have closed its streams; nothing of ours gets their place."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" followers list {closed}', PROGRAM],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


# ---------------------------------------------------------------------------------------------- followers


def test_followers_from_the_first_to_the_last(command: Command) -> None:
    """Add, list, disable, enable and remove do what their names say, and paper is the default."""
    assert command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice").returncode == 0
    added = command(
        *["followers", "add", "bob", "--vault-secret-ref", "ibkr/bob", "--live", "--account", "U1234567", "--disabled"]
    )
    assert (added.returncode, added.stdout) == (0, "bob was added, live, disabled.\n")
    alice, bob = command.json("followers", "list")
    assert (alice["id"], alice["trading_mode"], alice["enabled"], alice["account"]) == ("alice", "paper", True, None)
    assert (bob["id"], bob["trading_mode"], bob["enabled"], bob["account"]) == ("bob", "live", False, "U1234567")
    command("followers", "disable", "alice")
    command("followers", "enable", "bob")
    assert [each["enabled"] for each in command.json("followers", "list")] == [False, True]
    assert command("followers", "remove", "alice").returncode == 0
    table = command("followers", "list").stdout
    assert "bob" in table
    assert "alice" not in table
    assert table.startswith("ID ")


def test_no_followers_are_no_failure(command: Command) -> None:
    """An empty store lists nothing, with the next step, and as JSON an empty list."""
    assert "followers add" in command("followers", "list").stdout
    assert command.json("followers", "list") == []


def test_a_record_that_cant_be_used_is_listed_with_its_fault(command: Command) -> None:
    """The list shows what is wrong with a record, so that its owner can mend it."""
    command.home.followers_file.write_text('[[follower]]\nid = "alice"\nenabled = true\n')
    (alice,) = command.json("followers", "list")
    assert alice["id"] == "alice"
    assert "vault_secret_ref" in alice["fault"]
    assert "vault_secret_ref" in command("followers", "list").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "followers add alice --vault-secret-ref ibkr/alice",
        "followers enable nobody",
        "followers disable nobody",
        "followers remove nobody",
    ],
)
def test_an_edit_that_cant_be_is_refused(command: Command, arguments: str) -> None:
    """A follower that is there already, or is not there, is named in one sentence; the file stays as it was."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice")
    before = command.home.followers_file.read_bytes()
    done = command(*arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)
    assert arguments.split()[2] in done.stderr
    assert command.home.followers_file.read_bytes() == before


def test_followers_in_mongodb_are_not_edited_here(command: Command) -> None:
    """With records in MongoDB the local file is not the truth: the command says so instead of editing it in vain."""
    done = command("followers", "list", GATEWAY_MANAGER_STORE_URL="mongodb:", MONGO_URI="mongodb://u:hidden@h")
    assert done.returncode == 1
    assert _one_sentence(done.stderr)
    assert "mongodb:" in done.stderr
    assert "hidden" not in done.stderr


# ---------------------------------------------------------------------------------------------- credentials


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        (PASSWORD.encode(), PASSWORD),
        (PASSWORD.encode() + b"\n", PASSWORD),
        (PASSWORD.encode() + b"\r\n", PASSWORD),
        (b"#inner \\ $HOME 'quotes' = !", "#inner \\ $HOME 'quotes' = !"),
    ],
)
def test_a_password_from_standard_input_is_taken_as_it_is(command: Command, said: bytes, stored: str) -> None:
    """One trailing newline is dropped and nothing else is touched."""
    done = command("credentials", "set", "ibkr/alice", "--username", "alice-user", "--password-stdin", said=said)
    assert done.returncode == 0, done.stderr
    kept = EncryptedCredentials.at(command.home.directory).read("ibkr/alice")
    assert (kept.user, kept.password) == ("alice-user", stored)


def test_credentials_from_the_first_to_the_last(command: Command) -> None:
    """Set, set anew, list and remove; the key is told once, made for its owner alone, and no password is anywhere in clear."""
    first = command("credentials", "set", "ibkr/alice", "--username", "u1", "--password-stdin", said=b"first-pl4nted\n")
    again = command("credentials", "set", "ibkr/alice", "--username", "u2", "--password-stdin", said=b"other-pl4nted\n")
    assert (first.returncode, again.returncode) == (0, 0)
    assert "credentials.key" in first.stderr
    assert again.stderr == ""
    (entry,) = command.json("credentials", "list")
    assert (entry["ref"], entry["user"], entry["origin"]) == ("ibkr/alice", "u2", "operator")
    assert "version 1." in first.stdout
    assert (entry["version"].partition("-")[0], "version 2." in again.stdout) == ("2", True)
    printed = first.stdout + first.stderr + again.stdout + command("credentials", "list").stdout
    files = b"".join(path.read_bytes() for path in command.home.directory.rglob("*") if path.is_file())
    assert b"pl4nted" not in files + printed.encode()
    for name in ("credentials.json", "credentials.key", "audit.jsonl"):
        assert stat.S_IMODE((command.home.directory / name).stat().st_mode) == 0o600
    assert command("credentials", "remove", "ibkr/alice").returncode == 0
    assert command.json("credentials", "list") == []
    acts = [json.loads(line)["act"] for line in (command.home.directory / "audit.jsonl").read_text().splitlines()]
    assert acts == ["set", "set", "remove"]


def test_any_spelling_of_a_reference_is_the_same_secret(command: Command) -> None:
    """`secret/data/ibkr/alice` and `ibkr/alice` are one entry, whichever way the user writes it."""
    command("credentials", "set", "secret/data/ibkr/alice", "--username", "u", "--password-stdin", said=b"x")
    assert [each["ref"] for each in command.json("credentials", "list")] == ["ibkr/alice"]
    assert command("credentials", "remove", "ibkr/alice").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("credentials set ibkr/alice --username u --password-stdin", b""),
        ("credentials set ibkr/alice --username u --password-stdin", b"\n"),
        ("credentials set ibkr/alice --username u --password-stdin", b"\xff\xfe"),
        ("credentials set / --username u --password-stdin", b"x"),
        ("credentials remove ibkr/nobody", b""),
    ],
)
def test_credentials_that_cant_be_are_refused(command: Command, arguments: str, said: bytes) -> None:
    """No password, no text, no reference, nothing to remove: each is one sentence and exit code 1."""
    done = command(*arguments.split(), said=said)
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)


def test_a_lost_key_is_told(command: Command) -> None:
    """With the key gone the store says so instead of making a second one."""
    command("credentials", "set", "ibkr/alice", "--username", "u", "--password-stdin", said=b"x")
    (command.home.directory / "credentials.key").unlink()
    done = command("credentials", "set", "ibkr/bob", "--username", "u", "--password-stdin", said=b"x")
    assert done.returncode == 1
    assert _one_sentence(done.stderr)
    assert not (command.home.directory / "credentials.key").exists()


def test_on_a_terminal_the_password_is_asked_for_twice_and_never_shown(command: Command) -> None:
    """The prompt hides what is typed, asks again when the two differ, and stores what was typed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, "credentials", "set", "ibkr/alice", "--username", "u"],
        env=command.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509  # getpass asks on the controlling terminal
    ) as process:
        os.close(theirs)
        killer = Timer(2 * PATIENCE, process.kill)
        killer.start()
        shown = ""
        for prompt, typed in (  # the blank comes once nothing typed is shown or thrown away any more
            ("Password: ", "typed-pl4nted"),
            ("confirmation: ", "mistyped"),
            ("Password: ", "typed-pl4nted"),
            ("confirmation: ", "typed-pl4nted"),
        ):
            shown += _read_until(ours, prompt)
            os.write(ours, typed.encode() + b"\n")
        shown += _read_until(ours, "version")
        assert process.wait(60) == 0
        killer.cancel()
        os.close(ours)
    assert "pl4nted" not in shown
    assert EncryptedCredentials.at(command.home.directory).read("ibkr/alice").password == "typed-pl4nted"


def _take_terminal() -> None:
    import fcntl  # noqa: PLC0415  # in the child
    import termios  # noqa: PLC0415  # in the child

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(terminal: int, words: str) -> str:
    text = ""
    while words not in text:
        assert select.select([terminal], [], [], PATIENCE)[0], f"{words!r} is not in {text!r}"
        text += os.read(terminal, 1024).decode()
    return text


def test_the_state_directory_is_its_owners_alone(command: Command, tmp_path: Path) -> None:
    """A state directory that a command makes has mode 0700."""
    place = tmp_path / "deep" / "state"
    said = b"x"
    done = command(
        *["credentials", "set", "ibkr/a", "--username", "u", "--password-stdin"],
        said=said,
        GATEWAY_MANAGER_STATE_DIR=str(place),
    )
    assert done.returncode == 0
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
