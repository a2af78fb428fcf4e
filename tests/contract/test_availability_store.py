"""What every store of the availability ledger must do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.availability import AvailabilityDay, Spell, SpellKind, Verdict
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.seams import AvailabilityStore
from spreadpilot_core.ibkr.store.in_memory import InMemoryAvailability, MemoryContent
from spreadpilot_core.ibkr.store.local.availability import LocalAvailability
from spreadpilot_core.ibkr.store.mongodb.availability import MongoAvailability
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import ADAPTERS

pytestmark = pytest.mark.parametrize("store_adapter", ADAPTERS)

SPELLS = (
    Spell(SpellKind(Verdict.READY, None, in_reset_hours=False, exchange_open=True), 3600.25),
    Spell(SpellKind(Verdict.DOWN, "PASSWORD_REJECTED", in_reset_hours=True, exchange_open=False), 7.5),
)


def a_day(day: str, run: str = "run-1", spells: tuple[Spell, ...] = SPELLS) -> AvailabilityDay:
    return AvailabilityDay(id=f"{day}:{run}:anna", day=day, follower_id=FollowerId("anna"), spells=spells)


@pytest.fixture
def make(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], AvailabilityStore]:
    """Makes adapter objects that share their content, not opened."""
    if store_adapter == "local":
        return lambda: LocalAvailability(tmp_path / "availability.sqlite3")
    if store_adapter == "in_memory":
        content = MemoryContent()
        return lambda: InMemoryAvailability(content)
    server, database = request.getfixturevalue("mongo_server"), request.getfixturevalue("mongo_database")
    return lambda: MongoAvailability(MongoDatabase(SecretStr(server), f"{database}_{tmp_path.name[-30:]}"))


@pytest.fixture
async def store(make: Callable[[], AvailabilityStore]) -> AsyncIterator[AvailabilityStore]:
    store = make()
    await store.open()
    yield store
    await store.close()


async def test_days_survive_the_store_object_whole_and_by_month(
    make: Callable[[], AvailabilityStore], store: AvailabilityStore
) -> None:
    """What was written is read by the next manager; days of other months are left out, several runs stand side by side."""
    assert list(await store.availability("2026-11")) == []
    days = [a_day("2026-11-01"), a_day("2026-11-30"), a_day("2026-11-30", "run-2", ()), a_day("2026-12-01")]
    await store.keep_availability(days)
    again = make()
    await again.open()
    assert list(await again.availability("2026-11")) == days[:3]
    assert list(await again.availability("2026-12")) == days[3:]
    await again.close()


async def test_a_day_is_written_in_place_of_what_is_there(store: AvailabilityStore) -> None:
    """Twice the same changes nothing; the newest counts."""
    await store.keep_availability([a_day("2026-11-30", spells=())])
    await store.keep_availability([a_day("2026-11-30")])
    await store.keep_availability([a_day("2026-11-30")])
    assert list(await store.availability("2026-11")) == [a_day("2026-11-30")]


async def test_what_is_older_than_a_year_and_a_month_is_forgotten(store: AvailabilityStore) -> None:
    """The ledger does not grow for ever."""
    await store.keep_availability([a_day("2025-01-15"), a_day("2025-12-01")])
    await store.keep_availability([a_day("2026-11-30")])
    assert list(await store.availability("2025-01")) == []
    assert list(await store.availability("2025-12")) == [a_day("2025-12-01")]


async def test_a_store_that_was_not_opened_is_away(make: Callable[[], AvailabilityStore]) -> None:
    """And closing it is fine, twice."""
    store = make()
    with pytest.raises(StoreUnavailableError):
        await store.keep_availability([a_day("2026-11-30")])
    await store.close()
    await store.close()
