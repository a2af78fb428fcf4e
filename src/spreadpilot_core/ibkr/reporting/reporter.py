"""Writes what other services find in the store: the mappings of all gateways, the history, the audit trail's newest hash."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from spreadpilot_core.ibkr.audit.auditor import Auditor
from spreadpilot_core.ibkr.errors import GatewayManagerError, UnavailableError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.events import Event, EventBus
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import GatewayMapping, HistoryEntry
from spreadpilot_core.ibkr.reporting.notices import Notices
from spreadpilot_core.ibkr.seams import AuditHeads
from spreadpilot_core.ibkr.tasks import Tasks, keep_running, wait_for
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

AT_MOST_EVERY = 0.5
"""Seconds between two writes of mappings and history: true within a second of every change."""
RETRY_AFTER = 2.0
LONGEST_WHY = 300
LONGEST_SENTENCE = 2000
"""Characters that the history keeps of one event."""
_UNKEPT = "audit hash"
HISTORY_WAITING = 10_000
"""History entries that wait for a store that is away; the oldest go first."""


class ReportStore(AuditHeads, Protocol):
    """What is written to; all raise `StoreUnavailableError` when it is away."""

    tried: asyncio.Event
    """Whether it was opened, or found to be away."""

    async def report(self, mappings: Sequence[GatewayMapping]) -> None:
        """Replace the mappings by these."""

    async def append_history(self, entries: Sequence[HistoryEntry]) -> None:
        """Append these, unless their id is there."""


class Reporter:
    """Writes mappings and history, coalesced, and every `compare_every` seconds also when nothing has changed."""

    def __init__(
        self,
        store: ReportStore,
        mappings: Callable[[], Sequence[GatewayMapping] | None],
        *,
        bus: EventBus,
        auditor: Auditor,
        notices: Notices,
        clock: Callable[[], datetime],
        compare_every: float,
    ) -> None:
        """`mappings` gives those of now; None before it is known what runs: what an earlier manager wrote stays then."""
        self._store = store
        self._mappings = mappings
        self._bus = bus
        self._auditor = auditor
        self._notices = notices
        self._clock = clock
        self._compare_every = compare_every
        self._audit_head: AuditHead | None = None
        self._has_recalled = False
        self._unkept_since: datetime | None = None
        self._unkept_why = ""
        self._tasks = Tasks("reporter")
        self._due = asyncio.Event()
        self._history: deque[HistoryEntry] = deque(maxlen=HISTORY_WAITING)
        self._mappings_due = True

    def begin(self) -> None:
        """Listen to the events and start writing."""
        self._bus.listen(self._heard)
        self._auditor.on_written = self._due.set
        name = "write mappings and history"
        self._tasks.begin(name, keep_running(name, self._run, tell=self._notices.tell))

    async def close(self) -> None:
        """Write what is due once more, then end."""
        await self._tasks.cancel()
        if self._due.is_set():
            try:
                async with asyncio.timeout(5):
                    await self._write()
            except Exception as error:  # noqa: BLE001  # whatever it is, the manager must end
                log.warning("history not written at the end", entries=len(self._history), error=repr(error))

    def _heard(self, event: Event) -> None:
        follower_id = FollowerId(event.follower_id) if event.follower_id is not None else None
        entry = HistoryEntry(
            id=f"{event.id:015}-{uuid.uuid4().hex[:12]}",  # sorts as it happened
            at=event.at,
            follower_id=follower_id,
            name=event.name,
            severity=event.severity,
            reason_code=event.reason_code.value if event.reason_code is not None else None,
            sentence=event.sentence[:LONGEST_SENTENCE],
        )
        self._history.append(entry)
        self._due.set()

    def mappings_changed(self) -> None:
        """Some are others than those that were written."""
        self._mappings_due = True
        self._due.set()

    async def _run(self) -> None:
        await self._store.tried.wait()  # a store that nobody has opened yet is not away
        while True:
            if not await wait_for(self._due, within=self._compare_every):
                self._mappings_due = True
            self._due.clear()
            try:
                await self._write()
            except UnavailableError:
                self._due.set()
                await asyncio.sleep(RETRY_AFTER)
            except BaseException:
                self._due.set()  # cut short by the end, which writes it once more, or by what begins it anew
                raise
            await asyncio.sleep(AT_MOST_EVERY)

    async def _write(self) -> None:
        try:
            await self._write_history()
            await self._keep_audit_head()
        except Exception as error:
            self._head_failed(error)
            raise
        self._head_recorded()

    async def _write_history(self) -> None:
        history = list(self._history)
        mappings = self._mappings() if self._mappings_due else None
        self._mappings_due = mappings is None and self._mappings_due
        try:
            if history:
                await self._store.append_history(history)
            if mappings is not None:
                await self._store.report(mappings)
        except BaseException:
            self._mappings_due = True
            raise
        for entry in history:
            if self._history and self._history[0] is entry:  # else it went already, being the oldest of too many
                self._history.popleft()

    def _head_failed(self, error: Exception) -> None:
        """Lines that go now are not missed: said at once."""
        why = (str(error) if isinstance(error, GatewayManagerError) else repr(error)).partition("\n")[0]
        self._unkept_since = self._unkept_since or self._clock()
        self._unkept_why = why[:LONGEST_WHY]
        sentence = f"The newest hash of the audit trail can't be kept, so lines that go now are not missed: {why}"
        self._notices.tell(_UNKEPT, sentence)

    def _head_recorded(self) -> None:
        """From here on they are: the time in between is a line of the trail."""
        since, self._unkept_since = self._unkept_since, None
        if since is not None:
            self._notices.tell(_UNKEPT, None)
            detail = f"since {since.isoformat(timespec='seconds')} no newest hash was kept: {self._unkept_why}"
            self._auditor.note("unkept", detail=detail)

    async def _keep_audit_head(self) -> None:
        auditor = self._auditor
        if not self._has_recalled:
            auditor.recall(await self._store.audit_head(auditor.trail_name))
            self._has_recalled = True
        head = await auditor.newest()
        if head is not None and head != self._audit_head:
            await self._store.keep_audit_head(auditor.trail_name, head)
            self._audit_head = head
