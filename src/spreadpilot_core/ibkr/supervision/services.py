"""What all gateways of one manager share: the adapters behind their protocols, client ids, admission, the ledger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.api_client.connector import Connector
from spreadpilot_core.ibkr.audit.auditor import Auditor
from spreadpilot_core.ibkr.deciding.observation import FleetView, Limits
from spreadpilot_core.ibkr.deciding.pacing import spread
from spreadpilot_core.ibkr.model.events import EventBus
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateway_options import GatewayOptions
from spreadpilot_core.ibkr.model.gateways import GatewaySpec
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.reporting.repetitions import Repetitions
from spreadpilot_core.ibkr.runtimes.registry import full_login_limit
from spreadpilot_core.ibkr.seams import (
    UNMEASURED,
    AvailabilityStore,
    CredentialBroker,
    FollowerStatuses,
    GatewayRuntime,
    Instrumentation,
    LastPictures,
)
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.supervision.admission import Admission
from spreadpilot_core.ibkr.supervision.client_leases import ClientLeases
from spreadpilot_core.ibkr.supervision.leases import ClientIdLeases
from spreadpilot_core.ibkr.supervision.ledger import Ledger
from spreadpilot_core.ibkr.supervision.our_engine import OurEngine
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import FewPerIteration

PASSES_AT_ONCE = 8
"""Supervisors that make a pass in one iteration of the event loop, each of about half a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Shared by every supervisor, owned by the fleet."""

    runtime: GatewayRuntime
    broker: CredentialBroker
    ledger: Ledger
    auditor: Auditor
    connector: Connector
    admission: Admission
    client_ids: ClientIdLeases
    client_leases: ClientLeases
    """Of other programs."""
    bus: EventBus
    availability: AvailabilityStore
    pictures: LastPictures
    statuses: FollowerStatuses | None = None
    """Where the followers' records show how their gateways stand; None: nowhere."""
    notices: Notices
    """What concerns the whole manager, and is shown by `status`."""
    limits: Limits
    options: GatewayOptions
    """The fleet's defaults for every gateway."""
    clock: Clock
    engine: OurEngine = field(default_factory=OurEngine)
    instrumentation: Instrumentation = UNMEASURED
    fleet_view: Callable[[], FleetView] = field(default=FleetView)
    passes: FewPerIteration = field(default_factory=lambda: FewPerIteration(PASSES_AT_ONCE))
    """Whose pass it is in this iteration of the event loop."""
    repetitions: Repetitions = field(default_factory=Repetitions)
    """What was logged of one follower is not logged in full of the next."""


def limits_of(settings: Settings) -> Limits:
    """The settings that deciding needs."""
    return Limits(
        max_startup_time=settings.max_startup_time,
        window_time=settings.window_time,
        phone_approval_time=settings.phone_approval_time,
        connect_time=settings.connect_time,
        healthcheck_interval=settings.healthcheck_interval,
        heartbeat_timeout=settings.heartbeat_timeout,
        stop_grace=settings.stop_grace,
        login_budget=settings.login_budget,
        full_login_limit=full_login_limit(settings),
        secret_poll_interval=settings.secret_poll_interval,
        command=settings.command,
    )


def spec_for(follower: Follower, fleet: GatewayOptions) -> GatewaySpec:
    """What this follower's gateway should be; the digest leaves out port, client id, user and secret version, and what is about us."""
    own = fleet.model_copy(update={"auto_restart_time": staggered(fleet.auto_restart_time, follower.id)})
    options = follower.gateway.filled_from(own)
    content = {"trading_mode": follower.trading_mode.value, **options.model_dump(exclude={"reset_window_wait", "port"})}
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
