"""The embedded record store: one SQLite file, `records.sqlite3`, that managers on one host may share.

Each document is kept as JSON text beside the columns that are searched, so the file can be looked into with any SQLite
program. Reserving a login reads and writes in one transaction that excludes every other process.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from spreadpilot_core.ibkr.protocols import (
    AttemptId,
    AuditHead,
    ContainerId,
    FollowerId,
    GatewayMapping,
    HistoryEntry,
    LoginAttempt,
    LoginOutcome,
    LoginRefusal,
    Record,
)
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import HISTORY, LOGINS, MAPPINGS, RECORDS, timestamp
from spreadpilot_core.ibkr.store.login_budget import counted_since, in_order, is_outlived, refusal
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile

FILE_NAME = "records.sqlite3"
HISTORY_AGE = timedelta(days=90)
HISTORY_COUNT = 20_000
"""A fleet of 100 writes a few hundred entries a day."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE records (follower_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE logins (id TEXT PRIMARY KEY, user TEXT NOT NULL, outcome TEXT, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX logins_by_user ON logins (user);
CREATE INDEX logins_open ON logins (id) WHERE outcome IS NULL;
CREATE TABLE mappings (follower_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE history (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, at TEXT NOT NULL, document TEXT NOT NULL);
CREATE INDEX history_by_age ON history (at);
CREATE TABLE audit_heads (trail TEXT PRIMARY KEY, serial INTEGER NOT NULL, hash TEXT NOT NULL) WITHOUT ROWID
"""
_CURE = (
    "Stop the manager, move the file aside and start again: running gateways are adopted, but client ids, stops on"
    " request, rejected passwords and the logins of the last 24 hours are forgotten, so wait a day before you start"
    " gateways whose logins have failed."
)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalRecords:
    """What must survive the manager, in SQLite."""

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = _utc_now, busy_wait: float = 10.0) -> None:
        self._file = SqliteFile(path, schema=_SCHEMA, version=_VERSION, cure=_CURE, busy_wait=busy_wait)
        self._clock = clock

    @classmethod
    def from_settings(cls, settings: Settings) -> LocalRecords:
        """The store that `store_url` names."""
        return cls(settings.local_store_dir / FILE_NAME)

    async def open(self) -> None:
        """Open or make the file, and check it.

        Raises:
            StoreDamagedError: the file is no database of ours; it is named with the cure.
            StoreUnavailableError: it can't be opened now.
        """
        await self._file.open()

    async def close(self) -> None:
        """Let go of the file once what runs has ended; safe to call twice and when never opened."""
        await self._file.close()

    # ------------------------------------------------------------------ records

    async def load(self) -> Mapping[FollowerId, Record]:
        """All records. A damaged one is a `StoreDamagedError` that names it."""
        texts = await self._file.read(_texts("SELECT document FROM records ORDER BY follower_id"))
        records = [RECORDS.read(self._document(text), where=str(self._file.path)) for text in texts]
        return {record.follower_id: record for record in records}

    async def save(self, record: Record) -> None:
        """Write one record whole."""
        row = (record.follower_id, _text(RECORDS.dump(record)))
        await self._file.write(lambda connection: _run(connection, "INSERT OR REPLACE INTO records VALUES (?, ?)", row))

    # ------------------------------------------------------------------ logins

    async def reserve_login(self, attempt: LoginAttempt, limit: int | None) -> LoginRefusal | None:
        """Reserve one login, or say why not, in one transaction. An attempt that is there already stays as it is.

        Cancelled, it leaves no reservation.
        """

        def reserve(connection: sqlite3.Connection) -> LoginRefusal | None:
            known = self._logins(connection, "user = ?", attempt.user)
            if any(other.id == attempt.id for other in known):
                return None
            refused = refusal(known, attempt, limit)
            if refused is None:
                _put_login(connection, attempt)
                outlived = [(other.id,) for other in known if is_outlived(other, attempt.reserved_at)]
                connection.executemany("DELETE FROM logins WHERE id = ?", outlived)
            return refused

        def withdraw(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM logins WHERE id = ? AND outcome IS NULL", (attempt.id,))

        try:
            return await self._file.write(reserve)
        except asyncio.CancelledError:  # nobody would ever settle what its caller doesn't know of
            await asyncio.shield(self._file.write(withdraw))
            raise

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that the attempt's container is about to start; False when it is settled already, or not there."""
        return await self._change(
            attempt_id, lambda open_one: replace(open_one, container_id=container_id, started_at=at)
        )

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended; the first outcome stays."""
        await self._change(
            attempt_id, lambda open_one: replace(open_one, outcome=outcome, settled_at=at, not_before=not_before)
        )

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first."""
        return in_order(await self._file.read(lambda connection: self._logins(connection, "outcome IS NULL")))

    async def counted_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` whose outcome counts, oldest first."""
        known = await self._file.read(lambda connection: self._logins(connection, "user = ?", user))
        return counted_since(known, since)

    async def _change(self, attempt_id: AttemptId, changed: Callable[[LoginAttempt], LoginAttempt]) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            open_ones = self._logins(connection, "id = ? AND outcome IS NULL", attempt_id)
            for attempt in open_ones:
                _put_login(connection, changed(attempt))
            return bool(open_ones)

        return await self._file.write(change)

    def _logins(self, connection: sqlite3.Connection, condition: str, *values: str) -> list[LoginAttempt]:
        query = f"SELECT document FROM logins WHERE {condition}"  # noqa: S608  # conditions stand in this file
        texts = [text for (text,) in connection.execute(query, values)]
        return [LOGINS.read(self._document(text), where=str(self._file.path)) for text in texts]

    def _document(self, text: str) -> Mapping[str, object]:
        try:
            document = json.loads(text)
        except ValueError as error:
            raise self._file.damaged(f"a document is no JSON ({error})") from None
        if not isinstance(document, dict):
            raise self._file.damaged("a document is no JSON object")
        return document

    # ------------------------------------------------------------------ mappings and history

    async def report(self, mappings: Sequence[GatewayMapping] | None, history: Sequence[HistoryEntry]) -> None:
        """Replace the mappings unless they are None, append the history, and prune it by age and count."""
        mapped = [(mapping.follower_id, _text(MAPPINGS.dump(mapping))) for mapping in mappings or ()]
        entries = [(entry.id, timestamp(entry.at), _text(HISTORY.dump(entry))) for entry in history]
        oldest = timestamp(self._clock() - HISTORY_AGE)

        def write(connection: sqlite3.Connection) -> None:
            if mappings is not None:
                connection.execute("DELETE FROM mappings")
            connection.executemany("INSERT OR REPLACE INTO mappings VALUES (?, ?)", mapped)
            if entries:
                connection.executemany("INSERT OR IGNORE INTO history (id, at, document) VALUES (?, ?, ?)", entries)
                connection.execute("DELETE FROM history WHERE at < ?", (oldest,))
                newest = "SELECT max(number) FROM history"
                connection.execute(f"DELETE FROM history WHERE number <= ({newest}) - ?", (HISTORY_COUNT,))  # noqa: S608

        await self._file.write(write)

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail; an older one changes nothing."""
        newer = "ON CONFLICT (trail) DO UPDATE SET serial = excluded.serial, hash = excluded.hash WHERE excluded.serial > serial"
        row = (trail, head.serial, head.hash)
        await self._file.write(
            lambda connection: _run(connection, f"INSERT INTO audit_heads VALUES (?, ?, ?) {newer}", row)  # noqa: S608  # text of this file
        )

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""

        def read(connection: sqlite3.Connection) -> AuditHead | None:
            row = connection.execute("SELECT serial, hash FROM audit_heads WHERE trail = ?", (trail,)).fetchone()
            return AuditHead(int(row[0]), str(row[1])) if row else None

        return await self._file.read(read)


def _put_login(connection: sqlite3.Connection, attempt: LoginAttempt) -> None:
    row = (attempt.id, attempt.user, attempt.outcome.value if attempt.outcome else None, _text(LOGINS.dump(attempt)))
    connection.execute("INSERT OR REPLACE INTO logins VALUES (?, ?, ?, ?)", row)


def _texts(query: str) -> Callable[[sqlite3.Connection], list[str]]:
    return lambda connection: [text for (text,) in connection.execute(query)]


def _run(connection: sqlite3.Connection, statement: str, values: tuple[str | int, ...]) -> None:
    connection.execute(statement, values)


def _text(document: Mapping[str, object]) -> str:
    return json.dumps(document, ensure_ascii=False)
