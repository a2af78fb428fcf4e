"""What the next manager does with what runs already, in made-up time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import GatewayManagerError, LoginRefusedError
from spreadpilot_core.ibkr.model import events
from spreadpilot_core.ibkr.model.followers import FollowerId, TradingMode
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.states import State
from support.made_up_fleet import ANNA, PASSWORD, World, world_in
from support.made_up_time import in_made_up_time, until

SHAPES = pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])
HOUR = 3600.0


@SHAPES
@in_made_up_time
async def test_what_runs_is_adopted_without_a_login(tmp_path: Path, pods: bool) -> None:
    """The same container, endpoint and client id."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna", "ben")
        async with world.running() as manager:
            before = [await manager.state(State.READY, name) for name in ("anna", "ben")]
        async with world.running() as manager:
            after = [await manager.state(State.READY, name) for name in ("anna", "ben")]
            assert [(each.container, each.endpoint, each.client_id) for each in after] == [
                (each.container, each.endpoint, each.client_id) for each in before
            ]
            assert manager.happened(events.GatewayAdopted) == ["GatewayAdopted"]
        assert [world.typed(name) for name in ("anna", "ben")] == [1, 1]


@in_made_up_time
async def test_an_adopted_port_is_given_to_nobody_else(tmp_path: Path) -> None:
    """Nor is one that a follower had before: a program that knows the endpoint finds the same account there."""
    async with world_in(tmp_path) as world:
        world.add("anna", "ben")
        async with world.running() as manager:
            anna, ben = [(await manager.state(State.READY, name)).endpoint for name in ("anna", "ben")]
            await manager.stop("ben")
        world.add("carl")
        async with world.running() as manager:
            carl = (await manager.state(State.READY, "carl")).endpoint
            await manager.launch("ben")
            assert (await manager.state(State.READY, "ben")).endpoint == ben
            assert (await manager.state(State.READY)).endpoint == anna
            assert carl not in (anna, ben)


@in_made_up_time
async def test_a_pinned_port_is_that_one_or_none(tmp_path: Path) -> None:
    """Taken by another program, it is waited for; then it is used."""
    async with world_in(tmp_path) as world:
        world.add("anna", gateway={"port": 4150})
        world.engine.network.taken.add(4150)
        async with world.running() as manager:
            await until(lambda: "4150" in (manager.seen().reason or ""), manager.seen)
            assert world.typed("anna") == 0
            world.engine.network.taken.clear()
            assert (await manager.state(State.READY)).endpoint == "127.0.0.1:4150"


@SHAPES
@in_made_up_time
async def test_a_login_under_way_is_adopted_with_its_place(tmp_path: Path, pods: bool) -> None:
    """The phone is asked once; approved under the next manager, the login has succeeded."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna", trading_mode="live")
        world.script("anna", {"second_factor": {"answer": "pending"}}, timings="real")
        async with world.running() as manager:
            await manager.state(State.AWAITING_2FA)
        async with world.running() as manager:
            await manager.state(State.AWAITING_2FA)
            manager.inject("approve_second_factor")
            await manager.state(State.READY)
        assert (world.typed("anna"), world.outcomes("anna")) == (1, ["succeeded"])


@SHAPES
@in_made_up_time
async def test_a_gateway_that_ended_while_nobody_looked_is_replaced(tmp_path: Path, pods: bool) -> None:
    """What it had logged tells that its login had succeeded: nothing is charged for it."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
        await world.engine.container(ANNA).stop(0)
        async with world.running() as manager:
            await manager.state(State.READY)
        assert (world.typed("anna"), world.outcomes("anna")) == (2, ["succeeded"] * 2)


