"""A whole fleet on adapters in memory, in made-up time: what supervision does, without a process, a server or a socket.

Real are the fleet with all below it, the decisions, the API client (`ib_async`) and the simulated gateways. Made up are the
engine, the stores, the secrets, and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ib_async

from spreadpilot_core.ibkr.api_client.connector import Connector
from spreadpilot_core.ibkr.audit.auditor import Auditor
from spreadpilot_core.ibkr.audit.trail import AuditTrail
from spreadpilot_core.ibkr.credentials.in_memory import InMemoryBroker
from spreadpilot_core.ibkr.deciding.observation import Limits
from spreadpilot_core.ibkr.model.events import Event, EventBus
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Endpoint, Gateway
from spreadpilot_core.ibkr.model.records import LoginAttempt
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.runtimes.host_ports import PortLeases
from spreadpilot_core.ibkr.runtimes.in_memory.engine import InMemoryEngine
from spreadpilot_core.ibkr.runtimes.in_memory.runtime import InMemoryPods, InMemoryRuntime
from spreadpilot_core.ibkr.seams import LeaderLease
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.container import Container
from spreadpilot_core.ibkr.store.documents import LOGINS
from spreadpilot_core.ibkr.store.in_memory import (
    InMemoryAvailability,
    InMemoryFollowers,
    InMemoryRecords,
    InMemoryShared,
    MemoryContent,
)
from spreadpilot_core.ibkr.supervision import operator_commands
from spreadpilot_core.ibkr.supervision.admission import Admission
from spreadpilot_core.ibkr.supervision.client_leases import ClientLeases
from spreadpilot_core.ibkr.supervision.fleet import Fleet
from spreadpilot_core.ibkr.supervision.leases import ClientIdLeases
from spreadpilot_core.ibkr.supervision.ledger import Ledger
from spreadpilot_core.ibkr.supervision.services import Services, limits_of
from spreadpilot_core.ibkr.supervision.snapshots import snapshot
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.system.clock import utc_now
from support.fake_pictures import FakePictures
from support.made_up_time import MadeUpTimeLoop, until

ANNA, BEN = FollowerId("anna"), FollowerId("ben")
PASSWORD = "Correct horse"
SELDOM = {"full_comparison_interval": 3600.0, "secret_poll_interval": 3600.0}
"""What is done again and again, though nothing has happened, is done once an hour: a test's day is short."""


@functools.cache
def _read(settings: tuple[tuple[str, Any], ...]) -> tuple[Settings, Limits]:
    """Reading them takes milliseconds, and a test may begin a hundred managers."""
    read = Settings.read(runtime_url="simulated:", store_url="local:", vault_enabled=False, **dict(settings))
    return read, limits_of(read)


class World:
    """What outlives a manager: engine, stores, secrets."""

    def __init__(
        self, directory: Path, *, pods: bool = False, shows: bool = False, engine: InMemoryEngine | None = None
    ) -> None:
        """`engine` may be shared with another world; `shows`: the followers' records show how their gateways stand."""
        self.directory = directory
        self.pods = pods
        self.shows = shows
        self.engine = engine or InMemoryEngine()
        self.content = MemoryContent()
        self.broker = InMemoryBroker(self.engine.deliver)
        self.shows_screens = False
        self.pictures = FakePictures(lambda name: self.engine.container(name).runs_gateway)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MadeUpTimeLoop)
        loop.network = lambda host, port, client: self.engine.connect(Endpoint(host, port), client)

    def add(self, *names: str, **fields: Any) -> None:
        """Followers with a login each, `fields` in their records."""
        for name in names:
            self.broker.put(f"ibkr/{name}", f"user-{name}", PASSWORD)
        new = [{"id": name, "vault_secret_ref": f"ibkr/{name}", "enabled": True, **fields} for name in names]
        known = [each for each in self.content.followers if each["id"] not in names]
        self.content.put_followers([*known, *new])

    def change(self, name: str, **fields: Any) -> None:
        """Edit a follower's record."""
        self.content.put_followers(
            [{**each, **(fields if each["id"] == name else {})} for each in self.content.followers]
        )

    def drop(self, name: str) -> None:
        """Delete a follower's record."""
        self.content.put_followers([each for each in self.content.followers if each["id"] != name])

    def manager(self, *, lease: LeaderLease | None = None, **settings: Any) -> MadeUpManager:
        """One that is not begun yet; each has a state directory of its own name, and the same stores."""
        return MadeUpManager(self, settings, lease)

    @contextlib.asynccontextmanager
    async def running(self, *, lease: LeaderLease | None = None, **settings: Any) -> AsyncIterator[MadeUpManager]:
        """One that runs, and lets go of its gateways at the end."""
        manager = self.manager(lease=lease, **settings)
        await manager.begin()
        try:
            yield manager
        finally:
            await manager.close()

    def script(self, name: str, *laps: Mapping[str, Any], **choices: Any) -> None:
        """What goes wrong in a follower's next starts."""
        self.engine.script(FollowerId(name), *laps, **choices)

    def typed(self, name: str) -> int:
        """How many logins its gateways typed."""
        return self.engine.typed.count(FollowerId(name))

    def logins(self, name: str) -> list[LoginAttempt]:
        """What is written down of its user, oldest first."""
        kept = [LOGINS.read(each, where="here") for each in self.content.logins.values()]
        return sorted((each for each in kept if each.follower_id == name), key=lambda each: each.reserved_at)

    def outcomes(self, name: str) -> list[str | None]:
        """How they ended."""
        return [each.outcome.value if each.outcome else None for each in self.logins(name)]

    async def close(self) -> None:
        """End every gateway."""
        await self.engine.close()


