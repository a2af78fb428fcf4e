"""What could not be written to a store that was away: kept on this host's disk, in order, until it was.

Each entry is durable when `append` returns, and leaves only after it was written. What is written twice because the
manager died in between must be harmless, so entries say what shall be so, not what to add. A full outbox refuses, it
never drops: what was accepted is not lost.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile

LIMIT = 20_000
"""Entries; a fleet of 100 makes a few hundred a day."""

_SCHEMA = "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, document TEXT NOT NULL)"
_CURE = "Stop the manager, move the file aside and start again; what waited in it to be written is lost."


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that waits to be written."""

    number: int
    kind: str
    document: Mapping[str, Any]


class Outbox:
    """The entries in one file."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self._file = SqliteFile(path, layouts=[_SCHEMA], cure=_CURE)
        self._limit = limit
        self.size = 0
        """How many entries wait."""

    @classmethod
    def of(cls, settings: Settings) -> Outbox:
        """The file in `state_dir` of the store that the settings name: what waits for one must not reach another."""
        return cls(settings.state_dir / f"{settings.store_scheme}-outbox.sqlite3")

    async def open(self) -> None:
        """Open or make the file. Raises `StoreUnavailableError`."""
        await self._file.open()
        self.size = await self._file.read(_count)

    async def close(self) -> None:
        """Let go of the file; what waits stays in it."""
        await self._file.close()

    async def append(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep these, all or none; durable when it returns.

        Raises:
            StoreUnavailableError: the outbox is full, or its file can't be written.
        """
        rows = [(kind, json.dumps(document, ensure_ascii=False)) for kind, document in entries]

        def write(connection: sqlite3.Connection) -> None:
            size = _count(connection)
            if size + len(rows) > self._limit:
                raise StoreUnavailableError(
                    f"{self._file.path} is full: {size} entries wait to be written to the store."
                )
            connection.executemany("INSERT INTO entries (kind, document) VALUES (?, ?)", rows)
            self.size = size + len(
                rows
            )  # here, not after the await: a cancelled caller's entries are kept all the same

        await self._file.write(write)

    async def oldest(self, count: int) -> Sequence[Entry]:
        """The first `count` entries, in the order they were appended."""

        def read(connection: sqlite3.Connection) -> list[tuple[int, str, str]]:
            self.size = _count(connection)
            return connection.execute(
                "SELECT number, kind, document FROM entries ORDER BY number LIMIT ?", (count,)
            ).fetchall()

        return [Entry(number, str(kind), _document(text)) for number, kind, text in await self._file.read(read)]

    async def forget(self, through: int) -> None:
        """The entries up to this number were written."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM entries WHERE number <= ?", (through,))
            self.size = _count(connection)

        await self._file.write(write)


def _document(text: object) -> Mapping[str, Any]:
    """What this row holds; nothing where somebody has put something else there, so that whoever writes it gives it up."""
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _count(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    return int(count)
