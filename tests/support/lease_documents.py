"""The document of a leader lease, in memory, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.store.mongodb.versions import Version


class StandingClock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


class SharedDocument:
    """The versioned document in memory. It may be away, and time may pass while it answers."""

    def __init__(self, clock: StandingClock) -> None:
        self.clock = clock
        self.version = Version("leader_lease", 0, {})
        self.away = False
        self.takes = 0.0

    async def read(self, name: str) -> Version:
        """The newest version."""
        self._answer()
        return self.version._replace(name=name)

    async def write(self, read: Version, content: Mapping[str, Any]) -> bool:
        """As an insert under a unique id."""
        self._answer()
        if read.number != self.version.number:
            return False
        self.version = Version(read.name, read.number + 1, content)
        self.clock.now += self.takes
        return True

    def _answer(self) -> None:
        self.clock.now += self.takes
        if self.away:
            raise StoreUnavailableError("MongoDB at db:27017 does not answer.")
