"""The manager's way to its record store: logins reserved and settled, records kept, all in one line.

The store has an outbox for its absence (`store.outboxed_records`). What even that doesn't take now waits at the head of
the line, in memory; meanwhile nobody logs in, since the store would not know of it. Reserving never waits in the line:
with the store away it is refused at once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from spreadpilot_core.ibkr.deciding.resetting import outcome_left_open
from spreadpilot_core.ibkr.errors import StoreDamagedError, StoreUnavailableError, UnavailableError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.model.records import (
    DAY,
    NO_LIMITS,
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
)
from spreadpilot_core.ibkr.seams import RecordStore
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

RETRY_AFTER = 2.0
"""Seconds between two tries to write what is kept."""

_UNWRITTEN = "a record that can't be written"

Write = Callable[[], Awaitable[None]]


class Ledger:
    """One manager's logins and records."""

    def __init__(
        self,
        store: RecordStore,
        *,
        clock: Callable[[], datetime],
        tell: Tell = untold,
    ) -> None:
        self._store = store
        self._clock = clock
        self._pending: deque[Write] = deque()
        self._set_aside: list[Write] = []
        """What the store does not take, though it is there: it waits, and holds nobody else up."""
        self._newest: dict[FollowerId, Record] = {}
        """Records that are not written yet."""
        self._newest_waits = False
        """Whether writing them stands in the line."""
        self._alone: set[FollowerId] = set()
        """Whose record is written alone, since one of several could not be."""
        self._writing = asyncio.Lock()
        self._tasks = Tasks("ledger")
        self._tell = tell
        self._is_open = False
        self._is_laid_down = False
        """Whether another manager may have written records since they were read."""
        self.tried = asyncio.Event()
        """Whether the store was opened, or found to be away."""
        self._damaged: Mapping[FollowerId, str] = {}
        self._unread: Reason | None = Reason(ReasonCode.NOT_OBSERVED_YET, "The record store was not read yet.")
        self._unwritten: Reason | None = None

    @property
    def fault(self) -> Reason | None:
        """Why the store can't be used, while it can't."""
        return self._unread or self._unwritten

    async def open(self) -> LoadedRecords:
        """Open the store, write what is kept, and read every record. Raises `UnavailableError`; may be called again."""
        try:
            await self._store.open()
            await self.flush()
            records = await self._store.load()
        except UnavailableError as error:
            self._unread = Reason(ReasonCode.STORE_UNAVAILABLE, str(error))
            raise
        finally:
            self.tried.set()
        self._unread, self._is_open, self._damaged = None, True, records.damaged
        return records

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are, once the store was opened. Raises `StoreUnavailableError`."""
        return await self._store.identify(offered)

    async def adopt_identity(self, identity: str) -> Identities:
        """Take another manager's gateways for its own. Raises `StoreUnavailableError`."""
        return await self._store.adopt_identity(identity)

    async def close(self) -> None:
        """Write what is kept, for a few seconds, then let go."""
        try:
            async with asyncio.timeout(5):
                await self.flush()
        except (StoreUnavailableError, TimeoutError):
            log.warning("records were not written at the end", pending=len(self._pending), fault=str(self.fault))
        await self._tasks.cancel()
        await self._store.close()

    # ------------------------------------------------------------------ records

    def lay_down(self) -> None:
        """Another manager writes the records from now on: what is known here would overwrite what that one finds out."""
        self._is_laid_down = True

    def take_up(self) -> None:
        """The records were read again, and what is known here is what they say."""
        self._is_laid_down = False

    def keep(self, record: Record) -> None:
        """Have this record written soon; of several only the newest. Before the records were read, nothing is written:
        what is known here would overwrite what is not. Nor is over a damaged one, of which something may be mended.
        """
        if not self._is_open or self._is_laid_down or record.follower_id in self._damaged:
            return
        self._newest[record.follower_id] = record
        if not self._newest_waits and record.follower_id not in self._alone:
            self._newest_waits = True
            self._later(self._write_newest)

    async def save(self, record: Record) -> None:
        """Write this record now, after everything that waits. Raises `StoreUnavailableError`."""
        self.keep(record)
        await self.flush()

    async def _write_newest(self) -> None:
        """All records that changed, in one write: hundreds of gateways that start change theirs at the same time."""
        self._newest_waits = False
        followers = [each for each in self._newest if each not in self._alone]
        try:
            await self._write(*followers)
        except Exception as error:
            if _is_away(error):
                raise
            self._alone.update(followers)  # the one that can't be written holds none of the others up
            self._pending.extend(partial(self._write_alone, each) for each in followers)

    async def _write_alone(self, follower_id: FollowerId) -> None:
        """The newest that there is by then."""
        await self._write(follower_id)
        self._alone.discard(follower_id)
        if follower_id in self._newest:  # it has changed meanwhile
            self.keep(self._newest[follower_id])

    async def _write(self, *follower_ids: FollowerId) -> None:
        if not (records := [self._newest[each] for each in follower_ids]):
            return
        await self._store.save(*records, unless_newer=self._is_laid_down)
        for record in records:
            if self._newest[record.follower_id] is record:
                del self._newest[record.follower_id]

    # ------------------------------------------------------------------ logins

    def new_attempt(
        self,
        follower_id: FollowerId,
        *,
        user: str,
        secret_version: str,
        by_operator: bool = False,
        phone: str | None = None,
        reset_from: datetime | None = None,
    ) -> LoginAttempt:
        """An attempt of now, not written down yet."""
        return LoginAttempt(
            id=AttemptId(uuid.uuid4().hex),
            user=user,
            follower_id=follower_id,
            secret_version=secret_version,
            reserved_at=self._clock(),
            by_operator=by_operator,
            phone=phone,
            reset_from=reset_from,
        )

    async def reserve(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Write it down, or say why not. Raises `StoreUnavailableError`: then nobody logs in."""
        await self.flush()
        return await self._store.reserve_login(attempt, limits)

    async def mark_started(self, attempt: LoginAttempt, container_id: ContainerId) -> bool:
        """Written just before the start. False (another manager settled it) or `StoreUnavailableError`: don't start."""
        return await self._store.mark_started(attempt.id, container_id, self._clock())

    async def settle_left_open(self, attempt: LoginAttempt) -> None:
        """A login that a manager before us wrote down, and no container of it is there."""
        outcome = outcome_left_open(attempt, self._clock())
        log.info("login left open", follower=attempt.follower_id, outcome=outcome.value)
        await self.settle(attempt, outcome)

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
            await self._store.reserve_login(attempt, NO_LIMITS)
            await self._store.mark_started(attempt.id, container_id, attempt.reserved_at)
            done.set()

        self._later(write)
        await done.wait()

    async def full_logins(self, user: str) -> Sequence[LoginAttempt]:
        """Logins of the last 24 h that ended and were logins at all. Raises `StoreUnavailableError`."""
        await self.flush()
        return await self._store.full_logins(user, self._clock() - DAY)

    async def unsettled(self) -> Sequence[LoginAttempt]:
        """What a manager that died left open. Raises `StoreUnavailableError`."""
        return await self._store.unsettled_logins()

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """What other services read. Raises `StoreUnavailableError`."""
        await self._store.report(mappings)

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """What happened. Raises `StoreUnavailableError`."""
        await self._store.append_history(entries)

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """What happened, newest first. Raises `StoreUnavailableError`."""
        return await self._store.read_history(query)

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """For `audit verify`. Raises `StoreUnavailableError`."""
        await self._store.keep_audit_head(trail, head)

    async def audit_head(self, trail: str) -> AuditHead | None:
        """What was kept last. Raises `StoreUnavailableError`."""
        return await self._store.audit_head(trail)

    # ------------------------------------------------------------------ writing

    def _later(self, write: Write) -> None:
        self._pending.append(write)
        if len(self._tasks) == 0:
            name = "write records"
            self._tasks.begin(name, keep_running(name, self._write_pending, tell=self._tell, may_end=True))

    async def flush(self) -> None:
        """Write all that is kept, in order. Raises `StoreUnavailableError`, and keeps what is left.

        What alone can't be written (a damaged document, a value that no store takes) is set aside and tried again later.
        """
        async with self._writing:
            while self._pending:
                try:
                    await self._pending[0]()
                except Exception as error:
                    if _is_away(error):
                        self._unwritten = Reason(ReasonCode.STORE_UNAVAILABLE, str(error))
                        raise
                    self._tell(_UNWRITTEN, f"A record could not be written, and is tried again: {error!s:.200}")
                    self._set_aside.append(self._pending[0])
                self._pending.popleft()
            self._unwritten = None

    async def _write_pending(self) -> None:
        while self._pending or self._set_aside:
            try:
                await self.flush()
            except StoreUnavailableError as error:
                log.warning("records can't be written", error=str(error), pending=len(self._pending))
            if self._pending or self._set_aside:
                await asyncio.sleep(RETRY_AFTER)
                self._pending.extend(self._set_aside)
                self._set_aside.clear()
        self._tell(_UNWRITTEN, None)


def _is_away(error: Exception) -> bool:
    """Whether the store itself is, and not one thing that it doesn't take."""
    return isinstance(error, StoreUnavailableError) and not isinstance(error, StoreDamagedError)


def refusal_sentence(refusal: LoginRefusal, user: str) -> str:
    """Why the ledger did not reserve, for people."""
    times = ", ".join(f"{attempt.reserved_at:%H:%M:%S}" for attempt in refusal.attempts[-3:])
    until = f" A place is free again at {refusal.until:%Y-%m-%d %H:%M:%S} UTC." if refusal.until else ""
    why: dict[str, Any] = {
        "budget": f"{counted(len(refusal.attempts), 'login')} of {user} failed within 24 h ({times} UTC).",
        "full_logins": f"{user} made {counted(len(refusal.attempts), 'full login')} within 24 h ({times} UTC).",
        "prompts": f"{counted(len(refusal.attempts), 'login')} of {user} asked a phone within 24 h ({times} UTC).",
        "operator_gap": f"An operator took a login of {user} a moment ago ({times} UTC).",
        "in_progress": f"A login of {user} is under way already (reserved {times} UTC).",
        "throttled": f"IBKR asked for a pause after too many failed logins of {user}.",
    }
    return f"{why[refusal.reason]}{until}"
