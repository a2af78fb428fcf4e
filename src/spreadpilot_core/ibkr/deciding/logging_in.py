"""Policies: a gateway that runs and is not logged in yet, or no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import is_logged_in
from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.deciding.pacing import FORGET_RETRY
from spreadpilot_core.ibkr.deciding.removing import replace_gateway
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.login_log import LoginPhase
from spreadpilot_core.ibkr.protocols import RuntimeState

SOON = timedelta(seconds=0.5)
LOG_SILENCE = timedelta(seconds=5)
"""A log whose start is still kept has spoken after this; longer silence means that it no longer reaches the start."""


def logging_in(s: Situation) -> Decision | None:
    """Watch the login; give the gateway up when its time is over."""
    view = s.seen.login
    if s.seen.gateway is None or s.seen.gateway.state is not RuntimeState.RUNNING or is_logged_in(s.seen):
        return None
    if view is not None and view.too_old:
        why = "The image's ibcontroller is older than 0.1.4 and misses rejected passwords: use a newer image."
        s = _with_human(s, why)
        return replace_gateway(s, why)
    if s.seen.connection is not None and s.seen.connection.is_open:
        return None  # connected already: `connecting` waits for the proof
    phase = view.phase if view is not None else LoginPhase.UNKNOWN
    if phase is LoginPhase.UNKNOWN and _log_is_silent(s) and s.now < _deadline(s):
        return None  # the log no longer reaches the start, or can't be read: the API may prove it
    if phase is LoginPhase.STUCK or (view is not None and view.human):
        sentence = view.human if view is not None and view.human else "The login waits for a human."
        return s.verdict(
            State.NEEDS_HUMAN, sentence, "Act on the gateway's screen or in IBKR's Client Portal; it is watched."
        )
    if s.seen.runtime_fault:
        state = State.AWAITING_2FA if phase is LoginPhase.AWAITING_2FA else State.LOGGING_IN
        return s.verdict(state, s.seen.runtime_fault, "Its login is watched again when the runtime answers.")
    if phase is LoginPhase.AWAITING_2FA:
        deadline = s.memory.phase_since + timedelta(seconds=s.seen.limits.phone_approval_time)
        who = s.seen.follower.phone_owner if s.seen.follower and s.seen.follower.phone_owner else s.record.user
        reason = f"A phone must approve the login of {who}."
        if s.now >= deadline:
            return replace_gateway(_with_human(s, f"{reason} Nobody did."), f"{reason} Nobody did in time.")
        return s.verdict(State.AWAITING_2FA, reason, f"It is given up at {deadline:%H:%M:%S} UTC.", until=deadline)
    return _within_startup_time(s, phase)


def _log_is_silent(s: Situation) -> bool:
    """Whether the log has had its time to say something, and knows no start."""
    view = s.seen.login
    heard = view is not None and view.saw_start
    return not heard and s.now - s.memory.clock >= LOG_SILENCE


def _deadline(s: Situation) -> datetime:
    return s.memory.clock + timedelta(seconds=s.seen.limits.max_startup_time)


def _within_startup_time(s: Situation, phase: LoginPhase) -> Decision:
    deadline = _deadline(s)
    state, reason = _PHASES.get(phase, (State.LOGGING_IN, "The gateway starts."))
    if s.now >= deadline:
        limit = f"{s.seen.limits.max_startup_time:g} s"
        evidence = f' Its log said last: "{s.seen.login.evidence}".' if s.seen.login and s.seen.login.evidence else ""
        return replace_gateway(s, f"The login did not complete within {limit} (max_startup_time).{evidence}")
    until = min(deadline, s.memory.clock + LOG_SILENCE) if phase is LoginPhase.UNKNOWN else deadline
    return s.verdict(state, reason, f"It is given up at {deadline:%H:%M:%S} UTC.", until=max(until, s.now + SOON))


_PHASES = {
    LoginPhase.FORM: (State.LOGGING_IN, "The login form is shown."),
    LoginPhase.AUTHENTICATING: (State.LOGGING_IN, "IBKR is asked to let it in."),
    LoginPhase.RESTARTING: (State.RESTARTING, "The gateway restarts on its own schedule."),
    LoginPhase.FAILED: (State.LOGGING_IN, "The login failed once, and the controller tries again."),
    LoginPhase.SESSION_LOST: (State.RECONNECTING, "IBKR ended the session, and the controller logs in again."),
    LoginPhase.CONFLICT: (State.LOGGING_IN, "Another session of the same user exists."),
    LoginPhase.STOPPING: (State.RECONNECTING, "The gateway is stopping."),
    LoginPhase.ENDED: (State.RECONNECTING, "The gateway's program ended."),
}


def _with_human(s: Situation, sentence: str) -> Situation:
    return replace(s, record=replace(s.record, needs_human=sentence))


def forget_secret(s: Situation) -> Decision | None:
    """Once logged in, the password file inside the container goes; a healthy gateway waits for nothing else."""
    if s.memory.forget_failures or not _must_forget(s):
        return None
    state = s.memory.state if s.memory.state.status.value in ("STARTING", "RUNNING") else State.CONNECTING
    reason = None if state is State.READY else "The login completed."
    action = Action(ActionKind.FORGET_SECRET, "the login has completed")
    return s.verdict(state, reason, "It is connected next.", action=action)


def forget_later(s: Situation, decision: Decision) -> Decision:
    """What could not be removed is tried again beside whatever else is the case, until it or its container is gone."""
    if not s.memory.forget_failures or decision.action is not None or not _must_forget(s):
        return decision
    left = (s.memory.forget_after - s.now).total_seconds()
    if 0 < left <= FORGET_RETRY[1]:  # a clock that was set back puts it off no longer
        return replace(decision, recheck_after=min(decision.recheck_after, left))
    return replace(decision, action=Action(ActionKind.FORGET_SECRET, "the password file could not be removed"))


def _must_forget(s: Situation) -> bool:
    there = s.seen.gateway is not None and s.seen.gateway.state is RuntimeState.RUNNING
    waits = s.seen.secret_forgotten or s.seen.running is not None or s.seen.runtime_fault is not None
    return there and not waits and is_logged_in(s.seen)
