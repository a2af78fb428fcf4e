"""How gateways stand, shown beside their followers' records, in made-up time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.reasons import ReasonCode
from spreadpilot_core.ibkr.model.snapshots import GatewaySnapshot
from spreadpilot_core.ibkr.model.states import State
from spreadpilot_core.ibkr.reporting.follower_statuses import AT_MOST_EVERY, FollowerStatusReporter
from support.fake_manager import a_snapshot
from support.made_up_fleet import World, world_in
from support.made_up_time import in_made_up_time, until

SOON = 5.0


def shown(world: World, name: str, state: State) -> Callable[[], bool]:
    return lambda: name in world.content.statuses and world.content.statuses[name].state is state


@in_made_up_time
async def test_each_record_shows_its_gateway_from_launch_to_stop(tmp_path: Path) -> None:
    """Ready, one that can't be used with its fault, one that is disabled later; the others stay as they are."""
    async with world_in(tmp_path, shows=True) as world:
        world.add("anna", "ben")
        world.add("cleo", enbled=True)
        async with world.running() as manager:
            await manager.state(State.READY)
            await until(shown(world, "anna", State.READY), within=SOON)
            assert world.content.statuses["anna"].endpoint == manager.seen().endpoint
            await until(shown(world, "cleo", State.INVALID), within=SOON)
            assert "enbled" in str(world.content.statuses["cleo"].reason)
            await until(shown(world, "ben", State.READY), within=3600)
            world.change("ben", enabled=False)
            await until(shown(world, "ben", State.DISABLED), within=3600)
            assert world.content.statuses["ben"].reason_code is ReasonCode.NOT_ENABLED
            assert shown(world, "anna", State.READY)()


@in_made_up_time
async def test_what_an_earlier_manager_wrote_stays_until_it_is_known_what_runs(tmp_path: Path) -> None:
    """A manager that has just started has nothing to say of gateways that it has not seen."""
    async with world_in(tmp_path, shows=True) as world:
        world.add("anna")
        async with world.running() as manager:
            await manager.state(State.READY)
            await until(shown(world, "anna", State.READY), within=SOON)
        written = world.content.statuses["anna"]
        world.engine.go_away()
        async with world.running():
            await asyncio.sleep(60)
            assert world.content.statuses["anna"] == written


class Book:
    """Where statuses are written, or not."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.fault: StoreUnavailableError | None = None

    async def write_status(self, snapshot: GatewaySnapshot) -> None:
        """Note it down, or fail."""
        if self.fault is not None:
            raise self.fault
        self.written.append(snapshot.follower_id)


def a_reporter(book: Book, told: dict[str, str | None], *, may_write: Callable[[], bool]) -> FollowerStatusReporter:
    return FollowerStatusReporter(
        book, may_write, lambda: ("anna", "ben"), a_snapshot, tell=told.__setitem__, compare_every=3600
    )


@in_made_up_time
async def test_changes_in_a_row_are_written_once() -> None:
    """Of each follower, and of nobody else."""
    book = Book()
    reporter = a_reporter(book, {}, may_write=lambda: True)
    reporter.begin()
    for _ in range(100):
        reporter.changed("anna")
        await asyncio.sleep(AT_MOST_EVERY / 200)
    await asyncio.sleep(SOON)
    assert book.written == ["anna"]
    await reporter.close()


@in_made_up_time
async def test_what_can_not_be_written_is_told_and_written_later() -> None:
    """The sentence goes when it is over, and nothing is forgotten meanwhile."""
    book, told = Book(), dict[str, str | None]()
    reporter = a_reporter(book, told, may_write=lambda: True)
    book.fault = StoreUnavailableError("It is away.")
    reporter.begin()
    reporter.all_changed()
    await asyncio.sleep(SOON)
    assert told["follower status"] == "The status of followers can't be written beside their records: It is away."
    book.fault = None
    await asyncio.sleep(60)
    assert (book.written, told["follower status"]) == (["anna", "ben"], None)
    await reporter.close()


@in_made_up_time
async def test_who_does_not_act_writes_nothing_and_all_of_it_when_it_does() -> None:
    """Neither while it runs nor at its end."""
    book, acts = Book(), False
    reporter = a_reporter(book, {}, may_write=lambda: acts)
    reporter.begin()
    reporter.all_changed()
    await asyncio.sleep(60)
    assert book.written == []
    acts = True
    await asyncio.sleep(SOON)
    assert book.written == ["anna", "ben"]
    acts = False
    reporter.changed("anna")
    await reporter.close()
    assert book.written == ["anna", "ben"]
