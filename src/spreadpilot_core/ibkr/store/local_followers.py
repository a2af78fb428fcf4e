"""The embedded follower store: `followers.toml`, edited by hand or by command, watched.

Editors write in many ways: in place (for a moment the file is cut short, which may still be valid TOML), to a new file
that is renamed over it, or by removing and making it anew (for a moment there is none). Taken at its word, each such
moment would stop gateways. So a reading counts only once the file has been left alone for `SETTLED` seconds, and for
`LOSS_SETTLED` when it lacks a follower of the reading before: a disk may hold an editor up halfway.

The watch makes it fast, a look at the file's status every `poll_interval` makes it right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple

import structlog
from watchfiles import awatch

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.protocols import FollowerId, Roster
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.followers_file import FILE_NAME, parse_followers, read_content, unreadable
from spreadpilot_core.ibkr.tasks import Tasks

log = structlog.get_logger(__name__)

SETTLED = 0.25
"""Seconds without a change before the content counts: editors need milliseconds from cutting the file to closing it."""
LOSS_SETTLED = 2.0
"""Seconds without a change before content counts that takes a gateway away."""
SETTLE_WITHIN = 10.0
"""Seconds after which a file that never comes to rest is said to be unreadable."""


class _Trace(NamedTuple):
    """What the file system says of one state of the file; another state differs in one of these.

    For a file that isn't there it is its directory's: a file that came and went meanwhile has changed that.
    """

    is_there: bool
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class LocalFollowers:
    """Who should have a gateway, by `followers.toml`; a missing file means nobody."""

    def __init__(self, path: Path, *, poll_interval: float) -> None:
        self._path = path
        self._poll_interval = poll_interval
        self._changed = asyncio.Event()
        self._usable: frozenset[FollowerId] = frozenset()
        self._closed = True
        self._tasks = Tasks("followers.toml")

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalFollowers:
        """The store that `store_url` names."""
        return cls(settings.local_store_dir / FILE_NAME, poll_interval=settings.poll_interval)

    async def open(self) -> None:
        """Make the directory and watch it. Raises `StoreUnavailableError` when it can't be made."""
        try:
            await asyncio.to_thread(self._path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._closed = False
        if len(self._tasks) == 0:
            self._tasks.begin("watch", self._watch())

    async def close(self) -> None:
        """End the watch and every `hints()`."""
        self._closed = True
        self._changed.set()
        await self._tasks.cancel()

    async def load(self) -> Roster:
        """Read the file once it has come to rest.

        Raises:
            StoreUnavailableError: it can't be read, is no TOML, or never comes to rest; the file and the line are named.
        """
        until = time.monotonic() + SETTLE_WITHIN
        while time.monotonic() < until:
            trace = await asyncio.to_thread(self._trace)
            if not await self._rests(trace, SETTLED):
                continue
            content = await asyncio.to_thread(read_content, self._path)
            if await asyncio.to_thread(self._trace) != trace:
                continue
            roster = await asyncio.to_thread(parse_followers, content, self._path)
            if self._usable <= roster.usable.keys() or await self._rests(trace, LOSS_SETTLED):
                self._usable = frozenset(roster.usable)
                return roster
        raise StoreUnavailableError(f"{self._path} has been changing all the time for {SETTLE_WITHIN:g} s.")

    async def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the file has changed since."""
        seen: _Trace | None = None
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
                changes = awatch(self._path.parent, watch_filter=lambda _, path: Path(path).name == name, debounce=50)
                async with aclosing(changes):
                    async for _ in changes:
                        self._changed.set()
            except (OSError, RuntimeError) as error:
                log.info("watch of followers.toml failed, polling it", error=str(error), interval=self._poll_interval)
            await asyncio.sleep(self._poll_interval)

    # ------------------------------------------------------------------ a reading that counts

    async def _rests(self, trace: _Trace, rest: float) -> bool:
        """Whether the file has been as `trace` says for `rest` seconds; when it is younger, they are waited for.

        A file that isn't there may be about to come back, however long ago its directory changed.
        """
        age = (time.time_ns() - max(trace.modified_ns, trace.changed_ns)) / 1e9
        if trace.is_there and abs(age) >= rest:
            return True
        until = time.monotonic() + rest
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, SETTLED))
            if await asyncio.to_thread(self._trace) != trace:
                return False
        return True

    def _trace(self) -> _Trace:
        """The present state. Raises `StoreUnavailableError`."""
        try:
            try:
                return _trace_of(self._path, is_there=True)
            except FileNotFoundError:
                return _trace_of(self._path.resolve().parent, is_there=False)
        except FileNotFoundError:
            return _Trace(False, 0, 0, 0, 0)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def _trace_or_none(self) -> _Trace | None:
        try:
            return self._trace()
        except StoreUnavailableError:
            return None


def _trace_of(path: Path, *, is_there: bool) -> _Trace:
    status = path.stat()
    return _Trace(is_there, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
