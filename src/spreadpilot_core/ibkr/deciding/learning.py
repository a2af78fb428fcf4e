"""Fold what is new in an observation into the memory and the record, before any policy looks.

Three kinds of news: the gateway began or ended a life, its login moved on, the last action ended. Learning is idempotent:
the same observation twice changes nothing the second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from spreadpilot_core.ibkr.controller_log.reader import LoginView
from spreadpilot_core.ibkr.controller_log.tables import BEFORE_LOGIN, LoginPhase
from spreadpilot_core.ibkr.deciding.comparing_user import is_proven
from spreadpilot_core.ibkr.deciding.conclusions import Conclusion, broken_off, conclude, is_spent
from spreadpilot_core.ibkr.deciding.decision import LONG_AGO, Memory, Settlement
from spreadpilot_core.ibkr.deciding.failures import reason_of
from spreadpilot_core.ibkr.deciding.login_window import doubt_after, startup_deadline
from spreadpilot_core.ibkr.deciding.observation import (
    BEGINS_NOTHING,
    ActionKind,
    Failure,
    FleetView,
    Observation,
    Outcome,
    Wanted,
    typed_in,
)
from spreadpilot_core.ibkr.deciding.pacing import (
    FORGET_RETRY,
    LAUNCH_RETRY,
    OUTAGE_SPREAD,
    PREPARE_RETRY,
    SHARED_WITHIN,
    STABLE_SESSION,
    after_loss,
    connect_pause,
    doubling,
    spread,
)
from spreadpilot_core.ibkr.deciding.resetting import hours_of
from spreadpilot_core.ibkr.model.gateways import GatewayPhase
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, LoginOutcome, Record
from spreadpilot_core.ibkr.model.states import State

DISCLAIMER_PAUSE = timedelta(seconds=5)
"""After 10141: the controller accepts the paper disclaimer 0.3 to 3 s after the login."""


LAUNCHES_AT_ONCE = {Failure.PORT_TAKEN: 10, Failure.EXPIRED: 3}
"""Failures that the next try may well cure, and after how many in a row that is no longer believed."""


SMALLEST_FLEET = 3
"""Below it no share of a fleet says anything."""


_BEFORE_ITS_END = (BEFORE_LOGIN - {LoginPhase.ENDED}) | {LoginPhase.RESTARTING, LoginPhase.CONFLICT}
"""Phases of a login that goes on; the others tell how it ended, which a connection does not refute."""


class Learned(NamedTuple):
    """What the news amount to."""

    memory: Memory
    record: Record
    settle: Settlement | None
    book_login: bool


def learn(memory: Memory, seen: Observation, fleet: FleetView, now: datetime) -> Learned:
    """Memory and record after this observation, and what the ledger must write down."""
    memory = _wanted_changed(memory, seen, now)
    memory = _action_ended(memory, seen, now)
    memory = _secret_changed(memory, seen, now)
    memory = _runtime_back(memory, seen, now)
    memory = _life_began(memory, seen, now)
    memory = _login_moved(memory, seen, now)
    memory = _connection(memory, seen, now)
    memory = _log_doubted(memory, seen, now)
    seen = discard_doubted_log(memory, seen)
    memory, record = _life_ended(memory, seen, now)
    memory, record = _outage(memory, record, seen, fleet, now)
    record = _remembered(memory, seen, record)
    if seen.attempt is None and memory.settlement is not None:
        memory = replace(memory, settlement=None)  # the ledger has it
    typed = typed_in(seen.login if seen.login is not None and seen.gateway is not None else seen.last_login)
    if typed > max(1, record.logins_booked):
        record = replace(record, logins_booked=max(1, record.logins_booked) + 1)  # one by one, each is written down
        again = Reason(ReasonCode.LOGIN_REPEATED, "The controller typed the login again by itself.")
        repeated = Settlement(LoginOutcome.FAILED, again)
        return Learned(memory, record, repeated if seen.attempt else None, book_login=True)
    if memory.settlement is not None:
        return Learned(memory, record, memory.settlement, book_login=False)
    if seen.gateway is None or seen.gateway.phase is not GatewayPhase.RUNNING:
        return Learned(memory, record, None, book_login=False)
    if not is_logged_in(seen):
        return Learned(memory, record, None, book_login=False)
    record = _logged_in(record, seen.gateway.container_id)
    done = Settlement(LoginOutcome.SUCCEEDED, Reason(ReasonCode.LOGIN_COMPLETED, "The login completed."))
    return Learned(memory, record, done if seen.attempt else None, book_login=False)


def _logged_in(record: Record, container: ContainerId) -> Record:
    """The record of one whose login completed; the same one while nothing changes, as at each heartbeat."""
    if record.logged_in_before == container and record.rejected_user is None and record.rejected_version is None:
        return record
    return replace(record, logged_in_before=container, rejected_user=None, rejected_version=None)


def _wanted_changed(memory: Memory, seen: Observation, now: datetime) -> Memory:
    if seen.wanted is Wanted.RUN or seen.wanted in BEGINS_NOTHING:
        return memory if memory.unwanted_since is None else replace(memory, unwanted_since=None)
    return memory if memory.unwanted_since is not None else replace(memory, unwanted_since=now)


def _outage(
    memory: Memory, record: Record, seen: Observation, fleet: FleetView, now: datetime
) -> tuple[Memory, Record]:
    """A loss that most of the fleet shares is IBKR's or the host's: it counts for nobody, and all come back spread."""
    shared = fleet.total >= SMALLEST_FLEET and 2 * fleet.lost > fleet.total
    if not shared or not memory.loss_counts or now - memory.lost_at > timedelta(seconds=SHARED_WITHIN):
        return memory, record
    losses = memory.shared_losses + 1
    pause = after_loss(losses) + OUTAGE_SPREAD * spread(seen.follower_id, losses)
    not_before = max(memory.not_before, memory.lost_at + timedelta(seconds=pause))
    memory = replace(memory, loss_counts=False, shared_losses=losses, not_before=not_before)
    return memory, replace(record, losses=max(0, record.losses - 1))


def is_logged_in(seen: Observation) -> bool:
    """Proof of login: the log of this life says so, or, where it does not reach from the start to now, the API proves it.

    The API proves it with managed accounts (they come with the next valid id) and an answered heartbeat.
    """
    view = seen.login
    if view is not None and view.phase in (LoginPhase.REJECTED, LoginPhase.SESSION_LOST, LoginPhase.STUCK):
        return False
    if view is not None and view.completed:
        return True
    connection = seen.connection
    answers = connection is not None and connection.is_open and connection.last_heartbeat is not None
    return answers and (view is None or not view.saw_start)


FRESH_TRIES: Mapping[str, object] = {"connect_failures": 0, "connect_since": None, "connect_after": LONG_AGO}
"""Of a memory from which connecting begins a full round of tries, at once."""
_FRESH_CONNECT: Mapping[str, object] = {**FRESH_TRIES, "id_conflicts": 0, "heartbeats": 0}


def login_deadline(memory: Memory, seen: Observation) -> datetime:
    """When this login's time is over, or its phone's."""
    return _phone_deadline(memory, seen) or startup_deadline(memory, seen)


def ask_deadline(memory: Memory, seen: Observation) -> datetime:
    """When its API is asked for the end that the log does not tell."""
    return _phone_deadline(memory, seen) or doubt_after(memory, seen)


def _phone_deadline(memory: Memory, seen: Observation) -> datetime | None:
    if memory.phase is not LoginPhase.AWAITING_2FA:
        return None
    return memory.phase_since + timedelta(seconds=seen.limits.phone_approval_time)


def _log_doubted(memory: Memory, seen: Observation, now: datetime) -> Memory:
    """A log that tells no end of a login whose time is over may have lost lines, or be worded anew: it is no proof.

    While a connection is open it is believed: that one may be older than what the log tells, and prove nothing.
    """
    view, connection = seen.login, seen.connection
    if view is None or is_doubted(memory, view):
        return memory
    connected = connection is not None and connection.is_open
    silent = view.phase in _BEFORE_ITS_END and view.human is None and not connected
    over = not memory.runtime_away and now >= ask_deadline(memory, seen)
    doubted = view.phase_serial if silent and over else None
    return memory if doubted == memory.doubted else replace(memory, doubted=doubted)


def is_doubted(memory: Memory, view: LoginView | None) -> bool:
    """Whether the log has told nothing since it was doubted."""
    return view is not None and view.phase_serial == memory.doubted


def discard_doubted_log(memory: Memory, seen: Observation) -> Observation:
    """What was observed, with a doubted log taken for one that does not reach the start."""
    if seen.login is None or not is_doubted(memory, seen.login):
        return seen
    return replace(seen, login=replace(seen.login, saw_start=False))


def _runtime_back(memory: Memory, seen: Observation, now: datetime) -> Memory:
    """Nothing could be seen or done while the runtime was away: what was given a time has it again."""
    away = seen.runtime_fault is not None
    if away or not memory.runtime_away:
        return memory if away == memory.runtime_away else replace(memory, runtime_away=away)
    memory = replace(memory, runtime_away=False, remove_after=LONG_AGO, clock=now, **FRESH_TRIES)  # type: ignore[arg-type]  # the fields are Memory's
    return memory if is_logged_in(seen) else replace(memory, phase_since=now)


def _life_began(memory: Memory, seen: Observation, now: datetime) -> Memory:
    gateway = seen.gateway
    if gateway is None or gateway.phase.precedes_login:
        return memory
    life = (gateway.container_id, gateway.started_at)
    if life == memory.life:
        return memory
    fresh: dict[str, object] = {
        "clock": now,
        "program_since": gateway.started_at or now,
        "window_at": None,
        "phase": None,
        "phase_since": now,
        "doubted": None,
        "was_ready": False,
        "ready_since": None,
        "forget_failures": 0,
        "forget_after": LONG_AGO,
    }
    return replace(memory, life=life, settlement=None, launch_failures=0, **fresh, **_FRESH_CONNECT)  # type: ignore[arg-type]  # the fields are Memory's


def _life_ended(memory: Memory, seen: Observation, now: datetime) -> tuple[Memory, Record]:
    """Draw the conclusion of a life that is over, once; forget the life when its container is gone."""
    gone = seen.gateway is None and not seen.gateway_stale and seen.running is not ActionKind.LAUNCH
    if memory.life is None or (seen.gateway is None and not gone):
        return (_never_lived(memory, seen) if gone else memory), seen.record
    record = seen.record
    view = seen.last_login if gone else seen.login
    if not _ended_by_us(memory, seen, view) and _can_conclude(seen):
        conclusion = _conclusion(view, seen, record, memory.life[0], now)
        if conclusion is not None:
            memory, record = conclude_life(memory, conclusion, now)
    if gone:
        removed = Reason(ReasonCode.LOGIN_OUTCOME_UNKNOWN, "Its gateway was removed before its login had ended.")
        cut_short = Settlement(broken_off(view), removed)
        memory = replace(memory, life=None, concluded=None, settlement=memory.settlement or cut_short)
    return memory, record


def _ended_by_us(memory: Memory, seen: Observation, view: LoginView | None) -> bool:
    """Whether its end says nothing about its login: we ended it, and IBKR had not answered until then."""
    if memory.life == memory.judged:
        return True
    if seen.gateway is None and view is not None and view.verdict is not None:
        return False
    over = seen.gateway is None or seen.gateway.phase is GatewayPhase.EXITED
    return memory.life == memory.concluded or (memory.unwanted_since is not None and over)


def _conclusion(
    view: LoginView | None, seen: Observation, record: Record, container: ContainerId, now: datetime
) -> Conclusion | None:
    hours, spent = hours_of(seen), is_spent(seen, view, now)
    return conclude(view, seen.gateway, record, container=container, hours=hours, now=now, spent=spent)


def _never_lived(memory: Memory, seen: Observation) -> Memory:
    """A login that was written down, and no container of it was ever seen running."""
    if seen.attempt is None or memory.settlement is not None or seen.running is not None:
        return memory
    if seen.attempt.started_at is None:
        never = Reason(ReasonCode.CONTAINER_NEVER_STARTED, "Its container never started.")
        return replace(memory, settlement=Settlement(LoginOutcome.VOID, never))
    gone = Reason(ReasonCode.LOGIN_OUTCOME_UNKNOWN, "Its container is gone without an outcome.")
    return replace(memory, settlement=Settlement(LoginOutcome.UNFINISHED, gone))


def _remembered(memory: Memory, seen: Observation, record: Record) -> Record:
    """When the newest login began, that it asked for the phone, and that an adopted gateway is the follower's."""
    if record.user_unproven and seen.gateway is not None and is_proven(seen, seen.gateway):
        record = replace(record, user_unproven=False)
    if memory.life is not None and seen.gateway is not None:
        began = memory.life[1] or record.last_login_at or memory.clock
        if record.last_login_at is None or began > record.last_login_at:
            record = replace(record, last_login_at=began)
    if seen.login is not None and seen.login.asked_phone and not record.asks_phone:
        record = replace(record, asks_phone=True)
    return record


