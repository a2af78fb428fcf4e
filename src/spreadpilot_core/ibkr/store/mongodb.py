"""The store in MongoDB, chosen by the URL `mongodb:`; its address is `mongo_uri`, its database `mongo_db_name`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase
from spreadpilot_core.ibkr.store.mongo_followers import MongoFollowers
from spreadpilot_core.ibkr.store.mongo_records import MongoRecords
from spreadpilot_core.ibkr.store.mongo_versions import MongoVersions
from spreadpilot_core.ibkr.store.term import COLLECTION, Standing, Term

__all__ = ["MongoFollowers", "MongoRecords", "MongoTerm"]


class MongoTerm:
    """The term of one database, on a connection of its own, so that no slow read of others lets it lapse."""

    def __init__(self, database: MongoDatabase, *, holder: str, engine_id: str, term: float) -> None:
        self._database = database
        self._term = Term(MongoVersions(database, COLLECTION), holder=holder, engine_id=engine_id, term=term)

    @classmethod
    def from_settings(cls, settings: Settings, *, holder: str, engine_id: str) -> MongoTerm:
        """The term of the database that `mongo_uri` and `mongo_db_name` name."""
        return cls(MongoDatabase.from_settings(settings), holder=holder, engine_id=engine_id, term=settings.term)

    @property
    def held(self) -> bool:
        """Whether this manager may act now."""
        return self._term.held

    async def keep(self, told: Callable[[Standing], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled; with the server away nothing is held."""
        with suppress(StoreUnavailableError):  # the first step says the same, and goes on trying
            await self._database.open()
        await self._term.keep(told, take_over=take_over)

    async def resign(self) -> None:
        """Give it back and let go. Raises `StoreUnavailableError`."""
        try:
            await self._term.resign()
        finally:
            await self._database.close()
