"""Which manager acts, where several share a store: the leader writes down where it is, and the others name it.

What is written down lies in what all of them share. A leader that ended leaves it there; the next one writes over it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from spreadpilot_core.ibkr.access.callers import RefusedCallerError
from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.http_api.address import SOCKET
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.tasks import Tasks, keep_running

KIND = "manager"
NAME = "leader"
_WATCH_EVERY = 0.5
"""Seconds between two glances at whether this manager has become the leader; it asks nobody."""
_FRESH = 1.0
"""Seconds for which what was read of the leader counts."""


class LeaderAddress(BaseModel):
    """Where a manager is reached."""

    host: str
    """The name of its machine."""
    pid: int
    socket: str | None = None
    """Its control socket, for programs on the same machine."""
    url: str | None = None
    """Its `http_address` as others reach it; null where it has none."""


class NotLeaderError(RefusedCallerError):
    """This manager stands by: another one acts."""

    code = 503

    def __init__(self, leader: LeaderAddress | None, why: str) -> None:
        self.leader = leader
        self.headers: Mapping[str, str] = {"Retry-After": "1"}
        hint = f"Ask the leader: {leader.url or f'{leader.socket} on {leader.host}'}." if leader is not None else None
        super().__init__(f"This manager changes nothing. {why}", hint=hint or "Try again soon.")


class Leader:
    """Writes down where this manager is while it is the leader, and reads where the leader is while it is not."""

    def __init__(self, shared: SharedDocuments | None, settings: Settings, is_leader: Callable[[], bool]) -> None:
        self._shared = shared
        self._own = own_address(settings)
        self._is_leader = is_leader
        self._was_leader = False
        self._found: LeaderAddress | None = None
        self._read_at = float("-inf")
        self._tasks = Tasks("leader's address")

    async def start(self) -> None:
        """Begin to watch whether this manager leads."""
        if self._shared is not None:
            self._tasks.begin("publish", keep_running("publish the leader's address", self._publish))

    async def close(self) -> None:
        """Watch no more."""
        await self._tasks.cancel()

    async def _publish(self) -> None:
        assert self._shared is not None
        while True:
            leads = self._is_leader()
            if leads and not self._was_leader:
                with suppress(StoreUnavailableError):
                    await self._shared.open()
                    await self._shared.put(KIND, NAME, self._own.model_dump())
                    self._was_leader = True
            elif not leads:
                self._was_leader = False
            await asyncio.sleep(_WATCH_EVERY)

    async def find(self) -> LeaderAddress | None:
        """Where the leader was last; None: nobody knows, or it can't be read now."""
        if self._is_leader():
            return self._own
        if self._shared is not None and time.monotonic() - self._read_at >= _FRESH:
            self._read_at = time.monotonic()
            with suppress(StoreUnavailableError):
                await self._shared.open()
                self._found = _read(await self._shared.get(KIND, NAME))
        return self._found if self._found != self._own else None


def _read(document: Mapping[str, Any] | None) -> LeaderAddress | None:
    try:
        return LeaderAddress.model_validate(document) if document is not None else None
    except ValidationError:
        return None


def own_address(settings: Settings) -> LeaderAddress:
    """Where this process is reached."""
    control = str(settings.state_dir.absolute() / SOCKET) if settings.control_socket else None
    return LeaderAddress(host=socket.gethostname(), pid=os.getpid(), socket=control, url=own_url(settings))


def own_url(settings: Settings) -> str | None:
    """`http_url`, or what `http_address` is called from other machines; None where nothing is served."""
    if settings.http_address is None or settings.http_url is not None:
        return settings.http_url
    host, _, port = settings.http_address.rpartition(":")
    scheme = "https" if settings.http_cert_file is not None else "http"
    everywhere = host in ("0.0.0.0", "[::]", "::")
    return f"{scheme}://{socket.gethostname() if everywhere else host}:{port}"
