"""What to do next, and why: the output of `decide`, and the memory that it hands to its next call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from spreadpilot_core.ibkr.deciding.observation import ActionKind, FleetView, Observation
from spreadpilot_core.ibkr.deciding.states import State
from spreadpilot_core.ibkr.login_log import LoginPhase
from spreadpilot_core.ibkr.protocols import ContainerId, LoginOutcome, Record

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
LOOK_AGAIN = 30.0
"""Seconds after which every gateway is looked at again even when nothing happens."""


@dataclass(frozen=True, slots=True)
class Action:
    """One owned task to begin."""

    kind: ActionKind
    why: str
    grace: float = 0.0
    """REMOVE: seconds before it is killed."""
    new_client_id: bool = False
    """CONNECT: with another client id."""
    probe_instead: bool = False
    """HEARTBEAT: IBKR is away, so a handshake proves the gateway alive as well as an answer does."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a login that was written down ended."""

    outcome: LoginOutcome
    sentence: str
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
    settlement: Settlement | None = None
    """How the login of the last life ended, until the ledger has it."""
    clock: datetime = LONG_AGO
    """From here `max_startup_time` runs: start, scheduled restart, or the end of a phone approval."""
    phase: LoginPhase | None = None
    phase_since: datetime = LONG_AGO
    doubted: int | None = None
    """The serial of the login's phase with which the log fell silent for longer than a login may take."""
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
    losses: int = 0
    """Gateways lost after a good login, since the last stable session."""
    launch_failures: int = 0
    prepare_failures: int = 0
    not_before: datetime = LONG_AGO
    not_before_why: str = ""
    prepare_refusal: str | None = None
    remove_after: datetime = LONG_AGO
    """A removal failed; again after this."""
    forget_failures: int = 0
    """How often in a row the password file could not be removed."""
    forget_after: datetime = LONG_AGO
    trouble: str | None = None
    """The sentence that stays true until ready: why the last gateway or connection was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The verdict, what begins now, and what must be remembered."""

    state: State
    reason: str | None
    next_action: str | None
    action: Action | None = None
    settle: Settlement | None = None
    book_login: bool = False
    """The controller typed a login of its own; write it down."""
    refuse_restart: str | None = None
    """The restart that an operator asked for would break a rule; the sentence says which."""
    recheck_after: float = LOOK_AGAIN
    record: Record
    memory: Memory = field(default_factory=Memory)


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
        reason: str | None,
        next_action: str | None,
        *,
        action: Action | None = None,
        until: datetime | None = None,
        record: Record | None = None,
        memory: Memory | None = None,
        refuse_restart: str | None = None,
    ) -> Decision:
        """A decision; `until` is when to look again. An action in flight is never doubled."""
        wait = LOOK_AGAIN if until is None else min(LOOK_AGAIN, max(0.0, (until - self.now).total_seconds()))
        return Decision(
            state=state,
            reason=reason,
            next_action=next_action,
            action=action if self.seen.running is None else None,
            recheck_after=wait,
            record=self.record if record is None else record,
            memory=self.memory if memory is None else memory,
            refuse_restart=refuse_restart,
        )

    def remember(self, **changes: object) -> Memory:
        """The memory with these fields changed."""
        return replace(self.memory, **changes)  # type: ignore[arg-type]  # field names are checked by replace
