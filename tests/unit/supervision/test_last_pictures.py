"""When the last picture of a gateway's screen is taken, in made-up time: before one is given up, and never at the cost of a login."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.deciding.removing import PICTURE_WITHIN
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, MadeUpManager, World, world_in
from support.made_up_time import in_made_up_time, until

HANGS = {"login_hangs": True, "forever": True}
REJECTED = {"wrong_password": True, "forever": True}
HOUR = 3600.0


@asynccontextmanager
async def world_with_screens(directory: Path) -> AsyncIterator[World]:
    async with world_in(directory) as world:
        world.add("anna")
        world.shows_screens = True
        yield world


async def removed(manager: MadeUpManager) -> float:
    """Wait for the end of the first gateway; when it was."""
    engine = manager.world.engine
    await until(lambda: bool(engine.typed) and len(engine.simulator) == 0, manager.seen, within=HOUR)
    return asyncio.get_running_loop().time()


@in_made_up_time
async def test_a_gateway_that_is_given_up_leaves_a_picture_of_its_running_screen(tmp_path: Path) -> None:
    """A login that hangs: it is taken while the gateway still runs, one for each gateway."""
    async with world_with_screens(tmp_path) as world:
        world.script("anna", HANGS, controller="ibc")
        async with world.running(login_budget=2) as manager:
            await until(lambda: manager.seen().reason_code is ReasonCode.LOGIN_BUDGET_SPENT, manager.seen, within=HOUR)
        assert world.pictures.taken == [(ANNA, True)] * world.typed("anna") == [(ANNA, True)] * 2


@in_made_up_time
async def test_none_is_taken_of_what_an_operator_ends(tmp_path: Path) -> None:
    """Nor of one whose record was disabled, nor at the manager's end: nobody gave those up."""
    async with world_with_screens(tmp_path) as world:
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.restart()
            await manager.state(State.READY)
            await manager.stop()
            await manager.launch()
            await manager.state(State.READY)
            world.change("anna", enabled=False)
            await manager.state(State.DISABLED)
        assert world.pictures.begun == []


@in_made_up_time
async def test_none_is_taken_where_no_screen_is_shown(tmp_path: Path) -> None:
    """`vnc` is off by default."""
    async with world_with_screens(tmp_path) as world:
        world.shows_screens = False
        world.script("anna", HANGS, controller="ibc")
        async with world.running() as manager:
            await removed(manager)
        assert world.pictures.begun == []


@in_made_up_time
async def test_a_screen_that_does_not_answer_delays_the_end_by_a_few_seconds(tmp_path: Path) -> None:
    """And no more: the removal begins when the time for the picture is over."""
    times = []
    for directory, seconds in ((tmp_path / "fast", 0.0), (tmp_path / "never", HOUR)):
        async with world_with_screens(directory) as world:
            world.script("anna", HANGS, controller="ibc")
            world.pictures.seconds = seconds
            begun = asyncio.get_running_loop().time()
            async with world.running() as manager:
                times.append(await removed(manager) - begun)
            assert len(world.pictures.taken) == (1 if not seconds else 0)
    assert times[1] - times[0] == pytest.approx(PICTURE_WITHIN, abs=1)


@in_made_up_time
async def test_a_refused_login_ends_at_once_whatever_its_screen_does(tmp_path: Path) -> None:
    """Each second is one in which its controller may type again: what comes during the removal is kept, nothing is waited for."""
    times, begun_of = [], []
    for directory, shows in ((tmp_path / "without", False), (tmp_path / "with", True)):
        async with world_with_screens(directory) as world:
            world.shows_screens = shows
            world.script("anna", REJECTED, controller="ibc")
            world.pictures.seconds = HOUR
            begun = asyncio.get_running_loop().time()
            async with world.running() as manager:
                times.append(await removed(manager) - begun)
                shown = await manager.state(State.NEEDS_HUMAN)
            assert shown.reason_code is ReasonCode.PASSWORD_REJECTED
            assert (world.typed("anna"), world.pictures.taken) == (1, [])
            begun_of.append(world.pictures.begun)
    assert begun_of == [[], [(ANNA, True)]]
    assert times[1] == pytest.approx(times[0], abs=0.01)


@in_made_up_time
async def test_who_stops_a_gateway_waits_for_no_picture(tmp_path: Path) -> None:
    """What is wanted now cuts the wait short, as it does with all that a gateway does."""
    async with world_with_screens(tmp_path) as world:
        world.script("anna", HANGS, controller="ibc")
        world.pictures.seconds = HOUR
        async with world.running() as manager:
            await until(lambda: bool(world.pictures.begun), manager.seen, within=HOUR)
            begun = asyncio.get_running_loop().time()
            await manager.stop()
            assert asyncio.get_running_loop().time() - begun < PICTURE_WITHIN / 2
