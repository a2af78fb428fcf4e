"""Every adapter of the two store protocols, each with what a test needs beside the protocol: raw writing and reading."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pymongo
import pytest
import tomlkit
from pydantic import SecretStr
from pymongo.database import Database

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
from spreadpilot_core.ibkr.store import mongo_database
from spreadpilot_core.ibkr.store.followers_file import FILE_NAME as FOLLOWERS_FILE
from spreadpilot_core.ibkr.store.followers_file import replace_content
from spreadpilot_core.ibkr.store.local import LocalFollowers, LocalRecords
from spreadpilot_core.ibkr.store.local_records import FILE_NAME as RECORDS_FILE
from spreadpilot_core.ibkr.store.mongo_database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb import MongoFollowers, MongoRecords
from spreadpilot_core.ibkr.store.outbox import Outbox
from support.mongo import may_build
from support.waiting import PATIENCE

T = TypeVar("T")

ADAPTERS = ("local", pytest.param("mongodb", marks=may_build))

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


class MongoFollowersUnderTest:
    def __init__(self, uri: str, database: str) -> None:
        self.uri = uri
        self.database = database

    def store(self) -> MongoFollowers:
        """A new adapter object, not opened."""
        return MongoFollowers(MongoDatabase(SecretStr(self.uri), self.database), poll_interval=POLL_INTERVAL)

    async def put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the whole content, one write after the other as another service would."""
        await asyncio.to_thread(self._put, [dict(document) for document in documents])

    def _put(self, documents: list[dict[str, Any]]) -> None:
        with pymongo.MongoClient[dict[str, Any]](self.uri) as client:
            followers = client[self.database]["followers"]
            followers.delete_many({})
            if documents:
                followers.insert_many(documents)


class MongoRecordsUnderTest:
    def __init__(self, uri: str, database: str, directory: Path) -> None:
        self.uri = uri
        self.database = database
        self._outboxes = (directory / f"outbox-{number}.sqlite3" for number in itertools.count())

    def store(self, *, outbox: Path | None = None, limit: int = 1000) -> MongoRecords:
        """A new adapter object, not opened, with an outbox of its own as each manager has one."""
        database = MongoDatabase(SecretStr(self.uri), self.database)
        return MongoRecords(database, Outbox(outbox or next(self._outboxes), limit=limit), clock=noon)

    async def damage_record(self, follower_id: str) -> None:
        """Take away the field that says whose it is."""

        def damage(database: Database[dict[str, Any]]) -> None:
            database["gateway_records"].update_one({"_id": follower_id}, {"$unset": {"follower_id": ""}})

        await asyncio.to_thread(self._with, damage)

    async def mappings(self) -> list[dict[str, Any]]:
        """As the collection holds them."""
        return await asyncio.to_thread(
            self._with, lambda database: database["gateway_mappings"].find().sort("follower_id").to_list()
        )

    async def history(self) -> list[str]:
        """As the collection holds it."""
        documents = await asyncio.to_thread(self._with, lambda database: database["gateway_events"].find().to_list())
        return [document["sentence"] for document in documents]

    def _with(self, work: Callable[[Database[dict[str, Any]]], T]) -> T:
        with pymongo.MongoClient[dict[str, Any]](self.uri) as client:
            return work(client[self.database])


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


def _wait_for_the_server(request: pytest.FixtureRequest) -> None:
    """However long its disk takes: what the store does when the server is away is not what every store must do."""
    request.getfixturevalue("monkeypatch").setattr(mongo_database, "ANSWER_WITHIN", PATIENCE)


def followers_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> FollowersUnderTest:
    """The content of a fresh follower store of this adapter."""
    if adapter == "local":
        return LocalFollowersUnderTest(directory)
    _wait_for_the_server(request)
    return MongoFollowersUnderTest(request.getfixturevalue("mongo_server"), request.getfixturevalue("mongo_database"))


def records_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    """The content of a record store of this adapter that is new for each directory and thinks it is `NOON`."""
    if adapter == "local":
        return LocalRecordsUnderTest(directory)
    _wait_for_the_server(request)
    database = f"{request.getfixturevalue('mongo_database')}_{directory.name[-30:]}"
    return MongoRecordsUnderTest(request.getfixturevalue("mongo_server"), database, directory)
