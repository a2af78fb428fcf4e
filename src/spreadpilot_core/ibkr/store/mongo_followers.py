"""Followers from MongoDB's collection `followers`, which other programs write and this one only reads.

Every hint means "load again", so nothing depends on what a change says. Where the server has change streams, changes
are waited for and a broken stream is resumed; where it can't be, a hint makes up for what was missed. Where the server
has none (a standalone server, other makes), there is a hint every `poll_interval`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.protocols import Roster
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongo_database import ChangesNotOfferedError, MongoDatabase
from spreadpilot_core.ibkr.store.rosters import parse_roster
from spreadpilot_core.ibkr.tasks import Tasks

log = structlog.get_logger(__name__)

COLLECTION = "followers"
FIELDS = (
    "id",
    "vault_secret_ref",
    "ibkr_secret_ref",
    "enabled",
    "state",
    "trading_mode",
    "account",
    "phone_owner",
    "region",
    "gateway",
)
"""What is read; a record's other fields are nobody's business here. `_id` always comes."""
QUIET = 0.2
"""Seconds without a further change before a hint: ten edits in a second are one."""
QUIET_WITHIN = 1.5
"""Seconds after which the hint comes although changes go on."""
RETRY_AFTER = 1.0
"""Seconds before a broken stream is opened again."""
ASK_AGAIN_AFTER = 300.0
"""Seconds after which a server without change streams is asked for them again: it may have been replaced."""


class MongoFollowers:
    """Who should have a gateway, by MongoDB."""

    def __init__(self, database: MongoDatabase, *, poll_interval: float) -> None:
        self._database = database
        self._poll_interval = poll_interval
        self._listeners: set[asyncio.Event] = set()
        self._stirred = asyncio.Event()
        self._mark: Mapping[str, Any] | None = None
        self._closed = True
        self._tasks = Tasks("followers in MongoDB")

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoFollowers:
        """The store that `mongo_uri` and `mongo_db_name` name. Raises `SettingsError` without showing the value."""
        return cls(MongoDatabase.from_settings(settings), poll_interval=settings.poll_interval)

    async def open(self) -> None:
        """Reach the server. Raises `StoreUnavailableError`; may be called again."""
        await self._database.open()
        self._closed = False
        if len(self._tasks) == 0:
            self._tasks.begin("watch", self._watch())
            self._tasks.begin("tell when quiet", self._tell_when_quiet())

    async def close(self) -> None:
        """End the watch and every `hints()`, and let go of the server."""
        self._closed = True
        self._mark = None
        self._tell()
        await self._tasks.cancel()
        await self._database.close()

    async def load(self) -> Roster:
        """Read all records. Raises `StoreUnavailableError`."""
        documents = await self._database.find(COLLECTION, fields=FIELDS)
        return await asyncio.to_thread(parse_roster, documents)

    async def hints(self) -> AsyncIterator[None]:
        """Yield once at the beginning, and whenever the records may have changed since."""
        told = asyncio.Event()
        self._listeners.add(told)
        told.set()
        try:
            while not self._closed:
                await told.wait()
                told.clear()
                if not self._closed:
                    yield
        finally:
            self._listeners.discard(told)

    def _tell(self) -> None:
        for told in self._listeners:
            told.set()

    # ------------------------------------------------------------------ watching

    async def _watch(self) -> None:
        while not self._closed:
            try:
                await self._database.follow(COLLECTION, after=self._mark, told=self._hear)
            except ChangesNotOfferedError as error:
                if self._mark is None:
                    await self._poll(str(error))
                self._mark = None  # it stood, but can't be resumed: begin anew, the first hint tells what was missed
            except StoreUnavailableError as error:
                log.info("change stream of the followers broke", error=str(error), resumes=self._mark is not None)
                await asyncio.sleep(RETRY_AFTER)

    def _hear(self, mark: Mapping[str, Any] | None, changed: bool) -> None:
        if changed or self._mark is None:  # without a mark: what changed before the stream stood
            self._stirred.set()
        self._mark = mark

    async def _tell_when_quiet(self) -> None:
        """One hint for each burst of changes."""
        loop = asyncio.get_running_loop()
        while True:
            await self._stirred.wait()
            until = loop.time() + QUIET_WITHIN
            while self._stirred.is_set() and loop.time() < until:
                self._stirred.clear()
                await asyncio.sleep(QUIET)
            self._stirred.clear()
            self._tell()

    async def _poll(self, reason: str) -> None:
        log.info("the followers are polled, the server has no change streams", reason=reason, every=self._poll_interval)
        loop = asyncio.get_running_loop()
        until = loop.time() + ASK_AGAIN_AFTER
        while loop.time() < until:
            self._tell()
            await asyncio.sleep(self._poll_interval)
