from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from spreadpilot_core.ibkr.errors import (
    ClientLeaseLostError,
    SettingsError,
    SharedClientIdsExhaustedError,
    StoreUnavailableError,
    TooManyClientsError,
)
from spreadpilot_core.ibkr.model.client_leases import LEASE_SECONDS
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.store.in_memory import InMemoryShared, MemoryContent
from spreadpilot_core.ibkr.supervision import client_leases
from spreadpilot_core.ibkr.supervision.client_leases import KIND, MOST_OF_A_FOLLOWER, ClientLeases

ANNA, BEN = FollowerId("anna"), FollowerId("ben")


class World:
    """A store, a clock, and the managers on them."""

    def __init__(self) -> None:
        self.content = MemoryContent()
        self.now = datetime(2026, 12, 1, tzinfo=UTC)
        self.running = 1000.0
        self.acts = True

    def manager(self, first: int = 10_000, last: int = 10_002) -> ClientLeases:
        """One that has just begun."""
        return ClientLeases(
            InMemoryShared(self.content),
            first,
            last,
            clock=lambda: self.now,
            may_act=lambda: self.acts,
            running_clock=lambda: self.running,
        )

    def later(self, seconds: float) -> None:
        """Time goes by."""
        self.now += timedelta(seconds=seconds)
        self.running += seconds


@pytest.fixture
def world() -> World:
    return World()


async def test_each_program_gets_an_id_of_its_own_until_there_is_none(world: World) -> None:
    """Three ids for three programs, of whichever follower; the fourth is told which settings to widen."""
    leases = world.manager()
    ids = {(await leases.lease(each))[0].client_id for each in (ANNA, ANNA, BEN)}

    assert ids == {10_000, 10_001, 10_002}
    assert leases.counts == (3, 3)
    with pytest.raises(SharedClientIdsExhaustedError, match=r"10000-10002.*shared_client_id_range_end"):
        await leases.lease(BEN)


async def test_a_name_brings_the_same_id_back(world: World) -> None:
    """Who was called so before gets its id again, also from the next manager; another name or follower begins elsewhere."""
    leases = world.manager(10_000, 19_999)
    first, _ = await leases.lease(ANNA, "bot")
    await leases.give_back(ANNA, first.id)
    again, _ = await world.manager(10_000, 19_999).lease(ANNA, "bot")
    twin, _ = await leases.lease(ANNA, "bot")

    assert again.client_id == first.client_id != twin.client_id
    assert (await leases.lease(BEN, "bot"))[0].client_id != first.client_id


async def test_a_lease_that_is_renewed_never_ends_and_one_that_is_not_does(world: World) -> None:
    """After its time it is free for the next."""
    leases = world.manager()
    kept, expires = await leases.lease(ANNA)
    left, _ = await leases.lease(ANNA)
    assert expires == world.now + timedelta(seconds=LEASE_SECONDS)
    for _ in range(5):
        world.later(20)
        await leases.renew(ANNA, kept.id)
        await leases.free_expired()

    assert [each.id for each in await leases.held()] == [kept.id]
    assert left.client_id in {(await leases.lease(BEN))[0].client_id for _ in range(2)}


async def test_programs_outlive_managers(world: World) -> None:
    """The next manager knows the lease, and gives it its whole time, however long nobody could renew it."""
    lease, _ = await world.manager().lease(ANNA, "bot")
    world.later(3600)
    after = world.manager()
    await after.free_expired()
    world.later(LEASE_SECONDS - 1)
    await after.free_expired()

    renewed, _ = await after.renew(ANNA, lease.id)
    assert (renewed.client_id, renewed.name) == (lease.client_id, "bot")
    world.later(LEASE_SECONDS)
    await after.free_expired()
    assert await after.held() == []


async def test_who_was_away_too_long_gets_its_id_back_unless_somebody_took_it(world: World) -> None:
    """Renewing what has expired works while it is free; else the holder is told to ask anew."""
    leases = world.manager(10_000, 10_000)
    lease, _ = await leases.lease(ANNA)
    world.later(LEASE_SECONDS)
    await leases.free_expired()
    assert (await leases.renew(ANNA, lease.id))[0].client_id == lease.client_id

    world.later(LEASE_SECONDS)
    await leases.free_expired()
    await leases.lease(BEN)
    with pytest.raises(ClientLeaseLostError, match="Ask for a new one"):
        await leases.renew(ANNA, lease.id)


@pytest.mark.parametrize(
    "lease_id",
    ["", "x", "10000", "10000-", "-1-x", "99999-x", "٣-x", "9" * 500 + "-x", "10000-other", "10000-" + 60 * "x"],
)
async def test_what_never_was_a_lease_is_refused(world: World, lease_id: str) -> None:
    """Neither renewed nor given back."""
    leases = world.manager()
    for _ in range(3):
        await leases.lease(ANNA)
    with pytest.raises(ClientLeaseLostError):
        await leases.renew(ANNA, lease_id)
    if lease_id != "10000-other":
        with pytest.raises(ClientLeaseLostError):
            await leases.give_back(ANNA, lease_id)
    else:
        assert await leases.give_back(ANNA, lease_id) is False
    assert leases.counts == (3, 3)


