from __future__ import annotations

import re

from spreadpilot_core.ibkr.audit.trail import AuditTrail
from support.command import Command
from support.home import Home


def change(command: Command, ref: str) -> None:
    done = command("credentials", "set", ref, "--username", "edemo", "--password-stdin", said=b"planted-pw\n")
    assert done.returncode == 0, done.stderr


def test_changes_of_credentials_are_in_the_trail(command: Command, home: Home) -> None:
    """Setting and removing a login shows up with who, which reference and version, and no password anywhere."""
    change(command, "ibkr/alice")
    change(command, "ibkr/bob")
    assert command("credentials", "remove", "ibkr/alice").returncode == 0
    shown = command.json("audit", "show")
    assert [(line["act"], line["ref"], line["outcome"]) for line in shown] == [
        ("set", "ibkr/alice", "done"),
        ("set", "ibkr/bob", "done"),
        ("remove", "ibkr/alice", "done"),
    ]
    assert all(line["who"].startswith("gateway-manager, ") for line in shown)
    assert "planted-pw" not in (home.directory / "audit.jsonl").read_text()
    table = command("audit", "show", "--last", "1").stdout
    assert "remove" in table
    assert "ibkr/bob" not in table


def test_changing_the_key_is_in_the_trail_and_says_what_to_set(command: Command, home: Home) -> None:
    """A new key, then a passphrase: each is told, and afterwards only the new one opens the store."""
    assert "no key to change" in command("credentials", "change-key").stderr
    change(command, "ibkr/alice")
    key = home.directory / "credentials.key"
    before = key.read_text()
    assert "keep a copy of the new one" in command("credentials", "change-key").stdout
    assert key.read_text() != before
    words = home.directory / "words"
    words.write_text("battery staple\n")
    told = command("credentials", "change-key", "--passphrase-file", str(words)).stdout
    assert f"Set GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE={words} from now on" in told
    set_again = ("credentials", "set", "ibkr/alice", "--username", "edemo", "--password-stdin")
    refused = command(*set_again, said=b"x")
    assert "sealed with a passphrase" in refused.stderr
    assert "GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE" in refused.stderr
    done = command(*set_again, said=b"x", GATEWAY_MANAGER_CREDENTIALS_PASSPHRASE_FILE=str(words))
    assert "holds the login of edemo, version 2." in done.stdout
    acts = [line["act"] for line in command.json("audit", "show")]
    assert acts == ["set", "change-key", "change-key", "set"]
    assert re.search(r"ibkr/alice +2 +stored", command("audit", "show").stdout)


def test_one_followers_lines(command: Command, home: Home) -> None:
    """With a follower's id only its lines are shown; without any there is a sentence, and no failure."""
    assert command("audit", "show").stdout == "No lines.\n"
    trail = AuditTrail(home.directory)
    for follower in ("alice", "bob", "alice"):
        trail.append("read", who="tester", follower=follower, ref=f"ibkr/{follower}")
    assert [line["serial"] for line in command.json("audit", "show", "alice")] == [1, 3]


def test_a_whole_trail_is_said_to_be(command: Command) -> None:
    """A whole trail is exit code 0, with the hash to keep; that hash is found in it afterwards."""
    change(command, "ibkr/alice")
    whole = command("audit", "verify")
    assert whole.returncode == 0
    assert "No hash of it was kept yet" in whole.stderr
    assert "is whole: 1 line" in whole.stdout
    kept = whole.stdout.rstrip(".\n").rpartition(" ")[2]
    change(command, "ibkr/bob")
    assert command("audit", "verify", "--recorded", kept).returncode == 0


def test_a_trail_that_was_touched_is_found(command: Command, home: Home) -> None:
    """A removed line is exit code 1 and one sentence that says where; a cut end is found by the hash that was kept."""
    for ref in ("a", "b", "c"):
        change(command, ref)
    kept = command("audit", "verify").stdout.rstrip(".\n").rpartition(" ")[2]
    file = home.directory / "audit.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[2])
    removed = command("audit", "verify")
    assert removed.returncode == 1
    assert "audit.jsonl, line 2 has serial 3 instead of 2: 1 line before it is gone" in removed.stderr
    file.write_text(lines[0] + lines[1])
    assert command("audit", "verify").returncode == 0
    cut = command("audit", "verify", "--recorded", kept)
    assert cut.returncode == 1
    assert "not in the chain" in cut.stderr
