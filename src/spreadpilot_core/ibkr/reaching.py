"""Trying until something that is away is there again; said once per cause.

Whatever goes wrong is tried again, a refusal and a mistake of ours included: a loop of the fleet that ended would leave
every gateway unwatched, and nobody would notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import structlog

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.events import EventBus, NoticeGiven
from spreadpilot_core.ibkr.tasks import arrives

log = structlog.get_logger(__name__)

T = TypeVar("T")

RETRY_FIRST, RETRY_CAP = 0.5, 15.0
"""Seconds between two tries, doubling from the first to the cap."""


class Reaching:
    """Tries for the fleet, and tells."""

    def __init__(self, bus: EventBus, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._clock = clock

    async def until_reached(
        self,
        what: str,
        work: Callable[[], Awaitable[T]],
        *,
        tell: Callable[[str], None] | None = None,
        sooner: asyncio.Event | None = None,
    ) -> T:
        """What `work` answers, once it does; `tell` gets the sentence of every failure, and `sooner` cuts a pause short."""
        pause, said = RETRY_FIRST, ""
        while True:
            try:
                return await work()
            except GatewayManagerError as error:
                sentence = str(error)
            except Exception as bug:
                log.exception("failed in a way nobody foresaw", what=what)
                sentence = f"The {what} can't be used: {bug!r}."
            if sentence != said:
                said = sentence
                log.warning("unavailable", what=what, sentence=sentence)
                self._bus.publish(NoticeGiven(at=self._clock(), sentence=sentence))
            if tell is not None:
                tell(sentence)
            await asyncio.sleep(RETRY_FIRST)
            await arrives(sooner or asyncio.Event(), within=pause - RETRY_FIRST)
            if sooner is not None:
                sooner.clear()
            pause = min(RETRY_CAP, pause * 2)


async def kept_going(what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do work that ends only when it is over; one that fails begins again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("began again after a failure", what=what)
            await asyncio.sleep(RETRY_FIRST)
        else:
            return
