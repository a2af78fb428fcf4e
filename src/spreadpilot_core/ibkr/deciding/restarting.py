"""Policy: an operator asked for a restart with the newest spec and secret; refused before anything is stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import LONG_AGO, Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.launching import budget_refusal, login_refusal
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Wanted
from spreadpilot_core.ibkr.deciding.states import State


def restart(s: Situation) -> Decision | None:
    """Read the secret and ask every login rule first; only then stop the gateway that runs."""
    asked = s.seen.restart_asked
    if asked is None or s.seen.gateway is None or s.seen.wanted not in (Wanted.RUN, Wanted.KEEP):
        return None
    if s.seen.wanted is Wanted.KEEP:
        return replace(_stays(s), refuse_restart=s.seen.wanted_why or "The followers were not read yet.")
    if s.seen.running in (ActionKind.LAUNCH, ActionKind.REMOVE):
        return None
    if s.seen.attempt is not None:
        user = s.seen.attempt.user
        return replace(_stays(s), refuse_restart=f"A login of {user} is under way, and would count as a failed one.")
    prepared = s.seen.prepared
    if prepared is None or prepared.at < asked:
        return _prepare(s)
    refusal = login_refusal(s, prepared)
    sentence = refusal[0] if refusal else budget_refusal(s, prepared)
    if sentence is not None:
        return replace(_stays(s), refuse_restart=sentence)
    why = "An operator asked for a restart."
    action = Action(ActionKind.REMOVE, why, grace=s.seen.limits.stop_grace)
    memory = s.remember(concluded=s.memory.life, trouble=why)
    return s.verdict(
        State.RESTARTING, why, "It starts again with the newest spec and secret.", action=action, memory=memory
    )


def _prepare(s: Situation) -> Decision | None:
    outcome = s.seen.outcome
    if s.memory.prepare_failures and outcome is not None and outcome.kind is ActionKind.PREPARE:
        return replace(_stays(s), refuse_restart=outcome.sentence)
    return replace(_stays(s), action=None if s.seen.running else Action(ActionKind.PREPARE, "a restart was asked for"))


def _stays(s: Situation) -> Decision:
    """The present verdict stands while the restart is prepared, and being ready as long as its proof does."""
    if s.memory.state is not State.READY:
        then = "A restart is being prepared."
        return s.verdict(s.memory.state, s.memory.trouble or then, then)
    proven_until = _proven_until(s)
    if s.now < proven_until:
        return s.verdict(State.READY, None, None, until=proven_until)
    reason = "Its heartbeat is overdue, since a restart is being prepared."
    return s.verdict(State.RECONNECTING, reason, "A heartbeat must be answered, or it is restarted.")


def _proven_until(s: Situation) -> datetime:
    """When a gateway that froze would be known, were a heartbeat not put off until the secret was read."""
    connection, limits = s.seen.connection, s.seen.limits
    proven = connection.last_heartbeat if connection is not None else None
    return (proven or LONG_AGO) + timedelta(seconds=limits.healthcheck_interval + limits.heartbeat_timeout)
