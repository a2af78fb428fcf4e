"""What only pods do, seen by supervision in made-up time: they wait for a place, and their end is confirmed late or never."""

from __future__ import annotations

import asyncio
from pathlib import Path

from spreadpilot_core.ibkr.credentials.in_memory import HELD_FOR
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, PASSWORD, world_in
from support.made_up_time import in_made_up_time, until

HOUR = 3600.0


@in_made_up_time
async def test_a_pod_without_a_place_is_given_up_when_something_else_is_wanted(tmp_path: Path) -> None:
    """It could wait for ever: a stop does not; no login is charged, nothing is left."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        world.engine.scheduler.clear()
        async with world.running() as manager:
            await manager.state(State.LAUNCHING)
            await asyncio.sleep(HOUR)
            assert manager.seen().state is State.LAUNCHING
            async with asyncio.timeout(60):
                await manager.stop()
            assert len(world.engine.simulator) == 0
            await until(lambda: world.outcomes("anna") == ["void"], lambda: world.logins("anna"))
            world.engine.scheduler.set()
            await manager.launch()
            await manager.state(State.READY)
        assert world.typed("anna") == 1


@in_made_up_time
async def test_a_pod_on_a_lost_node_is_never_replaced_before_its_end_is_confirmed(tmp_path: Path) -> None:
    """It may be logged in there: hours of asking change nothing; once the node answers, recovery follows by itself."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.engine.nodes.clear()
            manager.inject("freeze")
            await until(lambda: manager.seen().state is not State.READY)
            await asyncio.sleep(6 * HOUR)
            assert (world.typed("anna"), len(world.engine.simulator)) == (1, 1)
            assert "not confirmed" in " ".join(filter(None, [manager.seen().reason, manager.seen().next_action]))
            world.engine.nodes.set()
            await until(lambda: world.typed("anna") == 2, within=HOUR)
            await manager.state(State.READY)
            assert len(world.engine.simulator) == 1


@in_made_up_time
async def test_a_stop_waits_until_the_end_is_confirmed(tmp_path: Path) -> None:
    """What is not known to be gone is not told to be."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.engine.nodes.clear()
            stopping = asyncio.create_task(manager.stop())
            await asyncio.sleep(HOUR)
            assert not stopping.done()
            world.engine.nodes.set()
            await stopping
            assert manager.seen().state is State.STOPPED
            assert ANNA not in manager.fleet.ready


@in_made_up_time
async def test_a_pod_that_outlives_its_ticket_gets_its_password_all_the_same(tmp_path: Path) -> None:
    """A place may come much later than the secret was read: it is read again for the same pod, and one login is all it takes."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        world.engine.scheduler.clear()
        async with world.running() as manager:
            await manager.state(State.LAUNCHING)
            (pod,) = await manager.runtime.list()
            await asyncio.sleep(10 * HELD_FOR)
            world.engine.scheduler.set()
            await manager.state(State.READY)
            assert [each.container_id for each in await manager.runtime.list()] == [pod.container_id]
        assert (world.typed("anna"), len(world.logins("anna"))) == (1, 1)
        assert world.broker.reads == ["ibkr/anna"] * 2


@in_made_up_time
async def test_a_secret_that_changed_while_its_pod_had_no_place_begins_a_launch_of_its_own(tmp_path: Path) -> None:
    """The login was written down for the version before: it ends void, its pod goes, and the new one is typed once."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        world.engine.scheduler.clear()
        async with world.running(secret_poll_interval=24 * HOUR) as manager:
            await manager.state(State.LAUNCHING)
            (pod,) = await manager.runtime.list()
            world.broker.put("ibkr/anna", "user-anna", f"{PASSWORD} new")
            await asyncio.sleep(2 * HELD_FOR)
            world.engine.scheduler.set()
            await manager.state(State.READY)
            assert [each.container_id for each in await manager.runtime.list()] != [pod.container_id]
        assert (world.typed("anna"), world.outcomes("anna")[0]) == (1, "void")
        assert world.logins("anna")[0].secret_version != world.logins("anna")[1].secret_version


@in_made_up_time
async def test_secrets_that_are_away_when_a_pod_has_its_place_cost_no_login(tmp_path: Path) -> None:
    """Nothing was sent: the login ends void, nothing is left, and the launch is made anew once they are back."""
    async with world_in(tmp_path, pods=True) as world:
        world.add("anna")
        world.engine.scheduler.clear()
        async with world.running() as manager:
            await manager.state(State.LAUNCHING)
            await asyncio.sleep(2 * HELD_FOR)
            world.broker.is_away = True
            world.engine.scheduler.set()
            await until(lambda: world.outcomes("anna") == ["void"], lambda: world.logins("anna"))
            await until(lambda: len(world.engine.simulator) == 0)
            assert "away" in str(manager.seen().reason)
            world.broker.is_away = False
            await manager.state(State.READY)
        assert world.typed("anna") == 1
