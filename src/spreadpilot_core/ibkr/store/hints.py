"""What a follower store says to who listens: "load again", once for each burst of changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

QUIET: Final = 0.2
"""Seconds without a further change before a hint: ten edits in a second are one."""
QUIET_WITHIN: Final = 1.5
"""Seconds after which the hint comes although changes go on."""


class Hints:
    """The listeners of one store."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Event] = set()
        self._stirred = asyncio.Event()
        self._closed = True

    def open(self) -> None:
        """From now on there are hints."""
        self._closed = False

    def close(self) -> None:
        """End every `listen()`."""
        self._closed = True
        self.tell()

    async def listen(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the records may have changed since."""
        wake = asyncio.Event()
        self._listeners.add(wake)
        wake.set()
        try:
            while not self._closed:
                await wake.wait()
                wake.clear()
                if not self._closed:
                    yield
        finally:
            self._listeners.discard(wake)

    def stir(self) -> None:
        """Something changed: there will be a hint."""
        self._stirred.set()

    def tell(self) -> None:
        """A hint at once."""
        for wake in self._listeners:
            wake.set()

    async def tell_when_quiet(self) -> None:
        """One hint for each burst of changes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await self._stirred.wait()
            until = loop.time() + QUIET_WITHIN
            while self._stirred.is_set() and loop.time() < until:
                self._stirred.clear()
                await asyncio.sleep(QUIET)
            self._stirred.clear()
            self.tell()
