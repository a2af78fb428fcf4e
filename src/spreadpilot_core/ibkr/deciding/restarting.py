"""Policy: an operator asked for a restart with the newest spec and secret; refused before anything is stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import LONG_AGO, Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.failures import reason_of
from spreadpilot_core.ibkr.deciding.launching import limit_refusal, login_refusal
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind, Preflight, Wanted
from spreadpilot_core.ibkr.deciding.removing import FOLLOWERS_UNKNOWN
from spreadpilot_core.ibkr.deciding.resetting import reset_refusal
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.states import State


def restart(s: Situation) -> Decision | None:
    """Read the secret and ask every login rule first; only then stop the gateway that runs."""
    asked = s.seen.restart_asked
    if (
        asked is None
        or s.seen.gateway is None
        or (s.seen.wanted is not Wanted.RUN and s.seen.wanted not in BEGINS_NOTHING)
    ):
        return None
    if s.seen.wanted in BEGINS_NOTHING:
        return replace(_stays(s), refuse_restart=s.seen.wanted_why or FOLLOWERS_UNKNOWN)
    if s.seen.running in (ActionKind.LAUNCH, ActionKind.REMOVE):
        return None
    if s.seen.attempt is not None:
        user = s.seen.attempt.user
        under_way = Reason(
            ReasonCode.LOGIN_UNDER_WAY, f"A login of {user} is under way, and would count as a failed one."
        )
        return replace(_stays(s), refuse_restart=under_way)
    preflight = s.seen.preflight
    if preflight is None or preflight.at < asked:
        return _prepare(s)
    refused = _refusal(s, preflight)
    if refused is not None:
        return replace(_stays(s), refuse_restart=refused)
    why = Reason(ReasonCode.RESTART_REQUESTED, "An operator asked for a restart.")
    action = Action(ActionKind.REMOVE, why.sentence, grace=s.seen.limits.stop_grace)
    memory = s.remember(concluded=s.memory.life, trouble=why)
    return s.verdict(
        State.RESTARTING, why, "It starts again with the newest spec and secret.", action=action, memory=memory
    )


def _refusal(s: Situation, preflight: Preflight) -> Reason | None:
    """The first rule that the login after it would break."""
    if (refusal := login_refusal(s, preflight)) is not None:
        return refusal[0]
    if (limit := limit_refusal(s, preflight)) is not None:
        return replace(limit, sentence=f"{limit} {limit.next_action}")
    if (reset := _reset(s)) is not None:
        return reset
    if s.seen.user_taken_by is None:
        return None
    taken = f"IBKR user {preflight.login.user} is logged in for follower {s.seen.user_taken_by} already."
    return Reason(ReasonCode.USER_LOGGED_IN_ELSEWHERE, taken)


def _reset(s: Situation) -> Reason | None:
    refusal = reset_refusal(s)
    if refusal is None:
        return None
    reason, until = refusal
    insist = f"{s.seen.command('stop')} and {s.seen.command('launch', '--retry-login')} go ahead now."
    return replace(
        reason, sentence=f"{reason} It would have no session before {until:%H:%M:%S} UTC: ask again then; {insist}"
    )


def _prepare(s: Situation) -> Decision | None:
    outcome = s.seen.outcome
    if s.memory.prepare_failures and outcome is not None and outcome.kind is ActionKind.PREPARE:
        return replace(_stays(s), refuse_restart=reason_of(outcome))
    return replace(_stays(s), action=None if s.seen.running else Action(ActionKind.PREPARE, "a restart was asked for"))


def _stays(s: Situation) -> Decision:
    """The present verdict stands while the restart is prepared, and being ready as long as its proof does."""
    if s.memory.state is not State.READY:
        then = "A restart is being prepared."
        reason = s.memory.trouble or Reason(ReasonCode.RESTART_REQUESTED, then)
        return s.verdict(s.memory.state, reason, then)
    proven_until = _proven_until(s)
    if s.now < proven_until:
        return s.ready(until=proven_until)
    reason = Reason(ReasonCode.RESTART_REQUESTED, "Its heartbeat is overdue, since a restart is being prepared.")
    return s.verdict(State.RECONNECTING, reason, "A heartbeat must be answered, or it is restarted.")


def _proven_until(s: Situation) -> datetime:
    """When a gateway that froze would be known, were a heartbeat not put off until the secret was read."""
    connection, limits = s.seen.connection, s.seen.limits
    proven = connection.last_heartbeat if connection is not None else None
    return (proven or LONG_AGO) + timedelta(seconds=limits.healthcheck_interval + limits.heartbeat_timeout)
