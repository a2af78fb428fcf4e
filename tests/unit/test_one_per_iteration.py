from __future__ import annotations

import asyncio

import pytest

from spreadpilot_core.ibkr.tasks import OnePerIteration


async def test_those_woken_together_go_one_by_one_with_the_loop_serving_others_in_between() -> None:
    """Fifty tasks wait for one event: in no round of the loop two of them have their turn."""
    one_per_iteration, woken, rounds = OnePerIteration(), asyncio.Event(), 0
    turn_in_round: list[int] = []

    async def work() -> None:
        await woken.wait()
        async with one_per_iteration:
            turn_in_round.append(rounds)

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_rounds())
    works = [asyncio.create_task(work()) for _ in range(50)]
    await asyncio.sleep(0)
    woken.set()
    await asyncio.gather(*works)
    counting.cancel()

    assert len(turn_in_round) == 50
    assert len(set(turn_in_round)) == 50


async def test_a_turn_that_fails_and_a_wait_that_is_cancelled_leave_the_turns_to_others() -> None:
    """Neither an error inside nor a cancellation while waiting keeps anybody from their turn."""
    one_per_iteration = OnePerIteration()

    async def fail() -> None:
        async with one_per_iteration:
            raise LookupError("inside")

    async def take() -> bool:
        async with one_per_iteration:
            return True

    failing, waiting = asyncio.create_task(fail()), asyncio.create_task(take())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(LookupError, match="inside"):
        await failing
    async with asyncio.timeout(5):
        assert await take()
    assert waiting.cancelled()
