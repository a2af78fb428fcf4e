"""`scripts.json`: who gets which faults, accounts, controller and timings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from spreadpilot_core.ibkr.simulator.engine.script_book import Part, ScriptBook, made_up_account
from spreadpilot_core.ibkr.simulator.script import Timings

WRONG = [{"wrong_password": True}]


def write(directory: Path, book: object) -> None:
    """The user's file."""
    (directory / "scripts.json").write_text(book if isinstance(book, str) else json.dumps(book))


def part(book: ScriptBook, follower_id: str = "alice", owner: str = "me") -> Part:
    """What starts now."""
    return book.part(owner, follower_id, user="alice01", trading_mode="paper")


def test_without_a_file_everything_goes_well_and_fast(tmp_path: Path) -> None:
    """A paper account made from the user's name, no faults, the newer controller."""
    book = ScriptBook(tmp_path)
    found = part(book)
    assert list(found.accounts) == [made_up_account("alice01", "paper")]
    assert found.timings == Timings.FAST
    assert found.script.to_json() == []
    assert found.server_version == 178
    assert book.controller("alice") == "ibcontroller"


def test_accounts_that_are_made_up_look_like_accounts() -> None:
    """The same user has the same one, users differ, and live ones are told from paper ones."""
    assert made_up_account("alice01", "paper") == made_up_account("alice01", "paper")
    assert made_up_account("alice01", "paper") != made_up_account("bob02", "paper")
    assert made_up_account("alice01", "paper").startswith("DU")
    assert made_up_account("alice01", "live")[0] == "U"


def test_a_followers_entry_wins_over_the_files_general_choices(tmp_path: Path) -> None:
    """And what a program says wins over both, key by key."""
    write(
        tmp_path,
        {
            "controller": "ibc",
            "timings": "real",
            "server_version": 170,
            "followers": {"alice": {"accounts": ["DU7"], "timings": {"login": 3}, "password_sha256": "ab"}},
        },
    )
    book = ScriptBook(tmp_path)
    alice, bob = part(book), part(book, "bob")
    assert (list(alice.accounts), alice.timings.login, alice.password_sha256) == (["DU7"], 3.0, "ab")
    assert (alice.timings.answer, bob.timings) == (Timings.FAST.answer, Timings.REAL)
    assert (alice.server_version, book.controller("alice"), book.controller("bob")) == (170, "ibc", "ibc")
    book.say("alice", {"accounts": ["DU8", "DU9"], "controller": "ibcontroller"})
    assert list(part(book).accounts) == ["DU8", "DU9"]
    assert part(book).password_sha256 == "ab"
    assert (book.controller("alice"), book.controller("bob")) == ("ibcontroller", "ibc")


def test_laps_are_used_up_over_containers_and_once_for_each_owner(tmp_path: Path) -> None:
    """The first start has the fault and the second doesn't, although it is another container."""
    write(tmp_path, {"followers": {"alice": {"laps": WRONG}}})
    book = ScriptBook(tmp_path)
    assert part(book).script.take().get("wrong_password") is not None
    assert part(book).script.take().get("wrong_password") is None
    assert part(book, owner="other").script.take().get("wrong_password") is not None
    assert part(book, "bob").script.take().get("wrong_password") is None


def test_other_laps_begin_at_their_beginning(tmp_path: Path) -> None:
    """Whether the file was edited or a program said them; the same laps said again begin anew too."""
    book = ScriptBook(tmp_path)
    write(tmp_path, {"followers": {"alice": {"laps": WRONG}}})
    part(book).script.take()
    write(tmp_path, {"followers": {"alice": {"laps": [{"slow_start": 1}]}}})
    assert part(book).script.to_json() == [{"slow_start": 1}]
    for _ in range(2):
        book.say("alice", {"laps": WRONG})
        assert part(book).script.take().get("wrong_password") is not None
        assert part(book).script.to_json() == []


def test_a_fault_may_be_put_before_the_next_start(tmp_path: Path) -> None:
    """Beside what the script has for it; a fault that only a running gateway can have is refused by name."""
    book = ScriptBook(tmp_path)
    book.say("alice", {"laps": [{"slow_start": 1}]})
    book.add_to_next("me", "alice", "wrong_password", {})
    lap = part(book).script.take()
    assert lap.get("wrong_password") is not None
    assert lap.get("slow_start") == {"seconds": 1}
    with pytest.raises(ValueError, match="known are"):
        book.add_to_next("me", "alice", "crash", {})


def test_books_are_kept_by_accounts(tmp_path: Path) -> None:
    """Whoever serves the same accounts next goes on with their orders and positions."""
    book = ScriptBook(tmp_path)
    first: Any = object()
    assert part(book).open_books(first) is first
    assert part(book).open_books(object()) is first  # type: ignore[arg-type]
    other: Any = object()
    book.say("bob", {"accounts": ["DU2"]})
    assert part(book, "bob").open_books(other) is other


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "can't be read"),
        ([], "must be a mapping"),
        ({"folowers": {}}, "folowers"),
        ({"followers": []}, "followers"),
        ({"followers": {"alice": []}}, "alice"),
        ({"followers": {"alice": {"lapse": []}}}, "lapse"),
        ({"followers": {"alice": {"laps": {"wrong_password": True}}}}, "laps must be a list"),
        ({"followers": {"alice": {"laps": [{"wrong_pasword": True}]}}}, "wrong_pasword"),
        ({"followers": {"alice": {"accounts": "DU1"}}}, "accounts"),
        ({"followers": {"alice": {"accounts": []}}}, "accounts"),
        ({"timings": "slow"}, "slow"),
        ({"timings": {"logn": 1}}, "logn"),
        ({"timings": {"login": "long"}}, "timings"),
    ],
)
def test_a_file_that_can_not_be_used_is_told_by_name(tmp_path: Path, content: object, named: str) -> None:
    """A slip of the pen must not look like a gateway that works."""
    write(tmp_path, content)
    with pytest.raises(Refused, match=named) as refused:
        part(ScriptBook(tmp_path))
    assert "scripts.json" in refused.value.sentence


def test_an_unknown_controller_is_told_by_name(tmp_path: Path) -> None:
    """It is asked for before anything is created."""
    write(tmp_path, {"controller": "ibcalpha"})
    with pytest.raises(Refused, match="ibcalpha"):
        ScriptBook(tmp_path).controller("alice")
