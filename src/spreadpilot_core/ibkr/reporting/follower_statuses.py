"""Shows beside each follower's record how its gateway stands, where the follower store can: coalesced, and by the leader alone.

What can't be written is told, tried again and waited for by nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from spreadpilot_core.ibkr.errors import StoreUnavailableError, UnavailableError, UnknownFollowerError
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.seams import FollowerStatuses
from spreadpilot_core.ibkr.tasks import Backoff, Tasks, Tell, keep_running, wait_for

AT_MOST_EVERY = 0.5
"""Seconds: what changes within them is written once."""
AT_ONCE = 8
"""Requests."""
LAST_WRITE = 5.0
"""Seconds that the end waits for it."""
_RETRY_FIRST, _RETRY_CAP = 2.0, 30.0
_CAUSE = "follower status"


class FollowerStatusReporter:
    """Of one fleet."""

    def __init__(
        self,
        statuses: FollowerStatuses,
        may_write: Callable[[], bool],
        followers: Callable[[], Collection[str]],
        snapshot: Callable[[str], GatewaySnapshot],
        *,
        tell: Tell,
        compare_every: float,
    ) -> None:
        """Args:
        statuses: where it is shown.
        may_write: whether this manager acts, and knows what runs; what an earlier one wrote stays until then.
        followers: everybody there is something to say of.
        snapshot: what; raises `UnknownFollowerError`.
        tell: gets notices.
        compare_every: seconds between two comparisons with all that is shown.
        """
        self._statuses = statuses
        self._may_write = may_write
        self._followers = followers
        self._snapshot = snapshot
        self._tell = tell
        self._compare_every = compare_every
        self._due: set[str] = set()
        self._is_due = asyncio.Event()
        self._tasks = Tasks("follower statuses")

    def begin(self) -> None:
        """Start writing."""
        name = "write the status of followers"
        self._tasks.begin(name, keep_running(name, self._run, tell=self._tell))

    async def close(self) -> None:
        """Write what is due once more, then end."""
        await self._tasks.cancel()
        try:
            async with asyncio.timeout(LAST_WRITE):
                await self._write()
        except (UnavailableError, TimeoutError) as error:
            self._tell(_CAUSE, _sentence(error))

    def changed(self, follower_id: str) -> None:
        """Something of this one may be otherwise."""
        self._due.add(follower_id)
        self._is_due.set()

    def all_changed(self) -> None:
        """Of everybody."""
        self._due.update(self._followers())
        self._is_due.set()

    async def _run(self) -> None:
        backoff = Backoff(_RETRY_FIRST, _RETRY_CAP)
        while True:
            if not await wait_for(self._is_due, within=self._compare_every):
                self.all_changed()
            await asyncio.sleep(AT_MOST_EVERY)
            try:
                await self._write()
            except UnavailableError as error:
                self._tell(_CAUSE, _sentence(error))
                await asyncio.sleep(backoff.next())
            else:
                self._tell(_CAUSE, None)
                backoff.reset()

    async def _write(self) -> None:
        """All that is due. Raises `UnavailableError`; what was not written stays due."""
        if not self._may_write():
            return
        due, self._due = self._due, set()
        self._is_due.clear()
        limit, failures = asyncio.Semaphore(AT_ONCE), list[UnavailableError]()

        async def write(follower_id: str) -> None:
            async with limit:
                if failures:  # it is away: the others would only wait for that too
                    self.changed(follower_id)
                    return
                try:
                    await self._statuses.write_status(self._snapshot(follower_id))
                except UnknownFollowerError:
                    pass
                except UnavailableError as error:
                    failures.append(error)
                    self.changed(follower_id)

        try:
            await asyncio.gather(*(write(each) for each in sorted(due)))
        except BaseException:
            self._due |= due  # cut short by the end, which writes it once more, or by what begins it anew
            self._is_due.set()
            raise
        if failures:
            raise failures[0]


def _sentence(error: Exception) -> str:
    why = str(error) if isinstance(error, StoreUnavailableError) else f"it took longer than {LAST_WRITE:g} s."
    return f"The status of followers can't be written beside their records: {why}"
