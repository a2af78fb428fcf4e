"""Policies: logged in, and the API is to be connected; the cheapest cure for every trouble after login."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import FRESH_TRIES, is_logged_in
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind
from spreadpilot_core.ibkr.deciding.pacing import CONNECT_TRIES, connect_pause
from spreadpilot_core.ibkr.deciding.removing import replace_gateway, why_not_removed
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.states import State

DISCLAIMER_TIME = timedelta(seconds=5)
"""The controller accepts it 0.3 to 3 s after the login; an old log may have lost the line."""
CONFLICTS_BEFORE_NEW_ID = 2
"""The first 326 may be our own half-open socket; the second means another program."""


def connecting(s: Situation) -> Decision | None:
    """Connect: one try and up to five retries within `connect_time`; then the gateway is replaced, where that may be."""
    gateway, connection = s.seen.gateway, s.seen.connection
    if gateway is None or not gateway.phase.is_alive:
        return None
    if connection is not None and connection.is_open:
        return None
    account = s.seen.follower.account if s.seen.follower else None
    if s.memory.refused_account is not None and s.memory.refused_account == account:
        reason = s.memory.trouble or Reason(ReasonCode.WRONG_ACCOUNT, f"The login does not manage {account}.")
        return s.verdict(State.NEEDS_HUMAN, reason, "Correct the account in the record, or the secret it refers to.")
    state = State.RECONNECTING if s.memory.was_ready else State.CONNECTING
    trouble = s.memory.trouble or _closed(s)
    if gateway.phase is GatewayPhase.PAUSED:
        trouble = Reason(ReasonCode.CONTAINER_PAUSED, "Its container is paused.")
    if (
        s.seen.wanted not in BEGINS_NOTHING and s.memory.connect_failures > CONNECT_TRIES
    ):  # rare tries say little of now
        s = replace(s, memory=s.remember(**FRESH_TRIES))
    if s.memory.connect_failures >= CONNECT_TRIES or _out_of_time(s):
        return _used_up(s, state, trouble)
    if s.memory.connect_after > s.now:
        left = CONNECT_TRIES - s.memory.connect_failures
        after = s.memory.connect_after
        reason = trouble or Reason(ReasonCode.API_CONNECTING, "Its API is not open yet.")
        return s.verdict(state, reason, f"Next try at {after:%H:%M:%S} UTC, {left} left.", until=after)
    if _awaits_disclaimer(s):
        until = s.memory.phase_since + DISCLAIMER_TIME
        reason = Reason(ReasonCode.PAPER_DISCLAIMER_PENDING, "The paper disclaimer is being accepted.")
        return s.verdict(state, reason, "Its API is connected then.", until=until)
    reason = trouble or Reason(ReasonCode.API_CONNECTING, "It is logged in.")
    action = _connect(s, trouble.sentence if trouble is not None else "the login has completed")
    return s.verdict(state, reason, "Its API is being connected.", action=action)


def _closed(s: Situation) -> Reason | None:
    connection = s.seen.connection
    if connection is None or connection.closed_reason is None:
        return None
    return Reason(ReasonCode.CONNECTION_CLOSED, connection.closed_reason)


def _connect(s: Situation, why: str) -> Action:
    new_id = s.memory.id_conflicts >= CONFLICTS_BEFORE_NEW_ID
    return Action(ActionKind.CONNECT, why, new_client_id=new_id)


def _used_up(s: Situation, state: State, trouble: Reason | None) -> Decision:
    """Every try of this round failed: the gateway is given up, unless it may be well as soon as others are."""
    if s.seen.runtime_fault is not None:
        return _another_round(s, state, s.seen.runtime_fault)
    if s.seen.gateway is not None and s.seen.gateway.phase is GatewayPhase.RUNNING and not is_logged_in(s.seen):
        silent = Reason(ReasonCode.API_UNREACHABLE, "Its log tells nothing, so its login has until max_startup_time.")
        return _another_round(s, state, silent)
    said = f"Its API can't be used: {s.memory.connect_failures} tries failed. {trouble or ''}".strip()
    why = Reason(ReasonCode.API_UNREACHABLE, said, facts={"tries": s.memory.connect_failures})
    if s.seen.wanted not in BEGINS_NOTHING:
        return replace_gateway(s, why)
    after = s.memory.connect_after  # the pauses go on growing, to their cap
    if after > s.now:
        return s.verdict(state, why, f"Next try at {after:%H:%M:%S} UTC. {why_not_removed(s)}", until=after)
    return s.verdict(state, why, f"Its API is being connected. {why_not_removed(s)}", action=_connect(s, said))


def _another_round(s: Situation, state: State, fault: Reason) -> Decision:
    """Its ports may be closed because the runtime is away, or its login not over: it is not given up for them."""
    after = s.now + timedelta(seconds=connect_pause(s.seen.follower_id, CONNECT_TRIES - 1, s.seen.limits.connect_time))
    memory = s.remember(**{**FRESH_TRIES, "connect_after": after})
    then = f"Next try at {after:%H:%M:%S} UTC{', or when the runtime answers' if s.seen.runtime_fault else ''}."
    reason = replace(fault, sentence=f"Its API can't be reached. {fault}")
    return s.verdict(state, reason, then, until=after, memory=memory)


def _awaits_disclaimer(s: Situation) -> bool:
    """A paper login is followed by a disclaimer, and clients are turned away (10141) until it is accepted."""
    view, gateway = s.seen.login, s.seen.gateway
    paper = gateway is not None and gateway.trading_mode is TradingMode.PAPER
    waits = view is not None and view.phase is LoginPhase.LOGGED_IN and not view.paper_accepted
    return paper and waits and s.now < s.memory.phase_since + DISCLAIMER_TIME


def _out_of_time(s: Situation) -> bool:
    since = s.memory.connect_since
    return since is not None and s.now - since >= timedelta(seconds=s.seen.limits.connect_time)
