"""Grammar with one and many, and names that are near."""

from __future__ import annotations

import pytest

from spreadpilot_core.ibkr.system.wording import counted, nearest


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 gateways"), (1, "1 gateway"), (2, "2 gateways"), (1000, "1000 gateways")]
)
def test_one_is_not_many(number: int, said: str) -> None:
    """Only one is one."""
    assert counted(number, "gateway") == said


def test_a_plural_may_be_said() -> None:
    """Not every word takes an s."""
    assert [counted(each, "entry", plural="entries") for each in (1, 2)] == ["1 entry", "2 entries"]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("alcie", "alice"),
        ("Alice", "alice"),
        ("alice ", "alice"),
        ("bobb", "bob"),
        ("follower_12", "follower_123"),
        ("zeno", None),
        ("", None),
    ],
)
def test_a_slip_finds_who_is_meant(said: str, meant: str | None) -> None:
    """What is near is named, and what is not is not guessed."""
    assert nearest(said, ["alice", "bob", "follower_123"]) == meant
