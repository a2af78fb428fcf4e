"""All containers of one host: unique names, starts, removals, events. What a container engine is, without the sockets.

An owner sees and touches its own containers alone, as programs that respect their labels do. Nothing here waits for a
client: what was begun goes on when the client that asked for it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator.engine.container import Container, Order
from spreadpilot_core.ibkr.simulator.engine.feed import Feed
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from spreadpilot_core.ibkr.simulator.engine.script_book import ScriptBook
from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway

_EVENTS_KEPT = 4_096
_LAST_LINES = 50


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a removed container left."""

    exit_code: int | None
    lines: Sequence[str]


class Engine:
    """The containers of one host."""

    def __init__(self, directory: Path) -> None:
        self.scripts = ScriptBook(directory)
        self.events: Feed[Mapping[str, Any]] = Feed(keep=_EVENTS_KEPT)
        self._containers: dict[str, Container] = {}
        self._removals: set[asyncio.Task[LastWords]] = set()

    def __len__(self) -> int:
        return len(self._containers)

    def create(self, order: Order) -> Container:
        """Make a container that waits for its secret. Raises `Refused` when its name or its follower has one."""
        for other in self._containers.values():
            if other.order.name == order.name:
                raise Refused(
                    "name_taken", f"There is a container {order.name!r} already, owned by {other.order.owner!r}."
                )
            if (other.order.owner, other.order.follower_id) == (order.owner, order.follower_id):
                raise Refused(
                    "name_taken", f"The follower {order.follower_id!r} has the container {other.order.name!r}."
                )
        self.scripts.dialect(order.follower_id)  # a scripts file that can't be used is told now
        container = Container(order, self._tell)
        self._containers[container.id] = container
        return container

    def find(self, owner: str) -> list[Container]:
        """Every container of the owner, whatever its state."""
        return [container for container in self._containers.values() if container.order.owner == owner]

    def get(self, container_id: str, owner: str | None = None) -> Container:
        """One container. Raises `Refused` (`gone`) when there is none, or it is another owner's."""
        container = self._containers.get(container_id)
        if container is None or (owner is not None and container.order.owner != owner):
            raise Refused("gone", f"There is no container {container_id[:12]}.")
        return container

    def of_follower(self, follower_id: str, owner: str) -> Container:
        """The follower's container. Raises `Refused` (`gone`)."""
        for container in self.find(owner):
            if container.order.follower_id == follower_id:
                return container
        raise Refused("gone", f"The follower {follower_id!r} has no container.")

    def gateway_of(self, follower_id: str, owner: str) -> SimulatedGateway | None:
        """The follower's running gateway, or None."""
        for container in self.find(owner):
            if container.order.follower_id == follower_id and container.state in ("running", "paused"):
                return container.gateway("running", "paused")
        return None

    def start(self, container: Container) -> None:
        """Start it as its follower's script says. Raises `Refused`; the container then stays `created`."""
        order = container.order
        container.start(
            self.scripts.part(order.owner, order.follower_id, user=order.user, trading_mode=order.trading_mode)
        )

    async def remove(self, container: Container, grace: float) -> LastWords:
        """Stop and remove it; goes on when the caller is cancelled, and may be asked for several times at once."""
        removal = asyncio.create_task(self._remove(container, grace), name=f"removal of {container.order.name}")
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        return await asyncio.shield(removal)

    async def remove_all(self, grace: float) -> None:
        """Stop and remove every container."""
        await asyncio.gather(*(self.remove(container, grace) for container in list(self._containers.values())))

    async def _remove(self, container: Container, grace: float) -> LastWords:
        await container.stop(grace)
        if self._containers.pop(container.id, None) is not None:
            container.log.close()
            self._tell(container, "removed")
        return LastWords(container.exit_code, container.log.last(_LAST_LINES))

    def _tell(self, container: Container, kind: str) -> None:
        self.events.append(
            {
                "kind": kind,
                "owner": container.order.owner,
                "follower_id": container.order.follower_id,
                "container_id": container.id,
                "exit_code": container.exit_code,
            }
        )