def _can_conclude(seen: Observation) -> bool:
    """A container that ended concludes only when its log was read to the end."""
    ended = seen.gateway is not None and seen.gateway.phase is GatewayPhase.EXITED
    return seen.log_ended if ended else True


def conclude_life(memory: Memory, conclusion: Conclusion, now: datetime) -> tuple[Memory, Record]:
    """Memory and record once this life is given up: what that costs."""
    record = conclusion.record
    memory = replace(
        memory,
        concluded=memory.life,
        judged=memory.life,
        settlement=Settlement(conclusion.outcome, conclusion.reason, conclusion.not_before),
        trouble=conclusion.reason,
        not_before_reason=conclusion.reason,
    )
    void_lives = memory.void_lives + 1 if conclusion.outcome is LoginOutcome.VOID else 0
    memory = replace(memory, void_lives=void_lives)
    if void_lives:
        return replace(memory, not_before=now + timedelta(seconds=doubling(void_lives, LAUNCH_RETRY))), record
    if not conclusion.is_loss:
        return replace(memory, not_before=conclusion.not_before or memory.not_before), record
    stable = memory.ready_since is not None and now - memory.ready_since >= timedelta(seconds=STABLE_SESSION)
    lost = memory.life[0] if memory.life is not None else None
    is_new = lost is None or lost != record.lost_container
    losses = 1 if stable else record.losses + is_new
    not_before = now + timedelta(seconds=after_loss(losses + (0 if stable else memory.shared_losses)))
    memory = replace(memory, lost_at=now, loss_counts=is_new, not_before=not_before)
    memory = replace(memory, shared_losses=0) if stable else memory
    return memory, replace(record, losses=losses, last_loss=conclusion.reason.sentence, lost_container=lost)


