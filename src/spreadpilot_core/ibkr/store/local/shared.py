"""What the managers of one store share, in a SQLite file of its own, `shared.sqlite3`: no login ever waits for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile

FILE_NAME = "shared.sqlite3"
_SCHEMA = """
CREATE TABLE documents (kind TEXT NOT NULL, name TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, name)) WITHOUT ROWID
"""
_CURE = "Stop the manager, move the file aside and start again; tokens have to be made anew then."


class LocalShared:
    """The documents in one file, which commands write beside a running manager."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, layouts=[_SCHEMA], cure=_CURE)

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalShared:
        """Beside the records that `store_url` names."""
        return cls(settings.local_store_dir / FILE_NAME)

    async def open(self) -> None:
        """Open or make the file. Raises `StoreUnavailableError`; may be called again."""
        await self._file.open()

    async def close(self) -> None:
        """Let go of it; safe to call twice and when never opened."""
        await self._file.close()

    async def add(self, kind: str, name: str, document: Mapping[str, Any]) -> bool:
        """Keep it, unless there is one of this kind and name."""
        row = (kind, name, json.dumps(document, ensure_ascii=False))

        def write(connection: sqlite3.Connection) -> bool:
            return connection.execute("INSERT OR IGNORE INTO documents VALUES (?, ?, ?)", row).rowcount > 0

        return await self._file.write(write)

    async def put(self, kind: str, name: str, document: Mapping[str, Any]) -> None:
        """Keep it in place of what is there."""
        row = (kind, name, json.dumps(document, ensure_ascii=False))
        await self._file.write(
            lambda connection: connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", row)
        )

    async def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """The one of this kind and name."""
        query = "SELECT document FROM documents WHERE kind = ? AND name = ?"
        row = await self._file.read(lambda connection: connection.execute(query, (kind, name)).fetchone())
        return None if row is None else _read(row[0])

    async def all(self, kind: str) -> Mapping[str, Mapping[str, Any]]:
        """All of a kind, by name."""
        query = "SELECT name, document FROM documents WHERE kind = ? ORDER BY name"
        rows = await self._file.read(lambda connection: connection.execute(query, (kind,)).fetchall())
        return {str(name): read for name, text in rows if (read := _read(text)) is not None}

    async def remove(self, kind: str, name: str) -> bool:
        """Whether it was there."""
        statement = "DELETE FROM documents WHERE kind = ? AND name = ?"
        return await self._file.write(lambda connection: connection.execute(statement, (kind, name)).rowcount > 0)


def _read(text: object) -> Mapping[str, Any] | None:
    """What a row holds; None where somebody has put something else there."""
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
