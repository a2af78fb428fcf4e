from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.screens.last_pictures import _place
from spreadpilot_core.ibkr.system.whole_files import write_whole
from support.command import PROGRAM, Command
from support.home import Home
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures
from support.waiting import PATIENCE

PASSWORD = "pl4nted $ecret \\'\"ü"


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
        "pictures",
        "doctor",
    ]:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name


def test_what_asks_a_manager_loads_none() -> None:
    """A command that only asks answers soon: no logging, no events, no runtime and no client library is loaded for it."""
    code = (
        "import sys, spreadpilot_core.ibkr.service.cli, spreadpilot_core.ibkr.service.gateway_commands\n"
        "print([name for name in ('structlog', 'opentelemetry', 'aiodocker', 'ib_async', 'fastapi', "
        "'spreadpilot_core.ibkr.model.events', 'spreadpilot_core.ibkr.seams') if name in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("demo", "--followers --once"),
        ("status", "--watch --json"),
        ("logs", "--follow --last"),
        ("doctor", "--json"),
        ("launch", "--retry-login --live"),
        ("followers confirm-removals", "--yes"),
        ("followers add", "--vault-secret-ref --live --account --disabled"),
        ("followers list", "--json"),
        ("credentials set", "--username --password-stdin"),
        ("credentials list", "--json"),
        ("credentials", "list set remove"),
        ("followers", "list add enable disable remove set check confirm-removals"),
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
        "run --adopt-from=",
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
        "followers set nobody enabled=true",
        "followers set alice enabled=maybe",
        "followers set alice enbled=true",
        "followers set alice gateway.port=80",
        "followers set alice nonsense",
        "followers add carl --vault-secret-ref ../../x",
    ],
)
def test_an_edit_that_cant_be_is_refused(command: Command, arguments: str) -> None:
    """A follower that is there already, or is not there, is named in one sentence; the file stays as it was."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice")
    before = command.home.followers_file.read_bytes()
    done = command(*arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)
    assert arguments.split()[2] in done.stderr or "../../x" in done.stderr
    assert command.home.followers_file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["alice ", "--vault-secret-ref", "x"], "id is 'alice ', but it must not begin or end with a space."),
        (
            ["alice", "--vault-secret-ref", "../../x"],
            "vault_secret_ref is '../../x', but it must be the path of a secret",
        ),
        (
            ["alice", "--vault-secret-ref", "x", "--account", "not an account"],
            "account is 'not an account', but it must be",
        ),
    ],
)
def test_what_no_record_may_hold_is_refused_at_the_door(command: Command, arguments: list[str], why: str) -> None:
    """The command says what the manager would have said of the record, and writes nothing."""
    done = command("followers", "add", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)
    assert why in done.stderr
    assert not command.home.followers_file.exists()


def test_fields_are_set_and_records_checked(command: Command, tmp_path: Path) -> None:
    """`set` changes what it is told and keeps comments; `check` looks at the records, or at a file that may become them."""
    command.home.followers_file.write_text('# ours\n[[follower]]\nid = "alice"\nvault_secret_ref = "x"  # hers\n')
    done = command("followers", "set", "alice", "account=U1234567", "gateway.vnc=true", "enabled=true")
    assert (done.returncode, done.stdout) == (0, "alice was changed: account, gateway.vnc, enabled.\n")
    (alice,) = command.json("followers", "list")
    assert (alice["account"], alice["gateway"], alice["enabled"]) == ("U1234567", {"vnc": True}, True)
    command("followers", "set", "alice", "account=")
    assert command.json("followers", "list")[0]["account"] is None
    assert "# hers" in command.home.followers_file.read_text()
    assert command("followers", "check").stdout == "1 record can be used.\n"
    candidate = tmp_path / "new.toml"
    candidate.write_text(command.home.followers_file.read_text() + '[[follower]]\nid = "bob"\nenbled = true\n')
    done = command("followers", "check", str(candidate))
    assert (done.returncode, done.stderr) == (1, "1 record can't be used.\n")
    assert "bob: vault_secret_ref is missing" in done.stdout
    assert command("followers", "check", str(tmp_path / "none.toml")).returncode == 1


def test_followers_in_mongodb_are_not_edited_here(command: Command) -> None:
    """With records in MongoDB the local file is not the truth: the command says so instead of editing it in vain."""
    done = command("followers", "enable", "x", GATEWAY_MANAGER_STORE_URL="mongodb:", MONGO_URI="mongodb://u:hidden@h")
    assert done.returncode == 1
    assert _one_sentence(done.stderr)
    assert "mongodb:" in done.stderr
    assert "hidden" not in done.stderr


@may_build
def test_followers_in_mongodb_are_listed(
    command: Command,
    mongo_server: str,  # noqa: F811  # the fixture
    mongo_database: str,  # noqa: F811
) -> None:
    """A list edits nothing: it shows what is there, the faulty ones as well, or that nobody is."""
    store = {"MONGO_URI": mongo_server, "MONGO_DB_NAME": mongo_database, "GATEWAY_MANAGER_STORE_URL": "mongodb:"}
    assert command("followers", "list", **store).stdout == "No followers in mongodb:.\n"
    with pymongo.MongoClient[dict[str, Any]](mongo_server) as client:
        client[mongo_database]["followers"].insert_many(
            [{"id": "anna", "vault_secret_ref": "ibkr/anna", "enabled": True, "state": "ACTIVE"}, {"id": "bob"}]
        )
    rows = json.loads(command("followers", "list", "--json", **store).stdout)
    assert [(row["id"], bool(row["fault"])) for row in rows] == [("anna", False), ("bob", True)]


@pytest.mark.parametrize(
    ("package", "variable", "value"),
    [
        ("kubernetes_asyncio", "RUNTIME_URL", "kubernetes:trading"),
        ("opentelemetry.sdk.metrics", "METRICS_ADDRESS", "127.0.0.1:9464"),
    ],
)
def test_a_package_of_an_extra_that_is_not_there(
    command: Command, tmp_path: Path, package: str, variable: str, value: str
) -> None:
    """One sentence says which, and a cure that works: the package is on no index."""
    hide = f"import sys\nsys.modules[{package!r}] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide)
    done = command("run", **{"PYTHONPATH": str(tmp_path), f"GATEWAY_MANAGER_{variable}": value})
    assert done.returncode == 1
    told = f", but it needs a package that is not installed ({package.partition('.')[0]}): `pip install -r requirements/service.txt` in"
    assert told in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("logs a --last x", "'--last': 'x' is no whole number from 1 on."),
        ("logs a --last 0", "'--last': '0' is no whole number from 1 on."),
        ("audit show --last 1.5", "'--last': '1.5' is no whole number from 1 on."),
        ("demo --followers 101", "'--followers': '101' is no whole number from 1 to 100."),
        ("exec a --wait x -- true", "'--wait': 'x' is no number of seconds, 0 or more."),
        ("endpoint a --wait nan", "'--wait': 'nan' is no number of seconds, 0 or more."),
        ("tokens add a --role boss", "'--role': 'boss' is neither viewer, trader nor operator."),
    ],
)
def test_a_wrong_option_is_told_in_a_sentence_of_ours(command: Command, words: str, sentence: str) -> None:
    """And not in those of a library."""
    done = command(*words.split())
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: Invalid value for {sentence}"


def test_detach_asks_before_it_leaves_something_unwatched(command: Command) -> None:
    """It ends no gateway, so its help does not say so."""
    assert "live is left unwatched" in " ".join(command("detach", "--help").stdout.split())


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
        ("credentials set ../x --username u", b""),
        ("credentials set ibkr/alice --username two\u200bwords", b""),
        ("credentials remove ibkr/nobody", b""),
    ],
)
def test_credentials_that_cant_be_are_refused(command: Command, arguments: str, said: bytes) -> None:
    """No password, no text, no reference, nothing to remove: each is one sentence and exit code 1."""
    done = command(*arguments.split(), said=said)
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)


@pytest.mark.parametrize(
    ("username", "password", "said"),
    [
        ("back\\slash", "planted", "Images with ibc can't type it: the user name holds a character that the"),
        ("jörg", "planted", "Images with ibc can't type it: the user name holds a character that the"),
        ("u", "a{{b", "Images with ibcontroller can't type it: the password holds {{ or }}, which"),
        ("u", "x{password}", "Images with ibcontroller can't type it: the password holds the name of"),
        ("u", "\u00a0x", "Images with ibcontroller can't type it: the password begins or ends with a blank"),
    ],
)
def test_a_login_that_one_controller_can_not_type_is_told_at_once(
    command: Command, username: str, password: str, said: str
) -> None:
    """It is stored, since images with the other one can, and the sentence says which and why, without the password."""
    done = command("credentials", "set", "ibkr/a", "--username", username, "--password-stdin", said=password.encode())
    assert done.returncode == 0
    warning = done.stderr.splitlines()[-1]
    assert warning.startswith(said)
    assert warning.endswith("Those with ibcontroller can." if "with ibc can't" in said else "Those with ibc can.")
    assert password not in done.stdout + done.stderr
    assert [each["user"] for each in command.json("credentials", "list")] == [username]


@pytest.mark.parametrize(
    ("username", "said"),
    [
        ("two words", "The user name holds a blank, an invisible character or a letter in another form"),
        ("a\u200bb", "The user name holds"),
    ],
)
def test_a_login_that_no_controller_can_type_is_refused(command: Command, username: str, said: str) -> None:
    """Before anything is stored, and with the reason."""
    done = command("credentials", "set", "ibkr/a", "--username", username, "--password-stdin", said=b"pw")
    assert (done.returncode, done.stdout) == (1, "")
    assert _one_sentence(done.stderr)
    assert done.stderr.startswith(said)
    assert command.json("credentials", "list") == []


@pytest.mark.parametrize(
    "arguments", [("logs",), ("pictures",), ("audit", "show"), ("audit", "show", "--json"), ("followers", "enable")]
)
def test_a_follower_that_nobody_knows_is_no_empty_answer(command: Command, arguments: tuple[str, ...]) -> None:
    """Exit code 1 and one sentence, with who may have been meant; nobody near, nobody named."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice")
    slip = command(*arguments, "alcie")
    assert (slip.returncode, slip.stdout) == (1, "")
    assert _one_sentence(slip.stderr)
    assert "There is no follower 'alcie' among 1 record: was 'alice' meant?" in slip.stderr
    nobody = command(*arguments, "nobody")
    assert (nobody.returncode, "meant" in nobody.stderr) == (1, False)
    assert "There is no follower 'nobody'" in nobody.stderr