def _login_moved(memory: Memory, seen: Observation, now: datetime) -> Memory:
    phase = seen.login.phase if seen.login is not None else None
    accepted = seen.login is not None and seen.login.paper_accepted
    if accepted != memory.paper_accepted:  # 10141 is over
        memory = replace(memory, paper_accepted=accepted, connect_after=LONG_AGO if accepted else memory.connect_after)
    if phase is LoginPhase.AWAITING_2FA:
        memory = replace(memory, clock=now)  # a phone approval has its own limit
    shown = seen.login is not None and seen.login.window_shown
    if shown != (memory.window_at is not None):  # of this program: another one has a window of its own
        memory = replace(memory, window_at=now if shown else None)
    memory = _program_restarted(memory, seen, now)
    if phase == memory.phase:
        return memory
    changes: dict[str, object] = {"phase": phase, "phase_since": now}
    if phase in (LoginPhase.RESTARTING, LoginPhase.STARTING):
        changes |= {"clock": now} if memory.was_ready else {}
    if phase in (LoginPhase.RESTARTING, LoginPhase.STARTING, LoginPhase.LOGGED_IN):
        changes |= _FRESH_CONNECT
    return replace(memory, **changes)  # type: ignore[arg-type]  # the fields are Memory's


def _program_restarted(memory: Memory, seen: Observation, now: datetime) -> Memory:
    """A program that is not its container's first: it began just now, or, where it ran already, nobody knows when."""
    view = seen.login
    if view is None or memory.life is None or not (view.warm or view.completed_before):
        return memory
    begins = view.phase != memory.phase and view.phase in (LoginPhase.RESTARTING, LoginPhase.STARTING)
    is_first = memory.program_since == memory.life[1]
    return replace(memory, program_since=now) if begins or is_first else memory


