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
from datetime import datetime
from pathlib import Path

from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import (
    NOBODY,
    AttemptId,
    ContainerId,
    GatewayMapping,
    HistoryEntry,
    HistoryPage,
    HistoryQuery,
    Identities,
    LoadedRecords,
    LoginAttempt,
    LoginLimits,
    LoginOutcome,
    LoginRefusal,
    Record,
    history_page,
)
from spreadpilot_core.ibkr.model.users import canonical_user
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.documents import (
    HISTORY,
    LOGINS,
    MAPPINGS,
    RECORDS,
    is_newer,
    open_logins,
    parse_records,
    timestamp,
)
from spreadpilot_core.ibkr.store.local import history
from spreadpilot_core.ibkr.store.login_budget import full_since, in_order, is_outlived, refusal
from spreadpilot_core.ibkr.store.sqlite_file import SqliteFile
from spreadpilot_core.ibkr.system.clock import Clock, utc_now

FILE_NAME = "records.sqlite3"

_SCHEMA = f"""
CREATE TABLE identities (number INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL UNIQUE);
CREATE TABLE records (follower_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE logins (id TEXT PRIMARY KEY, user TEXT NOT NULL, outcome TEXT, document TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX logins_by_user ON logins (user);
CREATE INDEX logins_open ON logins (id) WHERE outcome IS NULL;
CREATE TABLE mappings (follower_id TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
{history.SCHEMA};
CREATE TABLE audit_heads (trail TEXT PRIMARY KEY, serial INTEGER NOT NULL, hash TEXT NOT NULL) WITHOUT ROWID
"""
_LAYOUTS = (_SCHEMA, history.BY_FOLLOWER)
_CURE = (
    "Stop the manager, move the file aside and start with `gateway-manager run --accept-lost-records`: running gateways"
    " are adopted, but client ids, stops on request, rejected passwords and the logins of the last 24 hours are"
    " forgotten, so wait a day before you start gateways whose logins have failed."
)

NOTHING_REPORTED: tuple[int | None, Mapping[FollowerId, str]] = (None, {})


