"""`followers.toml`, edited the way its owner would."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from spreadpilot_core.ibkr.errors import (
    FollowerEditError,
    StoreDamagedError,
    StoreUnavailableError,
    UnknownFollowerError,
)
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.store.local import followers_file
from spreadpilot_core.ibkr.store.local.followers_file import (
    add_follower,
    list_followers,
    parse_followers,
    read_followers,
    remove_follower,
    set_enabled,
    set_fields,
)
from support.store_writers import add_many, forked

BY_HAND = """\
# Our people. Ask Anna before you change hers.

[[follower]]
id = "anna"          # the first one
vault_secret_ref = 'ibkr/anna'
enabled   = true
gateway = { java_heap_mib = 1024 }   # she has many orders

# Bert is new.
[[follower]]
vault_secret_ref = "ibkr/bert"
id = "bert"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "followers.toml"


def test_first_follower_makes_the_file(path: Path) -> None:
    """The first add makes directory and file, readable by their owner alone; paper and enabled unless told otherwise."""
    add_follower(path, "anna", vault_secret_ref="ibkr/anna")
    add_follower(path, "bert", vault_secret_ref="ibkr/bert", live=True, account="U1234567", enabled=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    anna, bert = list_followers(path).usable.values()
    assert (anna.is_wanted, anna.trading_mode, anna.account) == (True, TradingMode.PAPER, None)
    assert (bert.is_wanted, bert.trading_mode, bert.account) == (False, TradingMode.LIVE, "U1234567")


def test_edit_keeps_every_other_byte(path: Path) -> None:
    """Comments, order, spacing and quotes of the owner's hand stay; only the edited value changes."""
    path.parent.mkdir()
    path.write_text(BY_HAND)
    set_enabled(path, "anna", enabled=False)
    assert path.read_text() == BY_HAND.replace("enabled   = true", "enabled   = false")
    set_enabled(path, "bert", enabled=True)
    assert path.read_text() == BY_HAND.replace("enabled   = true", "enabled   = false") + "enabled = true\n"
    add_follower(path, "cleo", vault_secret_ref="ibkr/cleo")
    remove_follower(path, "bert")
    text = path.read_text()
    assert text.startswith(BY_HAND[: BY_HAND.index("# Bert")].replace("enabled   = true", "enabled   = false"))
    assert list(list_followers(path).usable) == ["anna", "cleo"]


def test_last_one_removed_leaves_a_usable_file(path: Path) -> None:
    """Removing everybody and adding somebody again works."""
    add_follower(path, "anna", vault_secret_ref="ibkr/anna")
    remove_follower(path, "anna")
    assert dict(list_followers(path).usable) == {}
    add_follower(path, "anna", vault_secret_ref="ibkr/anna")
    assert list(list_followers(path).usable) == ["anna"]


def test_missing_file_has_nobody(path: Path) -> None:
    """No file, no followers, no error; and listing makes none."""
    assert dict(list_followers(path).usable) == {}
    assert not path.exists()


def test_refused_edits_leave_the_file_alone(path: Path) -> None:
    """Each edit that can't be made says why in one sentence, and changes nothing."""
    path.parent.mkdir()
    path.write_text(BY_HAND + '[[follower]]\nid = "twin"\n[[follower]]\nid = "twin"\n')
    before = path.read_text()
    with pytest.raises(FollowerEditError, match=r"There is a follower 'anna' in .* already\."):
        add_follower(path, "anna", vault_secret_ref="x")
    with pytest.raises(FollowerEditError, match=r"can't be added: id is empty"):
        add_follower(path, "", vault_secret_ref="x")
    with pytest.raises(FollowerEditError, match=r"can't be added: vault_secret_ref is empty"):
        add_follower(path, "new", vault_secret_ref="")
    with pytest.raises(UnknownFollowerError, match="There is no follower 'nobody' among 4 records"):
        set_enabled(path, "nobody", enabled=True)
    with pytest.raises(UnknownFollowerError):
        remove_follower(path, "nobody")
    with pytest.raises(FollowerEditError, match=r"2 records in .* have the id 'twin'"):
        remove_follower(path, "twin")
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir() if not each.name.endswith(".lock")] == ["followers.toml"]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'[[follower]]\nid = "anna\nenabled = true\n', "line 2, column 11: illegal character"),
        (b'[[follower]]\nid = "anna"\nid = "bert"\n', "line 3, column 12: cannot overwrite a value"),
        (b'[[follower]]\nid = "anna"\nenabled', "line 3: expected '=' after a key"),
        (b'[[follower]]\nid = "\xff"\n', "line 2 is not UTF-8 text"),
        (b'[[followers]]\nid = "anna"\n', "it holds 'followers', but every follower is a table headed [[follower]]"),
        (b"x = " + b"[" * 5000, "its tables or lists are nested too deeply"),
        (b'[follower]\nid = "anna"\n', "it holds [follower], but every follower is a table headed [[follower]]"),
    ],
)
def test_unreadable_content_names_line_and_cause(path: Path, content: bytes, what: str) -> None:
    """What is no file of ours is never taken for an empty one, neither by the manager nor by a command."""
    path.parent.mkdir()
    path.write_bytes(content)
    for read in (lambda: parse_followers(content, path), lambda: set_enabled(path, "anna", enabled=True)):
        with pytest.raises(StoreDamagedError) as raised:
            read()
        assert str(path) in str(raised.value)
        assert what in str(raised.value)
    assert path.read_bytes() == content


