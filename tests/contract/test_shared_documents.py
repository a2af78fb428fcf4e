"""What every store must do with the documents that managers and commands share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.seams import SharedDocuments
from spreadpilot_core.ibkr.store.in_memory import InMemoryShared, MemoryContent
from spreadpilot_core.ibkr.store.local.shared import LocalShared
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.shared import MongoShared
from support.mongo import mongo_database, mongo_server  # noqa: F401  # fixtures
from support.stores import ADAPTERS

pytestmark = pytest.mark.parametrize("store_adapter", ADAPTERS)

DOCUMENT = {"at": 1.5, "$set": {"a.b": None}, "names": ["Zürich", "\x00"], "deep": {"yes": True}}


@pytest.fixture
def make(store_adapter: str, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], SharedDocuments]:
    """Makes adapter objects that share their content, not opened."""
    if store_adapter == "local":
        return lambda: LocalShared(tmp_path / "shared.sqlite3")
    if store_adapter == "in_memory":
        content = MemoryContent()
        return lambda: InMemoryShared(content)
    server, database = request.getfixturevalue("mongo_server"), request.getfixturevalue("mongo_database")
    return lambda: MongoShared(MongoDatabase(SecretStr(server), f"{database}_{tmp_path.name[-30:]}"))


@pytest.fixture
async def store(make: Callable[[], SharedDocuments]) -> AsyncIterator[SharedDocuments]:
    store = make()
    await store.open()
    yield store
    await store.close()


async def test_documents_are_read_whole_by_another_manager(
    make: Callable[[], SharedDocuments], store: SharedDocuments
) -> None:
    """Whatever their names and values; each kind has names of its own, in order."""
    assert await store.get("token", "a:b") is None
    assert dict(await store.all("token")) == {}
    await store.put("token", "b", {"n": 1})
    await store.put("token", "a:b", DOCUMENT)
    await store.put("lease", "b", {"n": 2})
    await store.put("token", "b", {"n": 3})
    again = make()
    await again.open()
    assert dict(await again.all("token")) == {"a:b": DOCUMENT, "b": {"n": 3}}
    assert list(await again.all("token")) == ["a:b", "b"]
    assert await again.get("lease", "b") == {"n": 2}
    await again.close()


async def test_a_name_is_taken_once(make: Callable[[], SharedDocuments], store: SharedDocuments) -> None:
    """Of many managers that add it at once, one has it; when it is removed it is free."""
    others = [make() for _ in range(4)]
    for other in others:
        await other.open()
    won = await asyncio.gather(*(each.add("lease", "10000", {"by": n}) for n, each in enumerate([store, *others])))
    assert won.count(True) == 1
    assert await store.get("lease", "10000") == {"by": won.index(True)}
    assert await store.remove("lease", "10000")
    assert not await store.remove("lease", "10000")
    assert await store.add("lease", "10000", {"by": "the next"})
    for other in others:
        await other.close()


async def test_a_store_that_was_not_opened_is_away(make: Callable[[], SharedDocuments]) -> None:
    """And closing it is fine, twice."""
    store = make()
    with pytest.raises(StoreUnavailableError):
        await store.put("token", "a", {})
    await store.close()
    await store.close()
