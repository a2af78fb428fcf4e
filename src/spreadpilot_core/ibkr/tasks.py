"""The one place that creates tasks, and what every loop does alike: begin again, try until it works, take turns.

Each task has a name, an owner, and a failure that is told at once.

A `TaskGroup` would cancel siblings when one fails; here one follower's failure must never touch another's, so an owner
holds a `Tasks` and decides. Stopping has stages: the owner asks (an event of its own), waits, then calls `cancel()`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from spreadpilot_core.ibkr.errors import GatewayManagerError
from spreadpilot_core.ibkr.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")

Tell = Callable[[str, str | None], None]
"""Takes a cause and the sentence that stands for it until it is told None."""

RETRY_FIRST, RETRY_CAP = 0.5, 15.0
"""Seconds before what failed is tried again, doubling from the first to the cap."""
STEADY = 3.0
"""Seconds after which work that began again counts as mended."""
_LONGEST_WHY = 200
CANCELLED_AGAIN_AFTER = 1.0
"""Seconds; what a task does at its end takes milliseconds."""


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

    async def cancel(self, *, again_after: float = CANCELLED_AGAIN_AFTER) -> None:
        """Cancel what still runs and wait until it has ended; a task that fails while ending is logged.

        Args:
            again_after: seconds until a task that has not ended is cancelled once more. A cancellation can be lost in
                somebody's library; a task whose own orderly end takes longer needs an owner that says so here.
        """
        while self._running:
            for task in self._running:
                task.cancel()
            # Unlike `gather` since Python 3.12, this lets the loop run also when all are over already: only then do
            # their callbacks empty the set.
            await asyncio.wait(self._running, timeout=again_after)

    async def wait(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # a stage of stopping, not a deadline
        """Wait until all have ended by themselves, also those begun meanwhile, at most `timeout` seconds.

        Returns:
            False when some still run.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._running:
                    await asyncio.wait(self._running)
        return len(self) == 0


def untold(_cause: str, _sentence: str | None) -> None:
    """Where nobody is to be told."""


class Backoff:
    """The pauses between tries, in seconds: doubling from the first to the cap."""

    def __init__(self, first: float, cap: float) -> None:
        self._first, self._cap = first, cap
        self._next = first

    def next(self) -> float:
        """How long to wait now."""
        pause, self._next = self._next, min(self._cap, 2 * self._next)
        return pause

    def reset(self) -> None:
        """It went well: the next pause is the first again."""
        self._next = self._first


async def retry_until_available(
    what: str,
    work: Callable[[], Awaitable[T]],
    tell: Tell,
    *,
    on_failure: Callable[[str], None] | None = None,
    sooner: asyncio.Event | None = None,
) -> T:
    """What `work` answers, once it does. Whatever goes wrong is tried again, a refusal and a defect of ours included:
    a loop of the fleet that ended would leave every gateway unwatched, and nobody would notice.

    Args:
        what: what may be away, as the notice names it: "record store".
        work: one try.
        tell: gets the notice, once per cause, and None when it is there.
        on_failure: gets the sentence of every failure.
        sooner: set by whoever hears of its return; cuts a pause short.
    """
    backoff = Backoff(RETRY_FIRST, RETRY_CAP)
    while True:
        try:
            found = await work()
        except GatewayManagerError as error:
            sentence = str(error)
        except Exception as bug:
            with contextlib.suppress(OSError):  # whoever read the log may be gone
                log.exception("failed in a way nobody foresaw", what=what)
            sentence = f"The {what} can't be used: {bug!r}."
        else:
            tell(what, None)
            return found
        tell(what, sentence)
        if on_failure is not None:
            on_failure(sentence)
        await asyncio.sleep(RETRY_FIRST)
        await wait_for(sooner or asyncio.Event(), within=backoff.next() - RETRY_FIRST)
        if sooner is not None:
            sooner.clear()


async def keep_running(
    what: str, work: Callable[[], Coroutine[Any, Any, None]], *, tell: Tell = untold, may_end: bool = False
) -> None:
    """Do background work that must not end: whatever ends it is told, and it begins again after a pause.

    Args:
        what: says in the notice what it does: "write mappings and history".
        work: does it; called anew each time.
        tell: gets the notice, and None once the work has gone well for a while.
        may_end: the work has an end of its own; else a normal end is a failure too.
    """
    loop = asyncio.get_running_loop()
    backoff = Backoff(RETRY_FIRST, RETRY_CAP)
    while True:
        began = loop.time()
        steady = loop.call_later(STEADY, tell, what, None)
        try:
            await work()
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise
            why = "something that it waits for was cancelled"  # not we: that ends no work of ours
        except Exception as error:  # noqa: BLE001  # a task's boundary
            why = _log_cause(what, error)
        else:
            if may_end:
                tell(what, None)
                return
            why = "it ended, which it never should"
        finally:
            steady.cancel()
        with contextlib.suppress(OSError):  # whoever read the log may be gone
            log.warning("background work begins again", work=what, why=why)
        tell(what, f"The manager's work to {what} failed and begins again: {why}.")
        if loop.time() - began >= STEADY:
            backoff.reset()
        await asyncio.sleep(backoff.next())


async def side_by_side(owner: str, **work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What each of these brings; the first that fails cuts the others short, and is raised once those have ended."""
    tasks = Tasks(owner)
    begun = [tasks.begin(name, each, then=_awaited) for name, each in work.items()]
    try:
        await asyncio.wait(begun, return_when=asyncio.FIRST_EXCEPTION)
        failed = [each for each in begun if each.done() and (each.cancelled() or each.exception() is not None)]
        return [each.result() for each in failed or begun]
    finally:
        await tasks.cancel()


def _awaited(task: asyncio.Task[Any]) -> None:
    """Who awaits it sees its outcome, or that of one that failed before."""
    if not task.cancelled():
        task.exception()


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do what must not stop half-way: who is cancelled meanwhile waits for its end all the same, and is cancelled then."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        _tell_failure(task)
        raise cancelled
    return task.result()


def is_being_cancelled() -> bool:
    """Whether this task itself was asked to end; else a `CancelledError` comes from what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _log_cause(what: str, error: Exception) -> str:
    """Why, in short; the whole of it goes to the log."""
    with contextlib.suppress(OSError):  # whoever read the log may be gone
        log.error("background work failed", work=what, exc_info=error)
    why = (str(error) if isinstance(error, GatewayManagerError) else repr(error)).rstrip(".")
    return why if len(why) <= _LONGEST_WHY else f"{why[: _LONGEST_WHY - 1]}…"


async def wait_for(event: asyncio.Event, *, within: float) -> bool:
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


class FewPerIteration:
    """Await `enter()` before work that does not wait: so many of them in one iteration of the event loop, the others in the next ones.

    When one event wakes hundreds of supervisors (every socket closed at once), each makes a pass within a millisecond,
    and all of them in one iteration: nothing else is served until the last has. One in each iteration would cost
    hundreds of iterations, and each asks for every socket. They go in the order in which they came; alone, it costs nothing.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._will_renew = False

    async def enter(self) -> None:
        """Return in an iteration that has room."""
        loop = asyncio.get_running_loop()
        if not self._will_renew:
            self._will_renew = True
            loop.call_soon(self._renew)
        if self._left and not self._waiting:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine  # cancelled after it was let go, its place in this iteration is lost, and no other's

    def _renew(self) -> None:
        self._left = self._most
        while self._left and self._waiting:
            if not (first := self._waiting.popleft()).done():
                first.set_result(None)
                self._left -= 1
        self._will_renew = self._left < self._most
        if self._will_renew:
            asyncio.get_running_loop().call_soon(self._renew)
