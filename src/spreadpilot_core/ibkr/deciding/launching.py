"""Policies: no gateway runs and one is wanted. Every rule that protects the account is asked here, before a permit.

The same rules stand again in the record store's ledger, which reserves the login; here they give the sentence.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.observation import ActionKind, PermitState, Prepared, Wanted
from spreadpilot_core.ibkr.deciding.pacing import next_login
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.protocols import LoginOutcome
from spreadpilot_core.ibkr.records import shown_version

FOLLOWERS_UNKNOWN = "The followers were not read yet."


def launching(s: Situation) -> Decision:
    """Start a gateway, or say what it waits for."""
    if s.seen.running is ActionKind.LAUNCH:
        return s.verdict(State.LAUNCHING, "Its container is being created and started.", "The login follows.")
    if s.seen.running is ActionKind.REMOVE:
        state = s.memory.state if s.memory.state is not State.READY else State.RECONNECTING
        return s.verdict(state, s.memory.trouble or "Its container is being removed.", "Its container is removed.")
    for rule in (_cannot_look, _human, _pause, _secret, _rejection, _budget, _turn):
        decision = rule(s)
        if decision is not None:
            return decision
    return s.verdict(
        State.LAUNCHING,
        "Its container is being created and started.",
        "The login follows.",
        action=Action(ActionKind.LAUNCH, s.memory.trouble or "a gateway is wanted"),
    )


def _cannot_look(s: Situation) -> Decision | None:
    if s.seen.wanted is Wanted.KEEP:
        return s.verdict(
            State.QUEUED, s.seen.wanted_why or FOLLOWERS_UNKNOWN, "Nothing is started before that changes."
        )
    if s.seen.runtime_fault:
        reason = s.seen.runtime_fault
        return s.verdict(State.QUEUED, reason, "It starts when the runtime answers.")
    if s.seen.gateway_stale:
        return s.verdict(
            State.QUEUED, "Nobody knows whether its last launch left a container.", "The runtime is asked."
        )
    if s.seen.gateway is not None:
        state = State.RECONNECTING if s.memory.was_ready else State.CONNECTING
        return s.verdict(state, f"Its container is {s.seen.gateway.state.value}.", "It is watched.")
    if s.seen.attempt is not None:
        reason = "The end of its last login is being written down."
        return s.verdict(State.QUEUED, reason, "Nobody logs in before it is.", until=s.now + timedelta(seconds=1))
    return None


def _human(s: Situation) -> Decision | None:
    if s.record.needs_human is None or s.seen.operator_login:
        return None
    return s.verdict(State.NEEDS_HUMAN, s.record.needs_human, _launch(s, "once that is seen to"))


def _pause(s: Situation) -> Decision | None:
    until = s.memory.not_before
    if until <= s.now:
        return None
    why = s.memory.not_before_why or "The last try failed."
    if s.memory.prepare_refusal is not None:
        return s.verdict(State.NEEDS_HUMAN, why, f"The secret is looked at again at {until:%H:%M:%S} UTC.", until=until)
    return s.verdict(State.BACKING_OFF, why, f"Next try at {until:%H:%M:%S} UTC.", until=until)


def _secret(s: Situation) -> Decision | None:
    if s.seen.prepared is not None:
        return None
    reason = s.memory.trouble or "Its image and its secret are being fetched."
    return s.verdict(State.QUEUED, reason, "The login follows.", action=Action(ActionKind.PREPARE, reason))


def login_refusal(s: Situation, prepared: Prepared) -> tuple[str, datetime | None] | None:
    """Why no login may follow now, as the account's safety goes; with the time when it may, where time alone helps."""
    login, record = prepared.login, s.record
    stated = max((a.not_before for a in prepared.counted if a.not_before), default=None)
    if stated is not None and stated > s.now:
        return f"IBKR asked for a pause after too many failed logins of {login.user}.", stated
    if s.seen.operator_login:
        return None
    if record.rejected_version == login.version and record.rejected_user == login.user:
        version = shown_version(login.version)
        return f"IBKR did not accept user name and password of {login.user} (secret version {version}).", None
    return _pause_after_failure(s, prepared)


