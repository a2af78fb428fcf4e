"""How long gateways were ready, in a SQLite file of its own, `availability.sqlite3`: no login ever waits for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from spreadpilot_core.ibkr.model.availability import AvailabilityDay
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import AVAILABILITY, AVAILABILITY_RETENTION
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile

FILE_NAME = "availability.sqlite3"
_SCHEMA = """
CREATE TABLE days (id TEXT PRIMARY KEY, day TEXT NOT NULL, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX days_by_day ON days (day)
"""
_CURE = "Stop the manager, move the file aside and start again; the availability of the past is forgotten with it."


class LocalAvailability:
    """The days in one file."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, layouts=[_SCHEMA], cure=_CURE)

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalAvailability:
        """Beside the records that `store_url` names."""
        return cls(settings.local_store_dir / FILE_NAME)

    async def open(self) -> None:
        """Open or make the file. Raises `StoreUnavailableError`; may be called again."""
        await self._file.open()

    async def close(self) -> None:
        """Let go of it; safe to call twice and when never opened."""
        await self._file.close()

    async def keep_availability(self, days: Sequence[AvailabilityDay]) -> None:
        """Write these days, each in place of what is there under its id, and forget what is too old."""
        newest = max((each.day for each in days), default=None)

        def write(connection: sqlite3.Connection) -> None:  # in the file's thread: of a large fleet it takes a while
            rows = [(each.id, each.day, json.dumps(AVAILABILITY.dump(each), ensure_ascii=False)) for each in days]
            connection.executemany("INSERT OR REPLACE INTO days VALUES (?, ?, ?)", rows)
            if newest is not None:
                oldest = date.fromisoformat(newest) - timedelta(days=AVAILABILITY_RETENTION)
                connection.execute("DELETE FROM days WHERE day < ?", (oldest.isoformat(),))

        await self._file.write(write)

    async def availability(self, month: str) -> Sequence[AvailabilityDay]:
        """All days of this month, as "2026-11"."""

        def read(connection: sqlite3.Connection) -> list[str]:
            query = "SELECT document FROM days WHERE day >= ? AND day <= ? ORDER BY id"
            return [text for (text,) in connection.execute(query, (f"{month}-01", f"{month}-31"))]

        texts = await self._file.read(read)
        return [AVAILABILITY.read(json.loads(text), where=str(self._file.path)) for text in texts]
