"""The manager's way to its record store: logins reserved and settled, records kept, in order and never lost in between.

A settlement or a record that can't be written now is kept and written later, in order; meanwhile nobody logs in, since
the store would not know of it. Reserving never waits in a row: with the store away it is refused at once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from spreadpilot_core.ibkr.errors import StoreUnavailableError
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
    RecordStore,
)
from spreadpilot_core.ibkr.tasks import Tasks

log = structlog.get_logger(__name__)

DAY = timedelta(hours=24)
RETRY_AFTER = 2.0
"""Seconds between two tries to write what is kept."""

Write = Callable[[], Awaitable[None]]


class Ledger:
    """One manager's logins and records."""

    def __init__(self, store: RecordStore, *, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock
        self._kept: deque[Write] = deque()
        self._newest: dict[FollowerId, Record] = {}
        self._writing = asyncio.Lock()
        self._tasks = Tasks("ledger")
        self._is_open = False
        self.fault: str | None = "The record store was not read yet."
        """A sentence while the store is away."""

    async def open(self) -> Mapping[FollowerId, Record]:
        """Open the store and read every record. Raises `StoreUnavailableError`; may be called again."""
        try:
            await self._store.open()
            records = await self._store.load()
        except StoreUnavailableError as error:
            self.fault = str(error)
            raise
        self.fault, self._is_open = None, True
        return records

    async def close(self) -> None:
        """Write what is kept, for a few seconds, then let go."""
        try:
            async with asyncio.timeout(5):
                await self.flush()
        except (StoreUnavailableError, TimeoutError):
            log.warning("records were not written at the end", kept=len(self._kept), fault=self.fault)
        await self._tasks.cancel()
        await self._store.close()

    # ------------------------------------------------------------------ records

    def keep(self, record: Record) -> None:
        """Have this record written soon; of several only the newest. Before the records were read, nothing is written:
        what is known here would overwrite what is not.
        """
        if not self._is_open:
            return
        waits = record.follower_id in self._newest
        self._newest[record.follower_id] = record
        if not waits:
            self._later(lambda: self._write_newest(record.follower_id))

    async def save(self, record: Record) -> None:
        """Write this record now, after everything that waits. Raises `StoreUnavailableError`."""
        self.keep(record)
        await self.flush()

    async def _write_newest(self, follower_id: FollowerId) -> None:
        record = self._newest[follower_id]
        await self._store.save(record)
        if self._newest.get(follower_id) is record:
            del self._newest[follower_id]
        else:
            await self._write_newest(follower_id)

    # ------------------------------------------------------------------ logins

    def new_attempt(
        self, follower_id: FollowerId, *, user: str, secret_version: str, by_operator: bool
    ) -> LoginAttempt:
        """An attempt of now, not written down yet."""
        return LoginAttempt(
            id=AttemptId(uuid.uuid4().hex),
            user=user,
            follower_id=follower_id,
            secret_version=secret_version,
            reserved_at=self._clock(),
            by_operator=by_operator,
        )

    async def reserve(self, attempt: LoginAttempt, limit: int | None) -> LoginRefusal | None:
        """Write it down, or say why not. Raises `StoreUnavailableError`: then nobody logs in."""
        await self.flush()
        return await self._store.reserve_login(attempt, limit)

    async def mark_started(self, attempt: LoginAttempt, container_id: ContainerId) -> bool:
        """Written just before the start. False (another manager settled it) or `StoreUnavailableError`: don't start."""
        return await self._store.mark_started(attempt.id, container_id, self._clock())

    async def settle(self, attempt: LoginAttempt, outcome: LoginOutcome, *, not_before: datetime | None = None) -> None:
        """Write how it ended; returns when that is durable, however long the store is away."""
        at = self._clock()
        done = asyncio.Event()

        async def write() -> None:
            await self._store.settle_login(attempt.id, outcome, at, not_before=not_before)
            done.set()

        self._later(write)
        await done.wait()

    async def book(self, attempt: LoginAttempt, container_id: ContainerId) -> None:
        """Write down a login that a controller typed by itself: it happened, so no limit refuses it."""
        done = asyncio.Event()

        async def write() -> None:
            await self._store.reserve_login(attempt, None)
            await self._store.mark_started(attempt.id, container_id, attempt.reserved_at)
            done.set()

        self._later(write)
        await done.wait()

    async def counted(self, user: str) -> Sequence[LoginAttempt]:
        """Logins of the last 24 h that count. Raises `StoreUnavailableError`."""
        await self.flush()
        return await self._store.counted_logins(user, self._clock() - DAY)

    async def unsettled(self) -> Sequence[LoginAttempt]:
        """What a manager that died left open. Raises `StoreUnavailableError`."""
        return await self._store.unsettled_logins()

    async def report(self, mappings: Sequence[GatewayMapping] | None, history: Sequence[HistoryEntry]) -> None:
        """What other services read. Raises `StoreUnavailableError`."""
        await self._store.report(mappings, history)

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """For `audit verify`. Raises `StoreUnavailableError`."""
        await self._store.keep_audit_head(trail, head)

    async def audit_head(self, trail: str) -> AuditHead | None:
        """What was kept last. Raises `StoreUnavailableError`."""
        return await self._store.audit_head(trail)

    # ------------------------------------------------------------------ writing

    def _later(self, write: Write) -> None:
        self._kept.append(write)
        if len(self._tasks) == 0:
            self._tasks.begin("write what is kept", self._write_kept())

    async def flush(self) -> None:
        """Write all that is kept, in order. Raises `StoreUnavailableError`, and keeps what is left."""
        async with self._writing:
            while self._kept:
                try:
                    await self._kept[0]()
                except StoreUnavailableError as error:
                    self.fault = str(error)
                    raise
                self._kept.popleft()
            self.fault = None

    async def _write_kept(self) -> None:
        while self._kept:
            try:
                await self.flush()
            except StoreUnavailableError as error:
                log.warning("records can't be written", error=str(error), kept=len(self._kept))
                await asyncio.sleep(RETRY_AFTER)


def refusal_sentence(refusal: LoginRefusal, user: str) -> str:
    """Why the ledger did not reserve, for people."""
    times = ", ".join(f"{attempt.reserved_at:%H:%M:%S}" for attempt in refusal.attempts[-3:])
    until = f" A place is free again at {refusal.until:%Y-%m-%d %H:%M:%S} UTC." if refusal.until else ""
    why: dict[str, Any] = {
        "budget": f"{len(refusal.attempts)} logins of {user} failed within 24 h ({times} UTC).",
        "in_progress": f"A login of {user} is under way already (reserved {times} UTC).",
        "throttled": f"IBKR asked for a pause after too many failed logins of {user}.",
    }
    return f"{why[refusal.reason]}{until}"
