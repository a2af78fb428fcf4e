"""What is asked of a supervisor from outside, and the waiting until it was decided on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from spreadpilot_core.ibkr.errors import NotStartedError


class Requests:
    """An operator's open wishes, and who waits for them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked = 0
        self._answered = 0
        self._cycled = asyncio.Event()
        self._ended = False
        self.operator_login = False
        """One more login is taken on purpose."""
        self.restart_asked: datetime | None = None
        self.refused_restart: str | None = None
        """Why the last restart that was asked for was refused."""
        self.reconnect_asked = False

    def ask(self) -> int:
        """Count a request in and wake; the number goes to `answered`."""
        self._asked += 1
        self._wake()
        return self._asked

    def begin_cycle(self) -> int:
        """What was asked before this cycle looked; goes to `end_cycle`."""
        return self._asked

    def end_cycle(self, asked: int) -> None:
        """Everything asked before this cycle has been decided on: tell who waits."""
        self._answered = asked
        cycled, self._cycled = self._cycled, asyncio.Event()
        cycled.set()

    def end(self) -> None:
        """There will be no further cycle: whoever waits is told so."""
        self._ended = True
        self.end_cycle(self._answered)

    async def answered(
        self,
        asked: int,
        done: Callable[[], bool],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  # the caller's own limit
    ) -> bool:
        """Wait until the request was decided on and `done()` holds; False when `timeout` seconds passed first.

        Raises `NotStartedError` when nobody will decide any more: the manager has ended.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._answered < asked or not done():
                    if self._ended:
                        raise NotStartedError(None, stopped=True)
                    await self._cycled.wait()
        except TimeoutError:
            return False
        return True
