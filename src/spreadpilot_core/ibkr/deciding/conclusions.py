"""How a login ended, read from the controller's log and the exit code; and what that means for the next one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.deciding.reset_windows import reset_window_end
from spreadpilot_core.ibkr.login_log import ExitKind, LoginPhase, LoginView, exit_meaning
from spreadpilot_core.ibkr.login_log_tables import VERDICTS
from spreadpilot_core.ibkr.protocols import ContainerId, Gateway, LoginOutcome, Record, RuntimeState

THROTTLE_WITHOUT_FIGURE = timedelta(minutes=10)
"""IBKR said "too many attempts" without a wait that could be read; its longest stated one is under 5 minutes."""
THROTTLE_AIR = timedelta(seconds=5)
FALSE_REJECTION_AGAIN = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a finished login means."""

    outcome: LoginOutcome
    sentence: str
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
    region: str | None,
    now: datetime,
) -> Conclusion | None:
    """The conclusion when the login of this gateway is over for good, else None.

    A container that ended concludes always; one that runs only when its log says that nothing good can come any more.
    """
    ended = gateway is None or gateway.state is RuntimeState.EXITED
    phase = view.phase if view is not None else LoginPhase.UNKNOWN
    evidence = f' It logged: "{view.evidence}".' if view is not None and view.evidence else ""
    if view is not None and (phase is LoginPhase.REJECTED or _is_rejection(view, region, now)):
        return _rejected(view, record, container=container, region=region, now=now, evidence=evidence)
    if phase is LoginPhase.THROTTLED:
        wait = timedelta(seconds=view.wait_seconds) if view and view.wait_seconds else THROTTLE_WITHOUT_FIGURE
        until = now + wait + THROTTLE_AIR
        return Conclusion(
            LoginOutcome.THROTTLED, f"IBKR refused the login: too many failed attempts.{evidence}", record, until
        )
    if phase is LoginPhase.SECOND_FACTOR_MISSED:
        sentence = f"Nobody approved the login on the phone in time.{evidence}"
        return Conclusion(LoginOutcome.SECOND_FACTOR_MISSED, sentence, replace(record, needs_human=sentence))
    if phase is LoginPhase.FAILED and view is not None and (ended or view.laps - view.laps_forgiven > 1):
        reset_over = reset_window_end(now, region)
        where = " during IBKR's reset" if reset_over else ""
        return Conclusion(LoginOutcome.FAILED, f"The login failed{where}.{evidence}", record, reset_over)
    if _refused_by_code(view, gateway):
        words = f" Its container ended{_with_code(gateway.exit_code if gateway else None)}.{evidence}"
        return _rejected(view or LoginView(), record, container=container, region=region, now=now, evidence=words)
    return _ended(view, gateway, record, container, evidence) if ended else None


def _refused_by_code(view: LoginView | None, gateway: Gateway | None) -> bool:
    """The code alone tells a refused login where the line that told it was lost."""
    if gateway is None or gateway.state is not RuntimeState.EXITED or (view is not None and view.phase in VERDICTS):
        return False
    return exit_meaning(gateway.dialect, gateway.exit_code).kind is ExitKind.REJECTED_OR_THROTTLED


def _missed_by_code(view: LoginView | None, gateway: Gateway) -> bool:
    """Likewise a second factor. IBC ends so only when the phone had approved, and then one more try is due."""
    is_open = view is None or not (view.completed or view.phase in VERDICTS)
    kind = exit_meaning(gateway.dialect, gateway.exit_code).kind
    return is_open and kind is ExitKind.SECOND_FACTOR and gateway.dialect != "ibc"


def _is_rejection(view: LoginView, region: str | None, now: datetime) -> bool:
    """`Login failed` outside a reset window is a rejection, whatever the controller does next."""
    return view.login_failed and not view.completed and reset_window_end(now, region) is None


def _rejected(
    view: LoginView, record: Record, *, container: ContainerId, region: str | None, now: datetime, evidence: str
) -> Conclusion:
    logged_in_before = view.completed_before or record.logged_in_before == container
    spent = record.false_rejection_used
    if logged_in_before and (spent is None or now - spent >= FALSE_REJECTION_AGAIN):
        sentence = f"The login was rejected in a session that had been logged in, which IBKR does falsely.{evidence}"
        record = replace(record, false_rejection_used=now)
        return Conclusion(LoginOutcome.REJECTED, sentence, record, reset_window_end(now, region))
    sentence = f"IBKR did not accept user name and password.{evidence}"
    record = replace(record, rejected_user=record.user, rejected_version=record.secret_version, last_reason=sentence)
    return Conclusion(LoginOutcome.REJECTED, sentence, record)


def _with_code(code: int | None) -> str:
    return f" with code {code}" if code is not None else ""


def _ended(
    view: LoginView | None, gateway: Gateway | None, record: Record, container: ContainerId, evidence: str
) -> Conclusion:
    meaning, kind = "is gone", ExitKind.UNKNOWN
    if gateway is not None:
        told = exit_meaning(gateway.dialect, gateway.exit_code)
        meaning, kind = f"ended{_with_code(gateway.exit_code)} ({told.sentence})", told.kind
    completed = view is not None and (view.completed or view.completed_before)
    completed = completed or record.logged_in_before == container
    oom = "".join(f" {notice}" for notice in gateway.notices) if gateway is not None else ""
    sentence = f"The gateway's container {meaning}.{oom}{evidence}"
    if view is not None and view.phase is LoginPhase.CONFLICT:
        sentence = f"The gateway gave way to another session of the same user.{evidence}"
        record = replace(record, needs_human=sentence)
    elif view is not None and view.human and not completed:
        sentence = f"{view.human}{evidence}"
        record = replace(record, needs_human=sentence)
    elif kind is ExitKind.CONFIG and not completed:
        sentence += " Another try would end the same way."
        record = replace(record, needs_human=sentence)
    elif gateway is not None and _missed_by_code(view, gateway):
        record = replace(record, needs_human=sentence)
        return Conclusion(LoginOutcome.SECOND_FACTOR_MISSED, sentence, record)
    # A login that is still open although one completed earlier is a later one, which the controller typed by itself.
    outcome = LoginOutcome.UNFINISHED if gateway is None else LoginOutcome.FAILED
    if view is not None and view.completed:
        outcome = LoginOutcome.SUCCEEDED
    return Conclusion(outcome, sentence, record, is_loss=completed)
