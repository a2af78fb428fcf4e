"""What every record store must do; the login ledger has its own suite beside this one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.model.audit_heads import AuditHead
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.reasons import Severity
from spreadpilot_core.ibkr.model.records import (
    ContainerId,
    HistoryPlace,
    HistoryQuery,
    Identities,
    LoginOutcome,
)
from spreadpilot_core.ibkr.seams import RecordStore
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import (
    BUDGET,
    NOON,
    RECORD_ADAPTERS,
    RecordsUnderTest,
    a_mapping,
    a_record,
    an_attempt,
    an_entry,
    records_under_test,
)

pytestmark = pytest.mark.parametrize("store_adapter", RECORD_ADAPTERS)


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
    assert not await store.load()
    assert list(await store.unsettled_logins()) == []


async def test_a_store_has_one_identity_for_all_its_managers(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Of many that offer one at once, one is kept, and it outlives the store object; one that was lost is taken back."""
    others = [under_test.store() for _ in range(4)]
    for each in others:
        await each.open()
    given = await asyncio.gather(*(each.identify(Identities(f"id-{n}")) for n, each in enumerate([store, *others])))
    assert len(set(given)) == 1
    again = under_test.store()
    await again.open()
    assert await again.identify(Identities("late", ("another",))) == given[0]
    for each in (*others, again):
        await each.close()


