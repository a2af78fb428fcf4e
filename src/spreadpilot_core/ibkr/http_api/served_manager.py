"""What is served of a `GatewayManager`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from spreadpilot_core.ibkr.model.availability import Availability, AvailabilityDay
from spreadpilot_core.ibkr.model.client_leases import ClientPlace, GatewayEndpoint, LeasedClient, LeaseView
from spreadpilot_core.ibkr.model.details import PhoneQueue, Picture, ScreenAddress
from spreadpilot_core.ibkr.model.events import Event
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.settings import Settings


class OfFollower(Protocol):
    """Something about one follower."""

    @property
    def follower_id(self) -> str:
        """Whom it is about."""


class ServedClients(Protocol):
    """What is served of clients in other programs."""

    async def lease(
        self,
        follower_id: str,
        place: ClientPlace,
        *,
        name: str | None = None,
        wait: float = 0,
        require: TradingMode | None = None,
    ) -> LeasedClient:
        """Lease a client id."""

    async def endpoint(self, follower_id: str, place: ClientPlace, *, wait: float = 0) -> GatewayEndpoint:
        """Where a gateway is."""

    async def renew(self, follower_id: str, lease_id: str, place: ClientPlace, *, wait: float = 0) -> LeasedClient:
        """Hold it for another while."""

    async def give_back(self, follower_id: str, lease_id: str) -> bool:
        """End it."""

    async def list(self) -> tuple[LeaseView, ...]:
        """Who holds which."""


class ServedDetails(Protocol):
    """What a page shows besides."""

    @property
    def last_event(self) -> int | None:
        """The id of the newest one."""

    async def availability_days(self, month: str) -> tuple[AvailabilityDay, ...]:
        """How long each gateway was what, day by day."""

    def phones(self) -> tuple[PhoneQueue, ...]:
        """Each phone that is asked, and who waits."""

    def asked_phone(self, follower_id: str) -> str | None:
        """Whose phone its next login asks."""

    def settings_of(self, follower_id: str) -> Mapping[str, str]:
        """What it runs by."""

    def log_lines(self, follower_id: str, *, last: int, follow: bool = False) -> AsyncIterator[str]:
        """What its gateway prints."""

    async def screen(self, follower_id: str) -> ScreenAddress:
        """Where its screen is."""

    async def pictures(self, follower_id: str) -> Sequence[Picture]:
        """What its screen showed last before it was given up."""

    async def picture(self, follower_id: str, picture_id: str) -> bytes | None:
        """One of them."""


class ServedManager(Protocol):
    """What is served of a `GatewayManager`, which also serves itself, and so is not known here."""

    @property
    def settings(self) -> Settings:
        """Its settings."""

    @property
    def is_leader(self) -> bool:
        """Whether it acts: another manager on the same store may."""

    @property
    def identity(self) -> str | None:
        """What its containers bear."""

    @property
    def adopted_identities(self) -> tuple[str, ...]:
        """Whose gateways it took over."""

    @property
    def clients(self) -> ServedClients:
        """Clients in other programs."""

    @property
    def details(self) -> ServedDetails:
        """What a page shows besides."""

    def left_alone(self) -> tuple[str, ...]:
        """What is not its own."""

    def list_notices(self) -> tuple[str, ...]:
        """What concerns all of it."""

    async def leave_logins(self) -> tuple[str, ...]:
        """What a detach waits for."""

    def missing_followers(self) -> tuple[str, ...]:
        """Whose records are gone."""

    async def confirm_removals(self, follower_ids: Collection[str] | None = None) -> tuple[str, ...]:
        """Let them go."""

    async def launch_gateway(
        self,
        follower_id: str,
        *,
        retry_login: bool = False,
        override_account_lock: str | None = None,
        live: bool = False,
    ) -> None:
        """Start a gateway."""

    async def stop_gateway(self, follower_id: str) -> None:
        """Stop it."""

    async def restart_gateway(self, follower_id: str) -> None:
        """Start it anew."""

    async def reconnect(self, follower_id: str) -> bool:
        """Replace its client."""

    async def reload_followers(self) -> None:
        """Read the follower store now."""

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        """Every snapshot."""

    def get_gateway(self, follower_id: str) -> GatewaySnapshot:
        """One snapshot."""

    async def availability(self, month: str) -> tuple[Availability, ...]:
        """How long each gateway was ready in this month."""

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Everything that happens."""

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """What happened."""


class ProbedManager(ServedManager, Protocol):
    """What is asked of a `GatewayManager` besides."""

    def readiness(self) -> Readiness:
        """Whether it does its work."""