class _WithScreens(InMemoryRuntime):
    """Each gateway shows its screen."""

    def _gateway(self, container: Container) -> Gateway:
        return replace(super()._gateway(container), vnc="127.0.0.1:5900")


class MadeUpManager:
    """A fleet, and what it is made of."""

    def __init__(self, world: World, settings: dict[str, Any], lease: LeaderLease | None = None) -> None:
        self.world = world
        read, limits = _read(tuple(sorted((SELDOM | settings).items())))
        shared = {} if lease is None else {"store_url": "mongodb:"}  # in name alone: others may lead
        self.settings = read.model_copy(update={"state_dir": world.directory, **shared})
        self.bus = EventBus()
        self.events: list[Event] = []
        self.bus.listen(self.events.append)
        self.runtime = self._runtime()
        notices = Notices(self.bus, utc_now)
        self.ledger = Ledger(InMemoryRecords(world.content), clock=utc_now, tell=notices.tell)
        followers = InMemoryFollowers(world.content)
        self.services = Services(
            statuses=followers if world.shows else None,
            runtime=self.runtime,
            broker=world.broker,
            ledger=self.ledger,
            availability=InMemoryAvailability(world.content),
            pictures=world.pictures,
            auditor=Auditor(AuditTrail(world.directory), who="test"),
            connector=Connector(ib_factory=ib_async.IB),
            admission=Admission(parallel_starts=self.settings.parallel_starts),
            client_ids=ClientIdLeases(1000, 9999, rng=random.Random(7)),
            client_leases=ClientLeases(
                InMemoryShared(world.content), 10_000, 19_999, clock=utc_now, may_act=lambda: True
            ),
            bus=self.bus,
            notices=notices,
            limits=replace(limits, full_login_limit=self.settings.full_login_limit or 12),
            options=self.settings.gateway_options.model_copy(update={"auto_restart_time": None}),
            clock=utc_now,
        )
        make_lease = None if lease is None else lambda _engine_id: lease
        self.fleet = Fleet(self.services, followers, self.settings, make_lease)

    def _runtime(self) -> InMemoryRuntime | InMemoryPods:
        engine, owner = self.world.engine, self.settings.container_prefix
        if self.world.pods:
            return InMemoryPods(engine, owner=owner)
        ports = PortLeases(4100, 4200, is_free=engine.network.is_free)
        kind = _WithScreens if self.world.shows_screens else InMemoryRuntime
        return kind(engine, owner=owner, ports=ports)

    async def begin(self) -> None:
        """Start, and look once at what there is."""
        self.fleet.begin()
        await self.fleet.wait_until_listed(8.0)

    async def close(self) -> None:
        """Let go; gateways stay."""
        await self.fleet.close()
        await self.ledger.close()
        await self.runtime.close()

    # ------------------------------------------------------------------ what is asked of it

    def supervisor(self, name: str = ANNA) -> GatewaySupervisor:
        """The follower's."""
        return self.fleet.supervisors[FollowerId(name)]

    def seen(self, name: str = ANNA) -> GatewaySnapshot:
        """What the outside sees of it now."""
        return snapshot(self.supervisor(name))

    async def state(self, state: State, name: str = ANNA, *, within: float = 3600.0) -> GatewaySnapshot:
        """Wait until it is in this state."""
        known = self.fleet.supervisors
        await until(
            lambda: name in known and self.supervisor(name).state is state,
            lambda: self.seen(name) if name in known else f"{name} is unknown",
            within=within,
        )
        return self.seen(name)

    async def launch(self, name: str = ANNA, *, live: bool = False, **choices: Any) -> None:
        """An operator's word."""
        launch = operator_commands.launch_live if live else operator_commands.launch
        await launch(self.fleet, self.supervisor(name), **choices)

    async def stop(self, name: str = ANNA) -> None:
        """An operator's word."""
        await operator_commands.stop(self.fleet, self.supervisor(name))

    async def restart(self, name: str = ANNA) -> None:
        """An operator's word."""
        await operator_commands.restart(self.fleet, self.supervisor(name))

    async def reconnect(self, name: str = ANNA) -> bool:
        """An operator's word."""
        return await operator_commands.reconnect(self.fleet, self.supervisor(name), within=60.0)

    def inject(self, fault: str, name: str = ANNA, **arguments: Any) -> None:
        """Make a fault happen now in the follower's running gateway."""
        self.world.engine.container(FollowerId(name)).gateway("running", "paused").inject(fault, **arguments)

    async def kill(self, name: str = ANNA) -> None:
        """Kill its gateway, as nobody here wanted."""
        await self.world.engine.container(FollowerId(name)).stop(0)

    def happened(self, *kinds: type[Event], of: str = ANNA) -> list[str]:
        """The names of the follower's events, only these kinds where any are named."""
        told = [each for each in self.events if each.follower_id == of]
        return [each.name for each in told if not kinds or isinstance(each, kinds)]


@contextlib.asynccontextmanager
async def world_in(
    directory: Path, *, pods: bool = False, shows: bool = False, engine: InMemoryEngine | None = None
) -> AsyncIterator[World]:
    """A world, and its end."""
    directory.mkdir(exist_ok=True)
    world = World(directory, pods=pods, shows=shows, engine=engine)
    yield world
    await world.close()