async def test_adopted_identities_are_kept(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Added once, in order, for the next manager too; what a state directory gives back brings them along."""
    assert await store.identify(Identities("own", ("first",))) == Identities("own", ("first",))
    for _ in range(2):
        assert await store.adopt_identity("second") == Identities("own", ("first", "second"))
    assert await store.adopt_identity("own") == Identities("own", ("first", "second"))
    again = under_test.store()
    await again.open()
    assert await again.identify(Identities("other")) == Identities("own", ("first", "second"))
    await again.close()


async def test_records_survive_the_store_object(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What was saved is read whole by the next manager, to the microsecond; the last save of a follower wins."""
    full, bare = a_record(), a_record("bert", last_reason=None, client_id=None, updated_at=None)
    for record in (a_record(client_id=1), bare, full):
        await store.save(record)
    await store.close()
    again = under_test.store()
    await again.open()
    assert dict((await again.load()).usable) == {"anna": full, "bert": bare}
    await again.close()


async def test_odd_follower_ids_are_kept_apart(store: RecordStore) -> None:
    """Ids that look like paths, operators or each other's start are just ids."""
    ids = ["$set", "a.b", "a", "A", "ä", "x" * 128, "'; DROP TABLE records; --", "_id", "__proto__"]
    for follower_id in ids:
        await store.save(a_record(follower_id, last_words=f"words of {follower_id}"))
    records = (await store.load()).usable
    assert {record.follower_id: record.last_words for record in records.values()} == {
        follower_id: f"words of {follower_id}" for follower_id in ids
    }


async def test_a_late_record_does_not_undo_a_newer_one(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What is written `unless_newer` leaves what was updated later, and replaces all else, a damaged one as well."""
    newer = a_record(client_id=2, updated_at=NOON + timedelta(microseconds=1))
    await store.save(newer)
    await store.save(a_record(client_id=1, updated_at=NOON), unless_newer=True)
    await store.save(a_record("bert", client_id=1, updated_at=NOON), unless_newer=True)
    await store.save(a_record("cleo"))
    await under_test.damage_record("cleo", "unreadable")
    await store.save(a_record("cleo", updated_at=NOON), unless_newer=True)
    kept = (await store.load()).usable
    assert [(name, kept[FollowerId(name)].client_id) for name in ("anna", "bert")] == [("anna", 2), ("bert", 1)]
    await store.save(a_record(client_id=3, updated_at=NOON))
    assert (await store.load()).usable[FollowerId("anna")].client_id == 3


async def test_several_records_are_written_in_one_call(store: RecordStore) -> None:
    """Each whole; of those that were updated later meanwhile none is replaced, and the others are."""
    await store.save(*(a_record(name, last_words=f"words of {name}", updated_at=NOON) for name in ("anna", "bert")))
    await store.save(a_record("bert", client_id=2, updated_at=NOON + timedelta(seconds=1)))
    again = [a_record(name, client_id=7, updated_at=NOON) for name in ("anna", "bert", "cleo")]
    await store.save(*again, unless_newer=True)
    await store.save()

    records = (await store.load()).usable
    assert {name: each.client_id for name, each in records.items()} == {"anna": 7, "bert": 2, "cleo": 7}


async def test_a_withdrawn_reservation_was_never_made(store: RecordStore) -> None:
    """Before or after it arrived; what has started, or ended, stays."""
    for number, user in enumerate(("anna", "bert", "cleo"), start=1):
        assert await store.reserve_login(an_attempt(number, user=user), BUDGET) is None
    await store.mark_started(an_attempt(2).id, ContainerId("c"), NOON)
    await store.settle_login(an_attempt(3).id, LoginOutcome.FAILED, NOON)
    for number, user in enumerate(("anna", "bert", "cleo", "dora"), start=1):
        await store.withdraw_login(an_attempt(number).id, user)
    assert [each.user for each in await store.unsettled_logins()] == ["bert"]
    assert [each.user for each in await store.full_logins("cleo", NOON - timedelta(days=1))] == ["cleo"]
    assert await store.reserve_login(an_attempt(5, user="anna"), BUDGET) is None


@pytest.mark.parametrize("damage", ["unreadable", "another's", "no time"])
async def test_a_damaged_record_harms_its_own_follower_alone(
    under_test: RecordsUnderTest, store: RecordStore, damage: str
) -> None:
    """It is named with its cure and stays as it is; the others are read."""
    await store.save(a_record())
    await store.save(a_record("bert"))
    await under_test.damage_record("bert", damage)
    kept = await store.load()
    assert dict(kept.usable) == {"anna": a_record()}
    assert list(kept.damaged) == ["bert"]
    assert "bert" in kept.damaged[FollowerId("bert")]
    assert "mend it, or delete it" in kept.damaged[FollowerId("bert")]


async def test_a_damaged_login_harms_its_own_user_alone(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What was left open of the others is settled; of this user nobody can say what was spent, so it does not log in."""
    assert await store.reserve_login(an_attempt(1, user="anna"), BUDGET) is None
    assert await store.reserve_login(an_attempt(2, user="bert"), BUDGET) is None
    await under_test.damage_login("bert")
    again = under_test.store()
    await again.open()
    try:
        assert [each.user for each in await again.unsettled_logins()] == ["anna"]
        with pytest.raises(StoreDamagedError):
            await again.full_logins("bert", NOON - timedelta(days=1))
        with pytest.raises(StoreDamagedError):
            await again.reserve_login(an_attempt(3, user="bert"), BUDGET)
    finally:
        await again.close()


async def test_report_replaces_the_mappings(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Other services read exactly the gateways of the last report."""
    await store.report([a_mapping(), a_mapping("bert")])
    await store.report([a_mapping("bert", status="STARTING"), a_mapping("cleo")])
    mappings = await under_test.mappings()
    assert [(each["follower_id"], each["status"]) for each in mappings] == [("bert", "STARTING"), ("cleo", "RUNNING")]
    assert set(mappings[0]) >= {"container_id", "container_name", "host_port", "client_id", "last_updated"}
    await store.append_history([an_entry(1)])
    assert await under_test.mappings() == mappings
    await store.report([])
    assert await under_test.mappings() == []


async def test_history_is_appended_once_and_in_order(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """An entry that is reported again is skipped; the order is that of the first reports."""
    await store.append_history([an_entry(1), an_entry(2)])
    await store.append_history([an_entry(2), an_entry(3), an_entry(1)])
    await store.append_history([an_entry(3)])
    assert await under_test.history() == ["Sentence 1.", "Sentence 2.", "Sentence 3."]


async def test_history_forgets_what_is_old(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """Entries past the age are gone after the next report, younger ones stay."""
    await store.append_history([an_entry(1, at=NOON - timedelta(days=91)), an_entry(2, at=NOON - timedelta(days=89))])
    await store.append_history([an_entry(3)])
    assert await under_test.history() == ["Sentence 2.", "Sentence 3."]


async def pages(store: RecordStore, query: HistoryQuery) -> list[list[str]]:
    """The sentences of each page, until the last."""
    found = []
    while True:
        page = await store.read_history(query)
        found.append([entry.sentence for entry in page.entries])
        if page.older is None:
            return found
        query = replace(query, before=HistoryPlace.parse(str(page.older)))


async def test_history_is_read_by_follower_newest_first_in_pages(store: RecordStore) -> None:
    """Each entry once, also where many have one time; another follower's and the whole manager's are apart."""
    entries = [an_entry(number, at=NOON + timedelta(seconds=number // 3)) for number in range(7)]
    others = [
        replace(an_entry(8, at=NOON), follower_id=FollowerId("bert")),
        replace(an_entry(9, at=NOON), follower_id=None),
    ]
    await store.append_history([*entries, *others])

    anna = HistoryQuery(follower_id=FollowerId("anna"), limit=3)
    newest_first = [f"Sentence {number}." for number in reversed(range(7))]
    assert await pages(store, anna) == [newest_first[:3], newest_first[3:6], newest_first[6:]]
    assert await pages(store, replace(anna, limit=7)) == [newest_first]
    assert await pages(store, replace(anna, since=NOON + timedelta(seconds=1))) == [newest_first[:3], newest_first[3:4]]
    assert await pages(store, replace(anna, since=NOON + timedelta(days=1))) == [[]]
    assert await pages(store, replace(anna, follower_id=FollowerId("nobody"))) == [[]]
    assert [len(page) for page in await pages(store, HistoryQuery(limit=5))] == [5, 4]


async def test_history_is_read_as_it_was_written(store: RecordStore) -> None:
    """With severity and code; the time to the millisecond, which is what MongoDB keeps."""
    entry = replace(an_entry(1), severity=Severity.WARNING, reason_code="HEARTBEAT_MISSED", sentence="“Zürich”: no.")
    await store.append_history([entry])
    (found,) = (await store.read_history(HistoryQuery())).entries

    assert replace(found, at=entry.at) == entry
    assert abs(found.at - entry.at) < timedelta(milliseconds=1)


async def test_two_store_objects_see_each_other(under_test: RecordsUnderTest, store: RecordStore) -> None:
    """What one wrote, another reads at once."""
    other = under_test.store()
    await other.open()
    await store.save(a_record())
    assert list((await other.load()).usable) == ["anna"]
    await other.save(a_record(client_id=1))
    assert (await store.load()).usable[a_record().follower_id].client_id == 1
    await other.close()


async def test_open_and_close_may_be_repeated(under_test: RecordsUnderTest) -> None:
    """Closing what was never opened, closing twice and opening again after it all work."""
    store = under_test.store()
    await store.close()
    for number in range(2):
        await store.open()
        await store.open()
        await store.save(a_record(str(number)))
        assert len((await store.load()).usable) == number + 1
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
            store.reserve_login(attempt, BUDGET),
            store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON),
            store.report([a_mapping(str(number))]),
            store.append_history([an_entry(number)]),
        ]
        tasks = [asyncio.create_task(each) for each in work]
        for _ in range(moments.randrange(12)):
            await asyncio.sleep(moments.choice([0, 0, 0.0003]))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(30):
            await store.reserve_login(attempt, BUDGET)  # there already, or now: no refusal against itself
            await store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON)
            assert [each.id for each in await store.full_logins(user, NOON)] == [attempt.id]
    assert all(record == a_record(record.follower_id) for record in (await store.load()).usable.values())
    assert list(await store.unsettled_logins()) == []


async def test_the_newest_line_of_each_audit_trail_is_kept(store: RecordStore) -> None:
    """An older line changes nothing, another trail has its own, and an unknown one has none."""
    await store.keep_audit_head("host:one", AuditHead(2, "b" * 64))
    await store.keep_audit_head("host:one", AuditHead(1, "a" * 64))
    await store.keep_audit_head("host:two", AuditHead(1, "c" * 64))

    assert await store.audit_head("host:one") == AuditHead(2, "b" * 64)
    assert await store.audit_head("host:two") == AuditHead(1, "c" * 64)
    assert await store.audit_head("host:three") is None