@in_made_up_time
async def test_a_container_that_no_record_names_is_left_alone(tmp_path: Path) -> None:
    """Records that were lost: it may be logged in, so nobody logs in beside it; an operator's word adopts it."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
        world.content.records.clear()
        async with world.running() as manager:
            shown = await manager.state(State.NEEDS_HUMAN)
            assert "no record names it" in (shown.reason or "")
            await asyncio.sleep(HOUR)
            assert world.typed("anna") == 1
        async with world.running(accept_lost_records=True) as manager:
            await manager.state(State.READY)
        assert world.typed("anna") == 1


@in_made_up_time
async def test_a_stop_of_what_no_record_names_is_not_called_done(tmp_path: Path) -> None:
    """It runs on, and whoever looks is told so, stopped or disabled; once it is adopted the stop is acted on."""
    async with world_in(tmp_path) as world:
        await _left_without_records(world)
        async with world.running() as manager:
            await manager.state(State.NEEDS_HUMAN)
            with pytest.raises(GatewayManagerError, match="no record names it"):
                await manager.stop()
            assert manager.seen().reason_code is ReasonCode.GATEWAY_UNCLAIMED
            world.change("anna", enabled=False)
            await asyncio.sleep(HOUR)
            assert (manager.seen().state, len(world.engine.simulator)) == (State.NEEDS_HUMAN, 1)
            world.change("anna", enabled=True)
        async with world.running(accept_lost_records=True) as manager:
            await until(lambda: len(world.engine.simulator) == 0, manager.seen)
            assert manager.seen().state is State.STOPPED


async def _left_without_records(world: World) -> None:
    """A gateway of `user-anna` runs for anna, and no record knows."""
    world.add("anna")
    async with world.running() as manager:
        await manager.state(State.READY)
    world.content.records.clear()


@SHAPES
@in_made_up_time
async def test_an_adopted_gateway_of_another_user_is_never_ready(tmp_path: Path, pods: bool) -> None:
    """No bot is to trade somebody else's account: also under the manager after that, until the operator's restart."""
    async with world_in(tmp_path, pods=pods) as world:
        await _left_without_records(world)
        world.broker.put("ibkr/anna", "totally-other", PASSWORD)
        for accept in (True, False):
            async with world.running(accept_lost_records=accept) as manager:
                shown = await manager.state(State.NEEDS_HUMAN)
                assert shown.reason_code is ReasonCode.WRONG_USER
                assert "user-anna" in (shown.reason or "")
                assert "totally-other" in (shown.reason or "")
                assert "restart anna" in (shown.next_action or "")
                await asyncio.sleep(HOUR)
                assert (manager.seen().state, manager.fleet.ready) == (State.NEEDS_HUMAN, {})
                assert ANNA not in {
                    each.follower_id for each in manager.events if isinstance(each, events.GatewayReady)
                }
                assert world.typed("anna") == 1
        async with world.running() as manager:
            await manager.state(State.NEEDS_HUMAN)
            await manager.restart()
            await manager.state(State.READY)
        assert [each.user for each in world.logins("anna")] == ["user-anna", "totally-other"]


@in_made_up_time
async def test_an_adopted_gateway_is_used_once_the_record_refers_to_its_user(tmp_path: Path) -> None:
    """Nothing was logged out, so that nothing is logged in again."""
    async with world_in(tmp_path) as world:
        await _left_without_records(world)
        world.change("anna", vault_secret_ref="ibkr/typo")
        world.broker.put("ibkr/typo", "totally-other", PASSWORD)
        async with world.running(accept_lost_records=True) as manager:
            await manager.state(State.NEEDS_HUMAN)
            world.change("anna", vault_secret_ref="ibkr/anna")
            await manager.state(State.READY)
            world.broker.put("ibkr/anna", "user-anna-2", PASSWORD)  # for the next login
            await asyncio.sleep(2 * HOUR)
            assert manager.seen().state is State.READY
        assert world.typed("anna") == 1


@in_made_up_time
async def test_an_adopted_gateway_is_used_while_its_secret_can_not_be_read(tmp_path: Path) -> None:
    """With a notice; what the secret says later still counts."""
    async with world_in(tmp_path) as world:
        await _left_without_records(world)
        world.broker.put("ibkr/anna", "totally-other", PASSWORD)
        world.broker.is_away = True
        async with world.running(accept_lost_records=True) as manager:
            shown = await manager.state(State.READY)
            assert any("could not be compared" in each for each in shown.notices)
            world.broker.is_away = False
            shown = await manager.state(State.NEEDS_HUMAN)
            assert shown.reason_code is ReasonCode.WRONG_USER
            assert not manager.fleet.ready
            assert manager.supervisor().facts.gateway_view.connection is None
        assert world.typed("anna") == 1


@SHAPES
@in_made_up_time
async def test_an_adopted_paper_gateway_goes_on_while_its_record_asks_for_live(tmp_path: Path, pods: bool) -> None:
    """Its login is that of before the change, so there is nothing to compare: it is used, and an operator's word brings live."""
    async with world_in(tmp_path, pods=pods) as world:
        await _left_without_records(world)
        world.change("anna", trading_mode="live")
        async with world.running(accept_lost_records=True) as manager:
            shown = await manager.state(State.READY)
            said = " ".join(shown.notices)
            assert "launch anna --live" in said
            assert "could not be compared" in said
            assert "`restart` brings" not in said
            with pytest.raises(LoginRefusedError, match="launch anna --live"):
                await manager.restart()
            assert (manager.seen().state, world.typed("anna")) == (State.READY, 1)
            await world.engine.container(ANNA).stop(0)
            await until(lambda: manager.seen().reason_code is ReasonCode.CONTAINER_ENDED, manager.seen)
            await asyncio.sleep(HOUR)
            assert (world.typed("anna"), manager.seen().trading_mode) == (1, TradingMode.PAPER)


