"""Policy: a gateway that is not wanted is removed gracefully, whatever else is going on."""

from __future__ import annotations

from datetime import timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.observation import ActionKind, PermitState, Wanted
from spreadpilot_core.ibkr.deciding.states import State

_STATES = {
    Wanted.STOP: (State.STOPPED, "`gateway-manager launch` starts it again."),
    Wanted.DISABLED: (State.DISABLED, "It starts when its record is enabled."),
    Wanted.INVALID: (State.INVALID, "It starts when its record is corrected."),
    Wanted.SHUTDOWN: (State.STOPPED, "It starts with the next manager."),
}


def unwanted(s: Situation) -> Decision | None:
    """Stopped, disabled, invalid, or the manager stops."""
    if s.seen.wanted not in _STATES:
        return None
    state, then = _STATES[s.seen.wanted]
    why = s.seen.wanted_why or "It is not wanted."
    if s.seen.running in (ActionKind.LAUNCH, ActionKind.REMOVE):
        return s.verdict(
            state, f"{why} Its gateway is being {_doing(s.seen.running)}.", "It will be gone within the grace."
        )
    if s.seen.gateway is None and s.seen.gateway_stale:
        return s.verdict(
            state, f"{why} Nobody knows whether its last launch left a container.", "The runtime is asked."
        )
    if s.seen.gateway is None:
        held = s.seen.permit is not None and s.seen.permit.state is PermitState.HELD and s.seen.attempt is None
        action = Action(ActionKind.RETURN_PERMIT, why) if held or s.seen.permit is not None else None
        return s.verdict(state, why, then, action=action)
    if s.memory.remove_after > s.now:
        return s.verdict(state, f"{why} {s.memory.trouble}", "Removing it is tried again.", until=s.memory.remove_after)
    memory = s.remember(concluded=s.memory.life)
    return s.verdict(
        state,
        f"{why} Its gateway is being removed.",
        "It will be gone within the grace.",
        action=Action(ActionKind.REMOVE, why, grace=s.seen.limits.stop_grace),
        until=s.now + timedelta(seconds=1),
        memory=memory,
    )


def _doing(kind: ActionKind) -> str:
    return "started, and is removed then" if kind is ActionKind.LAUNCH else "removed"
