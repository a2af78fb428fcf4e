"""All containers of one host: unique names, starts, removals, events. What a container engine is, without the sockets.

A manager sees and touches the containers that bear an identity of its own, as programs that respect labels do, and is told
which others there are; an operator, who acts by a follower's id, goes by the prefix (`owner`). Nothing here waits for a
client: what was begun goes on when the client that asked for it has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.simulator.engine.container import Container, Logins, MakePort, Order
from spreadpilot_core.ibkr.simulator.engine.feed import Feed
from spreadpilot_core.ibkr.simulator.engine.refusals import Refused
from spreadpilot_core.ibkr.simulator.engine.script_book import ScriptBook
from spreadpilot_core.ibkr.simulator.gateway import SimulatedGateway
from spreadpilot_core.ibkr.simulator.outer_port import OuterPort

_EVENTS_KEPT = 4_096
_LAST_LINES = 1_000


@dataclass(frozen=True, slots=True)
class LastWords:
    """What a removed container left."""

    exit_code: int | None
    lines: Sequence[str]


class Engine:
    """The containers of one host."""

    def __init__(self, directory: Path | None, logins: Logins, *, make_port: MakePort = OuterPort) -> None:
        """`directory` has the scripts file; None: there is none."""
        self.scripts = ScriptBook(directory)
        self._logins = logins
        self._make_port = make_port
        self.events: Feed[Mapping[str, Any]] = Feed(keep=_EVENTS_KEPT)
        self._containers: dict[str, Container] = {}
        # Of thousands nobody is looked for one by one.
        self._names: dict[str, Container] = {}
        self._of_followers: dict[str, list[Container]] = {}
        self._of_users: dict[str, list[Container]] = {}
        self._removals: set[asyncio.Task[LastWords]] = set()

    def __len__(self) -> int:
        return len(self._containers)

    def create(self, order: Order) -> Container:
        """Make a container that waits for its secret. Raises `Refused` when its name, follower or user has one already."""
        if (namesake := self._names.get(order.name)) is not None:
            sentence = f"There is a container {order.name!r} already, owned by {namesake.order.owner!r}."
            raise Refused("name_taken", sentence, other=namesake.describe_to_others())
        for other in self._of_followers.get(order.follower_id, ()):
            if other.order.identity == order.identity:
                raise Refused(
                    "name_taken", f"The follower {order.follower_id!r} has the container {other.order.name!r}."
                )
        for other in self._of_users.get(order.user_digest, ()):
            self._refuse_user(order, other)
        self.scripts.reset_hours(order.follower_id)  # a scripts file that can't be used is told now
        container = Container(order, self._tell, self._logins, self._make_port)
        self._containers[container.id] = self._names[order.name] = container
        self._of_followers.setdefault(order.follower_id, []).append(container)
        if order.user_digest:
            self._of_users.setdefault(order.user_digest, []).append(container)
        return container

    def _refuse_user(self, order: Order, other: Container) -> None:
        if other.order.identity != order.identity and other.state != "exited":
            raise Refused("user_taken", "Another manager's container has this user.", other=other.describe_to_others())

    def find(self, identities: Sequence[str]) -> list[Container]:
        """Every container with one of these identities, whatever its state."""
        return [container for container in self._containers.values() if container.order.identity in identities]

    def others(self, identities: Sequence[str]) -> list[Container]:
        """Every container with none of them."""
        return [container for container in self._containers.values() if container.order.identity not in identities]

    def get(self, container_id: str, identities: Sequence[str] | None = None) -> Container:
        """One container. Raises `Refused` (`gone`) when there is none, or it is another manager's."""
        container = self._containers.get(container_id)
        if container is None or (identities is not None and container.order.identity not in identities):
            raise Refused("gone", f"There is no container {container_id[:12]}.")
        return container

    def of_follower(self, follower_id: str, owner: str) -> Container:
        """The follower's container. Raises `Refused` (`gone`)."""
        for container in self._of_followers.get(follower_id, ()):
            if container.order.owner == owner:
                return container
        raise Refused("gone", f"The follower {follower_id!r} has no container.")

    def gateway_of(self, follower_id: str, owner: str) -> SimulatedGateway | None:
        """The follower's running gateway, or None; none runs in a container that waits for its secret again."""
        for container in self._of_followers.get(follower_id, ()):
            if container.order.owner == owner and container.runs_gateway:
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
            self._forget(container)
            container.log.close()
            self._tell(container, "removed")
        return LastWords(container.exit_code, container.log.last(_LAST_LINES))

    def _forget(self, container: Container) -> None:
        order = container.order
        del self._names[order.name]
        for found, key in ((self._of_followers, order.follower_id), (self._of_users, order.user_digest)):
            others = [each for each in found.pop(key, ()) if each is not container]
            if others:
                found[key] = others

    def _tell(self, container: Container, kind: str) -> None:
        self.events.append(
            {
                "kind": kind,
                "identity": container.order.identity,
                "follower_id": container.order.follower_id,
                "container_id": container.id,
                "exit_code": container.exit_code,
            }
        )
