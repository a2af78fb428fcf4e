"""Documents that several managers change, on a real server: no change is lost, whoever is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase
from spreadpilot_core.ibkr.store.mongo_versions import MongoVersions, Version
from spreadpilot_core.ibkr.store.term import COLLECTION, Term
from support.mongo import may_build, mongo_database, mongo_server  # noqa: F401  # fixtures

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
    terms = [
        Term(MongoVersions(database, COLLECTION), holder=f"host-{number}", engine_id="engine", term=600)
        for number, database in enumerate(databases)
    ]
    for round_ in range(1, 5):
        standings = await asyncio.gather(*(term.step() for term in terms))
        holders = [term for term in terms if term.held]
        assert len(holders) == 1
        assert {standing.number for standing in standings if standing.held} == {round_}
        await holders[0].resign()
        terms.remove(holders[0])
    for database in databases:
        await database.close()
