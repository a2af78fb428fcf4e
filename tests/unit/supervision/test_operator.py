"""What operators ask for, in made-up time: stop, launch, restart, and one word that overtakes another."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import GatewayManagerError, LaunchError, LoginRefusedError
from spreadpilot_core.ibkr.model.events import ConnectionLost
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import ReasonCode, Severity
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, World, world_in
from support.made_up_time import in_made_up_time, until

HOUR = 3600.0


@in_made_up_time
async def test_a_stop_is_remembered_until_a_launch(tmp_path: Path) -> None:
    """Also by the next manager; a launch takes it back for good."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.stop()
            assert len(world.engine.simulator) == 0
            assert manager.seen().state is State.STOPPED
        async with world.running() as manager:
            await asyncio.sleep(HOUR)
            assert manager.seen().state is State.STOPPED
            await manager.launch()
            await manager.state(State.READY)
        async with world.running() as manager:
            await manager.state(State.READY)
        assert world.typed("anna") == 2


@in_made_up_time
async def test_a_stop_is_overtaken_by_a_launch(tmp_path: Path) -> None:
    """The word that came last holds: the stop says that it was taken back, and one gateway runs."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            stopping = asyncio.create_task(manager.stop())
            await asyncio.sleep(0)
            launching = asyncio.create_task(manager.launch())
            ends = await asyncio.gather(stopping, launching, return_exceptions=True)
            assert all(each is None or isinstance(each, GatewayManagerError) for each in ends)
            await manager.state(State.READY)
            assert len(world.engine.simulator) == 1


@in_made_up_time
async def test_a_stop_in_the_middle_of_a_launch_leaves_nothing(tmp_path: Path) -> None:
    """At each moment of it: no container, no open login, and no login charged that was never typed."""
    ends = set()
    for moment in range(0, 60, 4):
        async with world_in(tmp_path / str(moment)) as world:
            world.add("anna")
            async with world.running() as manager:
                for _ in range(moment):
                    await asyncio.sleep(0)
                await until(lambda: ANNA in manager.fleet.supervisors)
                await manager.stop()
                await until(lambda: all(world.outcomes("anna")), lambda: world.logins("anna"))
                assert len(world.engine.simulator) == 0
                assert manager.seen().state is State.STOPPED
                charged = [each for each in world.outcomes("anna") if each != "void"]
                assert len(charged) == world.typed("anna")
                ends.add(tuple(world.outcomes("anna")))
    assert ends >= {(), ("void",)}


@in_made_up_time
async def test_a_restart_brings_the_newest_spec_and_costs_one_login(tmp_path: Path) -> None:
    """Another container, the same client id and port."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            before = await manager.state(State.READY)
            container = world.engine.container(ANNA).id
            world.change("anna", gateway={"java_heap_mib": 1024})
            await until(lambda: manager.seen().outdated)
            await manager.restart()
            after = await manager.state(State.READY)
            assert world.engine.container(ANNA).id != container
            assert (after.endpoint, after.client_id, after.outdated) == (before.endpoint, before.client_id, False)
        assert world.typed("anna") == 2


@in_made_up_time
async def test_a_restart_that_a_rule_refuses_leaves_the_gateway_running(tmp_path: Path) -> None:
    """Asked before anything is stopped."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running(full_login_limit=1) as manager:
            await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            with pytest.raises(LoginRefusedError, match="not restarted"):
                await manager.restart()
            assert manager.fleet.ready[ANNA] is client
        assert world.typed("anna") == 1


@in_made_up_time
async def test_launching_what_runs_changes_nothing_and_what_is_disabled_is_refused(tmp_path: Path) -> None:
    """With why."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.add("ben", enabled=False)
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.launch()
            await until(lambda: FollowerId("ben") in manager.fleet.supervisors)
            with pytest.raises(LaunchError, match="can't be launched"):
                await manager.launch("ben")
        assert world.typed("anna") == 1


@in_made_up_time
async def test_a_reconnect_gives_another_client_of_the_same_gateway(tmp_path: Path) -> None:
    """Nobody logs in for it."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            assert await manager.reconnect()
            assert manager.fleet.ready[ANNA] is not client
            await until(lambda: not client.isConnected(), within=1)
        assert world.typed("anna") == 1


@in_made_up_time
async def test_stopping_everything_ends_every_gateway_and_forgets_no_login(tmp_path: Path) -> None:
    """All of them at once, whatever they are at; who could not be confirmed gone would be named."""
    async with world_in(tmp_path) as world:
        world.add("anna", "ben", "carl")
        manager = world.manager()
        await manager.begin()
        await manager.state(State.READY)
        assert await manager.fleet.stop_all() == []
        await manager.close()
        assert len(world.engine.simulator) == 0
        assert all(settled(world, name) for name in ("anna", "ben", "carl"))
        async with world.running() as successor:  # a stop of the manager is no operator's stop
            for name in ("anna", "ben", "carl"):
                await successor.state(State.READY, name)


def settled(world: World, name: str) -> bool:
    """Whether every login of it has its outcome."""
    return all(world.outcomes(name))


@in_made_up_time
async def test_a_connection_that_was_meant_to_end_worries_nobody(tmp_path: Path) -> None:
    """A stop, a restart, a new client and a detach are told as information; a gateway that dies is a warning."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.reconnect()
            await manager.state(State.READY)
            await manager.restart()
            await manager.state(State.READY)
            await manager.stop()
            await manager.launch()
            await manager.state(State.READY)
        lost = [each for each in manager.events if isinstance(each, ConnectionLost)]
        assert [each.reason_code for each in lost] == [
            ReasonCode.RECONNECT_REQUESTED,
            ReasonCode.RESTART_REQUESTED,
            ReasonCode.STOPPED_BY_OPERATOR,
            ReasonCode.MANAGER_DETACHING,
        ]
        assert {each.severity for each in lost} == {Severity.INFO}

        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.kill()
            await until(lambda: "ConnectionLost" in manager.happened())
            (died,) = [each for each in manager.events if isinstance(each, ConnectionLost)]
            assert died.severity is Severity.WARNING