def test_set_changes_the_named_fields_and_nothing_else(path: Path) -> None:
    """Fields and options of the gateway, inline or not there yet, are set and taken out; comments and the rest stay."""
    path.parent.mkdir()
    path.write_text(BY_HAND)
    assert set_fields(path, "anna", {"account": "U1234567", "gateway.vnc": True, "gateway.java_heap_mib": 2048}) == {}
    text = path.read_text()
    assert "java_heap_mib = 2048" in text
    assert 'id = "anna"          # the first one' in text
    assert "# she has many orders" in text
    set_fields(path, "bert", {"gateway.port": 4107, "region": "europe"})
    anna, bert = list_followers(path).usable.values()
    assert (anna.account, anna.gateway.vnc, anna.gateway.java_heap_mib) == ("U1234567", True, 2048)
    assert (bert.gateway.port, bert.region) == (4107, "europe")
    set_fields(path, "anna", {"account": None, "gateway.vnc": None, "gateway.java_heap_mib": 1024, "region": None})
    set_fields(path, "bert", {"gateway": None, "region": None, "phone_owner": None})
    anna, bert = list_followers(path).usable.values()
    assert (anna.account, anna.gateway.vnc, bert.gateway.port, bert.region) == (None, None, None, None)
    assert path.read_text().startswith(BY_HAND[: BY_HAND.index("gateway")])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"enbled": True}, r"enbled is unknown \(enabled was meant\?\)"),
        ({"gateway.ram": 1}, "gateway.ram is unknown"),
        ({"account": "not an account"}, "account is 'not an account'"),
        ({"vault_secret_ref": None}, "vault_secret_ref is missing"),
        ({"gateway.port": 5000}, "gateway.port is 5000, but it must be one of the manager's ports"),
        ({"id": "bert"}, "id of a follower can't be changed"),
        ({"enabled.x": 1}, "enabled"),
    ],
)
def test_set_writes_nothing_that_can_not_be_used(path: Path, changes: dict[str, Any], why: str) -> None:
    """Each is refused with the sentence that the manager would have said, and the file is as it was."""
    path.parent.mkdir()
    path.write_text(BY_HAND)
    with pytest.raises(FollowerEditError, match=why):
        set_fields(path, "anna", changes, ports=range(4100, 4201))
    assert path.read_text() == BY_HAND


def test_set_mends_one_record_and_names_another(path: Path) -> None:
    """A record that can't be used is no obstacle to a change that mends it, nor to one of another record."""
    path.parent.mkdir()
    path.write_text(BY_HAND.replace("enabled   = true", "enabled   = 1") + "colour = 1\n")
    assert list(set_fields(path, "anna", {"enabled": True})) == ["bert"]
    assert list(list_followers(path).usable) == ["anna"]


def test_removal_by_command_is_noted_until_the_follower_is_back(path: Path) -> None:
    """The manager's reading tells it from a record that is merely gone; added by command or by hand, the note is void."""
    for name in ("anna", "bert", "cleo"):
        add_follower(path, name, vault_secret_ref="x")
    whole = path.read_text()
    remove_follower(path, "anna")
    remove_follower(path, "bert")
    assert read_followers(path).removed == {"anna", "bert"}
    add_follower(path, "anna", vault_secret_ref="x")
    assert read_followers(path).removed == {"bert"}
    path.write_text(whole)
    assert read_followers(path).removed == set()
    path.write_text("")
    assert read_followers(path).removed == set()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, null]", b"[" * 5000, b"\xff", None])
def test_a_note_that_can_not_be_read_is_none(path: Path, content: bytes | None) -> None:
    """Then the manager waits and asks; the note of the next removal is written all the same."""
    for name in ("anna", "bert"):
        add_follower(path, name, vault_secret_ref="x")
    notes = path.with_name("followers.removed")
    notes.write_bytes(content) if content is not None else os.mkfifo(notes)
    assert read_followers(path).removed == set()
    remove_follower(path, "anna")
    assert read_followers(path).removed == {"anna"}


@pytest.mark.parametrize("name", ["a", "enabled", "gateway", "account", "id"])
def test_what_is_nested_a_thousand_deep_is_one_records_fault(path: Path, name: str) -> None:
    """Whatever the depth, it is a fault of that record, told by the manager's reading and by every command."""
    path.parent.mkdir()
    deep = f"{name}." + "a." * 3000 + "b = 1\n"
    path.write_text(f'[[follower]]\nvault_secret_ref = "x"\n{deep}' + BY_HAND)
    roster = read_followers(path)
    assert (list(roster.usable), len(roster.faulty)) == (["anna", "bert"], 1)
    with contextlib.suppress(StoreDamagedError):
        set_enabled(path, "anna", enabled=False)


def test_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    """A file kept elsewhere and linked here is edited where it is."""
    kept = tmp_path / "dotfiles" / "followers.toml"
    kept.parent.mkdir()
    kept.write_text(BY_HAND)
    path.parent.mkdir()
    path.symlink_to(kept)
    set_enabled(path, "bert", enabled=True)
    assert path.is_symlink()
    assert kept.read_text().endswith("enabled = true\n")


def test_wait_for_another_editor_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that hangs with the lock held makes the next one give up with a sentence, not hang too."""
    add_follower(path, "anna", vault_secret_ref="x")
    monkeypatch.setattr(followers_file, "LOCK_WAIT", 0.1)
    with FileLock(path.parent / ".followers.toml.lock"), pytest.raises(StoreUnavailableError, match="Another command"):
        set_enabled(path, "anna", enabled=False)


def test_editors_at_once_lose_nothing(path: Path) -> None:
    """Four processes that add ten followers each at the same time leave forty."""
    processes = [forked().Process(target=add_many, args=(path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list_followers(path).usable) == 40
