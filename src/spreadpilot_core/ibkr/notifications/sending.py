"""One try on one channel at a time, each in a thread of its own that nobody waits for at the end of the process.

Threads of the loop's own pool would be used up by channels that hang, and their end is waited for when the program ends.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Protocol

from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.notifications import channels
from spreadpilot_core.ibkr.notifications.audience import Channel
from spreadpilot_core.ibkr.notifications.outbox import Message

LONGEST_TRY = 30.0
"""Seconds after which a try counts as failed."""
_LEVELS = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.ERROR: "failure"}


class Sender(Protocol):
    """Sends a message by a channel; why that failed, as a sentence, or None."""

    async def __call__(self, channel: Channel, message: Message) -> str | None:
        """Never raises for a channel that is away."""


class ThreadedSender:
    """Fulfils `Sender` by apprise."""

    def __init__(self, *, longest_try: float = LONGEST_TRY) -> None:
        self._longest_try = longest_try
        self._hanging: dict[str, asyncio.Future[str | None]] = {}

    async def __call__(self, channel: Channel, message: Message) -> str | None:
        """At most one thread for each channel: while an earlier try hangs, another one has failed already."""
        hanging = self._hanging.get(channel.name)
        if hanging is None:
            hanging = self._hanging[channel.name] = self._begin(channel, message)
            hanging.add_done_callback(lambda _: self._hanging.pop(channel.name, None))
            done, _ = await asyncio.wait({hanging}, timeout=self._longest_try)
            if done:
                return hanging.result()
        return f"It does not answer within {self._longest_try:g} s."

    def _begin(self, channel: Channel, message: Message) -> asyncio.Future[str | None]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str | None] = loop.create_future()
        level = "success" if message.is_end else _LEVELS[message.severity]

        def tell(why: str | None) -> None:
            if not ended.done():
                ended.set_result(why)

        def work() -> None:
            why = channels.send(channel.url, message.title, message.body, level)
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(tell, why)

        threading.Thread(target=work, name=f"notify by {channel.name}", daemon=True).start()
        return ended
