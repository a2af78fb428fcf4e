"""What every record store must do; the login ledger has its own suite beside this one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.protocols import AuditHead, LoginOutcome, RecordStore
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import (
    ADAPTERS,
    NOON,
    RecordsUnderTest,
    a_mapping,
    a_record,
    an_attempt,
    an_entry,
    records_under_test,
)

pytestmark = pytest.mark.parametrize("store_adapter", ADAPTERS)


@pytest.fixture
async def under_test(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    return records_under_test(store_adapter, tmp_path, request)


@pytest.fixture
async def store(under_test: RecordsUnderTest) -> AsyncIterator[RecordStore]:
    store = under_test.store()
    await store.open()
    yield store
    await store.close()


async def test_new_store_is_empty(store: RecordStore) -> None:
    """Nothing is known at first, and that is no error."""
    assert dict(await store.load()) == {}
    assert list(await store.unsettled_logins()) == []


async def test_records_survive_the_store_object(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What was saved is read whole by the next manager, to the microsecond; the last save of a follower wins."""
    full, bare = a_record(), a_record("bert", last_reason=None, client_id=None, updated_at=None)
    for record in (a_record(client_id=1), bare, full):
        await store.save(record)
    await store.close()
    again = under_test.store()
    await again.open()
    assert dict(await again.load()) == {"anna": full, "bert": bare}
    await again.close()


async def test_odd_follower_ids_are_kept_apart(store: RecordStore) -> None:
    """Ids that look like paths, operators or each other's start are just ids."""
    ids = ["$set", "a.b", "a", "A", "ä", "x" * 128, "'; DROP TABLE records; --", "_id", "__proto__"]
    for follower_id in ids:
        await store.save(a_record(follower_id, user=f"user of {follower_id}"))
    records = await store.load()
    assert {record.follower_id: record.user for record in records.values()} == {
        follower_id: f"user of {follower_id}" for follower_id in ids
    }


async def test_damaged_record_is_named(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """A record that can't be understood is an error that names it, never dropped in silence."""
    await store.save(a_record())
    await store.save(a_record("bert"))
    await under_test.damage_record("bert")
    with pytest.raises(StoreDamagedError, match="damaged"):
        await store.load()


async def test_report_replaces_the_mappings(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Other services read exactly the gateways of the last report."""
    await store.report([a_mapping(), a_mapping("bert")], [])
    await store.report([a_mapping("bert", status="STARTING"), a_mapping("cleo")], [])
    mappings = await under_test.mappings()
    assert [(each["follower_id"], each["status"]) for each in mappings] == [("bert", "STARTING"), ("cleo", "RUNNING")]
    assert set(mappings[0]) >= {"container_id", "container_name", "host_port", "client_id", "last_updated"}
    await store.report(None, [an_entry(1)])
    assert await under_test.mappings() == mappings
    await store.report([], [])
    assert await under_test.mappings() == []


async def test_history_is_appended_once_and_in_order(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """An entry that is reported again is skipped; the order is that of the first reports."""
    await store.report([], [an_entry(1), an_entry(2)])
    await store.report([], [an_entry(2), an_entry(3), an_entry(1)])
    await store.report([], [an_entry(3)])
    assert await under_test.history() == ["Sentence 1.", "Sentence 2.", "Sentence 3."]


async def test_history_forgets_what_is_old(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Entries past the age are gone after the next report, younger ones stay."""
    await store.report([], [an_entry(1, at=NOON - timedelta(days=91)), an_entry(2, at=NOON - timedelta(days=89))])
    await store.report([], [an_entry(3)])
    assert await under_test.history() == ["Sentence 2.", "Sentence 3."]


async def test_two_store_objects_see_each_other(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What one wrote, another reads at once."""
    other = under_test.store()
    await other.open()
    await store.save(a_record())
    assert list(await other.load()) == ["anna"]
    await other.save(a_record(client_id=1))
    assert (await store.load())[a_record().follower_id].client_id == 1
    await other.close()


async def test_open_and_close_may_be_repeated(under_test: RecordsUnderTest) -> None:
    """Closing what was never opened, closing twice and opening again after it all work."""
    store = under_test.store()
    await store.close()
    for number in range(2):
        await store.open()
        await store.open()
        await store.save(a_record(str(number)))
        assert len(await store.load()) == number + 1
        await store.close()
        await store.close()


async def test_cancelled_writers_harm_nobody(store: RecordStore) -> None:
    """Writes cancelled at every await leave each thing whole or absent, and the store usable at once."""
    moments = random.Random(7)  # the same moments in every run
    for number in range(30):
        user = f"user {number}"
        attempt = an_attempt(number, user=user)
        work = [
            store.save(a_record(str(number))),
            store.reserve_login(attempt, 3),
            store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON),
            store.report([a_mapping(str(number))], [an_entry(number)]),
        ]
        tasks = [asyncio.create_task(each) for each in work]
        for _ in range(moments.randrange(12)):
            await asyncio.sleep(moments.choice([0, 0, 0.0003]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(30):
            await store.reserve_login(attempt, 3)  # there already, or now: no refusal against itself
            await store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON)
            assert [each.id for each in await store.counted_logins(user, NOON)] == [attempt.id]
    assert all(record == a_record(record.follower_id) for record in (await store.load()).values())
    assert list(await store.unsettled_logins()) == []


async def test_the_newest_line_of_each_audit_trail_is_kept(store: RecordStore) -> None:
    """An older line changes nothing, another trail has its own, and an unknown one has none."""
    await store.keep_audit_head("host:one", AuditHead(2, "b" * 64))
    await store.keep_audit_head("host:one", AuditHead(1, "a" * 64))
    await store.keep_audit_head("host:two", AuditHead(1, "c" * 64))

    assert await store.audit_head("host:one") == AuditHead(2, "b" * 64)
    assert await store.audit_head("host:two") == AuditHead(1, "c" * 64)
    assert await store.audit_head("host:three") is None
