"""Policies: logged in, and the API is to be connected; the cheapest cure for every trouble after login."""

from __future__ import annotations

from datetime import timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.observation import ActionKind
from spreadpilot_core.ibkr.deciding.pacing import CONNECT_TRIES, connect_pause
from spreadpilot_core.ibkr.deciding.removing import replace_gateway
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.login_log import LoginPhase
from spreadpilot_core.ibkr.protocols import RuntimeState, TradingMode

DISCLAIMER_TIME = timedelta(seconds=5)
"""The controller accepts it 0.3 to 3 s after the login; an old log may have lost the line."""
CONFLICTS_BEFORE_NEW_ID = 2
"""The first 326 may be our own half-open socket; the second means another program."""


def connecting(s: Situation) -> Decision | None:
    """Connect: one try and up to five retries within `connect_time`; then the gateway is replaced."""
    gateway, connection = s.seen.gateway, s.seen.connection
    if gateway is None or gateway.state not in (RuntimeState.RUNNING, RuntimeState.PAUSED):
        return None
    if connection is not None and connection.is_open:
        return None
    account = s.seen.follower.account if s.seen.follower else None
    if s.memory.refused_account is not None and s.memory.refused_account == account:
        return s.verdict(
            State.NEEDS_HUMAN, s.memory.trouble, "Correct the account in the record, or the secret it refers to."
        )
    state = State.RECONNECTING if s.memory.was_ready else State.CONNECTING
    trouble = s.memory.trouble or (connection.closed_reason if connection is not None else None)
    if gateway.state is RuntimeState.PAUSED:
        trouble = "Its container is paused."
    if s.memory.connect_failures >= CONNECT_TRIES or _out_of_time(s):
        if s.seen.runtime_fault:
            return _another_round(s, state, s.seen.runtime_fault)
        return replace_gateway(
            s, f"Its API can't be used: {s.memory.connect_failures} tries failed. {trouble or ''}".strip()
        )
    if s.memory.connect_after > s.now:
        left = CONNECT_TRIES - s.memory.connect_failures
        after = s.memory.connect_after
        return s.verdict(
            state, trouble or "Its API is not open yet.", f"Next try at {after:%H:%M:%S} UTC, {left} left.", until=after
        )
    if _awaits_disclaimer(s):
        until = s.memory.phase_since + DISCLAIMER_TIME
        return s.verdict(state, "The paper disclaimer is being accepted.", "Its API is connected then.", until=until)
    new_id = s.memory.id_conflicts >= CONFLICTS_BEFORE_NEW_ID
    action = Action(ActionKind.CONNECT, trouble or "the login has completed", new_client_id=new_id)
    return s.verdict(state, trouble or "It is logged in.", "Its API is being connected.", action=action)


def _another_round(s: Situation, state: State, fault: str) -> Decision:
    """With the runtime away its ports may be closed although the gateway runs: it is not given up."""
    after = s.now + timedelta(seconds=connect_pause(s.seen.follower_id, CONNECT_TRIES - 1, s.seen.limits.connect_time))
    memory = s.remember(connect_failures=0, connect_since=None, connect_after=after)
    then = f"Next try at {after:%H:%M:%S} UTC, or when the runtime answers."
    return s.verdict(state, f"Its API can't be reached. {fault}", then, until=after, memory=memory)


def _awaits_disclaimer(s: Situation) -> bool:
    """A paper login is followed by a disclaimer, and clients are turned away (10141) until it is accepted."""
    view, gateway = s.seen.login, s.seen.gateway
    paper = gateway is not None and gateway.trading_mode is TradingMode.PAPER
    waits = view is not None and view.phase is LoginPhase.LOGGED_IN and not view.paper_accepted
    return paper and waits and s.now < s.memory.phase_since + DISCLAIMER_TIME


def _out_of_time(s: Situation) -> bool:
    since = s.memory.connect_since
    return since is not None and s.now - since >= timedelta(seconds=s.seen.limits.connect_time)
