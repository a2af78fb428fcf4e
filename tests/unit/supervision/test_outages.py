"""The runtime, the store, or leadership is away for a while, in made-up time: nothing is given up, nothing is done twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import LeadershipLostError
from spreadpilot_core.ibkr.model.events import NoticeGiven
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.seams import unguarded
from support.made_up_fleet import ANNA, BEN, world_in
from support.made_up_time import in_made_up_time, until

SHAPES = pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])
A_WHILE = 600.0


@SHAPES
@in_made_up_time
async def test_a_runtime_that_is_away_costs_no_gateway(tmp_path: Path, pods: bool) -> None:
    """Who is connected stays connected; who waits says for what; at its return all goes on without a second login."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            client = manager.fleet.ready[ANNA]
            world.engine.go_away()
            world.add("ben")
            await until(lambda: BEN in manager.fleet.supervisors)
            await asyncio.sleep(A_WHILE)
            assert manager.fleet.ready[ANNA] is client
            assert manager.seen(BEN).state in (State.QUEUED, State.BACKING_OFF)
            world.engine.come_back()
            await manager.state(State.READY, BEN)
            assert manager.fleet.ready[ANNA] is client
        assert (world.typed("anna"), world.typed("ben")) == (1, 1)


@SHAPES
@in_made_up_time
async def test_a_gateway_that_ends_while_the_runtime_is_away_is_replaced_at_its_return(
    tmp_path: Path, pods: bool
) -> None:
    """Nobody starts a second one before it is known that the first has ended."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.engine.go_away()
            await manager.kill()
            await asyncio.sleep(A_WHILE)
            assert world.typed("anna") == 1
            world.engine.come_back()
            await until(lambda: world.typed("anna") == 2)
            await manager.state(State.READY)
        assert len(world.logins("anna")) == 2


@in_made_up_time
async def test_a_manager_that_starts_without_its_runtime_waits_for_it(tmp_path: Path) -> None:
    """And logs in when it is there."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.engine.go_away()
        async with world.running() as manager:
            await asyncio.sleep(A_WHILE)
            assert world.logins("anna") == []
            world.engine.come_back()
            await manager.state(State.READY)


@in_made_up_time
async def test_a_store_that_is_away_lets_nobody_log_in_and_nobody_go(tmp_path: Path) -> None:
    """What is reserved nowhere is not typed; what is to be written is written at its return, in order."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.content.is_away = True
            await manager.kill()
            await asyncio.sleep(A_WHILE)
            assert world.typed("anna") == 1
            world.content.is_away = False
            await until(lambda: world.typed("anna") == 2)
            await manager.state(State.READY)
            await until(lambda: world.outcomes("anna") == ["succeeded"] * 2)


@in_made_up_time
async def test_a_store_that_opens_slowly_is_not_away(tmp_path: Path) -> None:
    """What happens meanwhile is written once it is open, and nobody is told that it could not be."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.content.opens_after = 5.0
        manager = world.manager()
        manager.fleet.begin()
        manager.services.notices.tell("here", "Something happened.")
        try:
            await manager.state(State.READY)
            assert [each for each in manager.events if isinstance(each, NoticeGiven) and "kept" in each.sentence] == []
            await until(
                lambda: any(each["sentence"] == "Something happened." for each in world.content.history.values())
            )
        finally:
            await manager.close()


@in_made_up_time
async def test_a_login_whose_end_can_not_be_written_is_written_when_it_can(tmp_path: Path) -> None:
    """Its success is known here, and shuts its user out of nothing."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        world.script("anna", timings="real")
        async with world.running() as manager:
            await until(lambda: world.typed("anna") == 1)
            world.content.is_away = True
            await manager.state(State.READY)
            assert world.outcomes("anna") == [None]
            world.content.is_away = False
            await until(lambda: world.outcomes("anna") == ["succeeded"])


@SHAPES
@in_made_up_time
async def test_a_leader_that_lost_its_lease_types_nothing(tmp_path: Path, pods: bool) -> None:
    """Whoever may act no more makes, starts and removes nothing, wherever it is in a launch."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")

        def refuse() -> None:
            raise LeadershipLostError

        manager = world.manager()
        manager.runtime.guard = refuse
        await manager.begin()
        await asyncio.sleep(A_WHILE)
        assert (world.typed("anna"), len(world.engine.simulator)) == (0, 0)
        manager.runtime.guard = unguarded
        await manager.state(State.READY)
        await manager.close()
        assert world.typed("anna") == 1


@SHAPES
@in_made_up_time
async def test_a_login_that_another_manager_has_settled_is_not_typed(tmp_path: Path, pods: bool) -> None:
    """Between its reservation and its start a takeover gave it back: the launch ends with nothing running."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        async with world.running() as manager:
            take = manager.ledger.mark_started
            refused = []

            async def settled_meanwhile(*_: object) -> bool:
                refused.append(len(world.engine.simulator))
                manager.ledger.mark_started = take  # type: ignore[method-assign]
                return False

            manager.ledger.mark_started = settled_meanwhile  # type: ignore[method-assign]
            await until(lambda: refused, within=60)
            assert world.typed("anna") == 0
            await manager.state(State.READY)
        assert world.typed("anna") == 1


@in_made_up_time
async def test_followers_that_were_mended_count_at_once(tmp_path: Path) -> None:
    """A file that could not be read for a while is read again as soon as somebody has changed it, not when its turn comes."""
    async with world_in(tmp_path) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            world.content.is_away = True
            await until(lambda: manager.fleet.roster.fault is not None, within=7200)
            await asyncio.sleep(60)
            world.content.is_away = False
            world.change("anna", account="U1234567")
            await asyncio.sleep(1)
            assert manager.fleet.roster.fault is None


@in_made_up_time
async def test_a_notice_about_records_names_each_follower(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same slip in two records is told of both; a loss that they share is told once, of the whole."""
    async with world_in(tmp_path) as world:
        world.add("anna", "ben")
        async with world.running() as manager:
            await manager.state(State.READY)
            await manager.state(State.READY, BEN)
            for name in (ANNA, BEN):
                world.change(name, enbled=True)
            await manager.fleet.roster.reload()
            told = [each for each in manager.events if isinstance(each, NoticeGiven) and "enbled" in each.sentence]
            assert sorted(str(each.follower_id) for each in told) == ["anna", "ben"]
            assert sorted(each.getMessage()[:5] for each in caplog.records if "enbled" in each.getMessage()) == [
                "anna:",
                "ben: ",
            ]

            world.drop("anna")
            world.drop("ben")
            await manager.fleet.roster.reload()
            about = [
                each.follower_id for each in manager.events if isinstance(each, NoticeGiven) and "Of 2" in each.sentence
            ]
            assert about == [None]
            assert any("Of 2" in each for each in manager.seen(BEN).notices)
