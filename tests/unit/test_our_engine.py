"""Whose gateway was left on another engine."""

from __future__ import annotations

import pytest

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.supervision.our_engine import OurEngine


@pytest.mark.parametrize(
    ("left_on", "elsewhere"),
    [
        (None, False),
        ("docker:ID@host-a", False),
        ("docker:ID", False),
        ("docker:ID@host-b", True),
        ("docker:OTHER", True),
        ("docker:OTHER@host-a", True),
    ],
)
def test_an_engine_is_told_by_its_id_and_its_host(left_on: str | None, elsewhere: bool) -> None:
    """A machine that was cloned with its engine's id is another one; records of before name no host."""
    record = Record(follower_id=FollowerId("anna"), engine_id=left_on)
    assert (OurEngine("docker:ID@host-a").left_elsewhere(record) is not None) is elsewhere
