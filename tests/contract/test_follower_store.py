"""What every follower store must do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from spreadpilot_core.ibkr.kubernetes.followers import KubernetesFollowers
from spreadpilot_core.ibkr.model.followers import TradingMode
from spreadpilot_core.ibkr.seams import FollowerStore
from spreadpilot_core.ibkr.store.local.followers import LocalFollowers
from support.follower_objects import ClusterFollowersUnderTest, group_of_objects_fixture  # noqa: F401  # a fixture
from support.kubernetes_cluster import may_build, own_cluster_fixture  # noqa: F401  # a fixture
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import ADAPTERS, FollowersUnderTest, followers_under_test

WITHIN = 30.0

pytestmark = pytest.mark.parametrize(
    "store_adapter",
    [*ADAPTERS, pytest.param("kubernetes", marks=[pytest.mark.real_part("kubernetes"), may_build])],
)
LONGEST_IN_OBJECTS = 400_000
"""Characters of a text in an object of a cluster, which notes down its fields' names beside it, and takes 1.5 MiB at most."""


@pytest.fixture
async def under_test(
    store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[FollowersUnderTest]:
    if store_adapter != "kubernetes":
        yield followers_under_test(store_adapter, tmp_path, request)
        return
    cluster, group = request.getfixturevalue("own_cluster"), request.getfixturevalue("group_of_objects")
    with cluster.inside():
        objects = ClusterFollowersUnderTest(cluster, group)
        yield objects
        objects.close()


@pytest.fixture
async def store(under_test: FollowersUnderTest) -> AsyncIterator[FollowerStore]:
    store = under_test.store()
    await store.open()
    yield store
    await store.close()


def a_document(follower_id: str = "anna", **fields: Any) -> dict[str, Any]:
    return {"id": follower_id, "vault_secret_ref": f"ibkr/{follower_id}", "enabled": True, **fields}


async def test_empty_store_has_nobody(store: FollowerStore) -> None:
    """A store without any record is no error: nobody should have a gateway."""
    roster = await store.load()
    assert (dict(roster.usable), dict(roster.faulty)) == ({}, {})


async def test_records_are_read_with_every_field(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """Each documented field arrives."""
    await under_test.put(
        [
            a_document(
                trading_mode="live",
                account="U1234567",
                phone_owner="Anna",
                region="europe",
                gateway={"java_heap_mib": 1024, "vnc": True, "port": 4107},
            ),
            {"id": "bert", "ibkr_secret_ref": "old/bert", "enabled": True, "state": "DISABLED"},
            {"id": "cleo", "vault_secret_ref": "ibkr/cleo"},
        ]
    )
    usable = (await store.load()).usable
    anna, bert, cleo = usable.values()
    assert (anna.is_wanted, anna.trading_mode, anna.account) == (True, TradingMode.LIVE, "U1234567")
    assert (anna.phone_owner, anna.region) == ("Anna", "europe")
    assert (anna.gateway.java_heap_mib, anna.gateway.vnc, anna.gateway.image) == (1024, True, None)
    assert anna.gateway.port == 4107
    assert (bert.is_wanted, bert.vault_secret_ref) == (False, "old/bert")
    assert (cleo.is_wanted, cleo.trading_mode) == (False, TradingMode.PAPER)


async def test_broken_record_disturbs_nobody(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """A record that can't be used is named with its fault, beside the usable ones."""
    await under_test.put([a_document(), a_document("bert", trading_mode="LIVE"), a_document("cleo")])
    roster = await store.load()
    assert list(roster.usable) == ["anna", "cleo"]
    assert roster.faulty["bert"].fault == 'trading_mode is \'LIVE\', but it must be "paper" or "live".'


@pytest.mark.parametrize("length", [70_000, 1_200_000])  # a file of more than 16 MiB is refused whole
async def test_text_without_end_fails_its_own_record(
    under_test: FollowersUnderTest, store: FollowerStore, length: int
) -> None:
    """In whatever field, it is a fault of that record in one short sentence, and the others are read."""
    is_object = isinstance(store, KubernetesFollowers)
    long = "x" * (min(length, LONGEST_IN_OBJECTS) if is_object else length)
    await under_test.put(
        [
            a_document(),
            a_document("ref", vault_secret_ref=long),
            a_document("old-ref", ibkr_secret_ref=long, vault_secret_ref=None)
            if not isinstance(store, LocalFollowers)
            else a_document("old-ref", vault_secret_ref=long),
            a_document("state", state=long),
            a_document("account", account=long),
            a_document("phone", phone_owner=long),
            a_document("region", region=long),
            a_document("mode", trading_mode=long),
            a_document("image", gateway={"image": long}),
            a_document("zone", gateway={"time_zone": long}),
            a_document("option", gateway={long: True}),
            *([] if is_object else [a_document(long)]),  # no name of an object is so long
        ]
    )
    roster = await store.load()
    assert list(roster.usable) == ["anna"]
    assert len(roster.faulty) == (10 if is_object else 11)
    assert all(len(each.fault) < 500 for each in roster.faulty.values())
    assert all(len(name) <= 200 for name in roster.faulty)


async def test_change_gives_a_hint(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """Whoever loads at every hint ends with the newest records, whatever changed and however often."""
    async with aclosing(store.hints()) as hints:
        for documents in ([a_document()], [a_document(), a_document("bert")], [a_document("bert", enabled=False)], []):
            await under_test.put(documents)
            wanted = [document["id"] for document in documents]
            async with asyncio.timeout(WITHIN):
                while list((await store.load()).usable) != wanted:
                    await anext(hints)


async def test_hints_come_to_each_listener(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """Two listeners are both told."""

    async def first_with_anna() -> bool:
        async for _ in store.hints():
            if "anna" in (await store.load()).usable:
                return True
        return False

    listeners = [asyncio.create_task(first_with_anna()) for _ in range(2)]
    await asyncio.sleep(0.1)
    await under_test.put([a_document()])
    async with asyncio.timeout(WITHIN):
        assert await asyncio.gather(*listeners) == [True, True]


async def test_close_ends_the_hints(store: FollowerStore) -> None:
    """A listener that waits for a hint ends when the store is closed."""

    async def listen() -> int:
        return len([None async for _ in store.hints()])

    listener = asyncio.create_task(listen())
    await asyncio.sleep(0.1)
    await store.close()
    async with asyncio.timeout(WITHIN):
        assert await listener >= 0


async def test_open_and_close_may_be_repeated(under_test: FollowersUnderTest) -> None:
    """Closing what was never opened, closing twice and opening again after it all work."""
    await under_test.put([a_document()])
    store = under_test.store()
    await store.close()
    for _ in range(2):
        await store.open()
        await store.open()
        assert list((await store.load()).usable) == ["anna"]
        await store.close()
        await store.close()


async def test_cancelled_reader_leaves_the_store_usable(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """A load cancelled at any await, many times, harms no later one."""
    await under_test.put([a_document()])
    for steps in range(40):
        task = asyncio.create_task(store.load())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert list((await store.load()).usable) == ["anna"]


async def test_an_enabled_that_is_missing_is_told_from_one_that_is_false(
    under_test: FollowersUnderTest, store: FollowerStore
) -> None:
    """Both mean no gateway; only the explicit one takes a running gateway away."""
    await under_test.put([a_document(enabled=False), {"id": "bert", "vault_secret_ref": "ibkr/bert"}])
    anna, bert = (await store.load()).usable.values()
    assert (anna.enabled, anna.says_enabled) == (False, True)
    assert (bert.enabled, bert.says_enabled) == (False, False)


BROKEN = [
    {"vault_secret_ref": ""},
    {"vault_secret_ref": ["ibkr/x"]},
    {"enabled": "yes"},
    {"state": 1},
    {"trading_mode": "real"},
    {"account": 1234567},
    {"phone_owner": ""},
    {"region": "mars"},
    {"gateway": {"ram": 1}},
    {"gateway": {"java_heap_mib": "1 GiB"}},
]
"""Ten ways to spoil a record, each with the field that must be named."""


async def test_many_records_broken_in_ten_ways(under_test: FollowersUnderTest, store: FollowerStore) -> None:
    """Of 500 records 50 can't be used: 450 are usable, and each of the 50 is named with the field that is wrong."""
    documents = [a_document(f"follower-{number:03}") for number in range(500)]
    for number in range(50):
        documents[10 * number] |= BROKEN[number % 10]
    await under_test.put(documents)
    roster = await store.load()
    assert len(roster.usable) == 450
    assert {name: next(iter(BROKEN[int(name[-3:]) // 10 % 10])) for name in roster.faulty} == {
        name: fault.fault.split()[0].partition(".")[0] for name, fault in roster.faulty.items()
    }
    assert len(roster.faulty) == 50
