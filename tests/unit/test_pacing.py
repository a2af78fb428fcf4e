"""How long to wait before the next try."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spreadpilot_core.ibkr.deciding import pacing
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import AttemptId, LoginAttempt, LoginOutcome

NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)


def failed(minutes_ago: float, *, not_before: datetime | None = None, settled: bool = True) -> LoginAttempt:
    at = NOW - timedelta(minutes=minutes_ago)
    return LoginAttempt(
        id=AttemptId(str(minutes_ago)),
        user="user",
        follower_id=FollowerId("anna"),
        secret_version="1",
        reserved_at=at,
        settled_at=at + timedelta(minutes=1) if settled else None,
        outcome=LoginOutcome.FAILED,
        not_before=not_before,
    )


def test_failed_logins_wait_five_minutes_doubling_to_an_hour() -> None:
    """From the end of the last one that counts."""
    assert pacing.next_login([]) is None
    waits = []
    for count in range(1, 7):
        attempts = [failed(each * 60) for each in range(count)]
        found = pacing.next_login(attempts)
        assert found is not None
        assert found[1] is attempts[0]
        waits.append((found[0] - NOW - timedelta(minutes=1)).total_seconds() / 60)

    assert waits == [5, 10, 20, 40, 60, 60]


def test_a_wait_that_ibkr_stated_is_kept_whatever_came_after_it() -> None:
    """The latest of our own pause and every stated one; an attempt without an end counts from its reservation."""
    stated = NOW + timedelta(hours=3)
    found = pacing.next_login([failed(120, not_before=stated), failed(60)])
    assert found is not None
    assert found[0] == stated
    unsettled = pacing.next_login([failed(1, settled=False)])
    assert unsettled is not None
    assert unsettled[0] == NOW + timedelta(minutes=4)


def test_a_loss_is_made_good_at_once_and_then_ever_more_slowly() -> None:
    """At once, 30 s, doubling to 10 minutes."""
    assert [pacing.after_loss(losses) for losses in range(9)] == [0, 0, 30, 60, 120, 240, 480, 600, 600]


@given(st.integers(-5, 10_000))
def test_no_number_of_failures_is_too_large(failures: int) -> None:
    """Pauses stay between first and cap."""
    assert 300 <= pacing.doubling(failures, pacing.LOGIN_RETRY) <= 3600


@pytest.mark.parametrize("connect_time", [3.0, 60.0])
def test_all_retries_of_a_connect_fit_into_its_time(connect_time: float) -> None:
    """Growing pauses with jitter, of which all five together leave room for the tries themselves."""
    for name in ("anna", "ben", "carl"):
        pauses = [pacing.connect_pause(FollowerId(name), each, connect_time) for each in range(1, pacing.CONNECT_TRIES)]
        assert sum(pauses) < 0.65 * connect_time
        assert pauses[-1] > 4 * pauses[0]


def test_the_fleets_heartbeats_are_spread() -> None:
    """A number of each follower's own, the same every time, over the whole range."""
    numbers = [pacing.spread(FollowerId(f"follower_{each}")) for each in range(300)]

    assert numbers == [pacing.spread(FollowerId(f"follower_{each}")) for each in range(300)]
    assert all(0 <= each < 1 for each in numbers)
    assert all(15 < sum(tenth <= 10 * each < tenth + 1 for each in numbers) < 50 for tenth in range(10))
