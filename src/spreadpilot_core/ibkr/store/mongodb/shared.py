"""What the managers of one database share, in the collection `gateway_shared`: one document each, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.mongodb.database import Document, MongoDatabase

COLLECTION = "gateway_shared"


class MongoShared:
    """The documents in one database."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database

    @classmethod
    def from_settings(cls, settings: Settings) -> MongoShared:
        """In the database that `mongo_uri` and `mongo_db_name` name."""
        return cls(MongoDatabase.from_settings(settings))

    async def open(self) -> None:
        """Reach the server. Raises `StoreUnavailableError`; may be called again."""
        await self._database.open()

    async def close(self) -> None:
        """Let go; safe to call twice and when never opened."""
        await self._database.close()

    async def add(self, kind: str, name: str, document: Mapping[str, Any]) -> bool:
        """Keep it, unless there is one of this kind and name."""
        return await self._database.insert(COLLECTION, _written(kind, name, document))

    async def put(self, kind: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep it in place of what is there."""
        await self._database.put(COLLECTION, _written(kind, name, document))

    async def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The one of this kind and name."""
        found = await self._database.find(COLLECTION, {"_id": _id(kind, name)})
        return _read(found[0]) if found else None

    async def all(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """All of a kind, by name."""
        found = await self._database.find(COLLECTION, {"kind": kind})
        read = {str(each.get("name")): _read(each) for each in found}
        return {name: document for name, document in sorted(read.items()) if document is not None}

    async def remove(self, kind: str, name: str) -> bool:
        """Whether it was there."""
        return await self._database.delete(COLLECTION, {"_id": _id(kind, name)}) > 0


def _id(kind: str, name: str) -> str:
    return f"{kind}:{name}"


def _written(kind: str, name: str, document: Mapping[str, Any]) -> Document:
    """As text, so that no key of it means something to the server."""
    return {"_id": _id(kind, name), "kind": kind, "name": name, "document": json.dumps(document, ensure_ascii=False)}


def _read(stored: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What it holds; None where somebody has put something else there."""
    try:
        document = json.loads(stored["document"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
