"""The one place that creates tasks."""

from __future__ import annotations

import asyncio

from spreadpilot_core.ibkr.tasks import Tasks


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
