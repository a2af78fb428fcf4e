"""Followers and records as they are now, read beside a running manager without making or writing anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from spreadpilot_core.ibkr.protocols import FollowerId, Record, Roster
from spreadpilot_core.ibkr.settings import Settings

if TYPE_CHECKING:
    from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase

_BUSY_WAIT = 3.0
"""Seconds to wait for a writer, who needs milliseconds."""


async def read_roster(settings: Settings) -> Roster:
    """Every follower's record. Raises `StoreUnavailableError`."""
    if not settings.store.startswith("mongodb:"):
        from spreadpilot_core.ibkr.store.followers_file import FILE_NAME, list_followers

        return await asyncio.to_thread(list_followers, settings.local_store_dir / FILE_NAME)
    from spreadpilot_core.ibkr.store.mongo_followers import COLLECTION, FIELDS
    from spreadpilot_core.ibkr.store.rosters import parse_roster

    async with mongo(settings) as database:
        documents = await database.find(COLLECTION, fields=FIELDS)
        return parse_roster(documents)


async def read_records(settings: Settings) -> Mapping[FollowerId, Record] | None:
    """What earlier managers kept, by follower; None: no manager has kept anything yet. Raises `StoreUnavailableError`."""
    if not settings.store.startswith("mongodb:"):
        return await _local_records(settings)
    from spreadpilot_core.ibkr.store.documents import RECORDS
    from spreadpilot_core.ibkr.store.mongo_records import RECORDS_COLLECTION

    async with mongo(settings) as database:
        documents = await database.find(RECORDS_COLLECTION)
        records = [RECORDS.read(each, where=f"{RECORDS_COLLECTION} of {database.label}") for each in documents]
        return {record.follower_id: record for record in records} or None


@asynccontextmanager
async def mongo(settings: Settings) -> AsyncIterator[MongoDatabase]:
    """The database, open. Raises `StoreUnavailableError`, `SettingsError`."""
    from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase

    database = MongoDatabase.from_settings(settings)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


async def _local_records(settings: Settings) -> Mapping[FollowerId, Record] | None:
    from spreadpilot_core.ibkr.store.local_records import FILE_NAME, LocalRecords

    path = settings.local_store_dir / FILE_NAME
    if not await asyncio.to_thread(path.exists):
        return None
    records = LocalRecords(path, busy_wait=_BUSY_WAIT)
    try:
        await records.open()
        return await records.load()
    finally:
        await records.close()
