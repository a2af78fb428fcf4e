"""Documents that several managers change, each change in one atomic step, on any server of MongoDB's protocol.

A conditional update would be the natural way, but not every server makes it atomic (FerretDB 1.24 lets several racing
`findAndModify` of one document all succeed). What is atomic everywhere is an insert under a unique `_id`. So each
version of a document is a document of its own, `{_id: "7:NAME", name: NAME, version: 7, …}`, and the highest version is
the valid one. Who read version 6 inserts version 7: of two, one gets a duplicate key. Older versions are deleted.

A writer that was held up may find the number of a version free again that others wrote and deleted meanwhile. So it
looks once more: only while its version is the highest has it really written; else it reads again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase


class Version(NamedTuple):
    """One document as it was read; `number` 0 and no content where there is none."""

    name: str
    number: int
    content: Mapping[str, Any]


class MongoVersions:
    """The versioned documents of one collection. All methods raise `StoreUnavailableError`."""

    def __init__(self, database: MongoDatabase, collection: str) -> None:
        self._database = database
        self._collection = collection

    @property
    def label(self) -> str:
        """The collection and where it is, for errors."""
        return f"{self._collection} of {self._database.label}"

    async def read(self, name: str) -> Version:
        """The document of this name."""
        versions = await self.find({"name": name})
        return versions[0] if versions else Version(name, 0, {})

    async def find(self, where: Mapping[str, Any] | None = None) -> Sequence[Version]:
        """The newest version of each document of which some version matches `where`.

        Where a condition is about more than the name, an older version may be what matched: look at the content.
        """
        newest: dict[str, Version] = {}
        for document in await self._database.find(self._collection, where):
            version = Version(str(document.get("name")), int(document.get("version") or 0), document)
            known = newest.get(version.name)
            if known is None or version.number > known.number:
                newest[version.name] = version
        return list(newest.values())

    async def write(self, read: Version, content: Mapping[str, Any]) -> bool:
        """Write the version after the one that was read; False means: another was written meanwhile, read again.

        After an error, or False, this version may still have become part of a later one: look at the content.
        """
        number = read.number + 1
        document = {"_id": f"{number}:{read.name}", "name": read.name, "version": number, **content}
        if not await self._database.insert(self._collection, document):
            return False
        if (await self.read(read.name)).number != number:
            return False
        await self._database.delete(self._collection, {"name": read.name, "version": {"$lt": number}})
        return True
