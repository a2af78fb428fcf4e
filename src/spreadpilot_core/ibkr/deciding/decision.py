"""What to do next, and why: the output of `decide`, and the memory that it hands to its next call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from spreadpilot_core.ibkr.controller_log.tables import LoginPhase
from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, Observation
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode, Severity
from spreadpilot_core.ibkr.model.records import ContainerId, LoginOutcome, Record
from spreadpilot_core.ibkr.model.states import State

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
RECHECK_EVERY = 30.0
"""Seconds after which every gateway is looked at again even when nothing happens."""


@dataclass(frozen=True, slots=True)
class Action:
    """One owned task to begin."""

    kind: ActionKind
    why: str
    cause: ReasonCode | None = None
    """LAUNCH: why the gateway before it was given up, or the last try failed; None: it is simply wanted."""
    grace: float = 0.0
    """REMOVE: seconds before it is killed."""
    picture_within: float | None = None
    """REMOVE: it is given up, so its screen is kept in a picture, for which the removal waits so many seconds; None: it is not."""
    before: datetime | None = None
    """LAUNCH: not from this moment on, when IBKR's reset hours begin."""
    new_client_id: bool = False
    """CONNECT: with another client id."""
    probe_instead: bool = False
    """HEARTBEAT: IBKR is away, so a handshake proves the gateway alive as well as an answer does."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a login that was written down ended."""

    outcome: LoginOutcome
    reason: Reason
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one call of `decide` leaves for the next: verdict, tries and since-times. Nothing here must survive the manager."""

    state: State = State.QUEUED
    since: datetime = LONG_AGO
    outcome_serial: int = 0
    life: tuple[ContainerId, datetime | None] | None = None
    """Container and start time of the gateway's present life."""
    concluded: tuple[ContainerId, datetime | None] | None = None
    """The life that was given up: its container is to be removed, and costs nothing further."""
    judged: tuple[ContainerId, datetime | None] | None = None
    """The life whose login was concluded on by what it said: that is done once."""
    settlement: Settlement | None = None
    """How the login of the last life ended, until the ledger has it."""
    clock: datetime = LONG_AGO
    """From here `max_startup_time` runs, where no login window comes later: start, scheduled restart, or the end of a phone approval."""
    program_since: datetime | None = None
    """When the gateway's program began: with its container, or with a restart since; what nobody saw begin, when it was first seen."""
    window_at: datetime | None = None
    """When the login window of the present program was first seen."""
    phase: LoginPhase | None = None
    phase_since: datetime = LONG_AGO
    doubted: int | None = None
    """The serial of the login's phase with which the log fell silent for longer than a login may take."""
    prepared_version: str | None = None
    """The newest version of the secret that was known when a look at it failed: another one ends the pause."""
    paper_accepted: bool = False
    connect_failures: int = 0
    connect_since: datetime | None = None
    """First failed connect of this round."""
    connect_after: datetime = LONG_AGO
    id_conflicts: int = 0
    refused_account: str | None = None
    """The account the record asked for when the login turned out to manage others."""
    was_ready: bool = False
    """Was ready in this life."""
    ready_since: datetime | None = None
    heartbeat_due: datetime = LONG_AGO
    heartbeats: int = 0
    """Answered on this connection."""
    runtime_away: bool = False
    """The runtime could not be reached when last looked."""
    lost_at: datetime = LONG_AGO
    """When the last gateway was lost after a good login."""
    loss_counts: bool = False
    """That loss is in the record's count; not once most of the fleet shared it."""
    shared_losses: int = 0
    """Losses that most of the fleet shared, since the last stable session."""
    void_lives: int = 0
    """Gateways in a row whose controller typed nothing."""
    unwanted_since: datetime | None = None
    launch_failures: int = 0
    prepare_failures: int = 0
    not_before: datetime = LONG_AGO
    not_before_reason: Reason | None = None
    secret_refused: bool = False
    """The pause is for a secret that will not do before somebody changes it."""
    remove_after: datetime = LONG_AGO
    """A removal failed; again after this."""
    forget_failures: int = 0
    """How often in a row the password file could not be removed."""
    forget_after: datetime = LONG_AGO
    trouble: Reason | None = None
    """What stays true until ready: why the last gateway or connection was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, what begins now, and what must be remembered."""

    state: State
    why: Reason | None
    """With its next action; None only when ready."""
    action: Action | None = None
    settle: Settlement | None = None
    start_is_over: bool = False
    """The gateway's start takes no place among the parallel ones any more."""
    book_login: bool = False
    """The controller typed a login of its own; write it down."""
    reset_from: datetime | None = None
    """From when on IBKR's reset explains that a login which is written down now ends without an answer."""
    refuse_restart: Reason | None = None
    """The restart that an operator asked for would break a rule; it says which."""
    refuse_login: Reason | None = None
    """Likewise the one more login that an operator wanted to take. The gateway's own reason is another."""
    recheck_after: float = RECHECK_EVERY
    record: Record
    memory: Memory = field(default_factory=Memory)

    @property
    def reason(self) -> str | None:
        """A sentence; None only when ready."""
        return self.why.sentence if self.why is not None else None

    @property
    def next_action(self) -> str | None:
        """A sentence: what happens next by itself, or what a human must do."""
        return self.why.next_action if self.why is not None else None

    @property
    def reason_code(self) -> ReasonCode | None:
        """The reason for programs; None only when ready."""
        return self.why.code if self.why is not None else None

    @property
    def severity(self) -> Severity:
        """How much it should worry somebody."""
        return severity_of(self.state, self.reason_code)


def severity_of(state: State, code: ReasonCode | None) -> Severity:
    """What waits for a human is an error, whatever for; else the reason says."""
    if state in (State.NEEDS_HUMAN, State.INVALID):
        return Severity.ERROR
    return code.severity if code is not None else Severity.INFO


@dataclass(frozen=True, slots=True)
class Situation:
    """What every policy is given: the facts, and what was learned from them."""

    seen: Observation
    memory: Memory
    record: Record
    fleet: FleetView
    now: datetime

    def verdict(
        self,
        state: State,
        reason: Reason,
        next_action: str | None,
        *,
        action: Action | None = None,
        until: datetime | None = None,
        record: Record | None = None,
        memory: Memory | None = None,
    ) -> Decision:
        """A decision; `until` is when to look again. An action in flight is never doubled."""
        why = replace(reason, next_action=next_action)
        return self._decision(state, why, action=action, until=until, record=record, memory=memory)

    def ready(self, *, action: Action | None = None, until: datetime | None = None) -> Decision:
        """The one verdict that needs no reason."""
        return self._decision(State.READY, None, action=action, until=until)

    def _decision(
        self,
        state: State,
        why: Reason | None,
        *,
        action: Action | None,
        until: datetime | None,
        record: Record | None = None,
        memory: Memory | None = None,
    ) -> Decision:
        wait = RECHECK_EVERY if until is None else min(RECHECK_EVERY, max(0.0, (until - self.now).total_seconds()))
        return Decision(
            state=state,
            why=why,
            action=action if self.seen.running is None else None,
            recheck_after=wait,
            record=self.record if record is None else record,
            memory=self.memory if memory is None else memory,
        )

    def remember(self, **changes: object) -> Memory:
        """The memory with these fields changed."""
        return replace(self.memory, **changes)  # type: ignore[arg-type]  # field names are checked by replace
