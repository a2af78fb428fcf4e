"""A manager that connects to MongoDB for the first time says nothing of a MongoDB that went away."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import Record
from spreadpilot_core.ibkr.store.in_memory import InMemoryRecords, MemoryContent
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.records import MongoRecords
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from support.ports import free_ports
from support.waiting import until


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[OutboxedRecords]:
    """A record store on a server that nobody has started yet."""
    uri = SecretStr(f"mongodb://127.0.0.1:{free_ports(1)}/?serverSelectionTimeoutMS=100")
    store = OutboxedRecords(MongoRecords(MongoDatabase(uri, "test")), Outbox(tmp_path / "outbox.sqlite3"))
    yield store
    await store.close()


async def test_what_is_written_before_the_first_connection_is_kept_without_a_word(
    records: OutboxedRecords, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever opens the store tells why it can't be reached; a write that waits for that adds no second cause."""
    caplog.set_level(logging.INFO)
    with pytest.raises(StoreUnavailableError):
        await records.open()
    await records.save(Record(follower_id=FollowerId("alice")))
    await records.report(())
    assert records.waiting > 0
    assert "away" not in caplog.text


async def test_what_was_kept_until_the_first_connection_is_written_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every manager writes something before its store is open."""
    caplog.set_level(logging.INFO)
    store = OutboxedRecords(InMemoryRecords(MemoryContent()), Outbox(tmp_path / "outbox.sqlite3"))
    await store._outbox.open()
    await store.save(Record(follower_id=FollowerId("alice")))
    await store.open()
    assert list((await store.load()).usable) == ["alice"]
    assert not await store.unsettled_logins()
    await until(lambda: not store.waiting and not len(store._tasks))
    await store.close()
    assert "kept" not in caplog.text
