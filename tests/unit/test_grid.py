"""Tables on terminals of any width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.service import tables
from support.fake_manager import a_snapshot

LONG_ID = "an-account-owner-whose-id-is-longer-than-any-column"
WELL = {"endpoint": "127.0.0.1:4100", "client_id": 1000, "accounts": ("DU1000001",)}


def drawn(width: int, *snapshots: Any) -> list[str]:
    """The lines of `status` on a terminal of this width."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(tables.gateways([each.model_dump(mode="json") for each in snapshots]))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_endpoint_and_account_are_shown_at_80_columns() -> None:
    """Beside one that has much to say, too; its sentence follows it and is whole."""
    sentence = "IBKR did not accept user name and password of this login, so that it is not tried again."
    lines = drawn(80, a_snapshot("alice", **WELL), a_snapshot("bob", State.NEEDS_HUMAN, reason=sentence))
    assert {"MODE", "ENDPOINT", "ACCOUNTS"} <= set(lines[0].split())
    assert {"127.0.0.1:4100", "DU1000001"} <= set(lines[1].split())
    assert " ".join(each.strip() for each in lines[3:]) == f"{sentence} Wait."
    assert all(each.startswith("  ") for each in lines[3:])


def test_live_can_not_be_overlooked() -> None:
    """In capitals without colours, and not for paper."""
    lines = drawn(80, a_snapshot("alice"), a_snapshot("bob", trading_mode="live"))
    assert [each.split()[1] for each in lines] == ["MODE", "paper", "LIVE"]


@pytest.mark.parametrize("width", [30, 50, 80, 120])
def test_no_id_is_cut_and_no_line_is_wider_than_its_terminal(width: int) -> None:
    """A long id has a line of its own; what it stands for is below it."""
    lines = drawn(width, a_snapshot(LONG_ID, **WELL), a_snapshot("bob", State.LOGGING_IN, notices=("A notice.",)))
    assert all(len(each) <= width for each in lines)
    assert LONG_ID in "".join(lines)
    text = " ".join(" ".join(each.split()) for each in lines)
    for part in ("127.0.0.1:4100", "DU1000001", "It is logging_in. Wait. A notice."):
        assert part in text


def test_what_befalls_all_is_said_once() -> None:
    """Of the first; the others name it, unless they have something of their own to say."""
    why = "The image ghcr.io/x/y:1 can't be pulled from ghcr.io now: dial tcp: no such host."
    trouble = {"state": State.BACKING_OFF, "reason": why}
    lines = drawn(
        10_000,
        a_snapshot("alice", next_action="Next try at 12:00:01 UTC.", **trouble),
        a_snapshot("bob", next_action="Next try at 12:00:09 UTC.", **trouble),
        a_snapshot("carol", next_action="Next try at 12:00:09 UTC.", notices=("A notice.",), **trouble),
        a_snapshot("dave", State.QUEUED),
        a_snapshot("erin", State.QUEUED),
    )
    assert [why in each for each in lines[1:]] == [True, False, True, False, False]
    assert lines[2].endswith("The same as alice.")
    assert all(each.endswith("It is queued. Wait.") for each in lines[4:])


def test_a_pipe_has_every_column_on_one_line() -> None:
    """However long an id or a sentence is."""
    lines = drawn(10_000, a_snapshot(LONG_ID, **WELL), a_snapshot("bob", State.NEEDS_HUMAN, reason="x " * 200))
    assert len(lines) == 3
    assert lines[0].split()[-2:] == ["ACCOUNTS", "WHAT"]


def test_a_last_column_is_folded_beside_the_others_where_it_has_room() -> None:
    """A wide terminal keeps a sentence of two lines in its column; a longer one would stand in a narrow tower."""
    lines = drawn(140, a_snapshot("bob", State.NEEDS_HUMAN, reason="word " * 19, **WELL))
    assert lines[0].split()[-1] == "WHAT"
    start = lines[0].index("WHAT")
    assert all(not each[:start].strip() for each in lines[2:])
    assert sum(each.count("word") for each in lines) == 19
    tall = drawn(140, a_snapshot("bob", State.NEEDS_HUMAN, reason="word " * 60, **WELL))
    assert tall[0].split()[-1] == "ACCOUNTS"
    assert len(tall) <= 5


def test_a_table_without_rows_is_its_headings() -> None:
    """Nothing to show is no failure."""
    assert drawn(80)[0].split()[:2] == ["FOLLOWER", "MODE"]


def test_a_notice_that_is_everybodys_is_said_once() -> None:
    """Records that are gone together are told of the first; what is one follower's own stays with it."""
    lost = "Of 3 followers with a gateway 3 have lost their records, which looks like an accident: nobody is stopped for it."
    alice, bob, carl = (a_snapshot(each, notices=(lost,), **WELL) for each in ("alice", "bob", "carl"))
    own = carl.model_copy(update={"notices": (lost, "Its record can't be used: enbled is unknown.")})
    lines = drawn(10_000, alice, bob, own)
    assert [
        lines[1].endswith(lost),
        lines[2].endswith("The same as alice."),
        lines[3].endswith("enbled is unknown."),
    ] == [True] * 3


def test_facts_are_told_as_everything_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments among them are the reader's own, to the second; where there are none there is a dash."""
    monkeypatch.setattr(tables, "local_time", lambda moment: f"<{moment}>")
    facts = {"until": "2026-11-30T17:04:04.839109+00:00", "user": "alice01", "failed": 2}
    shown = [next(iter(tables.gateway({"facts": each}).columns[1].cells)) for each in (facts, {})]
    assert list(map(str, shown)) == ["until <2026-11-30T17:04:04.839109+00:00>, user alice01, failed 2", "-"]
