"""How a login ended, read from the controller's log and the exit code; and what that means for the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.controller_log.exit_codes import ExitKind, exit_meaning
from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.controller_log.tables import VERDICTS, LoginPhase
from spreadpilot_core.ibkr.deciding.observation import Observation
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import DAY, ContainerId, LoginOutcome, Record
from spreadpilot_core.ibkr.model.reset_windows import ResetHours

THROTTLE_WITHOUT_FIGURE = timedelta(minutes=10)
"""IBKR said "too many attempts" without a wait that could be read; its longest stated one is under 5 minutes."""
THROTTLE_AIR = timedelta(seconds=5)
FALSE_REJECTION_AGAIN = timedelta(hours=24)
RESTARTED = Reason(
    ReasonCode.CONTAINER_RESTARTED,
    "Its container was started again by somebody else (`docker restart`, `docker start`, a restart policy), which its"
    " password does not outlive: it can never log in.",
)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a finished login means."""

    outcome: LoginOutcome
    reason: Reason
    record: Record
    not_before: datetime | None = None
    is_loss: bool = False
    """The gateway was logged in: it was lost, it did not fail to log in."""


def conclude(
    view: LoginView | None,
    gateway: Gateway | None,
    record: Record,
    *,
    container: ContainerId,
    hours: ResetHours,
    now: datetime,
    spent: bool = False,
) -> Conclusion | None:
    """The conclusion when the login of this gateway is over for good, else None.

    A container that ended concludes always; one that runs only when its log says that nothing good can come any more.
    What was counted and what IBKR answered decides, not the phase that is shown now: a controller that begins again has
    left it within milliseconds. `spent`: the logins that failed have used up the user's budget.
    """
    ended = gateway is None or gateway.phase is GatewayPhase.EXITED
    if gateway is not None and gateway.is_restarted and not ended:
        completed = record.logged_in_before == container
        return Conclusion(LoginOutcome.UNFINISHED, RESTARTED, record, is_loss=completed)
    phase = view.phase if view is not None else LoginPhase.UNKNOWN
    evidence = f' It logged: "{view.evidence}".' if view is not None and view.evidence else ""
    if view is not None and view.relaunches and view.last_failure:
        evidence = f' It logged: "{view.last_failure}".'
    if view is not None:
        answer = _answered(view, record, container=container, hours=hours, now=now, evidence=evidence)
        if answer is not None:
            return answer
    where = " during IBKR's reset" if hours.long_span(now) else ""
    if view is not None and not view.completed and (view.relaunches > 1 or spent):
        return _looping(view, record, where, evidence)
    if phase is LoginPhase.FAILED and view is not None and ended and not view.nothing_typed:
        failed = Reason(ReasonCode.LOGIN_FAILED, f"The login failed{where}.{evidence}")
        return Conclusion(LoginOutcome.FAILED, failed, record)
    if _refused_by_code(view, gateway):
        words = f" Its container ended{_with_code(gateway.exit_code if gateway else None)}.{evidence}"
        return _rejected(view or LoginView(), record, container=container, hours=hours, now=now, evidence=words)
    if not ended:
        return None
    conclusion = _ended(view, gateway, record, container, evidence)
    # IBKR closes gateways as it resets, with code 0: nothing was lost that says anything of this one.
    return replace(conclusion, is_loss=conclusion.is_loss and not hours.excuse(now))


def _answered(
    view: LoginView, record: Record, *, container: ContainerId, hours: ResetHours, now: datetime, evidence: str
) -> Conclusion | None:
    """What IBKR itself has said to this login, whatever the controller does next."""
    verdict = view.verdict or view.phase
    if view.cure is not None:
        reason = replace(view.cure, sentence=f'{view.cure} IBKR said: "{view.cure_evidence}".')
        return Conclusion(LoginOutcome.FAILED, reason, replace(record, needs_human=reason))
    if verdict is LoginPhase.REJECTED or _is_rejection(view, hours, now):
        return _rejected(view, record, container=container, hours=hours, now=now, evidence=evidence)
    if verdict is LoginPhase.THROTTLED:
        wait = timedelta(seconds=view.wait_seconds) if view.wait_seconds else THROTTLE_WITHOUT_FIGURE
        reason = Reason(ReasonCode.LOGIN_THROTTLED, f"IBKR refused the login: too many failed attempts.{evidence}")
        return Conclusion(LoginOutcome.THROTTLED, reason, record, now + wait + THROTTLE_AIR)
    if verdict is LoginPhase.SECOND_FACTOR_MISSED:
        reason = Reason(ReasonCode.PHONE_APPROVAL_MISSED, f"Nobody approved the login on the phone in time.{evidence}")
        return Conclusion(LoginOutcome.SECOND_FACTOR_MISSED, reason, replace(record, needs_human=reason))
    return None


def _looping(view: LoginView, record: Record, where: str, evidence: str) -> Conclusion:
    """The controller has begun again by itself often enough: it would type one login after the other without an end."""
    if view.nothing_typed:
        missing = Reason(
            ReasonCode.LOGIN_WINDOW_MISSING,
            f"The login window did not appear, again and again; the host is slow: load, memory.{evidence}",
        )
        return Conclusion(LoginOutcome.VOID, missing, record)
    times = f" {view.attempts_over} times in a row" if view.attempts_over > 1 else ""
    failed = Reason(
        ReasonCode.LOGIN_FAILED,
        f"The login failed{times}{where}, and its controller would type it once more.{evidence}",
    )
    return Conclusion(LoginOutcome.FAILED, failed, record)


