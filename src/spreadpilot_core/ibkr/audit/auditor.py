"""The manager's own lines in the audit trail: what IBKR refused, which secret changed, what an operator overrode.

The courier writes down what it did with a secret; here is what only the manager knows. Nothing here waits for the disk
on the event loop, and each line takes one of two ways:

    write   before something is done that must not go unaudited: it is not done when the line can't be written
    note    what has happened already: in order, kept and tried again for as long as the trail can't be written
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial

from spreadpilot_core.ibkr.audit.trail import BROKEN, AuditTrail, Mark
from spreadpilot_core.ibkr.errors import AuditError, RecordsLostError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.system.wording import counted
from spreadpilot_core.ibkr.tasks import Tasks, Tell, keep_running, untold
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

RETRY_AFTER = 2.0
"""Seconds between two tries to write what is kept."""
MOST_PENDING = 10_000
"""Lines that wait for a trail that can't be written; later ones are dropped, and their number is written in their place."""
_FAREWELL = 5.0
_GONE = "audit trail"
_GONE_SENTENCE = "Lines of the audit trail are gone or altered; `gateway-manager audit verify` says which."
ACCEPTED = "accept-lost-records"

OPERATOR: ContextVar[str | None] = ContextVar("operator", default=None)
"""Who stands behind the call that is being answered, as `actor` says it; None: whoever uses this manager's API."""


class Auditor:
    """Writes the manager's lines into the trail that couriers and commands write into as well."""

    def __init__(
        self,
        trail: AuditTrail,
        *,
        who: str,
        retry_after: float = RETRY_AFTER,
        limit: int = MOST_PENDING,
        tell: Tell = untold,
    ) -> None:
        self._trail = trail
        self._who = who
        self._retry_after = retry_after
        self._limit = limit
        self._pending: deque[Callable[[], AuditHead]] = deque()
        self._dropped = 0
        self._known: Mark | AuditHead | None = None
        self._tasks = Tasks("auditor")
        self._tell = tell
        self.found_broken = False
        """Lines of the trail were found gone or altered while this manager ran."""
        self.on_written: Callable[[], None] = lambda: None
        """Called when a note is on the disk."""

    @property
    def trail_name(self) -> str:
        """What the record store calls this trail."""
        return self._trail.name

    @property
    def waiting(self) -> int:
        """Lines that are not on the disk yet."""
        return len(self._pending) + self._dropped

    async def newest(self) -> AuditHead | None:
        """The newest line, whoever wrote it; None when there is none.

        That the one known before is gone is written down first: whoever keeps the newest hash alone would never know.

        Raises:
            AuditError: it can't be read now, or that can't be written down.
        """
        return await asyncio.to_thread(self._check_head)

    def recall(self, recorded: AuditHead | None) -> None:
        """Know the line that the record store kept of a manager before this one."""
        self._known = self._known or recorded

    def _check_head(self) -> AuditHead | None:
        if self._known is not None and not self._trail.holds(self._known):
            lost = self._known.head if isinstance(self._known, Mark) else self._known
            log.error("lines of the audit trail are gone or altered", serial=lost.serial, hash=lost.hash)
            detail = f"line {lost.serial}, {lost.hash}, or one before it was removed or altered"
            self.found_broken = True
            self._tell(_GONE, _GONE_SENTENCE)
            self._trail.append(BROKEN, who=self._who, detail=detail)
        mark = self._trail.mark()
        self._known = mark
        return mark.head if mark is not None else None

    async def must_be_first_start(self, *, accepted: bool) -> None:
        """The record store is empty: fine where no password was ever delivered, or an operator takes the loss upon himself.

        Raises:
            RecordsLostError: the trail tells of logins that the store should know.
            AuditError: the trail can't be read, or the operator's word can't be written.
        """
        if not await asyncio.to_thread(tells_of_logins, self._trail):
            return
        if not accepted:
            raise RecordsLostError
        await self.write(ACCEPTED, {"detail": "the record store was empty"})

    async def write(self, act: str, facts: Mapping[str, str | None]) -> None:
        """Write what an operator is about to have done, `facts` as for `note`; it is on the disk when this returns.

        Raises:
            AuditError: it can't be written; what it tells of may not be done.
        """
        await asyncio.to_thread(self._trail.append, act, who=OPERATOR.get() or self._who, outcome="done", **facts)
        self.on_written()

    def note(self, act: str, *, by: str | None = None, outcome: str | None = None, **facts: str | None) -> None:
        """Have a line written about what has happened, by the manager itself if by nobody else. Never raises or blocks."""
        if len(self._pending) >= self._limit:
            self._dropped += 1
            return
        # as the courier's lines, by the host's own clock: a trail whose times somebody may choose proves less
        facts["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._pending.append(partial(self._trail.append, act, who=by or self._who, outcome=outcome or "done", **facts))
        if len(self._tasks) == 0:
            name = "write audit lines"
            self._tasks.begin(name, keep_running(name, self._write_pending, tell=self._tell, may_end=True))

    async def close(self) -> None:
        """Write what is kept, for a few seconds, then let go."""
        await self._tasks.wait(_FAREWELL)
        await self._tasks.cancel()
        if self._pending or self._dropped:
            log.error("audit lines were not written at the end", lines=self.waiting)

    async def _write_pending(self) -> None:
        while self._pending or self._dropped:
            try:
                await asyncio.to_thread(
                    self._pending[0] if self._pending else partial(self._tell_dropped, self._dropped)
                )
            except AuditError as error:
                log.warning("audit lines wait", why=error.what, lines=self.waiting)
                await asyncio.sleep(self._retry_after)
                continue
            if self._pending:
                self._pending.popleft()
            else:
                self._dropped = 0
            self.on_written()

    def _tell_dropped(self, count: int) -> AuditHead:
        return self._trail.append(
            "gap", who=self._who, detail=f"{counted(count, 'line')}, while the trail could not be written"
        )


def tells_of_logins(trail: AuditTrail) -> bool:
    """Whether a password was ever delivered. A loss that an operator took upon himself says nothing of the next one: gateways
    that were adopted after it, and what operators have said since, need no delivery. Raises `AuditError`.
    """
    return any(entry.get("act") == "deliver" for entry in trail.entries())
