"""Documents that several managers change, each change in one atomic step, on any server of MongoDB's protocol.

A conditional update would be the natural way, but not every server makes it atomic (FerretDB 1.24 lets several racing
`findAndModify` of one document all succeed). What is atomic everywhere is an insert under a unique `_id`. So each
version of a document is a document of its own, `{_id: "7:NAME", name: NAME, version: 7, …}`, and the highest version is
the valid one. Who read version 6 inserts version 7: of two, one gets a duplicate key. Older versions are deleted.

A writer that was held up may find the number of a version free again that others wrote and deleted meanwhile. So it
looks once more, and has really written only while the version that it read is still there, known by its mark: a version
is deleted before its successor is, so the successor can't have been there and gone. Else it reads again. Where there was
nothing to read, its version must be the highest.

That check and all deletions go by `_id`, and so may the reading before it: `recall` answers what was read or written
here last, as good as any other read that a write follows. A server that finds nothing but `_id` fast (FerretDB again)
searches the collection for a name once, not for every change.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase


class Version(NamedTuple):
    """One document as it was read; `number` 0 and no content where there is none."""

    name: str
    number: int
    content: Mapping[str, Any]
    older: tuple[int, ...] = ()
    """Numbers of versions that stand beside it and wait to be deleted."""

    @property
    def id(self) -> str:
        """Its `_id`."""
        return _id(self.name, self.number)


class MongoVersions:
    """The versioned documents of one collection. All methods raise `StoreUnavailableError`."""

    def __init__(self, database: MongoDatabase, collection: str) -> None:
        self._database = database
        self._collection = collection
        self._known: dict[str, Version] = {}

    @property
    def label(self) -> str:
        """The collection and where it is, for errors."""
        return f"{self._collection} of {self._database.label}"

    async def recall(self, name: str) -> Version:
        """The document as it was read or written here last, else as it is.

        Others may have changed it: what is concluded without a `write` that works must come from `read`.
        """
        return self._known.get(name) or await self.read(name)

    def forget(self, name: str) -> None:
        """Recall nothing of it: it is read anew."""
        self._known.pop(name, None)

    async def read(self, name: str) -> Version:
        """The document of this name as it is."""
        versions = await self.find({"name": name})
        self._known[name] = versions[0] if versions else Version(name, 0, {})
        return self._known[name]

    async def find(
        self,
        where: Mapping[str, Any] | None = None,
        *,
        on_damaged: Callable[[str, StoreDamagedError], None] | None = None,
    ) -> Sequence[Version]:
        """The newest version of each document of which some version matches `where`.

        Where a condition is about more than the name, an older version may be what matched: look at the content.

        One of which a version is damaged is left out, and its name is given to `on_damaged`; without that it raises.
        """
        newest: dict[str, Version] = {}
        damaged: set[str] = set()
        for document in await self._database.find(self._collection, where):
            name = str(document.get("name"))
            try:
                version = Version(name, self._number(name, document), document)
            except StoreDamagedError as error:
                if on_damaged is None:
                    raise
                damaged.add(name)
                on_damaged(name, error)
                continue
            known = newest.get(version.name, version)
            lower, higher = sorted((known, version), key=lambda each: each.number)
            older = {*known.older, *version.older, lower.number} - {higher.number}
            newest[version.name] = higher._replace(older=tuple(sorted(older)))
        return [each for name, each in newest.items() if name not in damaged]

    def _number(self, name: str, document: Mapping[str, Any]) -> int:
        found = document.get("version")
        try:
            number = int(found) if isinstance(found, (int, float)) else 0  # MongoDB's shell writes 1 as 1.0
        except (ValueError, OverflowError):
            number = 0
        if number != found or number < 1:
            raise self.damaged(name, "its version is no whole number from 1 on")
        if str(document.get("_id")) != _id(name, number):  # what is written after it goes by that
            raise self.damaged(name, f"its _id is not its version and its name ({_id(name, number):.100})")
        return number

    def damaged(self, name: str, what: str) -> StoreDamagedError:
        """The error for a document whose content can't be understood."""
        return StoreDamagedError(
            f"The document {name:.100} in {self.label} is damaged: {what}.", hint="Mend it, or delete it."
        )

    async def write(self, read: Version, content: Mapping[str, Any]) -> bool:
        """Write the version after the one that was read; False means: another was written meanwhile, read again.

        After an error, or False, this version may still have become part of a later one: look at the content.
        """
        self._known.pop(read.name, None)
        new = Version(read.name, read.number + 1, content)
        mark = {"name": read.name, "version": new.number, "mark": uuid.uuid4().hex}
        if not await self._database.insert(self._collection, {**content, **mark, "_id": new.id}):
            return False
        if not await self._follows(read):
            return False
        for number in (*read.older, read.number) if read.number else ():  # none before those below it
            await self._database.delete(self._collection, {"_id": _id(read.name, number)})
        self._known[read.name] = new._replace(content={**content, **mark})
        return True

    async def _follows(self, read: Version) -> bool:
        """Whether the version that was inserted just now follows this one, which no other has followed before."""
        mark = read.content.get("mark")
        if mark is None:  # nothing was there, or it was written before versions had marks
            return (await self.read(read.name)).number == read.number + 1
        found = await self._database.find(self._collection, {"_id": read.id}, fields=["mark"])
        return bool(found) and found[0].get("mark") == mark


def _id(name: str, number: int) -> str:
    return f"{number}:{name}"
