"""Policies: no gateway runs and one is wanted. Every rule that protects the account is asked here, before a permit.

The same rules stand again in the record store's ledger, which reserves the login; here they give the sentence.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.decision import Action, Decision, Situation
from spreadpilot_core.ibkr.deciding.observation import BEGINS_NOTHING, ActionKind, PermitState, Preflight
from spreadpilot_core.ibkr.deciding.pacing import LOSSES, STABLE_SESSION, next_login
from spreadpilot_core.ibkr.deciding.removing import FOLLOWERS_UNKNOWN
from spreadpilot_core.ibkr.deciding.resetting import must_start_before, waiting_for_reset
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import (
    AUTOMATIC_PROMPTS,
    OPERATOR_LIMITS,
    AttemptId,
    LoginAttempt,
    LoginOutcome,
    exceeded,
)
from spreadpilot_core.ibkr.model.secret_refs import shown_version
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.system.wording import counted

TICKET_AGE = timedelta(seconds=20)
"""Older than this a ticket may expire (30 s) before it is delivered: the secret is read again."""
STARTING = Reason(ReasonCode.CONTAINER_STARTING, "Its container is being created and started.")
LEFT_ELSEWHERE_CURE = (
    "End this manager and start one there, which adopts it (`gateway-manager run`), or end it there (`gateway-manager stop"
    " --offline`). Once it is certain that it is gone, `gateway-manager run --take-over` here."
)


def launching(s: Situation) -> Decision:
    """Start a gateway, or say what it waits for."""
    if s.seen.running is ActionKind.LAUNCH:
        waits = f" It waits: {s.seen.launch_waits.rstrip('.')}." if s.seen.launch_waits else ""
        return s.verdict(State.LAUNCHING, replace(STARTING, sentence=f"{STARTING}{waits}"), "The login follows.")
    if s.seen.running is ActionKind.REMOVE:
        state = s.memory.state if s.memory.state is not State.READY else State.RECONNECTING
        reason = s.memory.trouble or Reason(ReasonCode.CONTAINER_ENDED, "Its container is being removed.")
        return s.verdict(state, reason, "Its container is removed.")
    known = (_blocked, _human, _unstable, _pause, _image, _rejection, _limits, waiting_for_reset)
    for rule in (*known, _permit, _secret):
        decision = rule(s)
        if decision is not None:
            return _returning_permit(s, decision)
    why = s.memory.trouble.sentence if s.memory.trouble is not None else "a gateway is wanted"
    cause = s.memory.trouble.code if s.memory.trouble is not None else None
    action = Action(ActionKind.LAUNCH, why, cause=cause, before=must_start_before(s))
    return s.verdict(State.LAUNCHING, STARTING, "The login follows.", action=action)


def _returning_permit(s: Situation, decision: Decision) -> Decision:
    """Who does not go on with its turn, or with waiting for it, gives it to the next."""
    goes_on = decision.action is not None or s.seen.running is not None or s.seen.permit is None
    if goes_on or s.seen.gateway is not None or s.seen.gateway_stale or s.seen.attempt is not None:
        return decision
    return replace(decision, action=Action(ActionKind.RETURN_PERMIT, decision.reason or "It can't go on."))


def _blocked(s: Situation) -> Decision | None:
    if s.seen.wanted in BEGINS_NOTHING:
        return s.verdict(
            State.QUEUED, s.seen.wanted_why or FOLLOWERS_UNKNOWN, "Nothing is started before that changes."
        )
    if s.seen.runtime_fault is not None:
        return s.verdict(State.QUEUED, s.seen.runtime_fault, "It starts when the runtime answers.")
    if s.seen.gateway_stale:
        unknown = Reason(ReasonCode.LAUNCH_RESULT_UNKNOWN, "The last launch may have left a container.")
        return s.verdict(State.QUEUED, unknown, "The runtime is asked.")
    if s.seen.record_fault is not None and s.seen.gateway is None:
        damaged = Reason(ReasonCode.RECORD_DAMAGED, s.seen.record_fault)
        return s.verdict(State.NEEDS_HUMAN, damaged, "Nobody logs in before that.")
    if s.seen.left_elsewhere is not None and s.seen.gateway is None:
        left = Reason(ReasonCode.GATEWAY_LEFT_ELSEWHERE, f"{s.seen.left_elsewhere}: nobody logs in beside it.")
        return s.verdict(State.NEEDS_HUMAN, left, LEFT_ELSEWHERE_CURE)
    if s.seen.unclaimed is not None and s.seen.gateway is None:
        return s.verdict(State.NEEDS_HUMAN, s.seen.unclaimed, "Nobody logs in beside it.")
    if s.seen.gateway is not None:
        state = State.RECONNECTING if s.memory.was_ready else State.CONNECTING
        there = Reason(ReasonCode.CONTAINER_CHANGED, f"Its container is {s.seen.gateway.phase.value}.")
        return s.verdict(state, there, "It is watched.")
    if s.seen.attempt is not None or s.seen.books_logins:
        reason = Reason(ReasonCode.LOGIN_BEING_RECORDED, "The end of its last login is being written down.")
        return s.verdict(State.QUEUED, reason, "Nobody logs in before it is.", until=s.now + timedelta(seconds=1))
    return None


def _human(s: Situation) -> Decision | None:
    if s.record.needs_human is None or s.seen.operator_login:
        return None
    then = s.record.needs_human.next_action or _launch(s, "once that is seen to")
    return s.verdict(State.NEEDS_HUMAN, s.record.needs_human, then)


def _unstable(s: Situation) -> Decision | None:
    """Derived from the count, so that an outage that is only known later takes it back."""
    if s.record.losses < LOSSES or s.seen.operator_login:
        return None
    sentence = (
        f"{s.record.losses} gateways were lost one after the other, none after {STABLE_SESSION / 60:g} minutes of being"
        f" ready; each costs a full login. The last one: {s.record.last_loss}"
    )
    reason = Reason(ReasonCode.SESSIONS_UNSTABLE, sentence, facts={"losses": s.record.losses})
    return s.verdict(State.NEEDS_HUMAN, reason, _launch(s, "once that is seen to"))


def _pause(s: Situation) -> Decision | None:
    until = s.memory.not_before
    if until <= s.now:
        return None
    why = s.memory.not_before_reason or Reason(ReasonCode.LAUNCH_FAILED, "The last try failed.")
    why = replace(why, facts={**why.facts, "until": until.isoformat()})
    if s.memory.secret_refused:
        then = f"The secret is looked at again at {until:%H:%M:%S} UTC, stored credentials at once; {s.seen.command('launch')} looks now."
        return s.verdict(State.NEEDS_HUMAN, why, then, until=until)
    if why.code is ReasonCode.NAME_TAKEN:
        then = f"It is tried again at {until:%H:%M:%S} UTC; {s.seen.command('launch')} tries it now."
        return s.verdict(State.NEEDS_HUMAN, why, then, until=until)
    return s.verdict(State.BACKING_OFF, why, f"Next try at {until:%H:%M:%S} UTC.", until=until)


def _image(s: Situation) -> Decision | None:
    """Before the turn: an image that is pulled for minutes must not take a place meanwhile."""
    if s.seen.image_checked:
        return None
    reason = s.memory.trouble or Reason(ReasonCode.IMAGE_NEEDED, "Its image is being fetched.")
    action = Action(ActionKind.CHECK_IMAGE, reason.sentence)
    return s.verdict(State.QUEUED, reason, "The login follows, unless something speaks against it.", action=action)


def _secret(s: Situation) -> Decision | None:
    """In its turn: what is read is delivered within seconds, however many wait and however slowly they start."""
    if s.seen.preflight is not None and s.now - s.seen.preflight.at <= TICKET_AGE:
        return None
    reading = Reason(ReasonCode.CREDENTIALS_NEEDED, "Its secret is being read.")
    return _read_secret(s, s.memory.trouble or reading)


def _read_secret(s: Situation, reason: Reason) -> Decision:
    action = Action(ActionKind.PREPARE, reason.sentence)
    return s.verdict(State.QUEUED, reason, "The login follows, unless something speaks against it.", action=action)


def login_refusal(s: Situation, preflight: Preflight) -> tuple[Reason, datetime | None] | None:
    """Why no login may follow now, as the account's safety goes; with the time when it may, where time alone helps."""
    login, record = preflight.login, s.record
    stated = max((a.not_before for a in preflight.counted if a.not_before), default=None)
    if stated is not None and stated > s.now:
        sentence = f"IBKR asked for a pause after too many failed logins of {login.user}."
        return Reason(ReasonCode.LOGIN_PAUSE, sentence), stated
    if s.seen.operator_login:
        return None
    if record.rejected_version == login.version and record.rejected_user == login.user:
        version = shown_version(login.version)
        sentence = f"IBKR did not accept user name and password of {login.user} (secret version {version})."
        return Reason(ReasonCode.PASSWORD_REJECTED, sentence, facts={"secret_version": version}), None
    return _pause_after_failure(s, preflight)


