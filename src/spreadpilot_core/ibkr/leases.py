"""Host ports and API client ids: who holds which, and what is really free on this host.

A lease is memory only; what must survive is elsewhere (a running gateway's labels, the record's client id), and adopted
gateways claim theirs before anything new is handed out. Nothing here awaits.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError, PortsExhaustedError
from spreadpilot_core.ibkr.protocols import FollowerId

LOOPBACK = "127.0.0.1"


class PortLeases:
    """Host ports on loopback, each leased only when nothing else on this host has it."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._holder: dict[int, FollowerId] = {}
        self._refused: list[int] = []
        self._next = first

    def held(self) -> dict[int, FollowerId]:
        """Which ports are held, and by whom."""
        return dict(self._holder)

    def claim(self, follower_id: FollowerId, port: int) -> None:
        """An adopted gateway has this port, in the range or not."""
        self._holder[port] = follower_id

    def lease(self, follower_id: FollowerId) -> int:
        """A port for a new gateway.

        Ports are given out in turn, so that one just released is the last to be used again: a program that still
        talks to the old endpoint must not reach another account. A port that was refused at start comes after all others.

        Raises:
            PortsExhaustedError: none is free.

        """
        in_turn = [*range(self._next, self._last + 1), *range(self._first, self._next)]
        fresh: list[int] = [port for port in in_turn if port not in self._refused]
        foreign = 0
        for port in fresh + [each for each in self._refused if each in in_turn]:
            if port in self._holder:
                continue
            if not is_free(port):
                foreign += 1
                continue
            self._holder[port] = follower_id
            self._next = port + 1 if port < self._last else self._first
            return port
        held = {port: owner for port, owner in sorted(self._holder.items()) if self._first <= port <= self._last}
        raise PortsExhaustedError(self._first, self._last, held, foreign)

    def release(self, follower_id: FollowerId, *, refused: bool = False) -> None:
        """The follower's gateway is confirmed gone. `refused`: the runtime could not publish the port."""
        for port in [port for port, holder in self._holder.items() if holder == follower_id]:
            del self._holder[port]
            if refused:
                self._refused = [*(each for each in self._refused if each != port), port][-100:]


def is_free(port: int) -> bool:
    """Whether nothing listens on this port of the loopback address (a connection that only lingers doesn't count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


class ClientIdLeases:
    """API client ids: drawn at random once per follower, then the record's."""

    def __init__(self, first: int, last: int, *, rng: random.Random | None = None) -> None:
        self._first, self._last = first, last
        self._rng = rng or random.Random()  # noqa: S311  # an id, no secret
        self._holder: dict[int, FollowerId] = {}

    def claim(self, follower_id: FollowerId, client_id: int) -> None:
        """The follower's record or running gateway has this id, in the range or not."""
        self.release(follower_id)
        self._holder.setdefault(client_id, follower_id)

    def lease(self, follower_id: FollowerId, *, other_than: Iterable[int] = ()) -> int:
        """The id that the follower holds, else a new one; never one of `other_than`.

        Raises:
            ClientIdsExhaustedError: every id of the range is held.

        """
        avoided = set(other_than)
        held = next((each for each, holder in self._holder.items() if holder == follower_id), None)
        if held is not None and held not in avoided:
            return held
        client_id: int = self._draw(avoided)
        self.release(follower_id)
        self._holder[client_id] = follower_id
        return client_id

    def _draw(self, avoided: set[int]) -> int:
        for _ in range(64):
            client_id = int(self._rng.randint(self._first, self._last))
            if client_id not in self._holder and client_id not in avoided:
                return client_id
        free = [each for each in range(self._first, self._last + 1) if each not in self._holder and each not in avoided]
        if not free:
            raise ClientIdsExhaustedError(self._first, self._last, dict(sorted(self._holder.items())))
        return self._rng.choice(free)

    def release(self, follower_id: FollowerId) -> None:
        """The follower is gone."""
        for client_id in [each for each, holder in self._holder.items() if holder == follower_id]:
            del self._holder[client_id]
