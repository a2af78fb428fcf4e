"""What is shown of a follower's record."""

from __future__ import annotations

from dataclasses import fields

from pydantic import SecretStr

from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.reasons import Severity


def test_every_field_of_a_record_is_shown_and_no_secret() -> None:
    """By the page and by `followers list` alike: a field that is added is on both."""
    bare = Follower(id=FollowerId("alice"), vault_secret_ref="ibkr/alice")
    told = Follower(
        id=FollowerId("alice"),
        vault_secret_ref="ibkr/alice",
        notify_urls=SecretStr("json://trader/pl4nted"),
        notify_min_severity=Severity.ERROR,
    )
    assert set(bare.shown()) == {each.name for each in fields(Follower)} - {"gateway", "says_enabled"}
    assert (bare.shown()["notify_urls"], bare.shown()["trading_mode"]) == (None, "paper")
    assert (told.shown()["notify_urls"], told.shown()["notify_min_severity"]) == ("set (hidden)", "error")
