"""Every adapter of the two store protocols, each with what a test needs beside the protocol: raw writing and reading."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
import tomlkit

from spreadpilot_core.ibkr.protocols import (
    AttemptId,
    ContainerId,
    FollowerId,
    FollowerStore,
    GatewayMapping,
    HistoryEntry,
    LoginAttempt,
    Record,
    RecordStore,
)
from spreadpilot_core.ibkr.store.followers_file import FILE_NAME as FOLLOWERS_FILE
from spreadpilot_core.ibkr.store.followers_file import replace_content
from spreadpilot_core.ibkr.store.local import LocalFollowers, LocalRecords
from spreadpilot_core.ibkr.store.local_records import FILE_NAME as RECORDS_FILE

ADAPTERS = ("local",)

NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
"""When most tests begin; the microseconds must survive."""
POLL_INTERVAL = 0.5


def noon() -> datetime:
    """The clock of stores in tests; a function of a module, so that other processes can be given it."""
    return NOON


class FollowersUnderTest(Protocol):
    """One follower store's content, and adapters on it."""

    def store(self) -> FollowerStore:
        """A new adapter object, not opened."""

    async def put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the whole content."""


class RecordsUnderTest(Protocol):
    """One record store's content, and adapters on it."""

    def store(self) -> RecordStore:
        """A new adapter object, not opened; all of them share the content."""

    async def damage_record(self, follower_id: str) -> None:
        """Spoil one record the way a careless hand would."""

    async def mappings(self) -> list[dict[str, Any]]:
        """What another service reads, by follower."""

    async def history(self) -> list[str]:
        """The history's sentences in the order they were written."""


class LocalFollowersUnderTest:
    def __init__(self, directory: Path) -> None:
        self.path = directory / FOLLOWERS_FILE

    def store(self) -> LocalFollowers:
        """A new adapter object, not opened."""
        return LocalFollowers(self.path, poll_interval=POLL_INTERVAL)

    async def put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the whole content."""
        content = tomlkit.dumps({"follower": list(documents)}) if documents else ""
        await asyncio.to_thread(replace_content, self.path, content.encode())


class LocalRecordsUnderTest:
    def __init__(self, directory: Path) -> None:
        self.path = directory / RECORDS_FILE

    def store(self) -> LocalRecords:
        """A new adapter object, not opened."""
        return LocalRecords(self.path, clock=noon)

    async def damage_record(self, follower_id: str) -> None:
        """Leave an empty document."""
        await asyncio.to_thread(self._run, "UPDATE records SET document = '{}' WHERE follower_id = ?", follower_id)

    async def mappings(self) -> list[dict[str, Any]]:
        """As the database file holds them."""
        rows = await asyncio.to_thread(self._run, "SELECT document FROM mappings ORDER BY follower_id")
        return [json.loads(text) for (text,) in rows]

    async def history(self) -> list[str]:
        """As the database file holds it."""
        rows = await asyncio.to_thread(self._run, "SELECT document FROM history ORDER BY number")
        return [json.loads(text)["sentence"] for (text,) in rows]

    def _run(self, statement: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()


# ---------------------------------------------------------------------------------------------- things to write


def an_attempt(
    number: int = 1,
    *,
    user: str = "anna01",
    at: datetime = NOON,
    after: timedelta = timedelta(0),
    by_operator: bool = False,
) -> LoginAttempt:
    """Attempt `number` of `user`, reserved `after` later than `at`."""
    return LoginAttempt(
        id=AttemptId(f"attempt-{number}"),
        user=user,
        follower_id=FollowerId(f"follower of {user}"),
        secret_version="3",
        reserved_at=at + after,
        by_operator=by_operator,
    )


def a_record(follower_id: str = "anna", **fields: Any) -> Record:
    """A record with every kind of field set, unless told otherwise."""
    given = {
        "client_id": 4711,
        "stopped_by_operator": True,
        "user": "anna01",
        "secret_version": "3",
        "logged_in_before": ContainerId("c0ffee"),
        "false_rejection_used": NOON,
        "last_reason": "Login failed: “Zürich” said »no«.",
        "last_words": "line 1\nline 2\n",
        "updated_at": NOON,
        **fields,
    }
    return Record(follower_id=FollowerId(follower_id), **given)


def a_mapping(follower_id: str = "anna", **fields: Any) -> GatewayMapping:
    """A running gateway as other services see it."""
    given = {
        "container_id": ContainerId(f"container of {follower_id}"),
        "container_name": f"ibgateway-follower-{follower_id}",
        "host_port": 4100,
        "client_id": 4711,
        "status": "RUNNING",
        "last_updated": NOON,
        **fields,
    }
    return GatewayMapping(follower_id=FollowerId(follower_id), **given)


def an_entry(number: int, *, at: datetime = NOON) -> HistoryEntry:
    """Line `number` of the history."""
    return HistoryEntry(
        id=f"entry-{number}", at=at, follower_id=FollowerId("anna"), name="GatewayReady", sentence=f"Sentence {number}."
    )


# ---------------------------------------------------------------------------------------------- by name


def followers_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> FollowersUnderTest:
    """The content of a fresh follower store of this adapter."""
    del request
    assert adapter == "local"
    return LocalFollowersUnderTest(directory)


def records_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    """The content of a fresh record store of this adapter, which thinks it is `NOON`."""
    del request
    assert adapter == "local"
    return LocalRecordsUnderTest(directory)