def _pause_after_failure(s: Situation, prepared: Prepared) -> tuple[str, datetime | None] | None:
    turn = next_login(prepared.counted)
    if turn is None or turn[0] <= s.now:
        return None
    if turn[1].outcome is LoginOutcome.SECOND_FACTOR_MISSED:
        return None  # a human said since then that the phone is at hand: nothing else clears `needs_human`
    if turn[1].outcome is LoginOutcome.REJECTED and turn[1].secret_version != prepared.login.version:
        return None  # another password was stored: that cures a rejection, and the budget still counts
    count = len(prepared.counted)
    ended = turn[1].outcome.value.replace("_", " ") if turn[1].outcome else "unfinished"
    return (
        f"{count} login{'s' * (count > 1)} of {prepared.login.user} failed within 24 h, the last one: {ended}.",
        turn[0],
    )


def budget_refusal(s: Situation, prepared: Prepared) -> str | None:
    """The sentence when the user's login budget is spent."""
    if s.seen.operator_login or len(prepared.counted) < s.seen.limits.login_budget:
        return None
    return (
        f"{len(prepared.counted)} logins of {prepared.login.user} failed within 24 h, and the login budget is "
        f"{s.seen.limits.login_budget}; IBKR locks a user at 10."
    )


def _rejection(s: Situation) -> Decision | None:
    assert s.seen.prepared is not None
    refusal = login_refusal(s, s.seen.prepared)
    if refusal is None:
        return None
    sentence, until = refusal
    if until is not None and budget_refusal(s, s.seen.prepared) is None:
        return s.verdict(State.BACKING_OFF, _why(s, sentence), f"Next login at {until:%H:%M:%S} UTC.", until=until)
    if until is not None:
        return None
    newest = s.seen.newest_version
    action = None
    if newest is not None and newest != s.seen.prepared.login.version:
        action = Action(ActionKind.PREPARE, "a new version of the secret is there")
    then = f"Store the right password, and it logs in by itself; or run `gateway-manager launch {s.seen.follower_id} --retry-login`."
    return s.verdict(State.NEEDS_HUMAN, sentence, then, action=action)


def _budget(s: Situation) -> Decision | None:
    assert s.seen.prepared is not None
    sentence = budget_refusal(s, s.seen.prepared)
    if sentence is None:
        return None
    sentence = _why(s, sentence)
    record = replace(s.record, needs_human=sentence)
    return s.verdict(
        State.NEEDS_HUMAN, sentence, _launch(s, "takes one more login on purpose", retry=True), record=record
    )


def _why(s: Situation, sentence: str) -> str:
    """How many failed, and how the last one ended: a number alone cures nothing."""
    return f"{sentence} {s.memory.trouble}" if s.memory.trouble else sentence


def _turn(s: Situation) -> Decision | None:
    permit = s.seen.permit
    if permit is None:
        reason = s.memory.trouble or "It waits for its turn."
        return s.verdict(State.QUEUED, reason, "It asks for its turn.", action=Action(ActionKind.ASK_PERMIT, reason))
    if permit.state is PermitState.HELD:
        return None
    again = Action(ActionKind.ASK_PERMIT, permit.sentence)  # a wake-up may go to one that no longer wants its turn
    if permit.state is PermitState.TAKEN:
        then = "Give each follower an IBKR user of its own, or disable one of them."
        return s.verdict(State.NEEDS_HUMAN, permit.sentence, then, action=again)
    return s.verdict(State.QUEUED, permit.sentence, "It logs in after that.", action=again)


def _launch(s: Situation, when: str, *, retry: bool = False) -> str:
    command = f"gateway-manager launch {s.seen.follower_id}{' --retry-login' if retry else ''}"
    return f"Run `{command}` {when}." if not retry else f"`{command}` {when}."
