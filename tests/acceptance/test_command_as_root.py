"""Root edits what is another user's: the manager of that user must be able to read it afterwards."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

import pytest

from support.command import Command
from support.home import Home

SERVICE = 65534
"""The user that the manager runs as."""
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can edit what is another user's")


def _give_away(directory: Path) -> None:
    for each in (directory, *directory.rglob("*")):
        os.lchown(each, SERVICE, SERVICE)


def _of_others(directory: Path) -> list[str]:
    return [each.name for each in directory.rglob("*") if (each.lstat().st_uid, each.lstat().st_gid) != (SERVICE,) * 2]


def test_followers_that_root_edits_stay_the_managers(command: Command, home: Home) -> None:
    """Every command about followers, the first one included, leaves nothing that only root can read, lock or write."""
    _give_away(home.directory)
    for arguments in (
        "followers add anna --vault-secret-ref ibkr/anna",
        "followers add bert --vault-secret-ref ibkr/bert",
        "followers disable anna",
        "followers set anna account=DU1234567",
        "followers remove bert",
        "settings show",
    ):
        assert command(*arguments.split()).returncode == 0, arguments
        assert not _of_others(home.directory), arguments


def test_a_followers_file_that_was_edited_keeps_its_mode(command: Command, home: Home) -> None:
    """What its owner lets others read stays readable to them."""
    assert command("followers", "add", "anna", "--vault-secret-ref", "ibkr/anna").returncode == 0
    home.followers_file.chmod(0o640)
    assert command("followers", "disable", "anna").returncode == 0
    assert home.followers_file.stat().st_mode & 0o777 == 0o640


def test_logins_of_another_user_are_not_roots_to_change(command: Command, home: Home) -> None:
    """As for `credentials set`: refused, with nothing made or changed."""
    assert (
        command("credentials", "set", "ibkr/anna", "--username", "anna", "--password-stdin", said=b"pw").returncode == 0
    )
    (home.directory / "credentials.lock").unlink()
    (home.directory / "audit.jsonl").unlink()
    _give_away(home.directory)
    before = {each.name: each.read_bytes() for each in home.directory.iterdir() if each.is_file()}
    for arguments in (
        "credentials set ibkr/anna --username anna --password-stdin",
        "credentials remove ibkr/anna",
        "credentials change-key",
    ):
        done = command(*arguments.split(), said=b"pw")
        assert done.returncode == 1, arguments
        assert f"belongs to the user {SERVICE}" in done.stderr, done.stderr
    assert {each.name: each.read_bytes() for each in home.directory.iterdir() if each.is_file()} == before


def test_the_doctor_sends_root_to_the_managers_user(command: Command, home: Home) -> None:
    """No cure takes the directory or a file of it from the manager: what root is to do is to run it as that user."""
    set_one = ("credentials", "set", "ibkr/anna", "--username", "anna", "--password-stdin")
    assert command(*set_one, said=b"pw").returncode == 0
    _give_away(home.directory)
    name = pwd.getpwuid(SERVICE).pw_name
    found = json.loads(command("doctor", "--json").stdout)
    assert not [each for each in found if "chown" in (each["cure"] or "")]
    (told,) = [each for each in found if each["check"] == "state_dir"]
    assert told["verdict"] == "problem"
    assert told["cure"] == f"Run every command as the directory's user: `sudo -u {name} gateway-manager …`."
    assert f"(`sudo -u {name} gateway-manager …`)" in command("run").stderr
    (home.directory / "credentials.key").chmod(0o600)
    os.chown(home.directory / "credentials.key", 0, 0)
    found = json.loads(command("doctor", "--json").stdout)
    cures = [each["cure"] for each in found if "chown" in (each["cure"] or "")]
    assert cures == [f"`chown {SERVICE} {home.directory}/credentials.key` as root."]
    assert not [each for each in _of_others(home.directory) if each != "credentials.key"]
