"""The host ports of gateways that are published on loopback: who holds which, and what is really free on this host.

Every runtime that publishes gateways here has one such table. A lease is memory only; what must survive stands in the containers'
labels, and a list claims it before anything new is handed out. Nothing here awaits.

A follower keeps its port as long as that is free: a program that knows the endpoint finds the same account there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from spreadpilot_core.ibkr.errors import LaunchError, PinnedPortError, PortsExhaustedError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Endpoint, ForeignGateway, Gateway
from spreadpilot_core.ibkr.model.records import ContainerId

LOOPBACK = "127.0.0.1"
FIRST_PORT, LAST_PORT = 4100, 4200
"""The range of a manager that was told no other."""


class PortLeases:
    """Host ports on loopback, each leased only when nothing else on this host has it."""

    def __init__(
        self, first: int = FIRST_PORT, last: int = LAST_PORT, *, is_free: Callable[[int], bool] | None = None
    ) -> None:
        """`is_free` tells whether nothing listens on a port of the loopback address; by default the system does."""
        self._first, self._last = first, last
        self._is_free = is_free or nothing_listens
        self._holder: dict[int, FollowerId] = {}
        self._held: dict[FollowerId, set[int]] = {}
        """The same by follower."""
        self._refused: list[int] = []
        self._preferred: dict[FollowerId, int] = {}
        self._pinned: dict[FollowerId, int] = {}
        self._owner: dict[int, FollowerId] = {}
        """Who had a port last, or pins it: others get it only when there is no better one."""
        self._foreign: set[int] = set()
        self._containers: dict[ContainerId, FollowerId] = {}
        """Each container that is there, and whose it is."""
        self._next = first

    @property
    def counts(self) -> tuple[int, int]:
        """How many are held, and how many there are."""
        return len(self._holder), self._last - self._first + 1

    def held(self) -> dict[int, FollowerId]:
        """Which ports are held, and by whom."""
        return dict(self._holder)

    # ------------------------------------------------------------------ what runs

    @property
    def containers(self) -> frozenset[ContainerId]:
        """Those that are known to hold a port."""
        return frozenset(self._containers)

    def claim(self, gateway: Gateway) -> None:
        """A gateway that is there has its port, in the range or not."""
        self._containers[gateway.container_id] = gateway.follower_id
        if gateway.endpoint is not None:
            self._taken(gateway.follower_id, gateway.endpoint.port)

    def listed(
        self, found: Sequence[Gateway], foreign: Sequence[ForeignGateway], *, before: Collection[ContainerId]
    ) -> None:
        """Take what a list says: ours hold their ports, and those of others are left alone.

        `before` are the `containers` that were known when the list was asked for: what it leaves out of them is gone, and what
        went meanwhile is not there again.
        """
        for gateway in found:
            if not gateway.faults and (gateway.container_id in self._containers or gateway.container_id not in before):
                self.claim(gateway)
        for container_id in set(before) - {each.container_id for each in found}:
            self.gone(container_id)
        strange = [each.endpoint.port for each in found if each.faults and each.endpoint]
        self.respect([*strange, *(each.host_port for each in foreign if each.host_port)])

    def made(self, container_id: ContainerId, follower_id: FollowerId) -> None:
        """The follower's container exists, and holds what was leased for it."""
        self._containers[container_id] = follower_id

    def gone(self, container_id: ContainerId) -> None:
        """It is confirmed gone, and with it what it held; not known: fine."""
        follower_id = self._containers.pop(container_id, None)
        if follower_id is not None and follower_id not in self._containers.values():
            self.release(follower_id)

    # ------------------------------------------------------------------ leases

    def remember(self, follower_id: FollowerId, port: int) -> None:
        """The follower's last gateway had this port: its next one gets it again, while it is free."""
        self._preferred.setdefault(follower_id, port)
        self._owner.setdefault(port, follower_id)

    def pin(self, follower_id: FollowerId, port: int | None) -> None:
        """The follower's record asks for this port and no other; None: for none."""
        if port is None:
            self._pinned.pop(follower_id, None)
        else:
            self._pinned[follower_id] = port
            self._owner[port] = follower_id

    def respect(self, ports: Iterable[int]) -> None:
        """These belong to containers that are not ours, also while they don't run."""
        self._foreign = set(ports)

    def lease(self, follower_id: FollowerId) -> int:
        """A port for a new gateway: the one that its record pins, else the one it had, else another.

        Others are given out in turn, so that one just released is the last to be used again: a program that still
        talks to the old endpoint must not reach another account. For the same reason a port that another follower had,
        or pins, comes after those that nobody had; one that was refused at start comes last.

        Raises:
            PinnedPortError: the pinned one is not free.
            PortsExhaustedError: none is free.

        """
        if (pinned := self._pinned.get(follower_id)) is not None:
            return self._lease_pinned(follower_id, pinned)
        preferred = self._preferred.get(follower_id)
        foreign = set()
        for port in self._in_order(follower_id):
            if port in self._holder:
                continue
            if port in self._foreign or not self._is_free(port):
                foreign.add(port)
                continue
            if port != preferred:
                self._next = port + 1 if port < self._last else self._first
            return self._taken(follower_id, port)
        held = {port: owner for port, owner in sorted(self._holder.items()) if self._first <= port <= self._last}
        raise PortsExhaustedError(self._first, self._last, held, len(foreign))

    def _in_order(self, follower_id: FollowerId) -> Iterator[int]:
        """The ports that this follower may get, the best first; some come twice."""
        preferred = self._preferred.get(follower_id)
        if (
            preferred is not None
            and self._first <= preferred <= self._last
            and preferred not in self._refused
            and preferred not in self._pinned.values()
        ):
            yield preferred
        refused = set(self._refused)
        yield from (port for port in self._circle() if port not in self._owner and port not in refused)
        yield from (port for port in self._circle() if port in self._owner and port not in refused)
        yield from (port for port in self._refused if self._first <= port <= self._last)

    def _circle(self) -> Iterator[int]:
        """All of the range once, from the one that is next."""
        first = self._next
        yield from range(first, self._last + 1)
        yield from range(self._first, first)

    def _lease_pinned(self, follower_id: FollowerId, port: int) -> int:
        holder = self._holder.get(port)
        if holder is not None or port in self._foreign or not self._is_free(port):
            raise PinnedPortError(follower_id, port, holder)
        return self._taken(follower_id, port)

    def _taken(self, follower_id: FollowerId, port: int) -> int:
        if (before := self._holder.get(port)) is not None:
            self._held[before].discard(port)
        self._holder[port] = self._owner[port] = follower_id
        self._held.setdefault(follower_id, set()).add(port)
        self._preferred[follower_id] = port
        return port

    def release(self, follower_id: FollowerId) -> None:
        """The follower's gateway is gone, or was never made."""
        for port in self._held.pop(follower_id, ()):
            del self._holder[port]

    def refuse(self, follower_id: FollowerId) -> int:
        """The follower's port could not be published, whatever the test said; which one it was."""
        for port in self._held.get(follower_id, ()):
            self._refused = [*(each for each in self._refused if each != port), port][-100:]
            return port
        return 0


class NoHostPorts:
    """Of a runtime whose gateways have an address each."""

    @property
    def counts(self) -> tuple[int, int]:
        """None, of none."""
        return 0, 0

    def remember(self, follower_id: FollowerId, port: int) -> None:
        """Nothing."""

    def pin(self, follower_id: FollowerId, port: int | None) -> None:
        """Nothing."""


def nothing_listens(port: int) -> bool:
    """Whether nothing listens on this port of the loopback address (a connection that only lingers doesn't count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def endpoint_of(gateway: Gateway) -> Endpoint:
    """Where a gateway that is published on this host is reached. Raises `LaunchError` for one that is not."""
    if gateway.endpoint is None:
        raise LaunchError(f"The container {gateway.name} has no address yet.")
    return gateway.endpoint