def _pause_after_failure(s: Situation, preflight: Preflight) -> tuple[Reason, datetime | None] | None:
    due = next_login(preflight.logins)
    if due is None or due[0] <= s.now:
        return None
    if due[1].outcome is LoginOutcome.SECOND_FACTOR_MISSED:
        return None  # a human said since then that the phone is at hand: nothing else clears `needs_human`
    if due[1].outcome is LoginOutcome.REJECTED and due[1].secret_version != preflight.login.version:
        return None  # another password was stored: that cures a rejection, and the budget still counts
    count = len(preflight.counted)
    ended = due[1].outcome.value.replace("_", " ") if due[1].outcome else "unfinished"
    sentence = f"{counted(count, 'login')} of {preflight.login.user} failed within 24 h, the last one: {ended}."
    return Reason(ReasonCode.LOGIN_PAUSE, sentence, facts={"failed_logins": count}), due[0]


def limit_refusal(s: Situation, preflight: Preflight) -> Reason | None:
    """What the user's logins of the last 24 h forbid, with the word that passes it."""
    user, by_operator = preflight.login.user, s.seen.operator_login
    if s.seen.overridden_user is not None and s.seen.overridden_user.casefold() != user.casefold():
        sentence = f"`--override-account-lock` names {s.seen.overridden_user}, and the IBKR user of {s.seen.follower_id} is {user}."
        return Reason(ReasonCode.OPERATOR_LOGIN_REFUSED, sentence, "Name that user, if it is meant.")
    wanted = LoginAttempt(
        id=AttemptId(""),
        user=user,
        follower_id=s.seen.follower_id,
        secret_version=preflight.login.version,
        reserved_at=s.now,
        by_operator=by_operator,
        phone=s.seen.phone,
    )
    limits = s.seen.limits.of_login(by_operator=by_operator, overridden=s.seen.overridden_user is not None)
    refusal = exceeded(preflight.logins, wanted, limits)
    if refusal is None:
        return None
    count, until = len(refusal.attempts), f"{refusal.until:%Y-%m-%d %H:%M:%S} UTC"
    failed = f"{counted(count, 'login')} of {user} failed within 24 h"
    facts = {"logins": count, "until": refusal.until.isoformat() if refusal.until else None}
    retry = _launch(s, "takes one more login on purpose", retry=True)
    match refusal.reason:
        case "budget" if by_operator:
            then = f"{s.seen.command('launch', '--override-account-lock', user)} takes it all the same; without it there is a place at {until}."
            sentence = f"{failed}, IBKR locks a user at 10, and `--retry-login` ends at {OPERATOR_LIMITS.counted}."
            return Reason(ReasonCode.OPERATOR_LOGIN_REFUSED, sentence, then, facts)
        case "operator_gap":
            gap = f"{OPERATOR_LIMITS.operator_gap.total_seconds():g} s"
            sentence = f"An operator took a login of {user} less than {gap} ago: that long lies between two."
            return Reason(ReasonCode.OPERATOR_LOGIN_REFUSED, sentence, f"Say it again after {until}.", facts)
        case "budget":
            sentence = f"{failed}, and the login budget is {s.seen.limits.login_budget}; IBKR locks a user at 10."
            return Reason(ReasonCode.LOGIN_BUDGET_SPENT, sentence, retry, facts)
        case "prompts":
            sentence = f"A phone was asked {counted(count, 'time')} within 24 h for {user}, and {AUTOMATIC_PROMPTS} is the most that happens by itself."
            return Reason(ReasonCode.PHONE_PROMPT_LIMIT, sentence, _with_detach(s, retry), facts)
        case _:
            sentence = f"{user} made {counted(count, 'full login')} within 24 h, and full_login_limit is {s.seen.limits.full_login_limit}."
            return Reason(ReasonCode.FULL_LOGIN_LIMIT, sentence, _with_detach(s, retry), facts)


