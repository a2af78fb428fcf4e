"""Trying until something that is away is there again; said once per cause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TypeVar

import structlog

from spreadpilot_core.ibkr.errors import UnavailableError
from spreadpilot_core.ibkr.events import EventBus, NoticeGiven

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
        self, what: str, work: Callable[[], Awaitable[T]], *, tell: Callable[[str], None] | None = None
    ) -> T:
        """What `work` answers, once it does; `tell` gets the sentence of every failure."""
        pause, said = RETRY_FIRST, ""
        while True:
            try:
                return await work()
            except UnavailableError as error:
                sentence = str(error)
            if sentence != said:
                said = sentence
                log.warning("unavailable", what=what, sentence=sentence)
                self._bus.publish(NoticeGiven(at=self._clock(), sentence=sentence))
            if tell is not None:
                tell(sentence)
            await asyncio.sleep(pause)
            pause = min(RETRY_CAP, pause * 2)
