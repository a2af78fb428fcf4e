"""A manager that dies at any moment, in made-up time: the next one finds what it needs, and no login is typed twice for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import MadeUpManager, World, world_in
from support.made_up_time import in_made_up_time, until

HOUR = 3600.0
SHAPES = pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])


async def die(manager: MadeUpManager) -> None:
    """All its tasks end at once, as with its process; what it would still have done is not done."""
    me = asyncio.current_task()
    dying = [task for task in asyncio.all_tasks() if task is not me and "simulat" not in name_of(task)]
    for task in dying:
        task.cancel()
    await asyncio.gather(*dying, return_exceptions=True)
    await manager.close()


async def launch_and_die(world: World, moment: int) -> None:
    """A manager that dies after so many turns of the loop."""
    manager = world.manager()
    manager.fleet.begin()
    for _ in range(moment):
        await asyncio.sleep(0)
    await die(manager)


def name_of(task: asyncio.Task[object]) -> str:
    """The simulator's own tasks go on: they are IBKR and the engine."""
    where = task.get_coro().__qualname__  # type: ignore[union-attr]  # every coroutine has one
    return (
        f"simulator {task.get_name()}"
        if where.startswith(("Container.", "MemoryPort.", "Engine.", "InMemoryEngine."))
        else where
    )


@SHAPES
@in_made_up_time
async def test_killed_at_any_moment_of_a_launch(tmp_path: Path, pods: bool) -> None:
    """The next manager gets it ready; never two gateways; every login that was typed is written down, and none is left open."""
    met = set()
    for moment in range(0, 100, 2):
        async with world_in(tmp_path / str(moment), pods=pods) as world:
            world.add("anna")
            await launch_and_die(world, moment)
            met.add(
                (
                    len(world.logins("anna")),
                    len(world.engine.simulator),
                    any(each.started_at for each in world.logins("anna")),
                )
            )
            await must_recover(world)
    assert met >= {(0, 0, False), (1, 0, False), (1, 1, False), (1, 1, True)}, "each step of a launch was met"


@SHAPES
@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0])
@in_made_up_time
async def test_killed_at_any_moment_of_a_login(tmp_path: Path, pods: bool, seconds: float) -> None:
    """The same, while the controller types, IBKR thinks, and the client connects."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        manager = world.manager()
        manager.fleet.begin()
        await asyncio.sleep(seconds)
        await die(manager)
        await must_recover(world)


async def must_recover(world: World) -> None:
    """What the next manager makes of it."""
    async with world.running() as successor:
        await successor.state(State.READY)
        assert len(world.engine.simulator) == 1
        await until(lambda: None not in world.outcomes("anna"), lambda: world.logins("anna"))
        charged = [each for each in world.outcomes("anna") if each != "void"]
        assert len(charged) >= world.typed("anna")
        assert world.typed("anna") <= 2


@SHAPES
@in_made_up_time
async def test_a_container_that_a_dead_managers_request_makes_late_is_found(tmp_path: Path, pods: bool) -> None:
    """The successor has launched in vain by then, and written that launch down: the name is taken by one of an earlier launch."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        world.engine.creations.clear()
        manager = world.manager()
        manager.fleet.begin()
        await until(lambda: bool(world.engine.held))
        await die(manager)
        async with world.running() as successor:
            await until(lambda: "already" in (successor.seen().reason or ""), within=HOUR)
            await asyncio.sleep(300)
            assert len(world.engine.simulator) == 0
            world.engine.creations.set()
            await successor.state(State.READY)
            assert (len(world.engine.simulator), world.typed("anna")) == (1, 1)