@in_made_up_time
async def test_a_gateway_that_its_record_names_is_adopted_without_its_secret(tmp_path: Path) -> None:
    """Also while the secret is another user's already, which counts from the next login on."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
        reads = len(world.broker.reads)
        world.broker.put("ibkr/anna", "totally-other", PASSWORD)
        async with world.running() as manager:
            await manager.state(State.READY)
            assert len(world.broker.reads) == reads


@in_made_up_time
async def test_a_deleted_follower_keeps_its_gateway_for_a_while(tmp_path: Path) -> None:
    """An accident is put right within `removal_delay`; else its gateway is stopped, the others' go on."""
    async with world_in(tmp_path) as world:
        world.add("anna", "ben", "carl")
        async with world.running(removal_delay=60.0) as manager:
            for name in ("anna", "ben", "carl"):
                await manager.state(State.READY, name)
            world.drop("anna")
            await asyncio.sleep(30)
            assert manager.seen().state is State.READY
            await until(lambda: ANNA not in manager.fleet.supervisors, within=300)
            assert len(world.engine.simulator) == 2
            assert manager.seen("ben").state is State.READY
        assert world.outcomes("anna") == ["succeeded"]


@SHAPES
@in_made_up_time
async def test_a_name_that_another_managers_gateway_bears_is_left_to_it(tmp_path: Path, pods: bool) -> None:
    """Whoever removed it would log out a living account: a human is asked for a name of its own, and told whose that one is."""
    async with world_in(tmp_path / "one", pods=pods) as one:
        one.add("anna")
        async with one.running() as first, world_in(tmp_path / "two", engine=one.engine, pods=pods) as two:
            await first.state(State.READY)
            two.broker.put("ibkr/anna", "user-zoe", PASSWORD)
            two.content.put_followers([{"id": "anna", "vault_secret_ref": "ibkr/anna", "enabled": True}])
            async with two.running() as second:
                shown = await second.state(State.NEEDS_HUMAN)
                assert shown.reason_code is ReasonCode.NAME_TAKEN
                assert f"--adopt-from {first.runtime.identities.own}" in (shown.reason or "")
                assert "container_prefix" in (shown.reason or "")
                assert "emove" not in (shown.reason or "")
                await asyncio.sleep(HOUR)
                assert (first.seen().state, second.seen().state) == (State.READY, State.NEEDS_HUMAN)
                await first.stop()
                await second.state(State.READY)
        assert one.engine.typed == [FollowerId("anna")] * 2


@in_made_up_time
async def test_two_managers_with_other_identities_share_an_engine(tmp_path: Path) -> None:
    """Neither touches the other's gateways; a user that is logged in there is not logged in here."""
    async with world_in(tmp_path / "one") as one:
        one.add("anna")
        async with one.running() as first, world_in(tmp_path / "two", engine=one.engine) as two:
            await first.state(State.READY)
            two.broker.put("ibkr/anna", "user-anna", "x")
            two.content.put_followers([{"id": "anna", "vault_secret_ref": "ibkr/anna", "enabled": True}])
            async with two.running(container_prefix="second") as second:
                await until(lambda: "another manager" in (second.seen().reason or ""), second.seen)
                assert second.fleet.elsewhere.left_alone
                assert f"--adopt-from {first.runtime.identities.own}" in (second.seen().reason or "")
                with pytest.raises(GatewayManagerError, match=r"No gateway was stopped\. .*belongs to another manager"):
                    await second.stop()
                await asyncio.sleep(600)
                assert first.seen().state is State.READY
        assert one.engine.typed == [FollowerId("anna")]
