"""Two ways in which programs find out today that their gateway is dead, to be compared with the manager's.

Each holds a client of its own of the same gateway and notes the moment at which it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from ib_async import IB
from ib_async.ibcontroller import Watchdog


class LibraryWatchdog:
    """`ib_async`'s own `Watchdog`. The program that it would start and end is there already, and is left alone."""

    def __init__(self, endpoint: str, client_id: int, *, idle: float, probe: float, startup: float) -> None:
        host, _, port = endpoint.partition(":")
        self.known_at: float | None = None
        """When it made up its mind to end the program and to start it anew, which is a login."""
        self.usable_at: float | None = None
        """When its client was connected again after that."""
        self.connected = asyncio.Event()
        self._startup = startup
        self._ib = IB()
        self._watchdog = Watchdog(
            self,  # type: ignore[arg-type]  # it calls two methods of an IBC
            self._ib,
            host,
            int(port),
            client_id,
            appStartupTime=0,  # the gateway is up; its own value counts after a failure
            appTimeout=idle,
            probeTimeout=probe,
        )
        self._watchdog.startedEvent += self._started

    def start(self) -> None:
        """Connect and watch."""
        self._task = self._watchdog.start()

    async def startAsync(self) -> None:  # noqa: N802  # IBC's
        """Asked to start the program."""

    async def terminateAsync(self) -> None:  # noqa: N802  # IBC's
        """Asked to end the program."""
        if self.connected.is_set() and self.known_at is None:
            self.known_at = time.monotonic()

    def _started(self, *_: Any) -> None:
        if self.known_at is not None and self.usable_at is None:
            self.usable_at = time.monotonic()
        self._watchdog.appStartupTime = self._startup
        self.connected.set()

    async def stop(self) -> None:
        """No more."""
        self._watchdog.stop()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Polling:
    """A program that asks its client every so often whether the gateway answers, as a health check does."""

    def __init__(self, endpoint: str, client_id: int, *, every: float, within: float) -> None:
        self.known_at: float | None = None
        self.connected = asyncio.Event()
        self._address = endpoint.partition(":")
        self._client_id = client_id
        self._every = every
        self._within = within

    def start(self) -> None:
        """Connect and ask."""
        self._task = asyncio.create_task(self._poll(), name="polling")

    async def _poll(self) -> None:
        client, (host, _, port) = IB(), self._address
        await client.connectAsync(host, int(port), self._client_id, timeout=30)
        self.connected.set()
        with contextlib.suppress(TimeoutError, ConnectionError):
            while client.isConnected():
                await asyncio.sleep(self._every)
                await asyncio.wait_for(client.reqCurrentTimeAsync(), self._within)
        self.known_at = time.monotonic()
        client.disconnect()

    async def stop(self) -> None:
        """No more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
