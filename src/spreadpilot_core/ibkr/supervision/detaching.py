"""What a detach waits for: logins that are under way end, since afterwards only their containers' own guards watch them.

    a manager stands by     it gets the leader lease, and nobody waits
    a login under way       has `detach_wait` to end
    one that loops          is removed
    one that typed once     is left to its container's guard

It gives its supervisors what is wanted and reads what they have seen; the fleet owns them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from spreadpilot_core.ibkr.deciding.observation import Wanted
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import Reason, ReasonCode
from spreadpilot_core.ibkr.supervision.supervisor import GatewaySupervisor
from spreadpilot_core.ibkr.tasks import Tasks, wait_for
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

POLL_EVERY = 0.1
REMOVED_WITHIN = 15.0
"""Seconds that the removal of a looping login may take: it is not logged in, so that nothing has to be closed tidily."""


class Detaching:
    """One detach, from its beginning until nothing is left to wait for."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._hurried = asyncio.Event()
        self._tasks = Tasks("detach")
        self._running: asyncio.Task[Sequence[str]] | None = None

    def hurry(self) -> None:
        """Wait no longer."""
        self._hurried.set()

    async def run(
        self, supervisors: Mapping[FollowerId, GatewaySupervisor], hand_over: Callable[[], Awaitable[bool]]
    ) -> Sequence[str]:
        """Let the logins end; of several callers all get the same sentences."""
        if self._running is None:
            self._running = self._tasks.begin("let logins end", self._let_end(supervisors, hand_over))
        return await asyncio.shield(self._running)

    async def _let_end(
        self, supervisors: Mapping[FollowerId, GatewaySupervisor], hand_over: Callable[[], Awaitable[bool]]
    ) -> Sequence[str]:
        if await hand_over():
            return ()
        waited_for = [each for each in supervisors.values() if each.has_login_under_way]
        for each in waited_for:
            log.info("a login is waited for", follower=each.follower_id, at_most=self._wait)
        await self._until(lambda: not any(each.has_login_under_way for each in waited_for), self._wait)
        looping = [each for each in waited_for if each.has_login_under_way and each.login_loops]
        for each in looping:
            loops = Reason(ReasonCode.MANAGER_DETACHING, "Its login loops, and the manager detaches.")
            each.want(Wanted.SHUTDOWN, loops)
        await self._until(lambda: all(each.is_gone for each in looping), REMOVED_WITHIN)
        sentences = [sentence for each in waited_for if (sentence := _outcome_of(each)) is not None]
        for sentence in sentences:
            log.warning("login left", sentence=sentence)
        return sentences

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until the condition holds, the time is over, or somebody hurries."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not condition() and loop.time() < deadline:
            if await wait_for(self._hurried, within=min(POLL_EVERY, seconds)):
                return


def _outcome_of(supervisor: GatewaySupervisor) -> str | None:
    """What became of a login that was waited for; None when it succeeded."""
    who = supervisor.follower_id
    if supervisor.is_gone:
        why = supervisor.facts.record.last_reason or ""
        return f"{who}: its login did not succeed and its container was removed. {why}".rstrip()
    if not supervisor.has_login_under_way:
        return None
    return f"{who}: its login is still under way; should it loop, its container's own guard ends it."