class LocalRecords:
    """What must survive the manager, in SQLite."""

    def __init__(self, path: Path, *, clock: Clock = utc_now, busy_wait: float = 10.0) -> None:
        self._file = SqliteFile(path, layouts=_LAYOUTS, cure=_CURE, busy_wait=busy_wait)
        self._clock = clock
        self._mapping_texts: dict[FollowerId, tuple[GatewayMapping, str]] = {}
        self._reported = NOTHING_REPORTED
        """The file's version, which another's write changes, and the mappings in it."""

    @classmethod
    def from_settings(cls, settings: Settings, clock: Clock = utc_now) -> LocalRecords:
        """The store that `store_url` names."""
        return cls(settings.local_store_dir / FILE_NAME, clock=clock)

    async def open(self) -> None:
        """Open or make the file, and check it.

        Raises:
            StoreDamagedError: the file is no database of ours; it is named with the cure.
            StoreUnavailableError: it can't be opened now.
        """
        self._reported = NOTHING_REPORTED
        await self._file.open()

    async def close(self) -> None:
        """Let go of the file once what runs has ended; safe to call twice and when never opened."""
        await self._file.close()

    # ------------------------------------------------------------------ identity

    async def identities(self) -> Identities | None:
        """Whose records these are; None: nobody's yet."""
        return await self._file.read(_identities)

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are; a store that has no identity keeps the one that is offered."""

        def identify(connection: sqlite3.Connection) -> Identities:
            return _identities(connection) or _add_identities(connection, offered.all)

        return await self._file.write(identify)

    async def adopt_identity(self, identity: str) -> Identities:
        """Add one to those that are there."""
        return await self._file.write(lambda connection: _add_identities(connection, [identity]))

    # ------------------------------------------------------------------ records

    async def load(self) -> LoadedRecords:
        """All records, and whose are damaged."""
        rows = await self._file.read(_rows("SELECT follower_id, document FROM records ORDER BY follower_id"))
        return parse_records(((str(key), _json_or_none(text)) for key, text in rows), where=str(self._file.path))

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write these records, all in one transaction."""
        documents = {record.follower_id: RECORDS.dump(record) for record in records}

        def save(connection: sqlite3.Connection) -> None:
            for follower_id, document in documents.items():
                query = _rows("SELECT document FROM records WHERE follower_id = ?", (follower_id,))
                known = query(connection) if unless_newer else []
                if not (known and is_newer(_json_or_none(known[0][0]), document)):
                    row = (follower_id, _text(document))
                    _run(connection, "INSERT OR REPLACE INTO records VALUES (?, ?)", row)

        await self._file.write(save)

    # ------------------------------------------------------------------ logins

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve one login, or say why not, in one transaction. An attempt that is there already stays as it is.

        Cancelled, it leaves no reservation.
        """

        def reserve(connection: sqlite3.Connection) -> LoginRefusal | None:
            known = self._logins(connection, "user = ?", attempt.user)
            if any(other.id == attempt.id for other in known):
                return None
            refused = refusal(known, attempt, limits)
            if refused is None:
                _put_login(connection, attempt)
                outlived = [(other.id,) for other in known if is_outlived(other, attempt.reserved_at)]
                connection.executemany("DELETE FROM logins WHERE id = ?", outlived)
            return refused

        try:
            return await self._file.write(reserve)
        except asyncio.CancelledError:  # nobody would ever settle what its caller doesn't know of
            await asyncio.shield(self.withdraw_login(attempt.id, attempt.user))
            raise

    async def withdraw_login(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that it is not reserved."""

        def withdraw(connection: sqlite3.Connection) -> None:
            for each in self._logins(
                connection, "id = ? AND user = ? AND outcome IS NULL", attempt_id, canonical_user(user)
            ):
                if each.started_at is None:
                    connection.execute("DELETE FROM logins WHERE id = ?", (attempt_id,))

        await self._file.write(withdraw)

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
        rows = await self._file.read(_rows("SELECT id, document FROM logins WHERE outcome IS NULL"))
        return in_order(open_logins((_json_or_none(text) for _, text in rows), where=str(self._file.path)))

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` that ended and are not void, oldest first."""
        known = await self._file.read(lambda connection: self._logins(connection, "user = ?", canonical_user(user)))
        return full_since(known, since)

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
        except (ValueError, TypeError, RecursionError) as error:
            raise self._file.damaged(f"a document is no JSON ({error})") from None
        if not isinstance(document, dict):
            raise self._file.damaged("a document is no JSON object")
        return document

    # ------------------------------------------------------------------ mappings and history

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings. While nobody else writes to the file, only those that are others than last time."""
        wanted = {each.follower_id: self._mapping_text(each) for each in mappings}
        (version, there), self._reported = self._reported, NOTHING_REPORTED

        def write(connection: sqlite3.Connection) -> int:
            (now,) = connection.execute("PRAGMA data_version").fetchone()
            known = there if now == version else {}
            if now != version:
                connection.execute("DELETE FROM mappings")
            changed = [(each, text) for each, text in wanted.items() if known.get(each) is not text]
            connection.executemany("INSERT OR REPLACE INTO mappings VALUES (?, ?)", changed)
            gone = [(each,) for each in known.keys() - wanted.keys()]
            connection.executemany("DELETE FROM mappings WHERE follower_id = ?", gone)
            return int(now)

        self._reported = await self._file.write(write), wanted

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append it, unless the ids are there, and prune it by age and count."""
        rows = [(each.id, timestamp(each.at), _text(HISTORY.dump(each)), each.follower_id) for each in entries]
        await self._file.write(lambda connection: history.append(connection, rows, now=self._clock()))

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """One page, newest first. A damaged entry is a `StoreDamagedError` that names it."""
        texts = await self._file.read(lambda connection: history.read(connection, query))
        found = [HISTORY.read(self._document(text), where=str(self._file.path)) for text in texts]
        return history_page(found, query)

    def _mapping_text(self, mapping: GatewayMapping) -> str:
        """Of thousands most are as they were when they were written last."""
        known = self._mapping_texts.get(mapping.follower_id)
        if known is None or (known[0] is not mapping and known[0] != mapping):
            known = self._mapping_texts[mapping.follower_id] = (mapping, _text(MAPPINGS.dump(mapping)))
        return known[1]

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail; an older one changes nothing."""
        newer = "ON CONFLICT (trail) DO UPDATE SET serial = excluded.serial, hash = excluded.hash WHERE excluded.serial >= serial"
        row = (trail, head.serial, head.hash)
        await self._file.write(
            lambda connection: _run(connection, f"INSERT INTO audit_heads VALUES (?, ?, ?) {newer}", row)  # noqa: S608  # text of this file
        )

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""

        def read(connection: sqlite3.Connection) -> AuditHead | None:
            row = connection.execute("SELECT serial, hash FROM audit_heads WHERE trail = ?", (trail,)).fetchone()
            if row and not (isinstance(row[0], int) and isinstance(row[1], str)):
                raise self._file.damaged("an audit hash is none")
            return AuditHead(row[0], row[1]) if row else None

        return await self._file.read(read)


def _identities(connection: sqlite3.Connection) -> Identities | None:
    known = [str(each) for (each,) in connection.execute("SELECT identity FROM identities ORDER BY number")]
    return Identities(known[0], tuple(known[1:])) if known else None


def _add_identities(connection: sqlite3.Connection, added: Sequence[str]) -> Identities:
    connection.executemany("INSERT OR IGNORE INTO identities (identity) VALUES (?)", [(each,) for each in added])
    return _identities(connection) or NOBODY


def _put_login(connection: sqlite3.Connection, attempt: LoginAttempt) -> None:
    row = (attempt.id, attempt.user, attempt.outcome.value if attempt.outcome else None, _text(LOGINS.dump(attempt)))
    connection.execute("INSERT OR REPLACE INTO logins VALUES (?, ?, ?, ?)", row)


def _rows(query: str, values: Sequence[str] = ()) -> Callable[[sqlite3.Connection], list[tuple[object, object]]]:
    return lambda connection: connection.execute(query, values).fetchall()


def _json_or_none(text: object) -> object:
    """What this text holds; None when that is no JSON."""
    try:
        return json.loads(text) if isinstance(text, str | bytes) else None
    except (ValueError, RecursionError):
        return None


def _run(connection: sqlite3.Connection, statement: str, values: tuple[str | int, ...]) -> None:
    connection.execute(statement, values)


def _text(document: Mapping[str, object]) -> str:
    return json.dumps(document, ensure_ascii=False)