def _connection(memory: Memory, seen: Observation, now: datetime) -> Memory:
    connection = seen.connection
    if connection is None or not connection.is_open:
        return replace(memory, heartbeats=0) if memory.heartbeats else memory
    if connection.last_heartbeat is None or memory.heartbeats == 0:  # an answer of long ago calms nobody
        return memory
    is_calm = memory.trouble is None and memory.connect_since is None and memory.connect_failures == 0
    if memory.was_ready and is_calm and memory.clock >= connection.last_heartbeat:
        return memory  # nothing new: between two heartbeats
    # Where the log proves nothing, the time for the next login begins with the last proof.
    calm = replace(memory, trouble=None, connect_failures=0, connect_since=None, clock=now)
    return calm if memory.was_ready else replace(calm, was_ready=True, ready_since=now)


def _action_ended(memory: Memory, seen: Observation, now: datetime) -> Memory:
    outcome = seen.outcome
    if outcome is None or outcome.serial <= memory.outcome_serial:
        return memory
    memory = replace(memory, outcome_serial=outcome.serial)
    match outcome.kind:
        case ActionKind.CHECK_IMAGE | ActionKind.PREPARE:
            return _preflight_ended(memory, outcome, seen, now)
        case ActionKind.LAUNCH:
            return _launch_ended(memory, outcome, now)
        case ActionKind.CONNECT:
            return _connect_ended(memory, outcome, seen, now)
        case ActionKind.HEARTBEAT:
            return _heartbeat_ended(memory, outcome, seen, now)
        case ActionKind.REMOVE if outcome.failure is not None:
            return replace(memory, remove_after=now + timedelta(seconds=5), trouble=reason_of(outcome))
        case ActionKind.FORGET_SECRET:
            failures = memory.forget_failures + 1 if outcome.failure is not None else 0
            pause = timedelta(seconds=doubling(failures, FORGET_RETRY) if failures else 0)
            return replace(memory, forget_failures=failures, forget_after=now + pause)
        case _:
            return memory


