"""The store in MongoDB while its server is killed, frozen, away at the start, or away for long."""

from __future__ import annotations

import asyncio
import gc
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pymongo
import pytest
from pydantic import SecretStr

from spreadpilot_core.ibkr.errors import StoreUnavailableError
from spreadpilot_core.ibkr.model.records import NO_LIMITS, LoginOutcome
from spreadpilot_core.ibkr.store.mongodb import database
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.followers import MongoFollowers
from spreadpilot_core.ibkr.store.outboxed_records import OutboxedRecords
from support.mongo import MongoServer, may_build
from support.store_writers import write_numbered
from support.stores import (
    BUDGET,
    NOON,
    MongoFollowersUnderTest,
    MongoRecordsUnderTest,
    a_mapping,
    a_record,
    an_attempt,
    an_entry,
)
from support.waiting import until

pytestmark = [may_build, pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]

WITHIN = 60.0
AWAY = r"MongoDB at 127\.0\.0\.1:\d+ (can't be used: .|does not answer\.)"
"""The second where this process was held up for longer than an answer may take."""
T = TypeVar("T")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that is away is given up sooner, so that the tests are quicker.

    Closed in the middle of connecting, pymongo leaves a socket to the garbage collector: here, not in another test.
    """
    monkeypatch.setattr(database, "REACH_WITHIN", 1.0)
    monkeypatch.setattr(database, "ANSWER_WITHIN", 1.5)
    yield
    gc.collect()


async def eventually(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once the server that is back has been found."""
    async with asyncio.timeout(WITHIN):
        while True:
            with suppress(StoreUnavailableError):
                return await ask()


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoServer]:
    with MongoServer(tmp_path_factory.mktemp("mongo") / "data") as server:
        yield server


@pytest.fixture
def server(one_server: MongoServer) -> Iterator[MongoServer]:
    yield one_server
    one_server.signal(signal.SIGCONT)
    if not one_server.is_running:
        one_server.start()


@pytest.fixture
def under_test(server: MongoServer, tmp_path: Path, request: pytest.FixtureRequest) -> MongoRecordsUnderTest:
    return MongoRecordsUnderTest(server.uri, request.node.name[:40].replace("[", "_").replace("]", ""), tmp_path)


@pytest.fixture
async def store(under_test: MongoRecordsUnderTest) -> AsyncIterator[OutboxedRecords]:
    store = under_test.outboxed()
    await eventually(store.open)
    yield store
    await store.close()


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.soak)])
async def test_killed_server_loses_nothing_acknowledged(
    server: MongoServer, under_test: MongoRecordsUnderTest, store: OutboxedRecords, kills: int
) -> None:
    """Killed again and again under a load of writes: all that was acknowledged is there in the end, once and in order."""
    ended = asyncio.Event()
    acknowledged: list[int] = []

    async def write_all_the_time() -> None:
        number = 0
        while not ended.is_set():
            try:
                await write_numbered(store, number)
            except StoreUnavailableError:  # of the reservation: nobody logs in
                await asyncio.sleep(0.02)
            else:
                acknowledged.append(number)
            number += 1
            await asyncio.sleep(0.002)

    writer = asyncio.create_task(write_all_the_time())
    for _ in range(kills):
        seen = len(acknowledged)
        await until(lambda seen=seen: len(acknowledged) > seen + 5, within=WITHIN)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.1)
        await asyncio.to_thread(server.start)
    ended.set()
    await writer
    async with asyncio.timeout(WITHIN):
        while store.waiting:
            await asyncio.sleep(0.05)
    history = await under_test.history()
    assert len(set(history)) == len(history)
    assert [int(each.split()[1][:-1]) for each in history] == sorted(int(each.split()[1][:-1]) for each in history)
    assert {f"Sentence {number}." for number in acknowledged} <= set(history)
    counted = [each.id for each in await eventually(lambda: store.full_logins("anna01", NOON))]
    assert len(set(counted)) == len(counted)
    assert {f"attempt-{number}" for number in acknowledged} <= set(counted)
    assert list(await eventually(store.unsettled_logins)) == []


async def test_nobody_logs_in_without_the_server(server: MongoServer, store: OutboxedRecords) -> None:
    """With the server away a reservation is refused in bounded time, and so is the mark that lets a container start."""
    await asyncio.to_thread(server.kill)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=AWAY):
        await store.reserve_login(an_attempt(), NO_LIMITS)
    assert time.monotonic() - began < 30
    await asyncio.to_thread(server.start)
    assert await eventually(lambda: store.reserve_login(an_attempt(2), BUDGET)) is None, (
        "the one without an answer is gone"
    )
    await asyncio.to_thread(server.kill)
    with pytest.raises(StoreUnavailableError):
        await store.mark_started(an_attempt(2).id, "c", NOON)