def test_pictures_are_named_by_time_and_file(home: Home, command: Command) -> None:
    """The newest first, and whole paths, whatever the terminal's width; a follower without any is no failure."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice")
    assert command("pictures", "alice").stdout == "No picture of alice is on this host.\n"
    assert command.json("pictures", "alice") == []
    ids = ["20261124T093512004211", "20261124T093511000000"]
    place = _place(home.directory, "alice")
    for each in ids:
        write_whole(place / f"{each}.png", b"png")
    done = command("pictures", "alice", TZ="UTC")
    assert done.stdout.splitlines()[0] == f"2026-11-24 09:35:12 UTC  {place / ids[0]}.png"
    rows = command.json("pictures", "alice")
    assert [each["id"] for each in rows] == ids
    assert rows[0] | {"file": ""} == {"id": ids[0], "at": "2026-11-24T09:35:12.004211+00:00", "size": 3, "file": ""}
    assert Path(rows[0]["file"]).read_bytes() == b"png"


def test_a_known_follower_without_lines_is_no_failure_of_the_trail(command: Command) -> None:
    """It has a record, and nothing was done to it."""
    command("followers", "add", "alice", "--vault-secret-ref", "ibkr/alice")
    done = command("audit", "show", "alice")
    assert (done.returncode, done.stdout) == (0, "No lines.\n")
    assert command.json("audit", "show", "alice") == []


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


# ---------------------------------------------------------------------------------------------- the Python it runs on


def test_a_client_library_that_can_not_be_imported_is_told_in_a_sentence(command: Command, tmp_path: Path) -> None:
    """As with ib_insync's `eventkit` in aeventkit's place, which asks for an event loop when it is imported."""
    (tmp_path / "eventkit.py").write_text("import asyncio\nasyncio.get_event_loop_policy().get_event_loop()\n")
    done = command("run", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("ib_async can't be imported with Python 3.")
    assert "There is no current event loop" in said
    assert said.endswith("`pip install --force-reinstall --no-deps aeventkit`.")


# ---------------------------------------------------------------------------------------------- what records hold


def test_no_record_does_anything_to_a_terminal(command: Command, home: Home) -> None:
    """What somebody wrote into the followers' file is shown by its codes, one line a record; JSON says what it is."""
    lines = [r'id = "alice"', r'vault_secret_ref = "ibkr/a"', r'state = "\u001b[2J\nACTIVE"', r'phone_owner = "\u202e"']
    (home.directory / "followers.toml").write_text("\n".join(["[[follower]]", *lines, ""]))
    listed, checked = command("followers", "list"), command("followers", "check")
    for text in (listed.stdout, listed.stderr, checked.stdout, checked.stderr):
        assert all(line.isprintable() for line in text.split("\n"))
    assert listed.stdout.count("\n") == 2
    assert "alice" in command.json("followers", "list")[0]["id"]
    refused = command("followers", "enable", "\x1b]0;title\x07\nbob")
    assert refused.returncode == 1
    assert refused.stderr.removesuffix("\n").isprintable()


def test_a_pipe_gets_no_blanks_at_the_ends_of_lines(command: Command) -> None:
    """However wide another row of the table is."""
    for arguments in (["settings", "show"], ["doctor"]):
        lines = command(*arguments).stdout.splitlines()
        assert len({len(line) for line in lines}) > 1
        assert [line for line in lines if line != line.rstrip()] == []


def test_a_number_that_is_none_is_told_in_a_sentence(command: Command) -> None:
    """Which setting, which value, what is allowed, and where it comes from."""
    done = command("status", HEALTHCHECK_INTERVAL="often")
    assert (
        done.stderr
        == "healthcheck_interval is 'often', but must be a valid number (from environment HEALTHCHECK_INTERVAL).\n"
    )


def test_names_and_all_are_not_said_together(command: Command) -> None:
    """The sentence fits both who says neither and who says both."""
    for arguments in (["launch"], ["stop", "alice", "--all"]):
        assert "name followers, or say --all, and not both." in command(*arguments).stderr
