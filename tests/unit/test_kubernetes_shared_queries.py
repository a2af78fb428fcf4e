"""Looks that launches share: one answers many, and none is answered by what was found before it asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from spreadpilot_core.ibkr.errors import LaunchError, RuntimeUnavailableError
from spreadpilot_core.ibkr.kubernetes.shared_queries import SharedQueries


class Cluster:
    """Each look finds how often was looked before; it takes as long as the test says."""

    def __init__(self) -> None:
        self.looks: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.fault: Exception | None = None

    async def look(self, keys: Sequence[str]) -> Mapping[str, int]:
        """One request."""
        self.looks.append(list(keys))
        number = len(self.looks)
        await self.may_answer.wait()
        if self.fault is not None:
            raise self.fault
        return dict.fromkeys(keys, number)


async def test_all_who_ask_at_once_are_answered_together_and_who_asks_later_by_a_later_look() -> None:
    """A look that has begun may not see what was made since."""
    cluster = Cluster()
    looks = SharedQueries("test", cluster.look)
    first = [asyncio.create_task(looks.at(f"user{each}")) for each in range(20)]
    while not cluster.looks:
        await asyncio.sleep(0)
    later = [asyncio.create_task(looks.at("user0")) for _ in range(3)]
    await asyncio.sleep(0)
    cluster.may_answer.set()
    assert {await each for each in first} == {1}
    assert {await each for each in later} == {2}
    assert cluster.looks == [[f"user{each}" for each in range(20)], ["user0"]]
    assert await looks.at("user0") == 3


async def test_so_many_that_no_address_holds_them_take_several() -> None:
    """Nobody is left out."""
    cluster = Cluster()
    cluster.may_answer.set()
    looks = SharedQueries("test", cluster.look)
    await asyncio.gather(*(looks.at(f"user{each}") for each in range(120)))
    assert [len(each) for each in cluster.looks] == [50, 50, 20]


async def test_who_is_cancelled_takes_the_answer_from_nobody() -> None:
    """Also where it was the one who asked first."""
    cluster = Cluster()
    looks = SharedQueries("test", cluster.look)
    first, second = (asyncio.create_task(looks.at("user")) for _ in range(2))
    while not cluster.looks:
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    cluster.may_answer.set()
    assert await second == 1


async def test_a_look_that_fails_is_told_to_all_who_asked_and_the_next_one_is_another() -> None:
    """Nothing is remembered of it."""
    cluster = Cluster()
    cluster.may_answer.set()
    cluster.fault = LaunchError("no")
    looks = SharedQueries("test", cluster.look)
    answers = await asyncio.gather(*(looks.at(name) for name in ("a", "b")), return_exceptions=True)
    assert [type(each) for each in answers] == [LaunchError, LaunchError]
    cluster.fault = None
    assert await looks.at("a") == 2


async def test_who_waits_is_told_that_the_runtime_was_closed() -> None:
    """Those that are being looked at, and those that come after."""
    cluster = Cluster()
    looks = SharedQueries("test", cluster.look)
    first = asyncio.create_task(looks.at("a"))
    while not cluster.looks:
        await asyncio.sleep(0)
    second = asyncio.create_task(looks.at("b"))
    await asyncio.sleep(0)
    await looks.close()
    for each in (first, second):
        with pytest.raises(RuntimeUnavailableError, match="closed"):
            await each
