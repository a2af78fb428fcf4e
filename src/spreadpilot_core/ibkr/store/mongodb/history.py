"""The manager's history in MongoDB: the collection `gateway_events`, pruned here by age and count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from spreadpilot_core.ibkr.model.records import HistoryPage, HistoryQuery, history_page
from spreadpilot_core.ibkr.store.documents import HISTORY
from spreadpilot_core.ibkr.store.mongodb.database import Document, MongoDatabase
from spreadpilot_core.ibkr.system.clock import Clock, utc_now

COLLECTION = "gateway_events"
RETENTION = timedelta(days=90)
MOST_ENTRIES = 20_000
PRUNE_EVERY = 100
"""Additions between two prunings."""


class MongoHistory:
    """What happened, for people and other services."""

    def __init__(self, database: MongoDatabase, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._additions_until_prune = 0

    async def open(self) -> None:
        """Have the server find entries fast. Raises `StoreUnavailableError`."""
        await self._database.index(COLLECTION, "at")
        await self._database.index(COLLECTION, "follower_id", "at", "_id")

    async def add(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Add these, leaving out those whose id is there, and forget what is too old or too much."""
        if not documents:
            return
        await self._database.add_new(COLLECTION, [{"_id": each["id"], **at_as_time(each, "at")} for each in documents])
        if self._additions_until_prune == 0:
            await self._prune()
            self._additions_until_prune = PRUNE_EVERY
        self._additions_until_prune -= 1

    async def _prune(self) -> None:
        oldest = self._clock() - RETENTION
        surplus = await self._database.newest(COLLECTION, "at", skip=MOST_ENTRIES)
        if surplus is not None:
            oldest = max(oldest, surplus["at"])
        await self._database.delete(COLLECTION, {"at": {"$lt": oldest}})

    async def read(self, query: HistoryQuery) -> HistoryPage:
        """One page of it, newest first. Raises `StoreUnavailableError`; a damaged entry is an error that names it."""
        where: Document = {}
        if query.follower_id is not None:
            where["follower_id"] = query.follower_id
        if query.since is not None:
            where["at"] = {"$gte": query.since}
        if (before := query.before) is not None:
            where["$or"] = [{"at": {"$lt": before.at}}, {"at": before.at, "_id": {"$lt": before.id}}]
        found = await self._database.page(COLLECTION, where, by=("at", "_id"), limit=query.limit + 1)
        label = f"{COLLECTION} of {self._database.label}"
        return history_page([HISTORY.read(each, where=label) for each in found], query)


def at_as_time(document: Mapping[str, Any], moment: str) -> dict[str, Any]:
    """The document as other services read it: its time as MongoDB's own type, which keeps milliseconds."""
    at = datetime.fromisoformat(document[moment])
    return {**document, moment: at.replace(microsecond=at.microsecond // 1000 * 1000)}
