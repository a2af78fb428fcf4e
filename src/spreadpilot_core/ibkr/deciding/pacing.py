"""How long to wait before the next try: every figure of the one retry system, as pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.protocols import FollowerId, LoginAttempt

LOGIN_RETRY = (300.0, 3600.0)
"""A failed login without a stated wait: first pause and cap, doubling; IBKR counts every failure for 24 h."""
LOSS_RETRY = (30.0, 600.0)
"""A gateway lost after a good login: at once, then this, doubling to the cap."""
LAUNCH_RETRY = (30.0, 600.0)
"""A launch that spent no login (no image, no port)."""
PREPARE_RETRY = (5.0, 120.0)
"""Something we depend on is away; its adapter has already retried for seconds."""
FORGET_RETRY = (5.0, 120.0)
"""The password file inside the container could not be removed."""
STABLE_SESSION = 600.0
"""Seconds of readiness after which earlier losses no longer count."""
CONNECT_TRIES = 6
"""One try and five retries."""
CONNECT_CAP = 240.0
"""Longest pause between the tries of a gateway that nobody may replace now; with its jitter at most five minutes."""


def spread(follower_id: FollowerId, salt: int = 0) -> float:
    """A number in [0, 1) that is this follower's own: jitter without a random source, so that deciding stays pure."""
    digest = hashlib.blake2b(f"{salt}:{follower_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def doubling(failures: int, pace: tuple[float, float]) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1 is the first)."""
    first, cap = pace
    return min(cap, first * 2.0 ** min(max(0, failures - 1), 30))


def after_loss(losses: int) -> float:
    """Seconds to wait after the `losses`-th loss since the last stable session: the first is made good at once."""
    return 0.0 if losses <= 1 else doubling(losses - 1, LOSS_RETRY)


def connect_pause(follower_id: FollowerId, failures: int, connect_time: float) -> float:
    """Seconds before the next connect; all retries together fit into `connect_time`, with a quarter of jitter."""
    base = doubling(failures, (connect_time / 2.0**CONNECT_TRIES, CONNECT_CAP))
    return base * (0.75 + 0.5 * spread(follower_id, failures))


def next_login(counted: Sequence[LoginAttempt]) -> tuple[datetime, LoginAttempt] | None:
    """When the next login may be tried after these counted ones, and the attempt that says so; None when none counts."""
    if not counted:
        return None
    last = max(counted, key=lambda attempt: attempt.settled_at or attempt.reserved_at)
    pause = timedelta(seconds=doubling(len(counted), LOGIN_RETRY))
    ready = (last.settled_at or last.reserved_at) + pause
    stated = max((attempt.not_before for attempt in counted if attempt.not_before is not None), default=None)
    return (max(ready, stated), last) if stated is not None else (ready, last)
