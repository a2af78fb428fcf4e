"""What is asked of a supervisor from outside, and the waiting until it was decided on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from spreadpilot_core.ibkr.errors import NotStartedError
from spreadpilot_core.ibkr.model.reasons import Reason


class OperatorRequests:
    """An operator's open requests, and who waits for them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked = 0
        self._answered = 0
        self._cycled = asyncio.Event()
        self._ended = False
        self.operator_login = False
        """One more login is taken on purpose."""
        self.overridden_user: str | None = None
        """With it, the IBKR user whose account may be locked for it."""
        self.refused_login: Reason | None = None
        """Why the last login that an operator wanted to take was refused."""
        self.restart_asked: datetime | None = None
        self.refused_restart: Reason | None = None
        """Why the last restart that was asked for was refused."""
        self.reconnect_asked = False

    def ask(self) -> int:
        """Count a request in and wake; the number goes to `answered`."""
        self._asked += 1
        self._wake()
        return self._asked

    def ask_login(self, *, by_operator: bool, overridden_user: str | None = None) -> None:
        """An operator said launch; whatever was said before is replaced."""
        self.operator_login, self.overridden_user, self.refused_login = by_operator, overridden_user, None

    def end_login(self, refused: Reason | None = None) -> None:
        """The operator's login is spent, or refused: it is not taken later."""
        self.operator_login, self.overridden_user, self.refused_login = False, None, refused

    def take_refusals(self, *, login: Reason | None, restart: Reason | None) -> None:
        """What was asked for and would break a rule is over, and this says which."""
        if login is not None:
            self.end_login(login)
        if restart is not None:
            self.restart_asked, self.refused_restart = None, restart

    def begin_pass(self) -> int:
        """What was asked before this pass looked; goes to `end_pass`."""
        return self._asked

    def end_pass(self, asked: int) -> None:
        """Everything asked before this pass has been decided on: tell who waits."""
        self._answered = asked
        cycled, self._cycled = self._cycled, asyncio.Event()
        cycled.set()

    def end(self) -> None:
        """There will be no further pass: whoever waits is told so."""
        self._ended = True
        self.end_pass(self._answered)

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
