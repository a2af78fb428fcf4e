"""Any record store, with an outbox for its absence.

While the store is away (a server that can't be reached, a file that is locked or gone, a disk that is full), records,
settlements and history go to an outbox on this host's disk and are written on its return, in order. A reservation never
does: with the store away nobody logs in. Whatever is read first waits for the outbox to be written, so nobody reads past
their own writes. Mappings are no history: the newest are written on return.

A reservation without an answer may have been written. Nobody would ever settle it, so that it is withdrawn.

A store that is found empty may have lost what it held. Until that is known nothing that waits is written to it: the next look
would take it for a store that knows who has logged in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from spreadpilot_core.ibkr.errors import RecordsLostError, StoreDamagedError, StoreUnavailableError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.records import (
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
from spreadpilot_core.ibkr.store.documents import HISTORY, RECORDS, timestamp
from spreadpilot_core.ibkr.store.outbox import Entry, Outbox
from spreadpilot_core.ibkr.tasks import Backoff, Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

AT_ONCE = 200
"""Entries of the outbox that are written before they are forgotten together."""
RETRY_AFTER = (0.5, 5.0)
"""Seconds before the outbox is tried again: first, and at most (doubling)."""
_OUTBOX = "the outbox"


class OutboxedRecords:
    """Fulfils `seams.RecordStore`."""

    def __init__(
        self,
        store: RecordStore,
        outbox: Outbox,
        *,
        tell: Tell = untold,
        must_be_first_start: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`must_be_first_start` is called when the store is found empty, and raises where that means a loss."""
        self._store = store
        self._outbox = outbox
        self._tell = tell
        self._must_be_first_start = must_be_first_start
        self._is_open = False
        """Whether the store was ever reached since this was opened; until then whoever opens it says why it is not."""
        self._doubt: StoreUnavailableError | None = None
        """Why nothing may be written to the store before it was loaded, though it is there."""
        self._was_away = False
        """Whether somebody was told that the store is away."""
        self._mappings_due: Sequence[GatewayMapping] | None = None
        self._order = asyncio.Lock()
        self._tasks = Tasks("outbox")

    async def open(self) -> None:
        """Open both. Raises `StoreUnavailableError`."""
        await self._outbox.open()
        await self._store.open()
        if self._outbox.size and not self._is_open:
            self._doubt = StoreUnavailableError("The record store was not read yet.")
        self._is_open = True

    async def close(self) -> None:
        """Let go; what waits in the outbox stays for the next manager."""
        self._is_open = False
        await self._tasks.cancel()
        await self._store.close()
        await self._outbox.close()

    @property
    def waiting(self) -> int:
        """How many writes wait for the store."""
        return self._outbox.size + (self._mappings_due is not None)

    # ------------------------------------------------------------------ asked of the store as it is

    async def identify(self, offered: Identities) -> Identities:
        """Whose records these are."""
        return await self._store.identify(offered)

    async def adopt_identity(self, identity: str) -> Identities:
        """Add one to those that are there."""
        return await self._store.adopt_identity(identity)

    async def keep_audit_head(self, trail: str, head: AuditHead) -> None:
        """Keep the newest line of this audit trail."""
        await self._store.keep_audit_head(trail, head)

    async def audit_head(self, trail: str) -> AuditHead | None:
        """The newest line that was kept of this trail."""
        return await self._store.audit_head(trail)

    # ------------------------------------------------------------------ asked once nothing waits any more

    async def load(self) -> LoadedRecords:
        """All records. What waits for a store that was emptied proves nothing of what it held: it gets nothing before an
        operator has said so.
        """
        there = await self._store.load()
        if not there and self._must_be_first_start is not None:
            knows_logins = self._outbox.size > 0 and await self._store.unsettled_logins()
            if not knows_logins:
                self._doubt = RecordsLostError()
                await self._must_be_first_start()
        self._doubt = None
        if self._outbox.size == 0:
            return there
        await self._write_what_waits()
        return await self._store.load()

    async def reserve_login(self, attempt: LoginAttempt, limits: LoginLimits) -> LoginRefusal | None:
        """Reserve one login, or say why not. Never through the outbox: raises `StoreUnavailableError` instead."""
        await self._caught_up()
        try:
            return await self._store.reserve_login(attempt, limits)
        except StoreDamagedError:
            raise
        except (StoreUnavailableError, asyncio.CancelledError):
            withdrawal = {"id": attempt.id, "user": attempt.user}
            await asyncio.shield(self._keep([("withdrawal", withdrawal)]))
            raise

    async def withdraw_login(self, attempt_id: AttemptId, user: str) -> None:
        """Make sure that it is not reserved."""
        entries = [("withdrawal", {"id": attempt_id, "user": user})]
        await self._write_or_keep(lambda: self._store.withdraw_login(attempt_id, user), lambda: entries)

    async def mark_started(self, attempt_id: AttemptId, container_id: ContainerId, at: datetime) -> bool:
        """Write that the container is about to start; False: it must not. Never through the outbox: raises instead."""
        await self._caught_up()
        return await self._store.mark_started(attempt_id, container_id, at)

    async def unsettled_logins(self) -> Sequence[LoginAttempt]:
        """Attempts without an outcome, oldest first."""
        await self._caught_up()
        return await self._store.unsettled_logins()

    async def full_logins(self, user: str, since: datetime) -> Sequence[LoginAttempt]:
        """Attempts of this user reserved at or after `since` that ended and are not void, oldest first."""
        await self._caught_up()
        return await self._store.full_logins(user, since)

    async def read_history(self, query: HistoryQuery) -> HistoryPage:
        """One page, newest first."""
        await self._caught_up()
        return await self._store.read_history(query)

    # ------------------------------------------------------------------ written now, or kept

    async def save(self, *records: Record, unless_newer: bool = False) -> None:
        """Write these records, each whole."""
        write = partial(self._store.save, *records, unless_newer=unless_newer)
        await self._write_or_keep(write, lambda: [("record", RECORDS.dump(each)) for each in records])

    async def settle_login(
        self, attempt_id: AttemptId, outcome: LoginOutcome, at: datetime, *, not_before: datetime | None = None
    ) -> None:
        """Write how it ended."""
        document = {
            "id": attempt_id,
            "outcome": outcome.value,
            "at": timestamp(at),
            "not_before": timestamp(not_before) if not_before else None,
        }
        write = partial(self._store.settle_login, attempt_id, outcome, at, not_before=not_before)
        await self._write_or_keep(write, lambda: [("settlement", document)])

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append it, unless the ids are there."""
        write = partial(self._store.append_history, entries)
        await self._write_or_keep(write, lambda: [("history", HISTORY.dump(each)) for each in entries])

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings; while the store is away, on its return."""
        self._mappings_due = mappings
        await self._write_or_keep(self._write_mappings, list)

    async def _write_mappings(self) -> None:
        if (due := self._mappings_due) is not None:
            await self._store.report(due)
            if self._mappings_due is due:
                self._mappings_due = None

    async def _write_or_keep(
        self, write: Callable[[], Awaitable[None]], entries: Callable[[], Sequence[tuple[str, Mapping[str, Any]]]]
    ) -> None:
        """Write now when nothing waits before it; else keep these entries, in order."""
        async with self._order:
            if self._outbox.size == 0 and self._is_open and self._doubt is None:
                try:
                    await write()
                except StoreDamagedError:
                    raise
                except StoreUnavailableError as error:
                    self._was_away = True
                    log.warning("the store is away, what must be written is kept here", error=str(error))
                else:
                    return
            await self._keep(entries())

    async def _keep(self, entries: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        await self._outbox.append(entries)
        if len(self._tasks) == 0:
            name = "write what was kept while the store was away"
            self._tasks.begin(name, keep_running(name, self._write_pending, tell=self._tell, may_end=True))

    # ------------------------------------------------------------------ written later

    async def _write_pending(self) -> None:
        """Try until nothing waits any more."""
        backoff = Backoff(*RETRY_AFTER)
        while self.waiting:
            try:
                await self._write_what_waits()
            except StoreUnavailableError:
                await asyncio.sleep(backoff.next())
        if self._was_away:
            self._was_away = False
            log.info("what was kept while the store was away is written")

    async def _caught_up(self) -> None:
        """Nothing in the outbox stands before what is asked now. Raises `StoreUnavailableError`."""
        if self._outbox.size:
            await self._write_what_waits()

    async def _write_what_waits(self) -> None:
        """Write all that waits, in order. Raises `StoreUnavailableError` and keeps what is left."""
        if self._doubt is not None:
            raise self._doubt
        async with self._order:
            while entries := await self._outbox.oldest(AT_ONCE):
                for kind, run in groupby(entries, key=lambda entry: entry.kind):
                    await self._write_run(kind, list(run))
                await self._outbox.forget(entries[-1].number)
            await self._write_mappings()

    async def _write_run(self, kind: str, entries: Sequence[Entry]) -> None:
        """Write entries of one kind that stand one after the other."""
        if kind == "history":
            sound = [each for each in entries if _is_sound(HISTORY.read, each)]
            history = [HISTORY.read(each.document, where=_OUTBOX) for each in sound]
            await self._write_one(kind, lambda: self._store.append_history(history))
            entries = [each for each in entries if each not in sound]
        for entry in entries:
            await self._write_one(kind, partial(self._write_entry, entry))

    async def _write_entry(self, entry: Entry) -> None:
        document = entry.document
        match entry.kind:
            case "record":
                await self._store.save(RECORDS.read(document, where=_OUTBOX), unless_newer=True)
            case "withdrawal":
                await self._store.withdraw_login(AttemptId(_text(document["id"])), _text(document["user"]))
            case "settlement":
                not_before = document["not_before"]
                await self._store.settle_login(
                    AttemptId(_text(document["id"])),
                    LoginOutcome(document["outcome"]),
                    datetime.fromisoformat(document["at"]),
                    not_before=datetime.fromisoformat(not_before) if not_before else None,
                )
            case "history":
                HISTORY.read(document, where=_OUTBOX)  # raises what is wrong with it
            case _:
                raise StoreDamagedError("It makes no sense.")

    async def _write_one(self, kind: str, write: Callable[[], Awaitable[None]]) -> None:
        """What no store will ever take must not keep the rest waiting for ever: it is told, and given up."""
        try:
            await write()
        except (StoreDamagedError, LookupError, TypeError, ValueError, OverflowError) as error:
            await self._must_be_sound()
            self._give_up(kind, str(error))

    def _give_up(self, kind: str, why: str) -> None:
        log.error("what waited for the store can't be written and is given up", kind=kind[:40], error=why[:500])
        sentence = f"A {kind:.40} that waited for the store can't be written and was given up: {why:.200}"
        self._tell(f"given up: {kind:.40}", sentence)

    async def _must_be_sound(self) -> None:
        """A store that can't even be read is to blame itself, and nothing is given up. Raises `StoreUnavailableError`."""
        await self._store.load()


def _is_sound(read: Callable[..., object], entry: Entry) -> bool:
    try:
        read(entry.document, where=_OUTBOX)
    except StoreDamagedError:
        return False
    return True


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value