async def test_writes_wait_for_the_server_and_come_in_order(
    server: MongoServer, under_test: MongoRecordsUnderTest, store: OutboxedRecords
) -> None:
    """Records, settlements, history and mappings written while it was away are there after its return, in order."""
    attempt = an_attempt()
    assert await eventually(lambda: store.reserve_login(attempt, BUDGET)) is None
    await store.report([a_mapping("gone")])
    await store.append_history([an_entry(0)])
    await asyncio.to_thread(server.kill)
    for number in range(1, 8):
        await store.save(a_record(client_id=number, updated_at=NOON + timedelta(seconds=number)))
        await store.report([a_mapping(client_id=number)])
        await store.append_history([an_entry(number)])
    await store.settle_login(attempt.id, LoginOutcome.REJECTED, NOON)
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(WITHIN):
        while store.waiting:
            await asyncio.sleep(0.05)
    assert await under_test.history() == [f"Sentence {number}." for number in range(8)]
    assert [(each["follower_id"], each["client_id"]) for each in await under_test.mappings()] == [("anna", 7)]
    assert [record.client_id for record in (await eventually(store.load)).usable.values()] == [7]
    counted = await eventually(lambda: store.full_logins(attempt.user, NOON))
    assert [each.outcome for each in counted] == [LoginOutcome.REJECTED]


async def test_what_waits_survives_the_manager(
    server: MongoServer, under_test: MongoRecordsUnderTest, tmp_path: Path
) -> None:
    """A manager that ends while the server is away leaves its writes to the next one with the same state directory."""
    first = under_test.outboxed(outbox=tmp_path / "shared.sqlite3")
    await eventually(first.open)
    await asyncio.to_thread(server.kill)
    await first.save(a_record())
    await first.append_history([an_entry(1), an_entry(2)])
    await first.close()
    second = under_test.outboxed(outbox=tmp_path / "shared.sqlite3")
    with pytest.raises(StoreUnavailableError):
        await second.open()
    await asyncio.to_thread(server.start)
    await eventually(second.open)
    assert list((await eventually(second.load)).usable.values()) == [a_record()]
    assert list(await second.unsettled_logins()) == []  # asked by every manager that begins
    assert await under_test.history() == ["Sentence 1.", "Sentence 2."]
    await second.close()


async def test_late_record_does_not_undo_a_newer_one(
    server: MongoServer, under_test: MongoRecordsUnderTest, store: OutboxedRecords
) -> None:
    """A record that waited is left out when another manager has written a newer one meanwhile."""
    await asyncio.to_thread(server.kill)
    await store.save(a_record(client_id=1, updated_at=NOON))
    await store.save(a_record("bert", client_id=1, updated_at=NOON))
    newer = a_record(client_id=2, updated_at=NOON + timedelta(microseconds=1))
    await asyncio.to_thread(server.start)
    with pymongo.MongoClient(server.uri) as client:  # quicker than the store, which tries again within seconds
        document = {
            "_id": "anna",
            "follower_id": "anna",
            "client_id": 2,
            "updated_at": "2026-03-02T12:00:00.123457+00:00",
        }
        await asyncio.to_thread(
            client[under_test.database]["gateway_records"].replace_one, {"_id": "anna"}, document, True
        )
    records = {record.follower_id: record.client_id for record in (await eventually(store.load)).usable.values()}
    assert records == {newer.follower_id: 2, "bert": 1}


async def test_lost_term_leaves_the_mappings_alone(server: MongoServer, under_test: MongoRecordsUnderTest) -> None:
    """What a manager without the leader lease wanted other services to read is not written on return; its history is."""
    leads = True
    store = under_test.outboxed(is_leader=lambda: leads)
    await eventually(store.open)
    await store.report([a_mapping()])
    await until(lambda: not store.waiting, within=WITHIN)  # a server that was slow to take it takes it still
    await asyncio.to_thread(server.kill)
    await store.report([a_mapping("bert")])
    await store.append_history([an_entry(1)])
    leads = False
    await asyncio.to_thread(server.start)
    async with asyncio.timeout(WITHIN):
        while store.waiting:
            await asyncio.sleep(0.05)
    assert [each["follower_id"] for each in await under_test.mappings()] == ["anna"]
    assert await under_test.history() == ["Sentence 1."]
    await store.close()


async def test_full_outbox_refuses_and_loses_nothing(
    server: MongoServer, under_test: MongoRecordsUnderTest, tmp_path: Path
) -> None:
    """At its bound the outbox refuses with a sentence; what it had accepted is written on return."""
    store = under_test.outboxed(outbox=tmp_path / "small.sqlite3", limit=5)
    await eventually(store.open)
    await asyncio.to_thread(server.kill)
    await store.append_history([an_entry(number) for number in range(4)])
    with pytest.raises(StoreUnavailableError, match=r"small\.sqlite3 is full: 4 entries wait"):
        await store.append_history([an_entry(5), an_entry(6)])
    await asyncio.to_thread(server.start)
    await eventually(store.load)
    assert await under_test.history() == [f"Sentence {number}." for number in range(4)]
    await store.close()


