"""The store in MongoDB, chosen by the URL `mongodb:`; its address is `mongo_uri`, its database `mongo_db_name`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.leadership.lease import LeaderLease, Leadership
from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.model.followers import Roster
from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery, Identities, LoadedRecords
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongodb import records as mongo_records
from spreadpilot_core.ibkr.store.mongodb.availability import MongoAvailability
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.followers import MongoFollowers, read_followers
from spreadpilot_core.ibkr.store.mongodb.history import MongoHistory
from spreadpilot_core.ibkr.store.mongodb.records import MongoRecords
from spreadpilot_core.ibkr.store.mongodb.shared import MongoShared
from spreadpilot_core.ibkr.store.mongodb.versions import MongoVersions
from spreadpilot_core.ibkr.store.registry import Stores, read_days
from spreadpilot_core.ibkr.system.clock import Clock
from spreadpilot_core.ibkr.tasks import Tell

LEADER_LEASE = "gateway_leader_lease"
"""The collection of the leader lease, each version of it a document (see `versions`)."""


def make(settings: Settings, *, clock: Clock, tell: Tell, may_act: Callable[[], bool]) -> Stores:
    """Collections of one database, which several managers may share."""
    records, followers = MongoRecords.from_settings(settings, clock), MongoFollowers.from_settings(settings)
    records.is_leader = may_act
    followers.tell = tell

    def make_lease(engine_id: str, *, holder: str | None = None) -> MongoLeaderLease:
        own = f"{socket.gethostname()}:{settings.state_dir.absolute()}"
        return MongoLeaderLease.from_settings(settings, holder=holder or own, engine_id=engine_id)

    return Stores(
        followers=followers,
        records=records,
        availability=MongoAvailability.from_settings(settings),
        shared=MongoShared.from_settings(settings),
        make_lease=make_lease,
    )


async def read_roster(settings: Settings) -> Roster:
    """Every follower's record."""
    async with _database(settings) as database:
        return await read_followers(database, ports=settings.host_ports)


async def read_records(settings: Settings) -> LoadedRecords:
    """What earlier managers kept."""
    async with _database(settings) as database:
        return await mongo_records.read_records(database)


async def read_identities(settings: Settings) -> Identities | None:
    """Whose records these are; None before the first manager."""
    async with _database(settings) as database:
        return await mongo_records.read_identities(database)


async def read_availability(settings: Settings, month: str) -> Sequence[AvailabilityDay]:
    """The days of a month."""
    return await read_days(MongoAvailability.from_settings(settings), month)


async def read_history(settings: Settings, query: HistoryQuery) -> HistoryPage | None:
    """One page, newest first; without any manager before it is empty."""
    async with _database(settings) as database:
        return await MongoHistory(database).read(query)


async def other_clock(settings: Settings) -> tuple[str, datetime] | None:
    """The server's."""
    async with _database(settings) as database:
        return database.label, await database.now()


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[MongoDatabase]:
    """The database, open. Raises `StoreUnavailableError`, `SettingsError`."""
    database = MongoDatabase.from_settings(settings)
    try:
        await database.open()
        yield database
    finally:
        await database.close()


class MongoLeaderLease:
    """The leader lease of one database, on a connection of its own, so that no slow read of others lets it lapse."""

    def __init__(self, database: MongoDatabase, *, holder: str, engine_id: str, leader_lease: float) -> None:
        self._database = database
        self._leader_lease = LeaderLease(
            MongoVersions(database, LEADER_LEASE), holder=holder, engine_id=engine_id, leader_lease=leader_lease
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, holder: str, engine_id: str) -> MongoLeaderLease:
        """The leader lease of the database that `mongo_uri` and `mongo_db_name` name."""
        return cls(
            MongoDatabase.from_settings(settings),
            holder=holder,
            engine_id=engine_id,
            leader_lease=settings.leader_lease,
        )

    @property
    def held(self) -> bool:
        """Whether this manager may act now."""
        return self._leader_lease.held

    async def keep(self, on_change: Callable[[Leadership], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled; with the server away nothing is held."""
        with suppress(StoreUnavailableError):  # the first step says the same, and goes on trying
            await self._database.open()
        await self._leader_lease.keep(on_change, take_over=take_over)

    async def hand_over(self, *, within: float) -> bool:
        """Resign, and say whether another manager has taken the leader lease meanwhile. Raises `StoreUnavailableError`."""
        return await self._leader_lease.hand_over(within=within)

    async def resign(self) -> None:
        """Give it back and let go. Raises `StoreUnavailableError`."""
        try:
            await self._leader_lease.resign()
        finally:
            await self._database.close()
