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

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.records import (
    AttemptId,
    ContainerId,
    GatewayMapping,
    HistoryEntry,
    LoginAttempt,
    LoginLimits,
    Record,
)
from spreadpilot_core.ibkr.seams import FollowerStore, RecordStore
from spreadpilot_core.ibkr.store.in_memory import InMemoryFollowers, InMemoryRecords, MemoryContent
from spreadpilot_core.ibkr.store.local.followers import LocalFollowers
from spreadpilot_core.ibkr.store.local.followers_file import FILE_NAME as FOLLOWERS_FILE
from spreadpilot_core.ibkr.store.local.records import FILE_NAME as RECORDS_FILE
from spreadpilot_core.ibkr.store.local.records import LocalRecords
from spreadpilot_core.ibkr.store.mongodb import database
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.followers import MongoFollowers
from spreadpilot_core.ibkr.store.mongodb.records import MongoRecords
from spreadpilot_core.ibkr.store.outbox import Outbox
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from spreadpilot_core.ibkr.system.whole_files import write_whole
from spreadpilot_core.ibkr.tasks import Tell, untold
from support.mongo import may_build
from support.waiting import PATIENCE

T = TypeVar("T")

ADAPTERS = ("in_memory", "local", pytest.param("mongodb", marks=may_build))
RECORD_ADAPTERS = (*ADAPTERS, "outboxed")

NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)
"""When most tests begin; the microseconds must survive."""
POLL_INTERVAL = 0.5
BUDGET = LoginLimits(counted=3)


def noon() -> datetime:
    """The clock of stores in tests; a function of a module, so that other processes can be given it."""
    return NOON


DAMAGES = {"unreadable": (), "another's": ("follower_id", "anna"), "no time": ("updated_at", "yesterday")}
"""What a careless hand does to a record: a field and its new value, or all of it."""


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

    async def damage_record(self, follower_id: str, how: str) -> None:
        """Spoil one record the way a careless hand would: one of `DAMAGES`."""

    async def damage_login(self, user: str) -> None:
        """Spoil a login of this user."""

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
        await asyncio.to_thread(write_whole, self.path, content.encode())


