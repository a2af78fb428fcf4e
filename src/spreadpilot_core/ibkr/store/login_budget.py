"""When a login of one IBKR user may be reserved: a pure rule that both record stores apply inside one atomic step.

IBKR locks a user after ten failed logins, so every login is written down first, and counts until it is known to have
succeeded or never to have started. A clock that was set back must not win logins: attempts dated later count too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.model.records import LoginAttempt, LoginLimits, LoginRefusal, exceeded

RETENTION = timedelta(days=30)
"""How long a settled attempt is kept for people to look at; the rule itself needs 24 h."""


def refusal(attempts: Iterable[LoginAttempt], wanted: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
    """Why `wanted` may not be reserved, or None.

    Args:
        attempts: all known attempts of the same user.
        wanted: the attempt to reserve.
        limits: what it may not exceed.
    """
    known = in_order(attempts)
    if open_ones := [attempt for attempt in known if attempt.outcome is None]:
        return LoginRefusal("in_progress", open_ones, None)
    now = wanted.reserved_at
    if paused := [attempt for attempt in known if attempt.not_before is not None and attempt.not_before > now]:
        until = max(attempt.not_before for attempt in paused if attempt.not_before is not None)
        return LoginRefusal("throttled", paused, until)
    return exceeded(known, wanted, limits)


def full_since(attempts: Iterable[LoginAttempt], since: datetime) -> Sequence[LoginAttempt]:
    """Those reserved at or after `since` that ended and were logins at all, oldest first."""
    return [attempt for attempt in in_order(attempts) if attempt.is_full and attempt.reserved_at >= since]


def is_outlived(attempt: LoginAttempt, now: datetime) -> bool:
    """Whether nothing needs this attempt any more, so that a store may forget it."""
    if attempt.outcome is None or attempt.reserved_at > now - RETENTION:
        return False
    return attempt.not_before is None or attempt.not_before <= now


def in_order(attempts: Iterable[LoginAttempt]) -> list[LoginAttempt]:
    """Oldest first; of two at one moment always the same one first."""
    return sorted(attempts, key=lambda attempt: (attempt.reserved_at, attempt.id))
