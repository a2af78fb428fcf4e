"""Policies: a gateway that runs and is not logged in yet, or no more."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.controller_log.reader import APPROVAL_LIMIT
from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import ask_deadline, is_doubted, is_logged_in, login_deadline
from spreadpilot_core.ibkr.deciding.login_window import awaits_window, window_missing
from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.deciding.pacing import FORGET_RETRY
from spreadpilot_core.ibkr.deciding.removing import replace_gateway
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.states import State

SOON = timedelta(seconds=0.5)
STREAMS_APART = timedelta(seconds=1)
"""By how much a container's configuration, in one stream, may come after what follows it, in the other."""
FOUND_AT_ONCE = timedelta(seconds=1)
"""A login window and a prompt that come within this were found in a log that was there before."""
FASTEST_PROMPT = timedelta(seconds=10)
"""No real gateway asks a phone so soon after its start."""
LOG_SILENCE = timedelta(seconds=5)
"""A log whose start is still kept has spoken after this; longer silence means that it no longer reaches the start."""


def logging_in(s: Situation) -> Decision | None:
    """Watch the login; give the gateway up when its time is over."""
    view = s.seen.login
    if s.seen.gateway is None or s.seen.gateway.phase is not GatewayPhase.RUNNING or is_logged_in(s.seen):
        return None
    if view is not None and view.too_old:
        return _too_old(s)
    if s.seen.connection is not None and s.seen.connection.is_open:
        return None  # connected already: `connecting` waits for the proof
    phase = view.phase if view is not None else LoginPhase.UNKNOWN
    deadline, asks_at = login_deadline(s.memory, s.seen), ask_deadline(s.memory, s.seen)
    if _log_proves_nothing(s, phase) and s.now < deadline and not awaits_window(s.memory, s.seen):
        return None  # the log no longer reaches the start, or can't be read: the API may prove it
    if phase is LoginPhase.STUCK or (view is not None and view.human is not None):
        waits = Reason(ReasonCode.OPERATOR_INPUT_NEEDED, "The login waits for a human.")
        reason = view.human if view is not None and view.human is not None else waits
        return s.verdict(
            State.NEEDS_HUMAN, reason, "Act on the gateway's screen or in IBKR's Client Portal; it is watched."
        )
    if s.seen.runtime_fault is not None:
        state = State.AWAITING_2FA if phase is LoginPhase.AWAITING_2FA else State.LOGGING_IN
        return s.verdict(state, s.seen.runtime_fault, "Its login is watched again when the runtime answers.")
    if s.now >= asks_at and not _was_asked(s, asks_at):
        return _ask_api(s)
    if phase is LoginPhase.AWAITING_2FA:
        return _awaiting_phone(s, deadline)
    return _within_startup_time(s, phase, deadline)


def _too_old(s: Situation) -> Decision:
    known = s.memory.phase_since + STREAMS_APART
    why = Reason(
        ReasonCode.IMAGE_TOO_OLD,
        "The image's ibcontroller is older than 0.1.4 and misses rejected passwords: use a newer image.",
    )
    if s.now < known:
        return s.verdict(State.LOGGING_IN, why, "Its configuration may still come and prove the opposite.", until=known)
    return replace_gateway(_with_human(s, why), why)


def _awaiting_phone(s: Situation, deadline: datetime) -> Decision:
    owner = s.seen.follower.phone_owner if s.seen.follower is not None else None
    who = f"The phone of {owner}" if owner else "A phone"
    sentence = f"{who} must approve the login of {s.record.user or s.seen.follower_id}."
    if s.now >= deadline:
        missed = Reason(ReasonCode.PHONE_APPROVAL_MISSED, f"{sentence} Nobody did in time.")
        return replace_gateway(_with_human(s, missed), missed)
    by = min(deadline, s.memory.phase_since + timedelta(seconds=APPROVAL_LIMIT))
    then = f"It has until {by:%H:%M:%S} UTC."
    if s.now >= by:
        by, then = (
            deadline,
            f"Its three minutes are over; if nothing follows, it is given up at {deadline:%H:%M:%S} UTC.",
        )
    elif _was_asked_before(s):
        then = f"It was asked before {s.memory.phase_since:%H:%M:%S} UTC, when this manager began to watch; IBKR waits three minutes."
    reason = Reason(ReasonCode.PHONE_APPROVAL_PENDING, sentence, facts={"until": by.isoformat()})
    return s.verdict(State.AWAITING_2FA, reason, then, until=by)


def _was_asked_before(s: Situation) -> bool:
    """Whether the prompt was there when this manager first saw the gateway: its log told all of it at once."""
    window, asked, begun = s.memory.window_at, s.memory.phase_since, s.memory.life[1] if s.memory.life else None
    at_once = window is not None and asked - window < FOUND_AT_ONCE
    return at_once and begun is not None and asked - begun > FASTEST_PROMPT


def _log_proves_nothing(s: Situation, phase: LoginPhase) -> bool:
    """Whether the log has had its time to say something and knows no start, or is doubted."""
    view = s.seen.login
    if is_doubted(s.memory, view):
        return True
    heard = phase is not LoginPhase.UNKNOWN or (view is not None and view.saw_start)
    return not heard and (s.memory.was_ready or s.now - s.memory.clock >= LOG_SILENCE)


