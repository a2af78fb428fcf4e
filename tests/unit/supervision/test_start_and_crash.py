"""From a follower's record to RUNNING, and from a crash to RUNNING again, in made-up time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, BEN, world_in
from support.made_up_time import in_made_up_time, until

SHAPES = pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])


@SHAPES
@in_made_up_time
async def test_a_follower_gets_a_client(tmp_path: Path, pods: bool) -> None:
    """Its login is written down, typed once and succeeds; the client that is handed out is connected."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            shown = await manager.state(State.READY)
            assert manager.fleet.ready[ANNA].isConnected()
            assert shown.accounts == tuple(manager.fleet.ready[ANNA].managedAccounts())
            await until(lambda: set(world.content.mappings) == {"anna"}, within=1)
        assert (world.typed("anna"), world.outcomes("anna")) == (1, ["succeeded"])


@SHAPES
@in_made_up_time
async def test_a_killed_gateway_is_replaced_by_one_more_login(tmp_path: Path, pods: bool) -> None:
    """The lost client is told, the container is removed, the next one has the same endpoint where ports are kept."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            before = await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            await manager.kill()
            await until(lambda: ANNA not in manager.fleet.ready)
            after = await manager.state(State.READY)
            assert manager.fleet.ready[ANNA] is not client
            assert (after.endpoint == before.endpoint) is not pods
            assert len(world.engine.simulator) == 1
            assert "ClientStale" in manager.happened(events.ClientStale)
        assert (world.typed("anna"), world.outcomes("anna")) == (2, ["succeeded"] * 2)


@in_made_up_time
async def test_a_lost_client_costs_no_login(tmp_path: Path) -> None:
    """Cheapest cure first: a new connection to the gateway that runs."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            manager.inject("drop_clients")
            await until(lambda: not client.isConnected())
            await until(lambda: manager.fleet.ready.get(ANNA) not in (None, client))
        assert world.typed("anna") == 1


@in_made_up_time
async def test_a_gateway_that_freezes_is_replaced(tmp_path: Path) -> None:
    """Its heartbeat is not answered, a new connection neither: hours of silence are not waited for."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            began = asyncio.get_running_loop().time()
            manager.inject("freeze")
            await until(lambda: world.typed("anna") == 2)
            await manager.state(State.READY)
            assert asyncio.get_running_loop().time() - began < 900
        assert world.outcomes("anna") == ["succeeded"] * 2


@in_made_up_time
async def test_a_gateway_without_ibkr_is_degraded_and_left_alone(tmp_path: Path) -> None:
    """The link comes back by itself; no login is spent, the client stays."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            manager.inject("link_lost", seconds=600.0)
            await manager.state(State.DEGRADED)
            assert manager.fleet.ready[ANNA] is client
            await manager.state(State.READY)
            assert manager.fleet.ready[ANNA] is client
        assert world.typed("anna") == 1


@in_made_up_time
async def test_three_gateways_lost_soon_after_their_logins_wait_for_a_human(tmp_path: Path) -> None:
    """Each loss costs a login: nobody goes on like that for a night."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        crash = {"then": [{"after": 60, "fault": "crash"}]}
        world.script("anna", crash, crash, crash, crash)
        async with world.running() as manager:
            shown = await manager.state(State.NEEDS_HUMAN, within=24 * 3600)
            assert shown.reason_code is not None
            assert shown.reason_code.value == "SESSIONS_UNSTABLE"
            await asyncio.sleep(24 * 3600)
            assert manager.seen().state is State.NEEDS_HUMAN
        assert world.typed("anna") == 3


@in_made_up_time
async def test_a_new_follower_is_launched_and_a_disabled_one_is_stopped(tmp_path: Path) -> None:
    """As soon as the store says so; the others go on."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.add("ben")
            await manager.state(State.READY, BEN)
            world.change("ben", enabled=False)
            await manager.state(State.DISABLED, BEN)
            await until(lambda: len(world.engine.simulator) == 1)
            assert manager.seen().state is State.READY
        assert (world.typed("anna"), world.typed("ben")) == (1, 1)


@in_made_up_time
async def test_what_is_told_of_known_containers_costs_no_list(tmp_path: Path) -> None:
    """A list asks about every container there is: launches, ends and removals of a fleet must not ask for one each."""
    async with world_in(tmp_path) as world:
        world.add("anna", "ben")
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.state(State.READY, BEN)
            asked, ask = [], manager.runtime.list

            async def counted() -> object:
                asked.append(asyncio.get_running_loop().time())
                return await ask()

            manager.runtime.list = counted  # type: ignore[method-assign, assignment]
            await manager.kill()
            await until(lambda: world.typed("anna") == 2)
            await manager.state(State.READY)
            await manager.stop("ben")
            await manager.launch("ben")
            await manager.state(State.READY, BEN)
            await asyncio.sleep(60)
            assert asked == []


@in_made_up_time
async def test_fifty_followers_come_up_a_few_at_a_time(tmp_path: Path) -> None:
    """No more launches at once than `parallel_starts`, each typed once, all with ports and ids of their own."""
    async with world_in(tmp_path) as world:
        names = [f"f{number}" for number in range(50)]
        world.add(*names)
        async with world.running(parallel_starts=4) as manager:
            for name in names:
                await manager.state(State.READY, name)
            shown = [manager.seen(name) for name in names]
            assert len({each.endpoint for each in shown}) == len({each.client_id for each in shown}) == 50
        assert [world.typed(name) for name in names] == [1] * 50
