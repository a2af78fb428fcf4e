"""The leadership changes hands, in made-up time: what the next leader wrote down stands, also for one that comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import LeadershipLostError
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.seams import Leadership
from spreadpilot_core.ibkr.store.in_memory import InMemoryRecords
from support.made_up_fleet import ANNA, MadeUpManager, World, world_in
from support.made_up_time import in_made_up_time, until

SHAPES = pytest.mark.parametrize("pods", [False, True], ids=["containers", "pods"])


@dataclass(frozen=True)
class Said:
    """What a lease says."""

    held: bool
    is_known: bool = True
    overrode: bool = False

    @property
    def sentence(self) -> str:
        """In short."""
        return "It acts." if self.held else "It stands by."


class ToldLease:
    """A leader lease that is this manager's when the test says so."""

    def __init__(self) -> None:
        self.held = True
        self._tell: Callable[[Leadership], None] | None = None

    async def keep(self, on_change: Callable[[Leadership], None], *, take_over: bool = False) -> None:  # noqa: ARG002  # the seam's
        """For ever."""
        self._tell = on_change
        self.say(Said(held=self.held))
        await asyncio.Event().wait()

    def say(self, said: Said) -> None:
        """From now on."""
        self.held = said.held
        if self._tell is not None:
            self._tell(said)

    async def hand_over(self, *, within: float) -> bool:  # noqa: ARG002  # the seam's
        """Nobody takes it."""
        return False

    async def resign(self) -> None:
        """There is nothing to give back."""


async def replaced_by_another(world: World) -> None:
    """Another manager leads meanwhile, and its gateway is another one than the first manager knows."""
    async with world.running(lease=ToldLease()) as other:
        await other.state(State.READY)
        await other.kill()
        await until(lambda: world.typed("anna") == 2)
        await other.state(State.READY)


async def must_go_on(manager: MadeUpManager, world: World) -> None:
    """It has taken the other one's gateway for its own, its record names it, and nobody logs in again."""
    await manager.state(State.READY)
    await asyncio.sleep(600)
    assert manager.seen().state is State.READY
    assert (world.typed("anna"), len(world.engine.simulator)) == (2, 1)
    assert world.outcomes("anna") == ["succeeded", "succeeded"]
    records = InMemoryRecords(world.content)
    await records.open()
    kept = (await records.load()).usable[ANNA]
    assert kept.container_id == world.engine.container(ANNA).id


@SHAPES
@in_made_up_time
async def test_a_leader_that_comes_back_takes_what_the_next_one_has_started(tmp_path: Path, pods: bool) -> None:
    """It has seen all of it while it stood by."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        lease = ToldLease()
        async with world.running(lease=lease) as manager:
            await manager.state(State.READY)
            lease.say(Said(held=False))
            await replaced_by_another(world)
            lease.say(Said(held=True))
            await must_go_on(manager, world)


@SHAPES
@in_made_up_time
async def test_what_a_leader_knew_before_is_not_written_over_what_was_written_since(tmp_path: Path, pods: bool) -> None:
    """It has seen nothing meanwhile, and hears of the gateway that is gone before it could read the records."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        lease = ToldLease()
        async with world.running(lease=lease) as manager:
            await manager.state(State.READY)
            lease.say(Said(held=False))
            await manager.runtime.close()
            await replaced_by_another(world)
            world.content.is_away = True
            lease.say(Said(held=True))
            await manager.runtime.open()
            await until(lambda: manager.seen().container is None)
            await asyncio.sleep(10)
            world.content.is_away = False
            await must_go_on(manager, world)


@SHAPES
@in_made_up_time
async def test_a_loss_that_two_leaders_find_counts_once(tmp_path: Path, pods: bool) -> None:
    """The first one has written it down, and lost the lease before the gateway was removed."""
    async with world_in(tmp_path, pods=pods) as world:
        world.add("anna")
        lease = ToldLease()

        def refuse() -> None:
            raise LeadershipLostError

        async with world.running(lease=lease) as manager:
            await manager.state(State.READY)
            manager.runtime.guard = refuse
            await manager.kill()
            await until(lambda: manager.supervisor().facts.record.losses == 1)
            await asyncio.sleep(1)
            lease.say(Said(held=False))
            async with world.running(lease=ToldLease()) as other:
                await until(lambda: world.typed("anna") == 2)
                await other.state(State.READY)
                assert other.supervisor().facts.record.losses == 1