def is_spent(seen: Observation, view: LoginView | None, now: datetime) -> bool:
    """Whether a login of this container failed, and with it the user's logins have reached a limit.

    Counted is what the ledger has, and what the log tells of and the ledger does not have yet.
    """
    if view is None or view.completed or view.attempts_over == 0:
        return False
    since, user, limits = now - DAY, seen.record.user, seen.limits
    known = [each for each in seen.logins if each.user == user and each.is_full and each.reserved_at > since]
    unsettled = max(0, view.attempts - max(1, seen.record.logins_booked)) + (seen.attempt is not None)
    under_way = view.attempts - view.attempts_cleared > view.attempts_over
    counted = sum(each.counts for each in known) + max(0, unsettled - under_way)
    full = limits.full_login_limit
    return counted >= limits.login_budget or (full is not None and len(known) + unsettled >= full)


def broken_off(view: LoginView | None) -> LoginOutcome:
    """How a login counts that we ended ourselves, by the last that its log said."""
    if view is None:
        return LoginOutcome.BROKEN_OFF
    if view.nothing_typed:
        return LoginOutcome.VOID
    if view.completed:
        return LoginOutcome.SUCCEEDED
    return LoginOutcome.BROKEN_OFF_ACCEPTED if view.accepted else LoginOutcome.BROKEN_OFF


def _refused_by_code(view: LoginView | None, gateway: Gateway | None) -> bool:
    """The code alone tells a refused login where the line that told it was lost."""
    if gateway is None or gateway.phase is not GatewayPhase.EXITED or (view is not None and view.phase in VERDICTS):
        return False
    return exit_meaning(gateway.controller, gateway.exit_code).kind is ExitKind.REJECTED_OR_THROTTLED


def _missed_by_code(view: LoginView | None, gateway: Gateway) -> bool:
    """Likewise a second factor. IBC ends so only when the phone had approved, and then one more try is due."""
    is_open = view is None or not (view.completed or view.phase in VERDICTS)
    kind = exit_meaning(gateway.controller, gateway.exit_code).kind
    return is_open and kind is ExitKind.SECOND_FACTOR and gateway.controller != "ibc"


def _is_rejection(view: LoginView, hours: ResetHours, now: datetime) -> bool:
    """`Login failed` outside a reset window is a rejection, whatever the controller does next."""
    return view.login_failed and not view.completed and hours.long_span(now) is None


def _rejected(
    view: LoginView, record: Record, *, container: ContainerId, hours: ResetHours, now: datetime, evidence: str
) -> Conclusion:
    logged_in_before = view.completed_before or record.logged_in_before == container
    spent = record.false_rejection_used
    if logged_in_before and (spent is None or now - spent >= FALSE_REJECTION_AGAIN):
        said = f"The login was rejected in a session that had been logged in, which IBKR does falsely.{evidence}"
        record = replace(record, false_rejection_used=now)
        reset = hours.long_span(now)
        until = reset[1] if reset is not None else None
        return Conclusion(LoginOutcome.REJECTED, Reason(ReasonCode.SESSION_REJECTED, said), record, until)
    reason = Reason(ReasonCode.PASSWORD_REJECTED, f"IBKR did not accept user name and password.{evidence}")
    record = replace(
        record, rejected_user=record.user, rejected_version=record.secret_version, last_reason=reason.sentence
    )
    return Conclusion(LoginOutcome.REJECTED, reason, record)


def _with_code(code: int | None) -> str:
    return f" with code {code}" if code is not None else ""


def _ended(
    view: LoginView | None, gateway: Gateway | None, record: Record, container: ContainerId, evidence: str
) -> Conclusion:
    meaning, kind = "is gone", ExitKind.UNKNOWN
    if gateway is not None:
        by_code = exit_meaning(gateway.controller, gateway.exit_code)
        meaning, kind = f"ended{_with_code(gateway.exit_code)} ({by_code.sentence})", by_code.kind
    completed = view is not None and (view.completed or view.completed_before)
    completed = completed or record.logged_in_before == container
    oom = "".join(f" {notice}" for notice in gateway.notices) if gateway is not None else ""
    code = gateway.ended_by if gateway is not None and gateway.ended_by is not None else ReasonCode.CONTAINER_ENDED
    reason = Reason(code, f"The gateway's container {meaning}.{oom}{evidence}")
    if (cause := _cause_for_human(view, kind, reason, evidence, completed=completed)) is not None:
        reason, record = cause, replace(record, needs_human=cause)
    elif gateway is not None and _missed_by_code(view, gateway):
        reason = replace(reason, code=ReasonCode.PHONE_APPROVAL_MISSED)
        return Conclusion(LoginOutcome.SECOND_FACTOR_MISSED, reason, replace(record, needs_human=reason))
    # A login that is still open although one completed earlier is a later one, which the controller typed by itself.
    outcome = LoginOutcome.UNFINISHED if gateway is None else LoginOutcome.FAILED
    if view is not None and view.completed:
        outcome = LoginOutcome.SUCCEEDED
    elif view is not None and view.nothing_typed and gateway is not None:
        outcome = LoginOutcome.VOID
        reason = replace(reason, sentence=f"{reason} Nothing was typed.")
    return Conclusion(outcome, reason, record, is_loss=completed)


def _cause_for_human(
    view: LoginView | None, kind: ExitKind, reason: Reason, evidence: str, *, completed: bool
) -> Reason | None:
    """Why it would end the same way again; None: it need not."""
    if view is not None and view.phase is LoginPhase.CONFLICT:
        sentence = f"The gateway gave way to another session of the same user.{evidence}"
        return Reason(ReasonCode.COMPETING_SESSION, sentence)
    if completed:
        return None
    if view is not None and view.human is not None:
        return replace(view.human, sentence=f"{view.human}{evidence}")
    if kind is ExitKind.CONFIG:
        return Reason(ReasonCode.CONTROLLER_FAILED, f"{reason} Another try would end the same way.")
    return None