def _with_detach(s: Situation, then: str) -> str:
    """A program that stops its gateways pays a login for each of its starts."""
    if not s.record.ended_with_manager:
        return then
    return f'{then} The last gateway was stopped with its manager: on_exit="detach" leaves it running for the next one, which costs no login.'


def _rejection(s: Situation) -> Decision | None:
    if s.seen.preflight is None:
        return None
    refusal = login_refusal(s, s.seen.preflight)
    if refusal is None:
        return None
    reason, until = refusal
    if until is not None and limit_refusal(s, s.seen.preflight) is None:
        then = f"Next login at {until:%H:%M:%S} UTC."
        reason = replace(_why(s, reason), facts={**reason.facts, "until": until.isoformat()})
        return s.verdict(State.BACKING_OFF, reason, then, until=until)
    if until is not None:
        return None
    action = _reread_secret(s)
    then = (
        f"Store the right password, and it logs in by itself, at once with {s.seen.command('launch')}. "
        f"Only where this one is right all the same, {s.seen.command('launch', '--retry-login')} tries it once more."
    )
    return s.verdict(State.NEEDS_HUMAN, reason, then, action=action)


def _reread_secret(s: Situation) -> Action | None:
    """Read it again once there is a version that was not read yet."""
    newest, read = s.seen.newest_version, s.seen.preflight
    if newest is None or read is None or newest == read.login.version:
        return None
    return Action(ActionKind.PREPARE, "a new version of the secret is there")


