"""Two leases in one: which manager of an engine acts, and which engine of those that share records.

The managers of a cluster find out among themselves who of them acts, by a lease that the cluster keeps. But their records may be those
of another engine too: of a second cluster, or of the Docker host that is being left. Its managers see nothing of that lease, and
both engines would log in the same users. So whoever acts here also holds the records' own lease, in the name of the whole engine.

The records' lease decides nothing between two managers of one engine, and its store may be away: what was found out last holds
until it answers again. Only another engine that has taken it, by an operator's word, ends what is done here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spreadpilot_core.ibkr import seams
from spreadpilot_core.ibkr.leadership.lease import Leadership
from spreadpilot_core.ibkr.tasks import Tasks, keep_running

BEING_ASKED = "It is being found out whether another engine acts on the same records."


class LeaseAmongEngines:
    """`seams.LeaderLease` over two others: `here`, kept by the engine, and `records`, held in the engine's name."""

    def __init__(self, here: seams.LeaderLease, records: seams.LeaderLease) -> None:
        self._here, self._records = here, records
        self._tasks = Tasks("leader lease")
        self._asking: asyncio.Task[None] | None = None
        self._of_here: seams.Leadership | None = None
        self._of_records: seams.Leadership | None = None
        self._ours = False
        """Whether no other engine acts on the records, as far as is known."""

    @property
    def held(self) -> bool:
        """Whether this manager may act now."""
        return self._ours and self._here.held

    async def keep(self, on_change: Callable[[seams.Leadership], None], *, take_over: bool = False) -> None:
        """Take, renew, lose, take again, until cancelled."""
        last: seams.Leadership | None = None

        def tell() -> None:
            nonlocal last
            if (leadership := self._leadership()) != last:
                last = leadership
                on_change(leadership)

        def heard_here(leadership: seams.Leadership) -> None:
            self._of_here = leadership
            if leadership.held and self._asking is None:
                self._asking = self._tasks.begin("records", keep_running("hold the records' lease", ask))
            elif not leadership.held and self._asking is not None:
                self._asking.cancel()
                self._forget_records()
            tell()

        async def ask() -> None:
            await self._records.keep(heard_of_records, take_over=take_over)

        def heard_of_records(leadership: seams.Leadership) -> None:
            self._of_records = leadership
            if leadership.is_known:
                self._ours = leadership.held
            tell()

        try:
            await self._here.keep(heard_here, take_over=take_over)
        finally:
            await self._tasks.cancel()
            self._forget_records()

    async def hand_over(self, *, within: float) -> bool:
        """Resign, and say whether another manager of this engine has taken it. Raises `StoreUnavailableError`."""
        return await self._here.hand_over(within=within)

    async def resign(self) -> None:
        """Give both back. Raises `StoreUnavailableError`."""
        try:
            await self._records.resign()  # first, as the next manager here takes it in the same name
        finally:
            await self._here.resign()

    def _forget_records(self) -> None:
        self._asking, self._of_records, self._ours = None, None, False

    def _leadership(self) -> seams.Leadership:
        here, records = self._of_here, self._of_records
        assert here is not None  # it is told first
        if not here.held:
            return here
        if records is None:
            return Leadership(False, 0, None, BEING_ASKED)
        if not self._ours or records.overrode:
            return records
        return here
