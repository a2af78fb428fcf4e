"""One at a time, each in a round of the event loop of its own.

When one event wakes hundreds of supervisors (every socket closed at once), each walks its cycle within a millisecond, and
without turns all of them do so in one round of the loop: nothing else is served until the last has. A lock alone would not
part them, since nobody waits inside a cycle: it is free again before the next one asks. So a turn ends a round later.
"""

from __future__ import annotations

import asyncio


class Turns:
    """`async with turns:` around work that does not wait; alone, it costs nothing."""

    def __init__(self) -> None:
        self._taken = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._taken.acquire()

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().call_soon(self._taken.release)
