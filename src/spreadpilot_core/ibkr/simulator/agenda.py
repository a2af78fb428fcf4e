"""What a controller still has to do at some moment while it also listens for what happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Agenda:
    """Things to do, each at its time."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, Callable[[], None]]] = []

    def add(self, seconds: float | None, action: Callable[[], None]) -> None:
        """Do `action` in `seconds`; None is never."""
        if seconds is not None:
            self._entries.append((asyncio.get_running_loop().time() + seconds, action))

    def seconds(self) -> float | None:
        """How long until the next entry; None when there is none."""
        if not self._entries:
            return None
        return max(0.0, min(at for at, _ in self._entries) - asyncio.get_running_loop().time())

    def do_due(self) -> None:
        """Do what is due, in order of time."""
        now = asyncio.get_running_loop().time()
        due = sorted((entry for entry in self._entries if entry[0] <= now), key=lambda entry: entry[0])
        for entry in due:
            self._entries.remove(entry)
            entry[1]()
