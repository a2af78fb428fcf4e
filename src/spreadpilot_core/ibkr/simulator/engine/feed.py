"""A bounded history with numbered entries that any number of readers follow, each at its own pace.

A reader holds nothing but the number of its next entry, so a slow one costs no memory and holds up nobody: it loses the
oldest entries and sees from their numbers that it did.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")

_BATCH = 200
"""Entries handed out at once: enough to make a flood cheap, few enough to be written in one go."""


class Feed(Generic[T]):
    """Entries numbered from 0; the newest `keep` of them are there."""

    def __init__(self, keep: int) -> None:
        self._entries: deque[T] = deque(maxlen=keep)
        self._changed = asyncio.Event()
        self.closed = False
        self.next = 0
        """The number that the next entry gets."""

    @property
    def first(self) -> int:
        """The number of the oldest entry that is still there."""
        return self.next - len(self._entries)

    def append(self, entry: T) -> None:
        """Add an entry and wake the readers."""
        self._entries.append(entry)
        self.next += 1
        self._wake()

    def close(self) -> None:
        """Nothing comes any more; readers end after the last entry."""
        self.closed = True
        self._wake()

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change."""
        return self._changed

    def wake(self) -> None:
        """Have readers look, though nothing has come."""
        self._wake()

    def last(self, count: int) -> list[T]:
        """The newest entries, at most `count`, oldest first."""
        return list(islice(self._entries, max(0, len(self._entries) - count), None))

    async def follow(self, number: int = 0) -> AsyncIterator[tuple[int, list[T]]]:
        """Yield batches from `number` on, each with the number of its first entry; entries lost meanwhile are skipped."""
        while True:
            changed = self._changed
            number = max(number, self.first)
            if number < self.next:
                start = number - self.first
                batch = list(islice(self._entries, start, start + _BATCH))
                yield number, batch
                number += len(batch)
            elif self.closed:
                return
            else:
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