def _preflight_ended(memory: Memory, outcome: Outcome, seen: Observation, now: datetime) -> Memory:
    if outcome.failure is None or outcome.failure is Failure.ABORTED:
        return replace(memory, prepare_failures=0, secret_refused=False)
    failures = memory.prepare_failures + 1
    refused = outcome.failure is Failure.REFUSED
    pause = seen.limits.secret_poll_interval if refused else doubling(failures, PREPARE_RETRY)
    return replace(
        memory,
        prepare_failures=failures,
        secret_refused=refused,
        prepared_version=seen.newest_version,
        not_before=now + timedelta(seconds=pause),
        not_before_reason=reason_of(outcome),
    )


def _secret_changed(memory: Memory, seen: Observation, now: datetime) -> Memory:
    """A secret that could not be had is another one now: nothing is left to wait for."""
    waits = memory.prepare_failures and seen.outcome is not None and seen.outcome.kind is ActionKind.PREPARE
    return clear_secret_failures(memory, now) if waits and seen.newest_version != memory.prepared_version else memory


def _launch_ended(memory: Memory, outcome: Outcome, now: datetime) -> Memory:
    if outcome.failure is None:
        return replace(memory, launch_failures=0)
    if outcome.failure is Failure.ABORTED:
        return memory
    failures = memory.launch_failures + 1
    at_once = failures < LAUNCHES_AT_ONCE.get(outcome.failure, 0)
    pace = PREPARE_RETRY if outcome.failure is Failure.UNAVAILABLE else LAUNCH_RETRY
    until = outcome.until or now + timedelta(seconds=0 if at_once else doubling(failures, pace))
    return replace(memory, launch_failures=failures, not_before=until, not_before_reason=reason_of(outcome))


def _connect_ended(memory: Memory, outcome: Outcome, seen: Observation, now: datetime) -> Memory:
    if outcome.failure is None:
        return replace(memory, id_conflicts=0, heartbeats=0, heartbeat_due=now, refused_account=None)
    if outcome.failure is Failure.ABORTED:
        return memory
    if outcome.failure is Failure.WRONG_ACCOUNT:
        account = seen.follower.account if seen.follower else None
        return replace(memory, refused_account=account, trouble=reason_of(outcome))
    if outcome.failure is Failure.DISCLAIMER:
        since = memory.connect_since or now  # no failure, and still no reason to wait for ever
        return replace(memory, connect_since=since, connect_after=now + DISCLAIMER_PAUSE, trouble=reason_of(outcome))
    failures = memory.connect_failures + 1
    pause = timedelta(seconds=connect_pause(seen.follower_id, failures, seen.limits.connect_time))
    return replace(
        memory,
        connect_failures=failures,
        connect_since=memory.connect_since or now,
        connect_after=now + pause,
        id_conflicts=memory.id_conflicts + 1 if outcome.failure is Failure.ID_IN_USE else 0,
        trouble=reason_of(outcome),
    )


def _heartbeat_ended(memory: Memory, outcome: Outcome, seen: Observation, now: datetime) -> Memory:
    if outcome.failure is not None:
        aborted = outcome.failure is Failure.ABORTED
        return memory if aborted else replace(memory, heartbeats=0, trouble=reason_of(outcome))
    interval = seen.limits.healthcheck_interval
    if memory.heartbeats == 0:  # the first of this connection: from here on the fleet's heartbeats are spread
        interval *= 0.1 + 0.9 * spread(seen.follower_id)
    return replace(memory, heartbeats=memory.heartbeats + 1, heartbeat_due=now + timedelta(seconds=interval))


def clear_backoff(memory: Memory, now: datetime) -> Memory:
    """The memory after an operator said launch: pauses of our own end; what protects the account is not kept here."""
    return replace(
        memory,
        state=State.QUEUED,
        since=now,
        not_before=min(memory.not_before, now),
        secret_refused=False,
        prepare_failures=0,
        refused_account=None,
        void_lives=0,
        shared_losses=0,
    )


def clear_secret_failures(memory: Memory, now: datetime) -> Memory:
    """The memory with nothing left of a secret, or an image, that could not be had: it is looked at anew, at once."""
    if not memory.prepare_failures:
        return memory
    return replace(memory, prepare_failures=0, secret_refused=False, not_before=min(memory.not_before, now))
