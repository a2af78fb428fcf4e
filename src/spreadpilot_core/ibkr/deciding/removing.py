"""Policies: containers that are over are removed, and changed ones are looked at, before anything else is tried with them."""

from __future__ import annotations

from dataclasses import replace

from spreadpilot_core.ibkr.deciding.conclusions import Conclusion
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import conclude_life, is_logged_in
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind, Wanted
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import LoginOutcome, Record
from spreadpilot_core.ibkr.model.states import State

FOLLOWERS_UNKNOWN = Reason(ReasonCode.FOLLOWERS_UNKNOWN, "The followers were not read yet.")
PICTURE_WITHIN = 5.0
"""Seconds that a gateway which is given up stays for the last picture of its screen."""
INSPECT_CHANGED = Action(ActionKind.INSPECT, "its container changed")


def changed(s: Situation) -> Decision | None:
    """An event said that the container changed: ask the runtime before believing anything else.

    While a connection is open, its proof stands and the others decide; `decide` has the runtime asked all the same.
    """
    connected = s.seen.connection is not None and s.seen.connection.is_open
    if not s.seen.gateway_stale or s.seen.gateway is None or s.seen.runtime_fault is not None or connected:
        return None
    what = Reason(ReasonCode.CONTAINER_CHANGED, "Its container changed.")
    if s.memory.state is State.LAUNCHING:  # by its start
        what = Reason(ReasonCode.CONTAINER_STARTING, "The gateway starts.")
    reason = s.memory.trouble or what
    state = State.RECONNECTING if s.memory.was_ready else _not_ready(s.memory.state)
    return s.verdict(state, reason, "The runtime is asked.", action=INSPECT_CHANGED)


def over(s: Situation) -> Decision | None:
    """A container that ended, never started, or whose login is over for good."""
    gateway = s.seen.gateway
    if gateway is None:
        return None
    if s.seen.running is ActionKind.REMOVE:
        reason = s.memory.trouble or Reason(ReasonCode.CONTAINER_ENDED, "It is over.")
        return s.verdict(_not_ready(s.memory.state), reason, "Its container is removed.")
    if gateway.phase.precedes_login and s.seen.running is not ActionKind.LAUNCH:
        left = "A container that was created and never started was found."
        return remove(s, Reason(ReasonCode.CONTAINER_NEVER_STARTED, left), grace=0)
    if gateway.phase is GatewayPhase.EXITED and s.memory.life != s.memory.concluded:
        said = f"Its container ended. {s.seen.runtime_fault or ''}".strip()
        return s.verdict(State.RECONNECTING, Reason(ReasonCode.CONTAINER_ENDED, said), "Its last words are read.")
    if s.memory.life is not None and s.memory.life == s.memory.concluded:
        reason = s.memory.trouble or Reason(ReasonCode.CONTAINER_ENDED, "Its container is over.")
        return remove(s, reason, grace=_grace(s, gateway), picture_within=0)  # at most what comes while it is removed
    return None


def _grace(s: Situation, gateway: Gateway) -> float:
    """Not logged in there is nothing to close tidily, and each second is one in which the controller may type again."""
    if gateway.phase is GatewayPhase.EXITED:
        return 0
    return 5 if is_logged_in(s.seen) else 1


def remove(
    s: Situation, why: Reason, *, grace: float, record: Record | None = None, picture_within: float | None = None
) -> Decision:
    """Remove the container for this reason; the state tells what comes after."""
    record = s.record if record is None else record
    if s.seen.wanted is Wanted.KEEP and not _may_type_again(s):
        return s.verdict(State.RECONNECTING, why, why_not_removed(s), record=record)
    human = record.needs_human is not None or _is_rejected(record)
    lost = record.losses > 0 or s.memory.was_ready
    state = State.NEEDS_HUMAN if human else State.RECONNECTING if lost else State.BACKING_OFF
    if s.memory.remove_after > s.now:
        return s.verdict(
            state, why, "Removing its container is tried again.", until=s.memory.remove_after, record=record
        )
    memory = s.remember(concluded=s.memory.life, trouble=why)
    action = Action(ActionKind.REMOVE, why.sentence, grace=grace, picture_within=picture_within)
    return s.verdict(state, why, "Its container is removed.", action=action, record=record, memory=memory)


def _may_type_again(s: Situation) -> bool:
    """Its login is over and its controller runs: it is removed also where nobody could be started instead."""
    running = s.seen.gateway is not None and s.seen.gateway.phase is GatewayPhase.RUNNING
    return running and s.memory.life == s.memory.concluded and not is_logged_in(s.seen)


def replace_gateway(s: Situation, why: Reason) -> Decision:
    """Give this gateway up although it runs: a new container, which costs a login."""
    if s.seen.wanted in BEGINS_NOTHING:
        return s.verdict(State.RECONNECTING, why, why_not_removed(s))
    if s.seen.runtime_fault is not None:  # it may be to blame, and nothing could be started instead
        then = f"{s.seen.runtime_fault} Nothing is given up before that changes."
        return s.verdict(_not_ready(s.memory.state), why, then)
    logged_in = s.memory.was_ready or (s.seen.login is not None and s.seen.login.completed)
    outcome = LoginOutcome.SUCCEEDED if logged_in else LoginOutcome.FAILED
    if s.seen.login is not None and s.seen.login.nothing_typed:
        outcome = LoginOutcome.VOID
    conclusion = Conclusion(outcome, why, s.record, is_loss=logged_in)
    memory, record = conclude_life(s.memory, conclusion, s.now)
    grace = s.seen.limits.stop_grace if logged_in else 10
    within = PICTURE_WITHIN if logged_in or not _was_refused(s) else 0
    return remove(replace(s, memory=memory, record=record), why, grace=grace, picture_within=within)


def _was_refused(s: Situation) -> bool:
    """Whether its controller has typed a login that failed, or may have: it is not given the time to type the next."""
    return s.seen.login is not None and (s.seen.login.login_failed or s.seen.login.too_old)


def _is_rejected(record: Record) -> bool:
    return record.rejected_version is not None and record.rejected_version == record.secret_version


def _not_ready(state: State) -> State:
    """READY and DEGRADED are proofs, and an event has just put them in doubt."""
    return State.RECONNECTING if state in (State.READY, State.DEGRADED) else state


def why_not_removed(s: Situation) -> str:
    """Why nothing is removed although it should be."""
    return f"{s.seen.wanted_why or FOLLOWERS_UNKNOWN} Nothing is removed before that changes."