GARBAGE = [
    *(("record", text) for text in ("{[", "[]", "7", "null", "{}", '{"follower_id": "anna", "client_id": "none"}')),
    *(("history", text) for text in ("{[", "[]", '{"id": "x"}', '{"id": 7, "at": "yesterday"}')),
    *(("settlement", text) for text in ("{}", '{"id": "x", "outcome": "splendid", "at": "now", "not_before": null}')),
    *(("withdrawal", text) for text in ('{"id": [], "user": 3}', "{}")),
    *(("nonsense", text) for text in ("{}", '{"id": 1}')),
]


async def test_garbage_in_the_outbox_harms_nothing_beside_it(
    server: MongoServer, under_test: MongoRecordsUnderTest, tmp_path: Path
) -> None:
    """What stands between rows that make no sense is written, in order; what makes none is told, and overwrites nobody."""
    outbox, told = tmp_path / "outbox.sqlite3", {}
    store = under_test.outboxed(outbox=outbox)
    await eventually(store.open)
    await store.save(a_record())
    await asyncio.to_thread(server.kill)
    await store.append_history([an_entry(1)])
    await store.save(a_record("bert"))
    await store.close()

    def plant() -> None:
        with closing(sqlite3.connect(outbox)) as file, file:
            file.execute("UPDATE entries SET number = number + 1000")
            file.executemany("INSERT INTO entries (number, kind, document) VALUES (?, ?, ?)", numbered(0))
            file.executemany("INSERT INTO entries (number, kind, document) VALUES (?, ?, ?)", numbered(2000))
            file.execute("INSERT INTO entries (kind, document) VALUES ('history', x'fffe')")

    def numbered(first: int) -> list[tuple[int, str, str]]:
        return [(first + number, kind, text) for number, (kind, text) in enumerate(GARBAGE, 1)]

    await asyncio.to_thread(plant)
    await asyncio.to_thread(server.start)
    again = under_test.outboxed(outbox=outbox, tell=told.__setitem__)
    try:
        await eventually(again.open)
        kept = await again.load()
        assert again.waiting == 0
        assert dict(kept.usable) == {"anna": a_record(), "bert": a_record("bert")}
        assert await under_test.history() == [an_entry(1).sentence]
        assert {cause.partition(": ")[2] for cause in told} == {kind for kind, _ in GARBAGE}
    finally:
        await again.close()


async def test_frozen_server_is_given_up_in_time(server: MongoServer, store: OutboxedRecords) -> None:
    """A server that accepts and never answers holds no caller for ever; lifted, all goes on."""
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await store.reserve_login(an_attempt(), BUDGET)
    assert time.monotonic() - began < 30
    await store.save(a_record())
    server.signal(signal.SIGCONT)
    assert list((await eventually(store.load)).usable) == ["anna"]
    assert await eventually(lambda: store.reserve_login(an_attempt(2), BUDGET)) is None


async def test_server_away_at_the_start(server: MongoServer) -> None:
    """Opening fails in bounded time with a sentence that shows no password, and works once the server is there."""
    await asyncio.to_thread(server.kill)
    uri = server.uri.replace("mongodb://", "mongodb://spread:geheim%2Fpilot@")
    for name in (uri, server.uri):
        followers = MongoFollowers(MongoDatabase(SecretStr(name), "away"), poll_interval=0.2)
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=AWAY) as raised:
            await followers.open()
        assert time.monotonic() - began < 30
        assert f":{server.port} " in str(raised.value)
        assert "geheim" not in str(raised.value)
        assert raised.value.__context__ is None
        await followers.close()
    followers = MongoFollowers(MongoDatabase(SecretStr(server.uri), "away"), poll_interval=0.2)
    with pytest.raises(StoreUnavailableError):
        await followers.open()
    await asyncio.to_thread(server.start)
    await eventually(followers.open)
    assert dict((await eventually(followers.load)).usable) == {}
    await followers.close()


async def test_hints_outlive_the_server(server: MongoServer) -> None:
    """Whoever loads at every hint has the newest records soon after the server came back."""
    under_test = MongoFollowersUnderTest(server.uri, "hints")
    store = under_test.store()
    await eventually(store.open)
    async with aclosing(store.hints()) as hints, asyncio.timeout(WITHIN):
        for name in ("anna", "bert"):
            await under_test.put([{"id": name, "vault_secret_ref": "x"}])
            while True:
                await anext(hints)
                try:
                    if list((await store.load()).usable) == [name]:
                        break
                except StoreUnavailableError:
                    continue
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.1)
            await asyncio.to_thread(server.start)
    await store.close()