async def test_another_followers_lease_is_none(world: World) -> None:
    """The follower in the path must be the lease's own."""
    leases = world.manager()
    lease, _ = await leases.lease(ANNA)
    with pytest.raises(ClientLeaseLostError):
        await leases.renew(BEN, lease.id)
    assert await leases.give_back(BEN, lease.id) is False


async def test_no_outage_of_the_store_ends_a_lease(world: World) -> None:
    """Renewals need no store; grants do."""
    leases = world.manager()
    lease, _ = await leases.lease(ANNA)
    world.content.is_away = True
    for _ in range(10):
        world.later(20)
        await leases.renew(ANNA, lease.id)
    with pytest.raises(StoreUnavailableError):
        await leases.lease(ANNA)


async def test_no_clock_that_is_set_ends_a_lease(world: World) -> None:
    """A host whose clock was an hour slow, or fast, is set right while programs run: their ids stay theirs."""
    leases = world.manager(10_000, 10_000)
    lease, _ = await leases.lease(ANNA)
    for step in (3600, -7200):
        world.now += timedelta(seconds=step)
        await leases.free_expired()
        assert [each.id for each in await leases.held()] == [lease.id]
    world.running += LEASE_SECONDS
    await leases.free_expired()
    assert await leases.held() == []


async def test_a_manager_that_stood_still_frees_nobodys_id(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped for minutes, it heard no renewal: what programs have sent meanwhile comes before it frees anything."""
    monkeypatch.setattr(client_leases, "_FREED_EVERY", 0.01)
    leases = world.manager()
    lease, _ = await leases.lease(ANNA)
    keeping = asyncio.create_task(leases.keep())
    await asyncio.sleep(0.05)
    world.later(600)
    await asyncio.sleep(0.05)
    keeping.cancel()
    assert [each.id for each in await leases.held()] == [lease.id]
    await leases.renew(ANNA, lease.id)


async def test_a_store_that_was_emptied_gives_no_id_away(world: World) -> None:
    """A lease that its holder renews is known to the manager still; the store learns of it again, and of what ended it does not."""
    leases = world.manager(10_000, 10_001)
    lease, _ = await leases.lease(ANNA)
    left, _ = await leases.lease(ANNA)
    world.later(LEASE_SECONDS - 1)
    await leases.renew(ANNA, lease.id)
    world.later(1)
    store = InMemoryShared(world.content)
    await store.open()
    for each in (lease, left):
        assert await store.remove(KIND, str(each.client_id))

    assert (await leases.lease(BEN))[0].client_id == left.client_id
    assert lease.id in {each.id for each in await world.manager(10_000, 10_001).held()}


async def test_one_followers_programs_take_nobody_elses_ids(world: World) -> None:
    """One that asks and asks is told that its gateway serves no more; the other's programs go on."""
    leases = world.manager(10_000, 19_999)
    for _ in range(MOST_OF_A_FOLLOWER):
        last, _ = await leases.lease(ANNA)
    with pytest.raises(TooManyClientsError, match="of anna"):
        await leases.lease(ANNA)
    with pytest.raises(TooManyClientsError):
        await leases.renew(ANNA, next(f"{each}-made-up" for each in range(10_000, 20_000) if each not in leases._held))
    await leases.renew(ANNA, last.id)
    await leases.lease(BEN)
    await leases.give_back(ANNA, last.id)
    await leases.lease(ANNA)


async def test_two_managers_never_grant_one_id_twice(world: World) -> None:
    """The document decides, whatever each of them remembers."""
    one, other = world.manager(), world.manager()
    ids = [(await each.lease(ANNA))[0].client_id for each in (one, other, one)]

    assert len(set(ids)) == 3


async def test_a_document_of_somebody_elses_hand_harms_nobody(world: World) -> None:
    """It is no lease, and its name stays taken."""
    store = InMemoryShared(world.content)
    await store.open()
    await store.add(KIND, "10000", {"lease": 7})
    await store.add(KIND, "no number", {})
    leases = world.manager(10_000, 10_001)

    assert (await leases.lease(ANNA))[0].client_id == 10_001
    with pytest.raises(SharedClientIdsExhaustedError):
        await leases.lease(ANNA)


def test_the_range_lies_outside_the_managers_own() -> None:
    """An overlap is refused, by name, whichever of the two was set."""
    with pytest.raises(SettingsError, match=r"shared_client_id_range_start is 9999, .*1000 to 9999"):
        Settings.read(shared_client_id_range_start=9999)
    with pytest.raises(SettingsError, match="shared_client_id_range_start is 10000"):
        Settings.read(client_id_range_end=12_000)
    with pytest.raises(SettingsError, match="shared_client_id_range_end"):
        Settings.read(shared_client_id_range_start=30_000)
    Settings.read(shared_client_id_range_start=500, shared_client_id_range_end=999)
