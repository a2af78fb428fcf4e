"""The one place that creates tasks: each has a name, an owner, and a failure that is told at once.

A `TaskGroup` would cancel siblings when one fails; here one follower's failure must never touch another's, so an owner
holds a `Tasks` and decides. Stopping has stages: the owner asks (an event of its own), waits, then calls `cancel()`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Tasks:
    """The tasks of one owner."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return sum(not task.done() for task in self._running)  # one that is over stays until its callbacks have run

    def begin(
        self, name: str, work: Coroutine[Any, Any, T], *, then: Callable[[asyncio.Task[T]], None] | None = None
    ) -> asyncio.Task[T]:
        """Start `work` as the task "owner: name"; `then` is called when it ends, however it ends.

        With a `then` the owner looks at the outcome itself; without one a failure is logged here, at once.
        """
        task = asyncio.create_task(work, name=f"{self._owner}: {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(then if then is not None else _tell_failure)
        return task

    async def cancel(self) -> None:
        """Cancel what still runs and wait until it has ended; a task that fails while ending is logged."""
        while self._running:
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # a stage of stopping, not a deadline
        """Wait until all have ended by themselves, at most `timeout` seconds; False when some still run."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)
        return not self._running


async def arrives(event: asyncio.Event, *, within: float) -> bool:
    """Wait until the event is set; False after `within` seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()
    return event.is_set()


def _tell_failure(task: asyncio.Task[Any]) -> None:
    if task.cancelled():
        return
    if error := task.exception():
        with contextlib.suppress(OSError):  # whoever read the log may be gone
            log.error("task failed", task=task.get_name(), exc_info=error)
