"""What must survive the manager, as data: records, logins that were written down, what other services read.

Part of the seams (see `protocols`): the record stores write it, the ledger and deciding read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Literal, NewType

FollowerId = NewType("FollowerId", str)
ContainerId = NewType("ContainerId", str)
AttemptId = NewType("AttemptId", str)


def shown_version(version: str) -> str:
    """What people call this version of a secret: its number, without the mark that tells one made anew under its name."""
    return version.partition("-")[0]


class LoginOutcome(str, Enum):
    """How one reserved login ended."""

    SUCCEEDED = "succeeded"
    VOID = "void"
    """Never marked started, or its container never left `created`: costs nothing."""
    REJECTED = "rejected"
    THROTTLED = "throttled"
    SECOND_FACTOR_MISSED = "second_factor_missed"
    FAILED = "failed"
    """Any other failure the log told."""
    UNFINISHED = "unfinished"
    """Marked started and its container is gone without an outcome; counts like a failure."""

    @property
    def counts(self) -> bool:
        """Whether this outcome uses up login budget."""
        return self not in (LoginOutcome.SUCCEEDED, LoginOutcome.VOID)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAttempt:
    """One login of one IBKR user, written down before anything is created."""

    id: AttemptId
    user: str
    follower_id: FollowerId
    secret_version: str
    reserved_at: datetime
    container_id: ContainerId | None = None
    started_at: datetime | None = None
    outcome: LoginOutcome | None = None
    settled_at: datetime | None = None
    not_before: datetime | None = None
    """IBKR named this wait when it ended the attempt: no login of this user before it."""
    by_operator: bool = False
    """The operator took this one on purpose (`--retry-login`): neither budget nor rejection refused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What must survive the manager, one per follower that ever had a gateway."""

    follower_id: FollowerId
    client_id: int | None = None
    stopped_by_operator: bool = False
    user: str | None = None
    """IBKR user of the running (or last) gateway."""
    secret_version: str | None = None
    """Version of the secret that the running (or last) gateway was given."""
    rejected_version: str | None = None
    """Version of the secret that IBKR rejected; no login with it again."""
    rejected_user: str | None = None
    logged_in_before: ContainerId | None = None
    """The container whose login once completed: a rejection in it may be the known false one (facts 1.4)."""
    false_rejection_used: datetime | None = None
    """When the one new container after such a rejection was spent."""
    logins_booked: int = 0
    """How many logins that the present container's controller typed are in the ledger."""
    needs_human: str | None = None
    """What a human must see to before anything happens again (a sentence); an operator's `launch` clears it."""
    last_reason: str | None = None
    last_words: str | None = None
    """Last log lines and exit code of the previous container."""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LoginRefusal:
    """Why `reserve_login` did not reserve: the attempts that speak against it, oldest first."""

    reason: Literal["budget", "in_progress", "throttled"]
    attempts: Sequence[LoginAttempt]
    until: datetime | None
    """When a place is free again (the oldest counted attempt leaves the 24 h, or the throttle ends); None: when settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayMapping:
    """What other services read: one per running gateway."""

    follower_id: FollowerId
    container_id: ContainerId
    container_name: str
    host_port: int
    client_id: int
    status: str
    last_updated: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of the manager's own history. `id` makes writing it twice harmless."""

    id: str
    at: datetime
    follower_id: FollowerId | None
    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The newest line of an audit trail: what the record store keeps for `audit verify`."""

    serial: int
    hash: str