def _was_asked(s: Situation, deadline: datetime) -> bool:
    """Whether a connect has failed since the time was over."""
    return s.memory.connect_after > deadline


def _ask_api(s: Situation) -> Decision | None:
    """The log is evidence, the API is the proof: it is asked once more before a gateway is given up."""
    if s.memory.refused_account is not None:
        return None  # it has answered: `connecting` says what is wrong
    why = Reason(ReasonCode.LOGIN_OUTCOME_UNKNOWN, "Its log tells no end of the login, and its time is over.")
    action = Action(ActionKind.CONNECT, why.sentence)
    return s.verdict(State.CONNECTING, why, "Its API is asked before it is given up.", action=action)


def _within_startup_time(s: Situation, phase: LoginPhase, deadline: datetime) -> Decision:
    state, code, sentence = _PHASES.get(phase, (State.LOGGING_IN, ReasonCode.LOGIN_IN_PROGRESS, "The gateway starts."))
    if s.now >= deadline and awaits_window(s.memory, s.seen):
        return replace_gateway(s, window_missing(s.seen))
    if s.now >= deadline:
        limit = f"{s.seen.limits.max_startup_time:g} s"
        if s.seen.login is not None and s.seen.login.nothing_typed:
            return _without_window(s, limit)
        evidence = f' Its log said last: "{s.seen.login.evidence}".' if s.seen.login and s.seen.login.evidence else ""
        late = f"The login did not complete within {limit} (max_startup_time).{evidence}"
        return replace_gateway(s, Reason(ReasonCode.LOGIN_TIMEOUT, late))
    until = min(deadline, s.memory.clock + LOG_SILENCE) if phase is LoginPhase.UNKNOWN else deadline
    asks_at = ask_deadline(s.memory, s.seen)
    until = min(until, asks_at) if asks_at > s.now else until
    then = f"It has until {deadline:%H:%M:%S} UTC."
    return s.verdict(state, Reason(code, sentence), then, until=max(until, s.now + SOON))


def _without_window(s: Situation, limit: str) -> Decision:
    shown = s.seen.login is not None and s.seen.login.phase is LoginPhase.FORM
    what = "Nothing was typed into the login window" if shown else "The login window did not appear"
    why = f"{what} in {limit}; the host is slow: load, memory. IBKR has seen no login."
    return replace_gateway(s, Reason(ReasonCode.LOGIN_WINDOW_MISSING, why))


_PHASES = {
    LoginPhase.FORM: (State.LOGGING_IN, ReasonCode.LOGIN_IN_PROGRESS, "The login form is shown."),
    LoginPhase.AUTHENTICATING: (State.LOGGING_IN, ReasonCode.LOGIN_IN_PROGRESS, "IBKR is asked to let it in."),
    LoginPhase.RESTARTING: (
        State.RESTARTING,
        ReasonCode.SCHEDULED_RESTART,
        "The gateway restarts on its own schedule.",
    ),
    LoginPhase.FAILED: (
        State.LOGGING_IN,
        ReasonCode.LOGIN_FAILED,
        "The login failed once, and the controller tries again.",
    ),
    LoginPhase.SESSION_LOST: (
        State.RECONNECTING,
        ReasonCode.SESSION_ENDED,
        "IBKR ended the session, and the controller logs in again.",
    ),
    LoginPhase.CONFLICT: (
        State.LOGGING_IN,
        ReasonCode.COMPETING_SESSION,
        "Another session of the same user exists.",
    ),
    LoginPhase.STOPPING: (State.RECONNECTING, ReasonCode.CONTAINER_ENDED, "The gateway is stopping."),
    LoginPhase.ENDED: (State.RECONNECTING, ReasonCode.CONTAINER_ENDED, "The gateway's program ended."),
}


def _with_human(s: Situation, reason: Reason) -> Situation:
    return replace(s, record=replace(s.record, needs_human=reason))


def forget_secret(s: Situation) -> Decision | None:
    """Once logged in, the password file inside the container goes; a healthy gateway waits for nothing else."""
    if s.memory.forget_failures or not _must_forget(s):
        return None
    state = s.memory.state if s.memory.state.status.value in ("STARTING", "RUNNING") else State.CONNECTING
    action = Action(ActionKind.FORGET_SECRET, "the login has completed")
    if state is State.READY:
        return s.ready(action=action)
    completed = Reason(ReasonCode.LOGIN_COMPLETED, "The login completed.")
    return s.verdict(state, completed, "It is connected next.", action=action)


def forget_later(s: Situation, decision: Decision) -> Decision:
    """What could not be removed is tried again beside whatever else is the case, until it or its container is gone."""
    if not s.memory.forget_failures or decision.action is not None or not _must_forget(s):
        return decision
    left = (s.memory.forget_after - s.now).total_seconds()
    if 0 < left <= FORGET_RETRY[1]:  # a clock that was set back puts it off no longer
        return replace(decision, recheck_after=min(decision.recheck_after, left))
    return replace(decision, action=Action(ActionKind.FORGET_SECRET, "the password file could not be removed"))


def _must_forget(s: Situation) -> bool:
    there = s.seen.gateway is not None and s.seen.gateway.phase is GatewayPhase.RUNNING
    waits = s.seen.secret_forgotten or s.seen.running is not None or s.seen.runtime_fault is not None
    return there and not waits and is_logged_in(s.seen)
