"""The embedded follower store: `followers.toml`, edited by hand or by command, watched.

Editors write in many ways: in place (for a moment the file is cut short, which may still be valid TOML), to a new file
that is renamed over it, or by removing and making it anew (for a moment there is none). Taken at its word, each such
moment would be told as a fault. So a reading counts only once the file has been left alone for `SETTLED` seconds. What
a reading lacks is taken from nobody at once (see `desired`), so an editor may be held up halfway for as long as it takes.

The watch makes it fast, a look at the file's status every `poll_interval` makes it right.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME, read_followers, unreadable
from spreadpilot_core.ibkr.system.file_watch import FileWatch, Trace
from spreadpilot_core.ibkr.tasks import Tell, untold

SETTLED = 0.25
"""Seconds without a change before the content counts: editors need milliseconds from cutting the file to closing it."""
SETTLE_WITHIN = 10.0
"""Seconds after which a file that never comes to rest is said to be unreadable."""


class LocalFollowers:
    """Who should have a gateway, by `followers.toml`; a missing file means nobody."""

    def __init__(self, path: Path, *, poll_interval: float, ports: range | None = None) -> None:
        self._path = path
        self._watch = FileWatch(path, poll_interval=poll_interval)
        self._ports = ports
        self.tell: Tell = untold

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalFollowers:
        """The store that `store_url` names."""
        path = settings.local_store_dir / FILE_NAME
        return cls(path, poll_interval=settings.poll_interval, ports=settings.host_ports)

    async def open(self) -> None:
        """Make the directory and watch it. Raises `StoreUnavailableError` when it can't be made."""
        try:
            await asyncio.to_thread(self._path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unreadable(self._path, error) from error
        self._watch.open(tell=self.tell)

    async def close(self) -> None:
        """End the watch and every `hints()`."""
        await self._watch.close()

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
            try:
                roster = await asyncio.to_thread(read_followers, self._path, ports=self._ports)
            except StoreUnavailableError:
                if await asyncio.to_thread(self._trace) == trace:
                    raise
                continue
            if await asyncio.to_thread(self._trace) == trace:
                return roster
        raise StoreUnavailableError(f"{self._path} has been changing all the time for {SETTLE_WITHIN:g} s.")

    def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the file has changed since."""
        return self._watch.hints()

    # ------------------------------------------------------------------ a reading that counts

    async def _rests(self, trace: Trace, rest: float) -> bool:
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

    def _trace(self) -> Trace:
        """The present state. Raises `StoreUnavailableError`."""
        try:
            return self._watch.trace()
        except OSError as error:
            raise unreadable(self._path, error) from error
