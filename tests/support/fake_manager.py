"""A hand-written stand-in for `GatewayManager`, for the program around it: it does what it is told and remembers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import ScreenError, UnknownFollowerError
from spreadpilot_core.ibkr.model.availability import Availability, AvailabilityDay
from spreadpilot_core.ibkr.model.client_leases import ClientPlace, GatewayEndpoint, LeasedClient, LeaseView
from spreadpilot_core.ibkr.model.details import PhoneQueue, Picture, ScreenAddress
from spreadpilot_core.ibkr.model.events import Event, EventBus
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.model.readiness import Readiness
from spreadpilot_core.ibkr.model.records import HistoryEntry, HistoryPage, HistoryQuery, history_page
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.settings import Settings

SINCE = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)


def a_snapshot(follower_id: str, state: State = State.READY, **facts: Any) -> GatewaySnapshot:
    """A plausible snapshot; `facts` replace its fields."""
    plausible: dict[str, Any] = {"reason": None, "next_action": None, "since": SINCE, "trading_mode": "paper"}
    if state is not State.READY:
        plausible |= {"reason": f"It is {state.value}.", "next_action": "Wait."}
    return GatewaySnapshot(follower_id=follower_id, status=state.status, state=state, **(plausible | facts))


class FakeManager:
    """Every call is in `calls`; a call named in `failing` raises what stands there."""

    def __init__(self, state_dir: Path, *snapshots: GatewaySnapshot, **settings: Any) -> None:
        self.settings = Settings.read(state_dir=state_dir, store_url="local:", runtime_url="simulated:", **settings)
        self.snapshots = {each.follower_id: each for each in snapshots}
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Exception] = {}
        self.stop_takes = asyncio.Event()
        self.stop_takes.set()
        self.reconnects = True
        self.notices: tuple[str, ...] = ()
        self.identity = "of-the-test"
        self.is_leader = True
        self.adopted_identities: tuple[str, ...] = ()
        self.ready_times: tuple[Availability, ...] = ()
        self.clients = FakeClients(self)
        self.details = FakeDetails(self)
        self.bus = EventBus()
        self.history: list[HistoryEntry] = []
        """Newest first."""

    async def start(self) -> None:
        self._called("start")

    async def stop(self) -> None:
        self._called("stop")
        await self.stop_takes.wait()
        self.bus.close()

    async def detach(self) -> None:
        self._called("detach")
        self.bus.close()

    async def leave_logins(self) -> tuple[str, ...]:
        self._called("leave_logins")
        return ()

    def readiness(self) -> Readiness:
        return Readiness("ready", "It does its work.")

    async def availability(self, month: str) -> tuple[Availability, ...]:
        self._called("availability", month)
        return self.ready_times

    def list_gateways(self) -> tuple[GatewaySnapshot, ...]:
        self._called("list_gateways")
        return tuple(self.snapshots.values())

    def get_gateway(self, follower_id: str) -> GatewaySnapshot:
        self._called("get_gateway")
        if follower_id not in self.snapshots:
            raise UnknownFollowerError(follower_id, self.snapshots)
        return self.snapshots[follower_id]

    def left_alone(self) -> tuple[str, ...]:
        self._called("left_alone")
        return ()

    def list_notices(self) -> tuple[str, ...]:
        self._called("list_notices")
        return self.notices

    async def launch_gateway(self, follower_id: str, *, retry_login: bool = False, **words: str | bool | None) -> None:
        self._about("launch_gateway", follower_id, retry_login, *(name for name, said in words.items() if said))

    def missing_followers(self) -> tuple[str, ...]:
        self._called("missing_followers")
        return tuple(self.snapshots)

    async def confirm_removals(self, follower_ids: Collection[str] | None = None) -> tuple[str, ...]:
        self._called("confirm_removals", follower_ids)
        return tuple(each for each in self.snapshots if follower_ids is None or each in follower_ids)

    async def stop_gateway(self, follower_id: str) -> None:
        self._about("stop_gateway", follower_id)
        self.snapshots[follower_id] = a_snapshot(follower_id, State.STOPPED)

    async def restart_gateway(self, follower_id: str) -> None:
        self._about("restart_gateway", follower_id)

    async def reconnect(self, follower_id: str) -> bool:
        self._about("reconnect", follower_id)
        return self.reconnects

    async def reload_followers(self) -> None:
        self._called("reload_followers")

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        self._called("read_history", query)
        known = [
            each
            for each in self.history
            if (query.before is None or each.at < query.before.at) and query.follower_id in (None, each.follower_id)
        ]
        return history_page(known[: query.limit + 1], query)

    async def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        subscription = self.bus.subscribe(after=after)
        self._called("events")
        try:
            async for event in subscription:
                yield event
        finally:
            await subscription.aclose()

    def _about(self, call: str, follower_id: str, *rest: Any) -> None:
        self._called(call, follower_id, *rest)
        if follower_id not in self.snapshots:
            raise UnknownFollowerError(follower_id, self.snapshots)

    def _called(self, call: str, *rest: Any) -> None:
        self.calls.append((call, *rest))
        if call in self.failing:
            raise self.failing[call]


class FakeDetails:
    """What a page shows besides; a test says what it is."""

    def __init__(self, manager: FakeManager) -> None:
        self._manager = manager
        self.days: tuple[AvailabilityDay, ...] = ()
        self.queues: tuple[PhoneQueue, ...] = ()
        self.asked: dict[str, str] = {}
        self.settings: dict[str, str] = {}
        self.lines: list[str] = []
        self.screens: dict[str, ScreenAddress] = {}
        self.kept: dict[str, bytes] = {}
        """Pictures of whichever gateway, by their ids."""

    @property
    def last_event(self) -> int | None:
        return self._manager.bus.last_id

    async def availability_days(self, month: str) -> tuple[AvailabilityDay, ...]:
        return tuple(each for each in self.days if each.day.startswith(month))

    def phones(self) -> tuple[PhoneQueue, ...]:
        return self.queues

    def asked_phone(self, follower_id: str) -> str | None:
        return self.asked.get(follower_id)

    def settings_of(self, follower_id: str) -> Mapping[str, str]:
        self._manager._about("settings_of", follower_id)
        return self.settings

    async def log_lines(self, follower_id: str, *, last: int, follow: bool = False) -> AsyncIterator[str]:
        del follow
        self._manager._about("log_lines", follower_id)
        for line in self.lines[-last:]:
            yield line

    async def screen(self, follower_id: str) -> ScreenAddress:
        self._manager._about("screen", follower_id)
        if follower_id not in self.screens:
            raise ScreenError(follower_id)
        return self.screens[follower_id]

    async def pictures(self, follower_id: str) -> tuple[Picture, ...]:
        self._manager._about("pictures", follower_id)
        return tuple(
            Picture(each, datetime.strptime(each, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC), len(content))
            for each, content in self.kept.items()
        )

    async def picture(self, follower_id: str, picture_id: str) -> bytes | None:
        self._manager._about("picture", follower_id)
        return self.kept.get(picture_id)


class FakeClients:
    """Clients in other programs: every known gateway has its reason why it is not ready, and one lease."""

    def __init__(self, manager: FakeManager) -> None:
        self._manager = manager

    async def lease(
        self,
        follower_id: str,
        place: ClientPlace,
        *,
        name: str | None = None,
        wait: float = 0,
        require: TradingMode | None = None,
    ) -> LeasedClient:
        del place, name, wait, require
        self._manager._about("lease", follower_id)
        return self._leased(follower_id)

    async def endpoint(self, follower_id: str, place: ClientPlace, *, wait: float = 0) -> GatewayEndpoint:
        del place, wait
        self._manager._about("endpoint", follower_id)
        leased = self._leased(follower_id)
        return GatewayEndpoint(**{name: getattr(leased, name) for name in GatewayEndpoint.model_fields})

    async def renew(self, follower_id: str, lease_id: str, place: ClientPlace, *, wait: float = 0) -> LeasedClient:
        del lease_id, place, wait
        self._manager._about("renew", follower_id)
        return self._leased(follower_id)

    async def give_back(self, follower_id: str, lease_id: str) -> bool:
        del lease_id
        self._manager._about("give_back", follower_id)
        return True

    async def list(self) -> tuple[LeaseView, ...]:
        known = self._manager.list_gateways()
        return tuple(LeaseView(follower_id=each.follower_id, client_id=10_000, name=None) for each in known)

    def _leased(self, follower_id: str) -> LeasedClient:
        found = self._manager.snapshots[follower_id]
        return LeasedClient(
            follower_id=follower_id,
            ready=found.state is State.READY,
            reason=found.reason,
            reason_code=found.reason_code,
            lease="10000-x",
            client_id=10_000,
            expires=SINCE,
        )
