"""Policies: a connected gateway must prove itself, again and again."""

from __future__ import annotations

from datetime import datetime, timedelta

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.failures import reason_of
from spreadpilot_core.ibkr.deciding.learning import is_logged_in
from spreadpilot_core.ibkr.deciding.observation import ActionKind, ConnectionView, Failure
from spreadpilot_core.ibkr.deciding.removing import replace_gateway
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.states import State

MANY = 0.5
"""Share of the fleet that has lost IBKR from which on the trouble is IBKR's, not one gateway's."""


def unanswered(s: Situation) -> Decision | None:
    """A heartbeat got no answer in time: the client is dropped, and a new one is the cheapest cure."""
    connection = s.seen.connection
    outcome = s.seen.outcome
    missed = (
        outcome is not None and outcome.kind is ActionKind.HEARTBEAT and outcome.failure not in (None, Failure.ABORTED)
    )
    if connection is None or not connection.is_open or outcome is None or not missed or s.memory.heartbeats:
        return None
    reason = reason_of(outcome)
    action = Action(ActionKind.DROP_CONNECTION, reason.sentence)
    return s.verdict(State.RECONNECTING, reason, "A new client is connected.", action=action)


def connected(s: Situation) -> Decision | None:
    """Ready when every proof is there; degraded while the gateway has lost IBKR."""
    connection, gateway = s.seen.connection, s.seen.gateway
    here = gateway is not None and gateway.phase.is_alive
    if gateway is None or not here or connection is None or not connection.is_open:
        return None
    if s.seen.reconnect_asked:
        asked = Reason(ReasonCode.RECONNECT_REQUESTED, "An operator asked for a new connection.")
        action = Action(ActionKind.DROP_CONNECTION, asked.sentence)
        return s.verdict(State.RECONNECTING, asked, "A new client is connected.", action=action)
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
        first = Reason(ReasonCode.API_CONNECTING, "It is connected, and its first heartbeat is awaited.")
        reason = s.memory.trouble or first
        return s.verdict(state, reason, "A heartbeat must be answered.", action=beat, until=due)
    if gateway.phase is GatewayPhase.PAUSED:
        then = "It goes on when it is resumed, and is replaced when it does not answer."
        paused = Reason(ReasonCode.CONTAINER_PAUSED, "Its container is paused.")
        return s.verdict(State.RECONNECTING, paused, then, action=beat, until=due)
    if link_lost:
        then = "The gateway reconnects to IBKR by itself."
        return s.verdict(State.DEGRADED, _link_reason(s, connection), then, action=beat, until=due)
    return s.ready(action=beat, until=due)


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
    reason = Reason(
        ReasonCode.SESSION_ENDED,
        f"The API is connected, but the log does not say that the gateway is logged in.{said}",
    )
    if s.now >= deadline:
        return replace_gateway(s, reason)
    state = State.AWAITING_2FA if waits_for_phone else State.RECONNECTING
    return s.verdict(state, reason, f"It has until {deadline:%H:%M:%S} UTC.", action=beat, until=deadline)


def _link_reason(s: Situation, connection: ConnectionView) -> Reason:
    since = connection.link_lost_since
    sentence = f"The gateway has lost IBKR since {since:%H:%M:%S} UTC." if since else "The gateway has lost IBKR."
    fleet = s.fleet
    if fleet.total > 1 and fleet.link_lost >= MANY * fleet.total:
        sentence += f" So have {fleet.link_lost} of {fleet.total} gateways: the trouble is IBKR's."
    facts = {"gateways": fleet.total, "gateways_without_link": fleet.link_lost}
    return Reason(ReasonCode.IBKR_LINK_LOST, sentence, facts=facts)
