"""Pictures of gateways' screens, as supervision asks for them: when each was taken, of what, and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spreadpilot_core.ibkr.model.details import Picture
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.gateways import Gateway


class FakePictures:
    """Each takes `seconds`; `is_there` says whether the gateway still runs when it is begun."""

    def __init__(self, is_there: Callable[[FollowerId], bool]) -> None:
        self._is_there = is_there
        self.seconds = 0.1
        self.begun: list[tuple[str, bool]] = []
        self.taken: list[tuple[str, bool]] = []

    async def take(self, gateway: Gateway) -> None:
        name = gateway.follower_id
        self.begun.append((name, self._is_there(name)))
        await asyncio.sleep(self.seconds)
        self.taken.append((name, self._is_there(name)))

    async def list(self, follower_id: str) -> tuple[Picture, ...]:
        del follower_id
        return ()

    async def read(self, follower_id: str, picture_id: str) -> bytes | None:
        del follower_id, picture_id
        return None
