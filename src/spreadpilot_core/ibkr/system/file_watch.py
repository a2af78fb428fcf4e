"""Tells when a file has changed: the watch makes it fast, a look at the file's status now and then makes it right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

from watchfiles import awatch

from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)


class Trace(NamedTuple):
    """What the file system says of one state of the file; another state differs in one of these.

    For a file that isn't there it is its directory's: a file that came and went meanwhile has changed that.
    """

    is_there: bool
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class FileWatch:
    """Watches one file that may not be there, in a directory that is."""

    def __init__(self, path: Path, *, poll_interval: float) -> None:
        self._path = path
        self._poll_interval = poll_interval
        self._changed = asyncio.Event()
        self._closed = True
        self._tasks = Tasks(path.name)

    def open(self, *, tell: Tell = untold) -> None:
        """Begin to watch; may be called again. `tell` gets the notice when that fails in a way nobody foresaw."""
        self._closed = False
        if len(self._tasks) == 0:
            self._tasks.begin("watch", keep_running(f"watch {self._path.name}", self._watch, tell=tell))

    async def close(self) -> None:
        """End the watch and every `hints()`."""
        self._closed = True
        self._changed.set()
        await self._tasks.cancel()

    async def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the file has changed since."""
        seen: Trace | None = None
        first = True
        while not self._closed:
            self._changed.clear()
            trace = await asyncio.to_thread(self._trace_or_none)
            if first or trace != seen:
                first, seen = False, trace
                yield
            elif not self._closed:
                await self._change_or_poll()

    async def _change_or_poll(self) -> None:
        try:
            async with asyncio.timeout(self._poll_interval):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _watch(self) -> None:
        """Set `_changed` on every change around the file; where watching fails, polling remains."""
        name = self._path.name
        while True:
            try:
                changes = awatch(
                    self._path.parent,
                    watch_filter=lambda _, path: Path(path).name == name,
                    debounce=200,  # of a directory in which others write all the time
                    recursive=False,
                )
                async with aclosing(changes):
                    async for _ in changes:
                        self._changed.set()
            except (OSError, RuntimeError) as error:
                log.info("watch failed, polling", file=name, error=str(error), interval=self._poll_interval)
            await asyncio.sleep(self._poll_interval)

    def trace(self) -> Trace:
        """The present state. Raises `OSError` for a file that can't be looked at."""
        try:
            return _trace_of(self._path, is_there=True)
        except FileNotFoundError:
            pass
        try:
            return _trace_of(self._path.resolve().parent, is_there=False)
        except FileNotFoundError:
            return Trace(False, 0, 0, 0, 0)

    def _trace_or_none(self) -> Trace | None:
        try:
            return self.trace()
        except OSError:
            return None


def _trace_of(path: Path, *, is_there: bool) -> Trace:
    status = path.stat()
    return Trace(is_there, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
