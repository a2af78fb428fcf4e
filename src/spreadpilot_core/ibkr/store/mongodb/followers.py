"""Followers from MongoDB's collection `followers`, which other programs write and this one only reads.

Every hint means "load again", so nothing depends on what a change says. Where the server has change streams, changes
are waited for and a broken stream is resumed; where it can't be, a hint makes up for what was missed. Where the server
has none (a standalone server, other makes), there is a hint every `poll_interval`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.hints import Hints
from spreadpilot_core.ibkr.store.mongodb.database import ChangesNotOfferedError, MongoDatabase
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.store.unknown_fields import SHARED_FIELDS
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

COLLECTION = "followers"
RETRY_AFTER = 1.0
"""Seconds before a broken stream is opened again."""
ASK_AGAIN_AFTER = 300.0
"""Seconds after which a server without change streams is asked for them again: it may have been replaced."""


async def read_followers(database: MongoDatabase, *, ports: range | None = None) -> Roster:
    """Every record, without the fields that other programs keep in it. Raises `StoreUnavailableError`."""
    documents = await database.find(COLLECTION, fields=SHARED_FIELDS)
    return await asyncio.to_thread(parse_roster, documents, shared=True, ports=ports)


class MongoFollowers:
    """Who should have a gateway, by MongoDB."""

    def __init__(self, database: MongoDatabase, *, poll_interval: float, ports: range | None = None) -> None:
        self._database = database
        self._poll_interval = poll_interval
        self._ports = ports
        self._hints = Hints()
        self._mark: Mapping[str, Any] | None = None
        self._closed = True
        self._tasks = Tasks("followers in MongoDB")
        self.tell: Tell = untold

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoFollowers:
        """The store that `mongo_uri` and `mongo_db_name` name. Raises `SettingsError` without showing the value."""
        database = MongoDatabase.from_settings(settings)
        return cls(database, poll_interval=settings.poll_interval, ports=settings.host_ports)

    async def open(self) -> None:
        """Reach the server. Raises `StoreUnavailableError`; may be called again."""
        await self._database.open()
        self._closed = False
        self._hints.open()
        if len(self._tasks) == 0:
            for name, work in (
                ("watch the followers", self._watch),
                ("tell of changed followers", self._hints.tell_when_quiet),
            ):
                self._tasks.begin(name, keep_running(name, work, tell=self.tell))

    async def close(self) -> None:
        """End the watch and every `hints()`, and let go of the server."""
        self._closed = True
        self._mark = None
        self._hints.close()
        await self._tasks.cancel()
        await self._database.close()

    async def load(self) -> Roster:
        """Read all records. Raises `StoreUnavailableError`."""
        return await read_followers(self._database, ports=self._ports)

    def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the records may have changed since."""
        return self._hints.listen()

    # ------------------------------------------------------------------ watching

    async def _watch(self) -> None:
        while not self._closed:
            try:
                await self._database.follow(COLLECTION, after=self._mark, on_change=self._hear)
            except ChangesNotOfferedError as error:
                if self._mark is None:
                    await self._poll(str(error))
                self._mark = None  # it stood, but can't be resumed: begin anew, the first hint tells what was missed
            except StoreUnavailableError as error:
                log.info("change stream of the followers broke", error=str(error), resumes=self._mark is not None)
                await asyncio.sleep(RETRY_AFTER)

    def _hear(self, mark: Mapping[str, Any] | None, changed: bool) -> None:
        if changed or self._mark is None:  # without a mark: what changed before the stream stood
            self._hints.stir()
        self._mark = mark

    async def _poll(self, reason: str) -> None:
        log.info("the followers are polled, the server has no change streams", reason=reason, every=self._poll_interval)
        loop = asyncio.get_running_loop()
        until = loop.time() + ASK_AGAIN_AFTER
        while loop.time() < until:
            self._hints.tell()
            await asyncio.sleep(self._poll_interval)