def _limits(s: Situation) -> Decision | None:
    if s.seen.preflight is None:
        return None
    refusal = limit_refusal(s, s.seen.preflight)
    if refusal is None:
        return None
    if s.seen.operator_login:
        return _as_it_was(s, refusal)
    reason = _why(s, refusal)
    return s.verdict(State.NEEDS_HUMAN, reason, refusal.next_action, record=replace(s.record, needs_human=reason))


def _as_it_was(s: Situation, refusal: Reason) -> Decision:
    """An operator's login is refused: whoever asked is told why, and the gateway waits for what it waited for before."""
    unasked = launching(replace(s, seen=replace(s.seen, operator_login=False, overridden_user=None)))
    return replace(unasked, action=None, recheck_after=0.0, refuse_login=_why(s, refusal))


def _why(s: Situation, reason: Reason) -> Reason:
    """How many failed, and how the last one ended: a number alone cures nothing."""
    if s.memory.trouble is None:
        return reason
    return replace(reason, sentence=f"{reason} {s.memory.trouble}")


def _permit(s: Situation) -> Decision | None:
    permit, preflight = s.seen.permit, s.seen.preflight
    if permit is None or (preflight is not None and permit.user != preflight.login.user):
        reason = s.memory.trouble or Reason(ReasonCode.PERMIT_REQUESTED, "It waits for its turn.")
        action = Action(ActionKind.ASK_PERMIT, reason.sentence)
        return s.verdict(State.QUEUED, reason, "It asks for its turn.", action=action)
    if permit.state is PermitState.HELD:
        return None
    again = Action(ActionKind.ASK_PERMIT, permit.sentence)  # a wake-up may go to one that no longer wants its turn
    if permit.state is PermitState.TAKEN and preflight is None:  # by the last login's user: the secret may name another
        return _read_secret(s, Reason(ReasonCode.USER_LOGGED_IN_ELSEWHERE, permit.sentence))
    if permit.state is PermitState.TAKEN:
        then = f"Give each follower an IBKR user of its own, or disable one of them; {s.seen.command('launch')} has it looked at now."
        taken = Reason(ReasonCode.USER_LOGGED_IN_ELSEWHERE, permit.sentence)
        return s.verdict(State.NEEDS_HUMAN, taken, then, action=_reread_secret(s) or again)
    waits = Reason(ReasonCode.WAITING_FOR_PERMIT, permit.sentence)
    return s.verdict(State.QUEUED, waits, "It logs in after that.", action=again)


def _launch(s: Situation, when: str, *, retry: bool = False) -> str:
    return (
        f"{s.seen.command('launch', '--retry-login')} {when}." if retry else f"Run {s.seen.command('launch')} {when}."
    )
