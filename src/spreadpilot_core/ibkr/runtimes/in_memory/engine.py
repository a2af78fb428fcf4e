"""What runs the gateways of an in-memory runtime: the simulator's engine in this process, and what can go wrong with it.

Several runtimes may share one, as managers share an engine. It has no timers of its own beyond the simulated gateways', so it lives in made-up
time as well as in real time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import DeliveryTarget, Endpoint
from spreadpilot_core.ibkr.model.records import ContainerId
from spreadpilot_core.ibkr.runtimes.in_memory.network import MemoryNetwork
from spreadpilot_core.ibkr.simulator.engine.container import Container, Order
from spreadpilot_core.ibkr.simulator.engine.engine import Engine
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused

_names = itertools.count(1)


class InMemoryEngine:
    """Containers of one made-up host, or pods of one made-up cluster."""

    def __init__(self) -> None:
        self.name = f"engine-{next(_names)}"
        self.network = MemoryNetwork()
        self.simulator = Engine(None, self, make_port=self.network.make_port)
        self.typed: list[FollowerId] = []
        """Whose gateway typed a login, in order."""
        self.is_away = False
        """Every call fails as long as it is."""
        self.creations = asyncio.Event()
        """Containers are made while it is set. Who asks for one without it waits, and has its name; who dies meanwhile gets it all the same."""
        self.creations.set()
        self.held: dict[str, asyncio.Task[Container]] = {}
        """Creations that wait, by the name of their container."""
        self.scheduler = asyncio.Event()
        """Pods are given a place while it is set."""
        self.scheduler.set()
        self.nodes = asyncio.Event()
        """Nodes answer while it is set: without them nothing is ended, and no end is confirmed."""
        self.nodes.set()
        self.committed: set[str] = set()
        """Pods whose login was committed: their password is there, or on its way."""
        self._addresses = itertools.count(1)
        self._inner_ports = itertools.count(50_000)
        self.places: dict[str, Endpoint] = {}
        """Where each pod was placed."""
        self.starts_at_delivery: set[str] = set()
        """Containers that run already, and wait inside for their password."""

    async def create(self, order: Order) -> Container:
        """Make a container. Raises the simulator's `Refused`."""
        if order.name in self.held:
            raise Refused("name_taken", f"There is a container {order.name!r} already, which is being made.")
        if self.creations.is_set():
            return self.simulator.create(order)
        held = self.network.tasks.begin(f"creation of {order.name}", self._create_late(order), then=_untold)
        self.held[order.name] = held
        return await asyncio.shield(held)

    async def _create_late(self, order: Order) -> Container:
        await self.creations.wait()
        del self.held[order.name]
        return self.simulator.create(order)

    def note(self, user: str, **facts: str) -> None:
        """A login was typed (see the simulator's `Logins`)."""
        del user
        self.typed.append(FollowerId(facts["follower"]))

    def deliver(self, target: DeliveryTarget, secret: bytes) -> None:
        """What the courier's sender does elsewhere. Raises the simulator's `Refused`."""
        container = self.simulator.get(target.container_id)
        container.open_door()
        container.take_secret(secret)
        if container.id in self.starts_at_delivery:
            self.simulator.start(container)

    def container(self, follower_id: FollowerId) -> Container:
        """The follower's, whoever manages it. Raises `LookupError`."""
        for container in self.simulator.others(()):
            if container.order.follower_id == follower_id:
                return container
        raise LookupError(follower_id)

    def script(self, follower_id: FollowerId, *laps: Mapping[str, Any], **choices: Any) -> None:
        """What is to go wrong in its next starts, one mapping for each (see `simulator.script`); `choices` as in `scripts.json`."""
        self.simulator.scripts.say(follower_id, {**choices, "laps": list(laps)})

    def go_away(self) -> None:
        """From now on it can't be reached; gateways go on."""
        self.is_away = True
        self.wake()

    def come_back(self) -> None:
        """It answers again."""
        self.is_away = False
        self.wake()

    def wake(self) -> None:
        """Have everybody who follows changes or a log look again."""
        self.simulator.events.wake()
        for container in self.simulator.others(()):
            container.log.wake()

    async def close(self, *, within: Sequence[str] = ()) -> None:
        """End every container and connection, but those of the followers `within`."""
        for container in list(self.simulator.others(())):
            if container.order.follower_id not in within:
                await self.simulator.remove(container, 0)
        await self.network.tasks.cancel()

    def inner_port(self) -> int:
        """A port of the made-up host for a pod, which nobody is told."""
        return next(self._inner_ports)

    def connect(self, endpoint: Endpoint, client: asyncio.Protocol) -> asyncio.Transport:
        """A connection of this client to what answers there. Raises `OSError`."""
        placed = (container_id for container_id, place in self.places.items() if place == endpoint)
        inner = next((self.simulator.get(each).order.host_port for each in placed), endpoint.port)
        return self.network.connect(inner, client)

    def place(self, container_id: ContainerId, port: int) -> Endpoint:
        """Give a pod an address of its own."""
        number = next(self._addresses)
        self.places[container_id] = Endpoint(f"10.0.{number >> 8}.{number & 255}", port)
        return self.places[container_id]


def _untold(creation: asyncio.Task[Container]) -> None:
    """Whoever asked for it is told how it ended, if it still listens."""
    if not creation.cancelled():
        creation.exception()
