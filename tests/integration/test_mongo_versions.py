"""Documents that several managers change, on a real server: no change is lost, whoever is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import StoreDamagedError
from spreadpilot_core.ibkr.leadership.lease import LeaderLease
from spreadpilot_core.ibkr.model.records import LoginOutcome
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.store import LEADER_LEASE
from spreadpilot_core.ibkr.store.mongodb.versions import MongoVersions, Version
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import BUDGET, NOON, MongoRecordsUnderTest, an_attempt

pytestmark = may_build


@pytest.fixture
async def managers(mongo_server: str, mongo_database: str) -> AsyncIterator[list[MongoVersions]]:  # noqa: F811
    """Four managers, each with connections of its own."""
    databases = [MongoDatabase(SecretStr(mongo_server), mongo_database) for _ in range(4)]
    for database in databases:
        await database.open()
    yield [MongoVersions(database, "counters") for database in databases]
    for database in databases:
        await database.close()


async def test_no_change_is_lost(managers: list[MongoVersions]) -> None:
    """Eight that add five entries each, all at once, each looking first whether its own is there: all 40 are, once."""

    async def add_five(manager: MongoVersions, name: str) -> None:
        for number in range(5):
            entry = f"{name}-{number}"
            while True:
                read = await manager.read("n")
                entries = read.content.get("entries", [])
                if entry in entries or await manager.write(read, {"entries": [*entries, entry]}):
                    break

    await asyncio.gather(*(add_five(managers[number % 4], str(number)) for number in range(8)))
    entries = (await managers[0].read("n")).content["entries"]
    assert sorted(entries) == sorted(f"{name}-{number}" for name in range(8) for number in range(5))


async def test_slow_writer_comes_to_nothing(managers: list[MongoVersions]) -> None:
    """A write that was held up, while others wrote on and deleted the version it would be, is told that it failed."""
    fast, slow = managers[:2]
    before = await slow.read("n")
    for number in range(1, 4):
        assert await fast.write(await fast.read("n"), {"sum": number})
    assert not await slow.write(before, {"sum": 100})
    assert (await fast.read("n")).content["sum"] == 3
    assert await fast.write(await fast.read("n"), {"sum": 4})
    assert len(await fast.find()) == 1


async def test_slow_writer_of_a_known_document_comes_to_nothing(managers: list[MongoVersions]) -> None:
    """Also where there was something to read, and when the next one again builds on what it wrote or recalls."""
    fast, slow, other = managers[:3]
    assert await fast.write(await fast.read("n"), {"sum": 1})
    before = await slow.recall("n")
    for number in range(2, 6):
        assert await fast.write(await fast.recall("n"), {"sum": number})
        assert not await other.write(Version("n", number - 1, {"mark": "guessed"}), {"sum": 100})
    assert not await slow.write(before, {"sum": 100})
    assert not await slow.write(before, {"sum": 100})
    assert await fast.write(await fast.recall("n"), {"sum": 6})
    assert await slow.write(await slow.read("n"), {"sum": 7})
    assert not await fast.write(await fast.recall("n"), {"sum": 100})
    assert [(each.content["sum"], each.number) for each in await other.find()] == [(7, 7)]


async def test_documents_are_kept_apart(managers: list[MongoVersions]) -> None:
    """Names that look like operators, numbers or each other's ids are just names."""
    names = ["$set", "1:n", "n", "", "a.b", "x" * 200]
    for name in names:
        assert await managers[0].write(Version(name, 0, {}), {"whose": name})
    for name in names:
        assert (await managers[1].read(name)).content["whose"] == name
    assert {version.name for version in await managers[1].find()} == set(names)


async def test_racing_managers_share_one_term(mongo_server: str, mongo_database: str) -> None:  # noqa: F811
    """Of four managers that come at the same moment one acts; when it resigns, another does at once."""
    databases = [MongoDatabase(SecretStr(mongo_server), mongo_database) for _ in range(4)]
    for database in databases:
        await database.open()
    leases = [
        LeaderLease(
            MongoVersions(database, LEADER_LEASE), holder=f"host-{number}", engine_id="engine", leader_lease=600
        )
        for number, database in enumerate(databases)
    ]
    for round_ in range(1, 5):
        standings = await asyncio.gather(*(leader_lease.step() for leader_lease in leases))
        holders = [leader_lease for leader_lease in leases if leader_lease.held]
        assert len(holders) == 1
        assert {leadership.number for leadership in standings if leadership.held} == {round_}
        await holders[0].resign()
        leases.remove(holders[0])
    for database in databases:
        await database.close()


@pytest.mark.parametrize(
    "damage",
    [
        {"version": "seven"},
        {"version": 1.5},
        {"version": None},
        {"version": 9},
        {"attempts": 7},
        {"attempts": ["x"]},
        {"attempts": {"id": "x"}},
    ],
    ids=str,
)
async def test_a_broken_document_of_logins_harms_its_own_user_alone(
    mongo_server: str,  # noqa: F811
    mongo_database: str,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: dict[str, Any],
) -> None:
    """It is named, keeps its own user from logging in, and stays as it is; everybody else's logins are read and written."""
    under_test = MongoRecordsUnderTest(mongo_server, mongo_database, tmp_path)
    before, store = under_test.store(), under_test.store()
    await before.open()
    await store.open()
    try:
        for number, user in enumerate(("anna", "bert"), start=1):
            assert await before.reserve_login(an_attempt(number, user=user), BUDGET) is None
        await under_test.change_logins("bert", damage)
        assert [each.user for each in await store.unsettled_logins()] == ["anna"]
        assert any("bert" in each.getMessage() for each in caplog.records if each.levelname == "WARNING")
        await store.settle_login(an_attempt(1).id, LoginOutcome.VOID, NOON)
        assert await store.reserve_login(an_attempt(3, user="anna"), BUDGET) is None
        assert list(await store.full_logins("anna", NOON)) == []
        for refused in (
            store.full_logins("bert", NOON),
            store.reserve_login(an_attempt(4, user="bert"), BUDGET),
        ):
            with pytest.raises(StoreDamagedError, match="bert"):
                await refused
        await under_test.change_logins("bert", {"version": 1, "attempts": []})  # mended by hand
        assert await store.reserve_login(an_attempt(5, user="bert"), BUDGET) is None
    finally:
        await before.close()
        await store.close()


async def test_a_version_that_a_shell_wrote_is_a_number(managers: list[MongoVersions]) -> None:
    """MongoDB's shell writes 1 as 1.0."""
    assert await managers[0].write(Version("n", 0, {}), {"sum": 1})
    await managers[1]._database.put("counters", {"_id": "1:n", "name": "n", "version": 1.0, "sum": 2})
    assert ((await managers[2].read("n")).number, (await managers[2].read("n")).content["sum"]) == (1, 2)
