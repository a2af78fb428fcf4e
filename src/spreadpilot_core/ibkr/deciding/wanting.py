"""Policy: a gateway that is not wanted is removed gracefully, whatever else is going on."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.learning import is_logged_in
from spreadpilot_core.ibkr.deciding.observation import ActionKind, PermitState, Wanted
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.states import State

OUTCOME_AWAITED = timedelta(seconds=15)
"""How long a stop waits for the outcome of a login that is under way; most take 5 to 10 s."""

_STATES = {
    Wanted.STOP: (State.STOPPED, "{launch} starts it again.", ReasonCode.STOPPED_BY_OPERATOR),
    Wanted.DISABLED: (State.DISABLED, "It starts when its record is enabled.", ReasonCode.NOT_ENABLED),
    Wanted.INVALID: (State.INVALID, "It starts when its record is corrected.", ReasonCode.RECORD_INVALID),
    Wanted.SHUTDOWN: (State.STOPPED, "It starts with the next manager.", ReasonCode.MANAGER_STOPPING),
}


def unwanted(s: Situation) -> Decision | None:
    """Stopped, disabled, invalid, or the manager stops."""
    return _removed(s) if s.seen.wanted in _STATES else None


def _removed(s: Situation) -> Decision:
    state, then, code = _STATES[s.seen.wanted]
    then = then.replace("{launch}", s.seen.command("launch"))
    if s.seen.wanted is Wanted.DISABLED and s.record.stopped_by_operator:
        then = f"An operator stopped it besides: once its record is enabled, {s.seen.command('launch')} starts it."
    why = s.seen.wanted_why or Reason(code, "It is not wanted.")
    if s.seen.running in (ActionKind.LAUNCH, ActionKind.REMOVE):
        return s.verdict(
            state, _and(why, f"Its gateway is being {_doing(s.seen.running)}."), "It will be gone within the grace."
        )
    if s.seen.gateway is None and s.seen.gateway_stale:
        return s.verdict(state, _and(why, "The last launch may have left a container."), "The runtime is asked.")
    if s.seen.gateway is None and s.seen.unclaimed is not None and s.seen.wanted in (Wanted.STOP, Wanted.DISABLED):
        return s.verdict(State.NEEDS_HUMAN, s.seen.unclaimed, "Nobody logs in beside it.")
    if s.seen.gateway is None:
        held = s.seen.permit is not None and s.seen.permit.state is PermitState.HELD and s.seen.attempt is None
        action = Action(ActionKind.RETURN_PERMIT, why.sentence) if held or s.seen.permit is not None else None
        return s.verdict(state, why, then, action=action)
    if s.memory.remove_after > s.now:
        reason = _and(why, s.memory.trouble.sentence if s.memory.trouble is not None else "")
        return s.verdict(state, reason, "Removing it is tried again.", until=s.memory.remove_after)
    if (due := _outcome_due(s)) is not None and s.now < due:
        return s.verdict(state, _and(why, "How its login goes is awaited."), "Its gateway is removed then.", until=due)
    memory = s.remember(concluded=s.memory.life)
    return s.verdict(
        state,
        _and(why, "Its gateway is being removed."),
        "It will be gone within the grace.",
        action=Action(ActionKind.REMOVE, why.sentence, grace=_grace(s)),
        until=s.now + timedelta(seconds=1),
        memory=memory,
    )


def _grace(s: Situation) -> float:
    """A controller whose login has failed must not have the time to type it again."""
    failed = s.seen.login is not None and s.seen.login.relaunches > 0
    over = failed or (s.memory.life is not None and s.memory.life == s.memory.concluded)
    return 1 if over and not is_logged_in(s.seen) else s.seen.limits.stop_grace


def _outcome_due(s: Situation) -> datetime | None:
    """Until when a login that was typed may still tell how it goes: one that is broken off counts as failed.

    One that waits for a phone has told already that its password was accepted, and nobody knows when somebody approves.
    """
    view, gateway = s.seen.login, s.seen.gateway
    if s.seen.attempt is None or view is None or s.memory.unwanted_since is None:
        return None
    running = gateway is not None and gateway.phase is GatewayPhase.RUNNING
    if (
        not running
        or not view.is_under_way
        or view.phase is LoginPhase.AWAITING_2FA
        or s.memory.life == s.memory.concluded
    ):
        return None
    return s.memory.unwanted_since + OUTCOME_AWAITED


def _and(why: Reason, sentence: str) -> Reason:
    return replace(why, sentence=f"{why} {sentence}".rstrip())


def _doing(kind: ActionKind) -> str:
    return "started, and is removed then" if kind is ActionKind.LAUNCH else "removed"
