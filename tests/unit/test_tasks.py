"""The one place that creates tasks."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from spreadpilot_core.ibkr.tasks import Tasks, side_by_side, to_its_end


async def test_a_task_that_is_over_is_not_counted_even_before_its_callbacks_have_run() -> None:
    """Whoever begins a writer when none runs must not rely on one that has just ended."""
    tasks = Tasks("test")
    counted: list[int] = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(lambda: counted.append(len(tasks)))  # before the task's own callbacks

    task = tasks.begin("work", work())
    assert len(tasks) == 1
    await task
    await asyncio.sleep(0)

    assert counted == [0]


async def test_cancel_ends_everything_and_waits_for_it() -> None:
    """Also what the ending itself begins."""
    tasks, ended = Tasks("test"), []

    async def sleeper(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)
            if name == "first":
                tasks.begin("second", sleeper("second"))
                await asyncio.sleep(0)

    tasks.begin("first", sleeper("first"))
    await asyncio.sleep(0)
    await tasks.cancel()

    assert ended[0] == "first"
    assert len(tasks) == 0


@pytest.mark.timeout(30)
async def test_cancel_ends_when_the_last_task_ended_in_the_same_breath() -> None:
    """Whoever waited for a task's last act finds it over while its callbacks have still to run."""
    tasks, done, told = Tasks("test"), asyncio.Event(), []

    async def work() -> None:
        done.set()

    tasks.begin("work", work(), then=lambda task: told.append(task.get_name()))
    await done.wait()
    await tasks.cancel()

    assert told == ["test: work"]
    assert len(tasks) == 0


@pytest.mark.parametrize("ending", [lambda: asyncio.sleep(60), lambda: asyncio.Event().wait()], ids=["sleep", "event"])
async def test_cancel_ends_a_task_that_swallows_its_cancellation(ending: Callable[[], Awaitable[object]]) -> None:
    """A library that loses one cancellation doesn't make the manager unstoppable."""
    tasks, swallowed = Tasks("test"), 0

    async def stubborn() -> None:
        nonlocal swallowed
        for _ in range(3):
            try:
                await ending()
            except asyncio.CancelledError:
                swallowed += 1

    tasks.begin("stubborn", stubborn())
    await asyncio.sleep(0)
    await tasks.cancel(again_after=0.01)

    assert swallowed == 3
    assert len(tasks) == 0


async def test_cancel_leaves_a_task_the_time_that_its_owner_says_for_an_orderly_end() -> None:
    """It is not cancelled a second time while it cleans up."""
    tasks, cleaned = Tasks("test"), []

    async def orderly() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            cleaned.append(True)

    tasks.begin("orderly", orderly())
    await asyncio.sleep(0)
    await tasks.cancel(again_after=60)

    assert cleaned == [True]


async def test_wait_also_waits_for_what_is_begun_meanwhile() -> None:
    """A task that begins its successor in its last act is not taken for the end."""
    tasks, ended = Tasks("test"), []

    async def successor() -> None:
        await asyncio.sleep(0)
        ended.append("successor")

    async def first() -> None:
        tasks.begin("successor", successor())

    tasks.begin("first", first())

    assert await tasks.wait(60)
    assert ended == ["successor"]


async def test_wait_tells_whether_all_have_ended() -> None:
    """A stage of stopping: waited for at most so long."""
    tasks, go = Tasks("test"), asyncio.Event()

    async def work() -> None:
        await go.wait()

    assert await tasks.wait(0)
    tasks.begin("work", work())
    assert not await tasks.wait(0.01)
    go.set()
    assert await tasks.wait(10)


async def test_what_must_not_stop_half_way_ends_and_its_caller_is_cancelled_then() -> None:
    """However often its caller is cancelled; and a failure of it, or what it gives, is the caller's."""
    done: list[str] = []

    async def work() -> str:
        await asyncio.sleep(0.05)
        done.append("done")
        return "given"

    caller = asyncio.create_task(to_its_end(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == ["done"]
    assert await to_its_end(work()) == "given"
    with pytest.raises(ZeroDivisionError):
        await to_its_end(_fails())


async def _fails() -> None:
    raise ZeroDivisionError


async def test_side_by_side_gives_what_each_brings() -> None:
    """In their order, whichever ends first."""

    async def bring(what: str, after: float) -> str:
        await asyncio.sleep(after)
        return what

    assert await side_by_side("test", first=bring("a", 0.02), second=bring("b", 0)) == ["a", "b"]


async def test_the_first_that_fails_side_by_side_cuts_the_others_short(caplog: pytest.LogCaptureFixture) -> None:
    """Their own ends are waited for."""
    ended: list[str] = []

    async def last() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append("last")

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await side_by_side("test", failing=fail(), too=fail(), lasting=last())
    assert ended == ["last"]
    gc.collect()  # a failure that nobody looked at would be told now
    assert "never retrieved" not in caplog.text
