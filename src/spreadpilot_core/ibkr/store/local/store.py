"""The embedded store, chosen by the URL `local:[DIRECTORY]`: a file for people, and a database file for the manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery, Identities, LoadedRecords
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.local.availability import FILE_NAME as AVAILABILITY
from spreadpilot_core.ibkr.store.local.availability import LocalAvailability
from spreadpilot_core.ibkr.store.local.followers import LocalFollowers
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME as FOLLOWERS
from spreadpilot_core.ibkr.store.local.followers_file import list_followers
from spreadpilot_core.ibkr.store.local.records import FILE_NAME as RECORDS
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from spreadpilot_core.ibkr.store.local.shared import LocalShared
from spreadpilot_core.ibkr.store.registry import Stores, read_days
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import Tell

_BUSY_WAIT = 3.0
"""Seconds to wait for a writer, who needs milliseconds."""


def make(settings: Settings, *, clock: Clock, tell: Tell, may_act: Callable[[], bool]) -> Stores:
    """Its files; one manager has them."""
    del may_act
    followers = LocalFollowers.from_settings(settings)
    followers.tell = tell
    return Stores(
        followers=followers,
        records=LocalRecords.from_settings(settings, clock),
        availability=LocalAvailability.from_settings(settings),
        shared=LocalShared.from_settings(settings),
    )


async def read_roster(settings: Settings) -> Roster:
    """Every follower's record."""
    return await asyncio.to_thread(list_followers, settings.local_store_dir / FOLLOWERS, ports=settings.host_ports)


async def read_records(settings: Settings) -> LoadedRecords:
    """What earlier managers kept; nothing before the first."""
    async with _existing_records(settings) as records:
        return await records.load() if records is not None else LoadedRecords()


async def read_identities(settings: Settings) -> Identities | None:
    """Whose records these are; None before the first manager."""
    async with _existing_records(settings) as records:
        return await records.identities() if records is not None else None


async def read_availability(settings: Settings, month: str) -> Sequence[AvailabilityDay]:
    """The days of a month; none before the first manager."""
    if not await asyncio.to_thread((settings.local_store_dir / AVAILABILITY).exists):
        return ()
    return await read_days(LocalAvailability.from_settings(settings), month)


async def read_history(settings: Settings, query: HistoryQuery) -> HistoryPage | None:
    """One page, newest first; None before the first manager."""
    async with _existing_records(settings) as records:
        return await records.read_history(query) if records is not None else None


async def other_clock(settings: Settings) -> tuple[str, datetime] | None:
    """This host's is the only one."""
    del settings
    return None


@asynccontextmanager
async def _existing_records(settings: Settings) -> AsyncIterator[LocalRecords | None]:
    """The records, open; None: there are none yet."""
    path = settings.local_store_dir / RECORDS
    if not await asyncio.to_thread(path.exists):
        yield None
        return
    records = LocalRecords(path, busy_wait=_BUSY_WAIT)
    try:
        await records.open()
        yield records
    finally:
        await records.close()
