from __future__ import annotations

import asyncio
from collections import Counter

from spreadpilot_core.ibkr.tasks import FewPerIteration


async def test_those_woken_together_go_a_few_at_once_in_order_with_the_loop_serving_others_in_between() -> None:
    """Fifty tasks wait for one event: no iteration of the loop has more than four of them, and none is left idle."""
    passes, woken, iteration = FewPerIteration(4), asyncio.Event(), 0
    turns: list[tuple[int, int]] = []

    async def work(number: int) -> None:
        await woken.wait()
        await passes.enter()
        turns.append((iteration, number))

    async def count_iterations() -> None:
        nonlocal iteration
        while True:
            iteration += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_iterations())
    works = [asyncio.create_task(work(number)) for number in range(50)]
    await asyncio.sleep(0)
    woken.set()
    await asyncio.gather(*works)
    counting.cancel()

    assert [number for _, number in turns] == list(range(50))
    in_each = Counter(iteration for iteration, _ in turns)
    assert max(in_each.values()) == 4
    assert len(in_each) == 13


async def test_waits_that_are_cancelled_leave_their_turns_to_others() -> None:
    """Of ten that wait, those that are cancelled before their turn or in the moment of it hold nobody up."""
    passes = FewPerIteration(1)
    took: list[int] = []

    async def take(number: int) -> None:
        await passes.enter()
        took.append(number)

    taking = [asyncio.create_task(take(number)) for number in range(10)]
    await asyncio.sleep(0)
    for each in taking[1:5]:
        each.cancel()
    await asyncio.sleep(0)
    taking[5].cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*taking, return_exceptions=True)

    assert took[0] == 0
    assert took[-4:] == [6, 7, 8, 9]
    assert not any(each.cancelled() for each in taking[6:])


async def test_one_that_comes_later_and_alone_goes_at_once() -> None:
    """After the crowd has gone nothing is left that would hold anybody back."""
    passes = FewPerIteration(2)
    await asyncio.gather(*(passes.enter() for _ in range(7)))
    for _ in range(3):
        await asyncio.sleep(0)
    alone = passes.enter()
    try:
        alone.send(None)  # it does not wait
    except StopIteration:
        return
    raise AssertionError("it waited")
