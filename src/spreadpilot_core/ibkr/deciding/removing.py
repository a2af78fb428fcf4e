"""Policies: containers that are over are removed, and changed ones are looked at, before anything else is tried with them."""

from __future__ import annotations

from dataclasses import replace

from spreadpilot_core.ibkr.deciding.conclusions import Conclusion
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import conclude_life, is_logged_in
from spreadpilot_core.ibkr.deciding.observation import ActionKind, Wanted
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.protocols import Gateway, LoginOutcome, Record, RuntimeState

LOOK = Action(ActionKind.INSPECT, "its container changed")


def changed(s: Situation) -> Decision | None:
    """An event said that the container changed: ask the runtime before believing anything else.

    While a connection is open, its proof stands and the others decide; `decide` has the runtime asked all the same.
    """
    connected = s.seen.connection is not None and s.seen.connection.is_open
    if not s.seen.gateway_stale or s.seen.gateway is None or s.seen.runtime_fault or connected:
        return None
    reason = s.memory.trouble or "Its container changed."
    state = State.RECONNECTING if s.memory.was_ready else _not_ready(s.memory.state)
    return s.verdict(state, reason, "The runtime is asked.", action=LOOK)


def over(s: Situation) -> Decision | None:
    """A container that ended, never started, or whose login is over for good."""
    gateway = s.seen.gateway
    if gateway is None:
        return None
    if s.seen.running is ActionKind.REMOVE:
        return s.verdict(_not_ready(s.memory.state), s.memory.trouble or "It is over.", "Its container is removed.")
    if gateway.state is RuntimeState.CREATED and s.seen.running is not ActionKind.LAUNCH:
        return remove(s, "A container that was created and never started was found.", grace=0)
    if gateway.state is RuntimeState.EXITED and s.memory.life != s.memory.concluded:
        reason = f"Its container ended. {s.seen.runtime_fault or ''}".strip()
        return s.verdict(State.RECONNECTING, reason, "Its last words are read.")
    if s.memory.life is not None and s.memory.life == s.memory.concluded:
        return remove(s, s.memory.trouble or "Its container is over.", grace=_grace(s, gateway))
    return None


def _grace(s: Situation, gateway: Gateway) -> float:
    """Not logged in there is nothing to close tidily, and each second is one in which the controller may type again."""
    if gateway.state is RuntimeState.EXITED:
        return 0
    return 5 if is_logged_in(s.seen) else 1


def remove(s: Situation, why: str, *, grace: float, record: Record | None = None) -> Decision:
    """Remove the container for this reason; the state tells what comes after."""
    record = s.record if record is None else record
    if s.seen.wanted is Wanted.KEEP:
        return s.verdict(State.RECONNECTING, why, kept(s), record=record)
    human = record.needs_human is not None or _is_rejected(record)
    state = State.NEEDS_HUMAN if human else State.RECONNECTING if s.memory.losses else State.BACKING_OFF
    if s.memory.remove_after > s.now:
        return s.verdict(
            state, why, "Removing its container is tried again.", until=s.memory.remove_after, record=record
        )
    memory = s.remember(concluded=s.memory.life, trouble=why)
    action = Action(ActionKind.REMOVE, why, grace=grace)
    return s.verdict(state, why, "Its container is removed.", action=action, record=record, memory=memory)


def replace_gateway(s: Situation, why: str) -> Decision:
    """Give this gateway up although it runs: a new container, which costs a login."""
    if s.seen.wanted is Wanted.KEEP:
        return s.verdict(State.RECONNECTING, why, kept(s))
    if s.seen.runtime_fault:  # it may be to blame, and nothing could be started instead
        then = f"{s.seen.runtime_fault} Nothing is given up before that changes."
        return s.verdict(_not_ready(s.memory.state), why, then)
    logged_in = s.memory.was_ready or (s.seen.login is not None and s.seen.login.completed)
    outcome = LoginOutcome.SUCCEEDED if logged_in else LoginOutcome.FAILED
    conclusion = Conclusion(outcome, why, s.record, is_loss=logged_in)
    memory = conclude_life(s.memory, conclusion, s.now)
    return remove(replace(s, memory=memory), why, grace=s.seen.limits.stop_grace if logged_in else 10)


def _is_rejected(record: Record) -> bool:
    return record.rejected_version is not None and record.rejected_version == record.secret_version


def _not_ready(state: State) -> State:
    """READY and DEGRADED are proofs, and an event has just put them in doubt."""
    return State.RECONNECTING if state in (State.READY, State.DEGRADED) else state


def kept(s: Situation) -> str:
    """Why nothing is removed although it should be."""
    return f"{s.seen.wanted_why or 'The followers were not read yet.'} Nothing is removed before that changes."
