"""What all gateways of one manager share: the adapters behind their protocols, the leases, admission, the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from spreadpilot_core.ibkr.admission import Admission
from spreadpilot_core.ibkr.auditing import Auditor
from spreadpilot_core.ibkr.connections import Connector
from spreadpilot_core.ibkr.deciding.observation import FleetView, Limits
from spreadpilot_core.ibkr.deciding.pacing import spread
from spreadpilot_core.ibkr.events import EventBus
from spreadpilot_core.ibkr.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.leases import ClientIdLeases, PortLeases
from spreadpilot_core.ibkr.ledger import Ledger
from spreadpilot_core.ibkr.protocols import CredentialDesk, Follower, FollowerId, GatewayRuntime, GatewaySpec
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.turns import Turns


def utc_now() -> datetime:
    """The manager's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Shared by every supervisor, owned by the fleet."""

    runtime: GatewayRuntime
    desk: CredentialDesk
    ledger: Ledger
    auditor: Auditor
    connector: Connector
    admission: Admission
    ports: PortLeases
    client_ids: ClientIdLeases
    bus: EventBus
    limits: Limits
    options: GatewayOptions
    """The fleet's defaults for every gateway."""
    clock: Callable[[], datetime] = utc_now
    fleet_view: Callable[[], FleetView] = field(default=FleetView)
    turns: Turns = field(default_factory=Turns)
    """Whose cycle it is."""


def limits_of(settings: Settings) -> Limits:
    """The settings that deciding needs."""
    return Limits(
        max_startup_time=settings.max_startup_time,
        phone_approval_time=settings.phone_approval_time,
        connect_time=settings.connect_time,
        healthcheck_interval=settings.healthcheck_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        stop_grace=settings.stop_grace,
        login_budget=settings.login_budget,
        secret_poll_interval=settings.secret_poll_interval,
    )


def spec_for(follower: Follower, fleet: GatewayOptions) -> GatewaySpec:
    """What this follower's gateway should be; the digest leaves out port, client id, user and secret version."""
    own = fleet.model_copy(update={"auto_restart_time": staggered(fleet.auto_restart_time, follower.id)})
    options = follower.gateway.filled_from(own)
    content = {"trading_mode": follower.trading_mode.value, **options.model_dump()}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return GatewaySpec(follower_id=follower.id, trading_mode=follower.trading_mode, options=options, digest=digest)


RESTART_WINDOW = 30
"""Minutes over which the fleet's daily restarts are spread."""


def staggered(restart_time: str | None, follower_id: FollowerId) -> str | None:
    """This follower's own minute within the window that begins at the fleet's restart time, "hh:mm AM|PM"."""
    if restart_time is None:
        return None
    first = datetime.strptime(restart_time, "%I:%M %p")  # noqa: DTZ007  # a time of day in the gateway's own zone
    own = first + timedelta(minutes=int(spread(follower_id, salt=RESTART_WINDOW) * RESTART_WINDOW))
    return own.strftime("%I:%M %p")
