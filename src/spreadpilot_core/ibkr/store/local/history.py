"""The manager's history in SQLite: appended within a transaction of the record store, read by follower and time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta

from spreadpilot_core.ibkr.model.records import HistoryQuery
from spreadpilot_core.ibkr.store.documents import timestamp

RETENTION = timedelta(days=90)
MOST_ENTRIES = 20_000
"""A fleet of 100 writes a few hundred entries a day."""

SCHEMA = """
CREATE TABLE history (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, document TEXT NOT NULL);
CREATE INDEX history_by_age ON history (at)
"""
BY_FOLLOWER = """
ALTER TABLE history ADD COLUMN follower_id TEXT;
UPDATE history SET follower_id = json_extract(document, '$.follower_id') WHERE json_valid(document);
CREATE INDEX history_by_follower ON history (follower_id, at, id)
"""

Row = tuple[str, str, str, str | None]
"""Id, time, document and follower."""


def append(connection: sqlite3.Connection, rows: Sequence[Row], *, now: datetime) -> None:
    """Add these, leaving out those whose id is there, and forget what is too old or too much."""
    if not rows:
        return
    connection.executemany("INSERT OR IGNORE INTO history (id, at, document, follower_id) VALUES (?, ?, ?, ?)", rows)
    connection.execute("DELETE FROM history WHERE at < ?", (timestamp(now - RETENTION),))
    newest = "SELECT max(number) FROM history"
    connection.execute(f"DELETE FROM history WHERE number <= ({newest}) - ?", (MOST_ENTRIES,))  # noqa: S608


def read(connection: sqlite3.Connection, query: HistoryQuery) -> list[str]:
    """The documents that the query asks for, newest first, and one more where there is one."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    if query.follower_id is not None:
        asked.append(("follower_id = ?", (query.follower_id,)))
    if query.since is not None:
        asked.append(("at >= ?", (timestamp(query.since),)))
    if query.before is not None:
        asked.append(("(at, id) < (?, ?)", (timestamp(query.before.at), query.before.id)))
    where = " AND ".join(condition for condition, _ in asked) or "true"
    values = [value for _, given in asked for value in given]
    statement = f"SELECT document FROM history WHERE {where} ORDER BY at DESC, id DESC LIMIT ?"  # noqa: S608  # text of this file
    return [text for (text,) in connection.execute(statement, (*values, query.limit + 1))]
