"""All that is known about one follower's gateway: what is wanted, what is seen, and what was remembered.

The supervisor holds it; `observing` reads it for a decision, and what an action brings is written into it. Facts only: nothing
here decides, and nobody here knows the supervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from spreadpilot_core.ibkr.deciding.decision import Memory
from spreadpilot_core.ibkr.deciding.observation import Preflight, Wanted
from spreadpilot_core.ibkr.model.followers import Follower, FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway, GatewaySpec
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import ContainerId, Record
from spreadpilot_core.ibkr.reporting.announcer import Announcer
from spreadpilot_core.ibkr.supervision.gateway_view import GatewayView
from spreadpilot_core.ibkr.supervision.known_secret import KnownSecret
from spreadpilot_core.ibkr.supervision.login_in_progress import LoginInProgress
from spreadpilot_core.ibkr.supervision.operator_requests import OperatorRequests
from spreadpilot_core.ibkr.supervision.services import Services
from spreadpilot_core.ibkr.tasks import Tasks

NOT_LISTED_YET = Reason(ReasonCode.NOT_OBSERVED_YET, "The runtime was not asked yet what runs.")


class GatewayFacts:
    """One follower's."""

    def __init__(
        self,
        follower_id: FollowerId,
        services: Services,
        record: Record,
        *,
        tasks: Tasks,
        wake: Callable[[], None],
        on_new_version: Callable[[], None],
        on_start: Callable[[ContainerId], None],
    ) -> None:
        self.follower_id = follower_id
        self._services = services
        self._on_start = on_start
        self.announcer = Announcer(
            follower_id, services.bus, services.clock, services.repetitions, services.instrumentation
        )
        self.memory = Memory(since=services.clock())
        """What the last decision left for the next."""
        # what is wanted
        self.wanted = Wanted.KEEP
        self.wanted_why: Reason | None = None
        self.follower: Follower | None = None
        self.spec: GatewaySpec | None = None
        self.record = record
        self.roster_notices: tuple[str, ...] = ()
        """What a human should know of its own record."""
        self.roster_loss: str | None = None
        """A sentence while its record is gone with those of others."""
        self.roster_fault: str | None = None
        """A sentence while the followers can't be read."""
        self.requests = OperatorRequests(wake)
        # what is seen
        self.runtime_fault: Reason | None = NOT_LISTED_YET
        self.record_fault: str | None = None
        """A sentence while what an earlier manager kept of it can't be understood."""
        self.unclaimed: Reason | None = None
        """About a container that may be its gateway, and that nothing proves to be."""
        self.gateway_view = GatewayView(follower_id, services, tasks, self.announcer, wake)
        self.login = LoginInProgress(follower_id, services, self.announcer, wake)
        self.secret = KnownSecret(follower_id, services, self.announcer, on_new_version)
        self.image_for: GatewaySpec | None = None
        """The spec whose image was at hand since the last launch."""
        self.starting: ContainerId | None = None
        """The container that the last launch was about to start."""
        self.preflight: Preflight | None = None
        self.stated_reset_hours: str | None = None
        """Of what its gateway logs in to, as the runtime said last; None: IBKR's own."""

    @property
    def client_id(self) -> int | None:
        """The API client id that this follower holds."""
        gateway = self.gateway_view.gateway
        return gateway.client_id if self.record.client_id is None and gateway else self.record.client_id

    def note_start(self, container_id: ContainerId) -> None:
        """A launch is about to have this container log in."""
        self.starting = container_id
        self._on_start(container_id)

    def keep_record(self, record: Record) -> None:
        """Keep this record, here and soon in the store."""
        self.record = replace(record, updated_at=self._services.clock())
        self._services.ledger.keep(self.record)

    @property
    def left_elsewhere(self) -> str | None:
        """A sentence about a gateway of it that was left on another engine."""
        return self._services.engine.left_elsewhere(self.record)

    def see(self, gateway: Gateway | None) -> None:
        """The container as the runtime says it is now; None: confirmed gone, and with it what it held."""
        if gateway is not None:
            self.stated_reset_hours = gateway.reset_hours
        if gateway is None and self.record.engine_id is not None and self.left_elsewhere is None:
            self.keep_record(replace(self.record, engine_id=None))
        if self.gateway_view.see(gateway):
            self.requests.restart_asked = None
            if self.login.attempt is None:
                self.login.give_back()


def with_endpoint(record: Record, gateway: Gateway) -> Record:
    """The record with the port of this gateway, which the follower's next one is to have again."""
    return record if gateway.endpoint is None else replace(record, host_port=gateway.endpoint.port)


def with_user(record: Record, gateway: Gateway) -> Record:
    """The record with this gateway's user, which is proven where the record named both before."""
    launched = replace(record, user=gateway.user or record.user)
    is_named = record.container_id == gateway.container_id and record.user == launched.user
    return launched if is_named else replace(launched, user_unproven=True)
