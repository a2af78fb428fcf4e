"""How long to wait before the next try: every figure of the one retry system, as pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import LoginAttempt, LoginOutcome

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
LOSSES = 3
"""Gateways lost in a row without a stable session before a human must look: each costs a full login."""
SHARED_WITHIN = 300.0
"""Seconds within which losses of more than half of a fleet of three or more are one outage."""
OUTAGE_SPREAD = 30.0
"""Seconds over which a fleet comes back after an outage."""
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


def next_login(logins: Sequence[LoginAttempt]) -> tuple[datetime, LoginAttempt] | None:
    """When the next login may be tried after these, and the attempt that says so; None when none asks for a pause.

    A success ends the pause of the failures before it.
    """
    good = max((_ended(each) for each in logins if each.outcome is LoginOutcome.SUCCEEDED), default=None)
    failed = [each for each in logins if each.outcome is not None and each.outcome.pauses]
    failed = [each for each in failed if good is None or _ended(each) > good]
    if not failed:
        return None
    last = max(failed, key=_ended)
    ready = _ended(last) + timedelta(seconds=doubling(len(failed), LOGIN_RETRY))
    return max([ready, *(each.not_before for each in failed if each.not_before is not None)]), last


def _ended(attempt: LoginAttempt) -> datetime:
    return attempt.settled_at or attempt.reserved_at
