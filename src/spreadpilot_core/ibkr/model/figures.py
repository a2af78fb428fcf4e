"""What is measured of a fleet at one moment, as data: read by whoever collects metrics, from any thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from spreadpilot_core.ibkr.model.availability import SpellKind
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """What one container uses, by the runtime's own figures."""

    memory: int
    """Bytes."""
    cpu: float
    """Seconds of processor time since it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiFigures:
    """What goes through one follower's client connections; counts grow over all of them."""

    sent: int = 0
    received: int = 0
    throttles: int = 0
    """How often the library began to hold requests back."""
    queued: int = 0
    """Requests that it holds back now."""
    subscriptions: int = 0
    """Open now."""

    def after(self, before: ApiFigures) -> ApiFigures:
        """These, with the counts of the clients before."""
        return replace(
            self,
            sent=before.sent + self.sent,
            received=before.received + self.received,
            throttles=before.throttles + self.throttles,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayFigures:
    """One gateway. None: not known, or not the case."""

    follower_id: FollowerId
    state: State
    reason_code: ReasonCode | None = None
    state_age: float = 0.0
    """Seconds since the state began."""
    session_age: float | None = None
    """Seconds since the program began that is logged in."""
    budget_left: int | None = None
    """Logins of its user that may still fail within 24 h."""
    limit_left: int | None = None
    """Full logins of its user that are left within 24 h."""
    secret_waits: bool = False
    """A newer version of its secret waits for a restart."""
    is_healthy: bool | None = None
    """What the container's own health check says."""
    usage: ContainerFigures | None = None
    api: ApiFigures | None = None
    in_reset_hours: bool = False
    exchange_open: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFigures:
    """All of one manager."""

    gateways: tuple[GatewayFigures, ...] = ()
    faulty_records: int = 0
    leases: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Kind of lease -> how many are in use, and how many there are."""
    is_leader: bool = True
    is_fine: bool = True
    """The manager does its work, or stands by for the one that does."""
    login_budget: int | None = None
    """How many logins of one user may fail within 24 h."""
    full_login_limit: int | None = None
    """How many full logins of one user there may be within 24 h."""
    notices: int = 0
    audit_broken: bool = False
    """Lines of the audit trail are gone or altered."""
    audit_waiting: int = 0
    """Lines that wait for a trail that can't be written."""
    availability: Mapping[tuple[FollowerId, SpellKind], float] = field(default_factory=dict)
    """Seconds, since the manager began."""
