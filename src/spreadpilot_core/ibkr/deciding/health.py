"""Policies: a connected gateway must prove itself, again and again."""

from __future__ import annotations

from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import is_logged_in
from spreadpilot_core.ibkr.deciding.observation import ActionKind, ConnectionView, Failure
from spreadpilot_core.ibkr.deciding.removing import replace_gateway
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.login_log import LoginPhase
from spreadpilot_core.ibkr.protocols import RuntimeState

MANY = 0.5
"""Share of the fleet that has lost IBKR from which on the trouble is IBKR's, not one gateway's."""


def unanswered(s: Situation) -> Decision | None:
    """A heartbeat got no answer in time: the client is dropped, and a new one is the cheapest cure."""
    connection = s.seen.connection
    missed = s.memory.trouble is not None and s.memory.heartbeats == 0 and _missed(s)
    if connection is None or not connection.is_open or not missed:
        return None
    action = Action(ActionKind.DROP_CONNECTION, s.memory.trouble or "a heartbeat was missed")
    return s.verdict(State.RECONNECTING, s.memory.trouble, "A new client is connected.", action=action)


def _missed(s: Situation) -> bool:
    outcome = s.seen.outcome
    return (
        outcome is not None and outcome.kind is ActionKind.HEARTBEAT and outcome.failure not in (None, Failure.ABORTED)
    )


def connected(s: Situation) -> Decision | None:
    """Ready when every proof is there; degraded while the gateway has lost IBKR."""
    connection, gateway = s.seen.connection, s.seen.gateway
    here = gateway is not None and gateway.state in (RuntimeState.RUNNING, RuntimeState.PAUSED)
    if gateway is None or not here or connection is None or not connection.is_open:
        return None
    if s.seen.reconnect_asked:
        action = Action(ActionKind.DROP_CONNECTION, "An operator asked for a new connection.")
        return s.verdict(State.RECONNECTING, action.why, "A new client is connected.", action=action)
    link_lost = connection.link_lost_since is not None
    beat, due = None, _heartbeat_due(s)
    if due is None:
        beat = Action(ActionKind.HEARTBEAT, "a heartbeat is due", probe_instead=link_lost)
    if not is_logged_in(s.seen) and not (
        s.memory.heartbeats == 0 and (s.seen.login is None or not s.seen.login.saw_start)
    ):
        return _logged_out(s, beat)
    if s.memory.heartbeats == 0:
        state = State.RECONNECTING if s.memory.was_ready else State.CONNECTING
        reason = s.memory.trouble or "It is connected, and its first heartbeat is awaited."
        return s.verdict(state, reason, "A heartbeat must be answered.", action=beat, until=due)
    if gateway.state is RuntimeState.PAUSED:
        then = "It goes on when it is resumed, and is replaced when it does not answer."
        return s.verdict(State.RECONNECTING, "Its container is paused.", then, action=beat, until=due)
    if link_lost:
        reason = _link_reason(s, connection)
        return s.verdict(State.DEGRADED, reason, "The gateway reconnects to IBKR by itself.", action=beat, until=due)
    return s.verdict(State.READY, None, None, action=beat, until=due)


def _heartbeat_due(s: Situation) -> datetime | None:
    """When the next heartbeat is due; None: now. A clock that was set back puts no heartbeat off."""
    due, interval = s.memory.heartbeat_due, timedelta(seconds=s.seen.limits.healthcheck_interval)
    return due if s.now < due <= s.now + interval else None


def _logged_out(s: Situation, beat: Action | None) -> Decision:
    """Connected, and the log says that the session is gone: the controller gets its time to log in again."""
    view = s.seen.login
    if view is not None and view.human is not None:
        return s.verdict(
            State.NEEDS_HUMAN, view.human, "Act on the gateway's screen or in IBKR's Client Portal; it is watched."
        )
    waits_for_phone = view is not None and view.phase is LoginPhase.AWAITING_2FA
    limit = s.seen.limits.phone_approval_time if waits_for_phone else s.seen.limits.max_startup_time
    deadline = s.memory.phase_since + timedelta(seconds=limit)
    said = f' It says: "{view.evidence}".' if view is not None and view.evidence else ""
    reason = f"The API is connected, but the log does not say that the gateway is logged in.{said}"
    if s.now >= deadline:
        return replace_gateway(s, reason)
    state = State.AWAITING_2FA if waits_for_phone else State.RECONNECTING
    return s.verdict(state, reason, f"It is given up at {deadline:%H:%M:%S} UTC.", action=beat, until=deadline)


def _link_reason(s: Situation, connection: ConnectionView) -> str:
    since = connection.link_lost_since
    reason = f"The gateway has lost IBKR since {since:%H:%M:%S} UTC." if since else "The gateway has lost IBKR."
    fleet = s.fleet
    if fleet.total > 1 and fleet.link_lost >= MANY * fleet.total:
        reason += f" So have {fleet.link_lost} of {fleet.total} gateways: the trouble is IBKR's."
    return reason
