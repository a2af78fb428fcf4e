"""Policy: no login is begun inside IBKR's short reset hours, and few in the long ones around them.

A login typed in the short hours is dropped silently; so a gateway waits there, `queued`, and the fleet begins spread after their
end. In the long hours outside the short ones a follower tries at most once in `TRY_EVERY`. What hangs or is dropped in the long
hours costs nothing (`excused`). An operator's `--retry-login` goes ahead, and counts as at any hour.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Settlement, Situation
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Observation
from spreadpilot_core.ibkr.deciding.pacing import spread
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import LoginAttempt, LoginOutcome, Record
from spreadpilot_core.ibkr.model.reset_windows import ResetHours, reset_hours
from spreadpilot_core.ibkr.model.states import State

TRY_EVERY = timedelta(minutes=30)
"""In the long hours, outside the short ones."""


def hours_of(seen: Observation) -> ResetHours:
    """The reset hours of what this follower logs in to."""
    region = seen.follower.region if seen.follower is not None else None
    return reset_hours(region, seen.stated_reset_hours, waits=seen.reset_window_wait)


def reset_refusal(s: Situation) -> tuple[Reason, datetime] | None:
    """Why no login may begin now as IBKR's reset goes, and from when on one may; None: it may, or an operator insists."""
    hours = hours_of(s.seen)
    if s.seen.operator_login or not hours.waits:
        return None
    if (short := hours.short_span(s.now, spread(s.seen.follower_id))) is not None:
        return _window("IBKR resets its servers now, and drops logins without an answer."), short[1]
    last, long = s.record.last_login_at, hours.long_span(s.now)
    if long is None or last is None or last < long[0] or s.now >= last + TRY_EVERY:
        return None
    minutes = f"{TRY_EVERY.total_seconds() / 60:g} min"
    sentence = f"IBKR resets its servers around this hour, and a login is tried once in {minutes}."
    return _window(sentence), last + TRY_EVERY


def _window(sentence: str) -> Reason:
    return Reason(ReasonCode.IBKR_RESET_WINDOW, sentence)


def waiting_for_reset(s: Situation) -> Decision | None:
    """Wait, holding nothing that another could use meanwhile."""
    refusal = reset_refusal(s)
    if refusal is None:
        return None
    reason, until = refusal
    action = Action(ActionKind.RETURN_PERMIT, reason.sentence) if s.seen.permit is not None else None
    reason = replace(reason, facts={"until": until.isoformat()})
    return s.verdict(State.QUEUED, reason, f"It logs in at {until:%H:%M:%S} UTC.", action=action, until=until)


def reset_from(seen: Observation, now: datetime) -> datetime | None:
    """From when on IBKR's reset explains that a login which begins now ends without an answer; None: it does not."""
    return hours_of(seen).excused_from(now, within=timedelta(seconds=seen.limits.max_startup_time))


def outcome_left_open(attempt: LoginAttempt, now: datetime) -> LoginOutcome:
    """How a login ends that a manager before us wrote down, and whose container is gone: as it would have with one that watched."""
    if attempt.started_at is None:
        return LoginOutcome.VOID
    dropped = attempt.reset_from is not None and now >= attempt.reset_from and not attempt.by_operator
    return LoginOutcome.DROPPED_IN_RESET if dropped else LoginOutcome.UNFINISHED


def must_start_before(s: Situation) -> datetime | None:
    """When the short hours begin: a start that is late must not come into them."""
    hours = hours_of(s.seen)
    return hours.next_short(s.now) if hours.waits and not s.seen.operator_login else None


def excused(settle: Settlement | None, record: Record, seen: Observation, now: datetime) -> Settlement | None:
    """This end of a login, as one that costs nothing when IBKR's reset explains it and the manager itself had begun it."""
    attempt = seen.attempt
    if settle is None or attempt is None or attempt.by_operator or record.needs_human is not None:
        return settle
    if settle.outcome not in (LoginOutcome.FAILED, LoginOutcome.UNFINISHED):
        return settle
    if not hours_of(seen).excuse(attempt.started_at or attempt.reserved_at, now):
        return settle
    reason = replace(settle.reason, sentence=f"{settle.reason} It was in IBKR's reset hours, and does not count.")
    return replace(settle, outcome=LoginOutcome.DROPPED_IN_RESET, reason=reason)