class Breakable:
    """A record store between whose caller and whose content something can break."""

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self.error: StoreUnavailableError | None = None
        """What every call ends with, while it does."""
        self.loses_answers = False
        """Whether a call does its work before it ends so."""

    def __getattr__(self, name: str) -> Any:
        work = getattr(self._store, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            error = self.error if name != "close" else None
            answer = await work(*arguments, **named) if error is None or self.loses_answers else None
            if error is not None:
                raise error
            return answer

        return call


class LocalRecordsUnderTest:
    def __init__(self, directory: Path) -> None:
        self.path = directory / RECORDS_FILE

    def store(self) -> LocalRecords:
        """A new adapter object, not opened."""
        return LocalRecords(self.path, clock=noon)

    async def damage_record(self, follower_id: str, how: str) -> None:
        """In its text, or all of it."""
        [(text,)] = await asyncio.to_thread(
            self._run, "SELECT document FROM records WHERE follower_id = ?", follower_id
        )
        spoilt = json.dumps({**json.loads(text), **dict([DAMAGES[how]])}) if DAMAGES[how] else "{["
        change = "UPDATE records SET document = ? WHERE follower_id = ?"
        await asyncio.to_thread(self._run, change, spoilt, follower_id)

    async def damage_login(self, user: str) -> None:
        """Leave an empty document."""
        await asyncio.to_thread(self._run, "UPDATE logins SET document = '{}' WHERE user = ?", user)

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


class OutboxedRecordsUnderTest(LocalRecordsUnderTest):
    """With an outbox that nothing goes to."""

    def store(self) -> RecordStore:  # type: ignore[override]  # the same protocol
        """A new adapter object, not opened."""
        return OutboxedRecords(super().store(), Outbox(self.path.with_name("outbox.sqlite3")))


class InMemoryFollowersUnderTest:
    def __init__(self) -> None:
        self.content = MemoryContent()

    def store(self) -> InMemoryFollowers:
        """A new adapter object, not opened."""
        return InMemoryFollowers(self.content)

    async def put(self, documents: Sequence[Mapping[str, Any]]) -> None:
        """Make these the whole content."""
        self.content.put_followers(documents)


class InMemoryRecordsUnderTest:
    def __init__(self, content: MemoryContent) -> None:
        self.content = content

    def store(self) -> InMemoryRecords:
        """A new adapter object, not opened."""
        return InMemoryRecords(self.content, clock=noon)

    async def damage_record(self, follower_id: str, how: str) -> None:
        """In its document, or all of it."""
        document = self.content.records[follower_id]
        assert isinstance(document, dict)
        self.content.records[follower_id] = {**document, **dict([DAMAGES[how]])} if DAMAGES[how] else "{["

    async def damage_login(self, user: str) -> None:
        """Leave nothing but whose it is."""
        for attempt_id, document in self.content.logins.items():
            if document["user"] == user:
                self.content.logins[attempt_id] = {"user": user}

    async def mappings(self) -> list[dict[str, Any]]:
        """As they are held."""
        return [self.content.mappings[name] for name in sorted(self.content.mappings)]

    async def history(self) -> list[str]:
        """As it is held."""
        return [each["sentence"] for each in self.content.history.values()]


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

    def store(self) -> MongoRecords:
        """A new adapter object, not opened."""
        return MongoRecords(MongoDatabase(SecretStr(self.uri), self.database), clock=noon)

    def outboxed(
        self,
        *,
        outbox: Path | None = None,
        limit: int = 1000,
        is_leader: Callable[[], bool] = lambda: True,
        tell: Tell = untold,
    ) -> OutboxedRecords:
        """The same with an outbox, as each manager has one of its own."""
        store = self.store()
        store.is_leader = is_leader
        return OutboxedRecords(store, Outbox(outbox or next(self._outboxes), limit=limit), tell=tell)

    async def damage_record(self, follower_id: str, how: str) -> None:
        """One field of it, or the one that says whose it is taken away."""
        change = {"$set": dict([DAMAGES[how]])} if DAMAGES[how] else {"$unset": {"follower_id": ""}}

        def damage(database: Database[dict[str, Any]]) -> None:
            database["gateway_records"].update_one({"_id": follower_id}, change)

        await asyncio.to_thread(self._with, damage)

    async def damage_login(self, user: str) -> None:
        """What is no attempt stands among its attempts."""
        await self.change_logins(user, {"attempts": ["nonsense"]})

    async def change_logins(self, user: str, fields: Mapping[str, Any]) -> None:
        """Set these fields of this user's document."""

        def change(database: Database[dict[str, Any]]) -> None:
            database["gateway_logins"].update_many({"name": user}, {"$set": dict(fields)})

        await asyncio.to_thread(self._with, change)

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
    phone: str | None = None,
) -> LoginAttempt:
    """Attempt `number` of `user`, reserved `after` later than `at`."""
    return LoginAttempt(
        id=AttemptId(f"attempt-{number}"),
        user=user,
        follower_id=FollowerId(f"follower of {user}"),
        secret_version="3",
        reserved_at=at + after,
        by_operator=by_operator,
        phone=phone,
    )


def a_record(follower_id: str = "anna", **fields: Any) -> Record:
    """A record with every kind of field set, unless told otherwise."""
    given = {
        "client_id": 4711,
        "stopped_by_operator": True,
        "user": "anna01",
        "secret_version": "3",
        "launch_id": "launch",
        "container_id": ContainerId("c0ffee"),
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
    request.getfixturevalue("monkeypatch").setattr(database, "ANSWER_WITHIN", PATIENCE)


def followers_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> FollowersUnderTest:
    """The content of a fresh follower store of this adapter."""
    if adapter == "in_memory":
        return InMemoryFollowersUnderTest()
    if adapter == "local":
        return LocalFollowersUnderTest(directory)
    _wait_for_the_server(request)
    return MongoFollowersUnderTest(request.getfixturevalue("mongo_server"), request.getfixturevalue("mongo_database"))


def records_under_test(adapter: str, directory: Path, request: pytest.FixtureRequest) -> RecordsUnderTest:
    """The content of a record store of this adapter that is new for each directory and thinks it is `NOON`."""
    if adapter == "in_memory":
        return InMemoryRecordsUnderTest(MemoryContent())
    if adapter == "local":
        return LocalRecordsUnderTest(directory)
    if adapter == "outboxed":
        return OutboxedRecordsUnderTest(directory)
    _wait_for_the_server(request)
    database = f"{request.getfixturevalue('mongo_database')}_{directory.name[-30:]}"
    return MongoRecordsUnderTest(request.getfixturevalue("mongo_server"), database, directory)
