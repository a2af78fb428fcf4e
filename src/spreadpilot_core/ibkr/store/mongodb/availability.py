"""How long gateways were ready, in the collection `gateway_availability`: one document per follower, day and run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta

from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import AVAILABILITY, AVAILABILITY_RETENTION
from spreadpilot_core.ibkr.store.mongodb.database import Document, MongoDatabase

COLLECTION = "gateway_availability"


class MongoAvailability:
    """The days in one database."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        self._pruned = ""

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoAvailability:
        """In the database that `mongo_uri` and `mongo_db_name` name."""
        return cls(MongoDatabase.from_settings(settings))

    async def open(self) -> None:
        """Reach the server. Raises `StoreUnavailableError`; may be called again."""
        await self._database.open()
        await self._database.index(COLLECTION, "day")

    async def close(self) -> None:
        """Let go; safe to call twice and when never opened."""
        await self._database.close()

    async def keep_availability(self, days: Sequence[AvailabilityDay]) -> None:
        """Write these days, each in place of what is there under its id, and forget what is too old once a day."""
        await self._database.put_all(COLLECTION, await asyncio.to_thread(_documents, days))
        newest = max((each.day for each in days), default="")
        if newest > self._pruned:
            oldest = date.fromisoformat(newest) - timedelta(days=AVAILABILITY_RETENTION)
            await self._database.delete(COLLECTION, {"day": {"$lt": oldest.isoformat()}})
            self._pruned = newest

    async def availability(self, month: str) -> Sequence[AvailabilityDay]:
        """All days of this month, as "2026-11"."""
        found = await self._database.find(COLLECTION, {"day": {"$gte": f"{month}-01", "$lte": f"{month}-31"}})
        where = f"{COLLECTION} of {self._database.label}"
        return [AVAILABILITY.read({**each}, where=where) for each in sorted(found, key=lambda each: str(each["_id"]))]


def _documents(days: Sequence[AvailabilityDay]) -> list[Document]:
    """Of a large fleet that takes a while, so it is done off the event loop."""
    return [{"_id": each.id, **AVAILABILITY.dump(each)} for each in days]
