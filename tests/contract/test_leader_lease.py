"""What every leader lease does, whoever keeps it. Time stands still until a test moves it; the servers are real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.leadership.lease import NAME
from support.kubernetes_cluster import may_build as may_build_cluster
from support.kubernetes_cluster import own_cluster_fixture  # noqa: F401  # a fixture
from support.lease_places import LEASE, ClusterLeasePlace, LeasePlace, MongoLeasePlace
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures
from support.waiting import until


@pytest.fixture(
    params=[
        "memory",
        pytest.param("mongodb", marks=may_build),
        pytest.param("kubernetes", marks=[pytest.mark.real_part("kubernetes"), may_build_cluster]),
    ]
)
async def place(request: pytest.FixtureRequest) -> AsyncIterator[LeasePlace]:
    if request.param == "kubernetes":
        cluster = request.getfixturevalue("own_cluster")
        with cluster.inside():
            made: LeasePlace = ClusterLeasePlace(cluster)
            yield made
            await made.close()
        return
    made = LeasePlace()
    if request.param == "mongodb":
        made = MongoLeasePlace(request.getfixturevalue("mongo_server"), request.getfixturevalue("mongo_database"))
    yield made
    await made.close()


async def test_one_acts_and_the_other_stands_by_until_it_was_silent_for_a_whole_lease(place: LeasePlace) -> None:
    """By the waiter's own clock; each change of the holder has the next number, and a holder that is heard from keeps it."""
    first, second = await place.manager("a"), await place.manager("b")
    assert (await first.step()).number == 1
    assert (await second.step()).sentence == "It stands by: a is the leader and acts."
    place.clock.now += LEASE / 2
    assert (await first.step()).held
    assert not (await second.step()).held
    place.clock.now += LEASE - 0.1
    assert not first.held, "the holder leaves a part of its lease unused"
    assert not (await second.step()).held
    place.clock.now += 0.1
    taken = await second.step()
    assert (taken.held, taken.number) == (True, 2)
    assert taken.sentence == "It takes over from a, silent for 10 s, leader lease 2 and acts."
    assert (await first.step()).sentence == "It stands by: b is the leader and acts."


async def test_what_was_read_before_another_wrote_changes_nothing(place: LeasePlace) -> None:
    """A leader that was paused between reading and writing, and wakes after its successor began, writes nothing."""
    first, second = await place.manager("a"), await place.manager("b")
    document = await place.document()
    await first.step()
    read = await document.read(NAME)
    place.clock.now += LEASE
    await second.step()
    place.clock.now += LEASE
    assert (await second.step()).held
    assert not await document.write(read, {**read.content, "number": 7})
    assert (await second.step()).number == 2


async def test_of_many_that_come_at_once_one_acts(place: LeasePlace) -> None:
    """Whoever resigns lets the next one act at once, and again it is one."""
    managers = [await place.manager(f"host-{number}") for number in range(5)]
    for number in range(1, 5):
        found = await asyncio.gather(*(each.step() for each in managers))
        holders = [each for each in managers if each.held]
        assert len(holders) == 1
        assert {each.number for each in found if each.held} == {number}
        await holders[0].resign()
        managers.remove(holders[0])


async def test_a_restart_takes_up_its_own_lease(place: LeasePlace) -> None:
    """The same name is the same manager; its former self has lost."""
    before, after = await place.manager("a"), await place.manager("a")
    await before.step()
    assert (await after.step()).number == 2
    assert (await after.step()).held


async def test_another_engine_takes_an_operators_word(place: LeasePlace) -> None:
    """There silence proves nothing."""
    first, second = await place.manager("a"), await place.manager("b", "another engine")
    await first.step()
    await second.step()
    place.clock.now += 6 * LEASE
    assert (await second.step()).needs_operator
    taken = await second.step(take_over=True)
    assert (taken.held, taken.overrode) == (True, True)


async def test_what_is_handed_over_goes_to_its_own_engine(place: LeasePlace) -> None:
    """Who detaches learns that another one watches from now on; another engine's must wait."""
    first, second = await place.manager("a"), await place.manager("b")
    elsewhere = await place.manager("c", "another engine")
    await first.step()
    await second.step()
    handing_over = asyncio.create_task(first.hand_over(within=LEASE))
    await until(lambda: not first.held)
    document = await place.document()
    async with asyncio.timeout(60):
        while (await document.read(NAME)).content.get("holder") is not None:
            await asyncio.sleep(0.01)
    assert not (await elsewhere.step()).held
    assert (await second.step()).held
    assert await handing_over


async def test_who_can_not_ask_is_told_so(place: LeasePlace) -> None:
    """It is the one error that the keeper of a lease knows, and nobody becomes the leader."""
    document = await place.unreachable()
    with pytest.raises(StoreUnavailableError):
        await document.read(NAME)


@pytest.mark.parametrize("place", ["kubernetes"], indirect=True)
@pytest.mark.real_part("kubernetes")
@may_build_cluster
async def test_a_lease_that_somebody_deleted_is_still_its_holders(place: LeasePlace) -> None:
    """The holder makes it anew and goes on; who stood by meanwhile does not take what looks free."""
    first, second = await place.manager("a"), await place.manager("b")
    await first.step()
    await second.step()
    await place.remove()
    assert (await second.step()).sentence == "It stands by: a is the leader and acts."
    assert (await first.step()).number == 1
    assert first.held
    place.clock.now += LEASE
    assert not (await second.step()).held
    await place.remove()
    await second.step()
    place.clock.now += LEASE
    assert (await second.step()).number == 2
