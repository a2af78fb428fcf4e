"""API client ids: who holds which.

A lease is memory only; what must survive is elsewhere (a running gateway's labels, the follower's record), and adopted
gateways claim theirs before anything new is handed out. Nothing here awaits.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from spreadpilot_core.ibkr.errors import ClientIdsExhaustedError
from spreadpilot_core.ibkr.model.followers import FollowerId


class ClientIdLeases:
    """API client ids: drawn at random once per follower, then the record's."""

    def __init__(self, first: int, last: int, *, rng: random.Random | None = None) -> None:
        self._first, self._last = first, last
        self._rng = rng or random.Random()  # noqa: S311  # an id, no secret
        self._holder: dict[int, FollowerId] = {}
        self._held: dict[FollowerId, int] = {}
        """The same by follower."""

    @property
    def counts(self) -> tuple[int, int]:
        """How many are held, and how many there are."""
        return len(self._holder), self._last - self._first + 1

    def claim(self, follower_id: FollowerId, client_id: int) -> None:
        """The follower's record or running gateway has this id, in the range or not."""
        self.release(follower_id)
        if self._holder.setdefault(client_id, follower_id) == follower_id:
            self._held[follower_id] = client_id

    def lease(self, follower_id: FollowerId, *, other_than: Iterable[int] = ()) -> int:
        """The id that the follower holds, else a new one; never one of `other_than`.

        Raises:
            ClientIdsExhaustedError: every id of the range is held.

        """
        avoided = set(other_than)
        held = self._held.get(follower_id)
        if held is not None and held not in avoided:
            return held
        client_id: int = self._draw(avoided)
        self.release(follower_id)
        self._holder[client_id], self._held[follower_id] = follower_id, client_id
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
        held = self._held.pop(follower_id, None)
        if held is not None:
            del self._holder[held]
