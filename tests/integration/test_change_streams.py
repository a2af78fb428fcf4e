"""Followers from a server that tells of changes, against a scripted peer on the wire."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from bson import ObjectId
from pydantic import SecretStr

from spreadpilot_core.ibkr.store.hints import QUIET
from spreadpilot_core.ibkr.store.mongodb import followers
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.followers import MongoFollowers
from support.mongo_peer import NO_CHANGE_STREAMS, MongoPeer
from support.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

WITHIN = 30.0
NEVER = 3600.0
"""Seconds between two polls, so that only a change stream can have told."""


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Cut off in the middle of connecting, pymongo leaves a socket to the garbage collector: here, not in another test."""
    yield
    gc.collect()


@pytest.fixture
async def peer() -> AsyncIterator[MongoPeer]:
    async with MongoPeer() as peer:
        yield peer


@pytest.fixture
async def store(peer: MongoPeer) -> AsyncIterator[MongoFollowers]:
    store = MongoFollowers(MongoDatabase(SecretStr(peer.uri), "spreadpilot"), poll_interval=NEVER)
    await store.open()
    yield store
    await store.close()


def a_document(follower_id: str = "anna", **fields: Any) -> dict[str, Any]:
    return {"_id": ObjectId(), "id": follower_id, "vault_secret_ref": f"ibkr/{follower_id}", "enabled": True, **fields}


class Listener:
    """Loads at every hint, as the fleet does."""

    def __init__(self, store: MongoFollowers) -> None:
        self.names: list[str] = []
        self.hints = 0
        self._store = store

    async def listen(self) -> None:
        """Until the store is closed."""
        async with aclosing(self._store.hints()) as hints:
            async for _ in hints:
                self.hints += 1
                self.names = list((await self._store.load()).usable)


@pytest.fixture
async def listener(peer: MongoPeer, store: MongoFollowers) -> AsyncIterator[Listener]:
    """One that listens to an open stream and has had its first hints."""
    listener = Listener(store)
    task = asyncio.create_task(listener.listen())
    await until(lambda: peer.streams == 1 and peer.asked("getMore") and listener.hints, within=WITHIN)
    await asyncio.sleep(2 * QUIET)
    yield listener
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_change_is_told_by_the_stream(peer: MongoPeer, listener: Listener) -> None:
    """A change arrives without any poll; the record's ObjectId serves where it has no id of its own."""
    peer.change([a_document("anna")])
    await until(lambda: listener.names == ["anna"], within=WITHIN)
    nameless = {"_id": ObjectId("64b7f0000000000000000001"), "vault_secret_ref": "x"}
    peer.change([nameless])
    await until(lambda: listener.names == ["64b7f0000000000000000001"], within=WITHIN)


async def test_only_the_documented_fields_are_read(peer: MongoPeer, store: MongoFollowers) -> None:
    """What else other services keep in a record never comes here, but for names that are likely slips of ours."""
    await store.load()
    projection = set(peer.asked("find")[-1]["projection"])
    assert projection >= {
        *("id", "vault_secret_ref", "ibkr_secret_ref", "enabled", "state"),
        *("trading_mode", "account", "phone_owner", "region", "gateway"),
        *("enbled", "Enabled", "tradingMode", "read_only_api"),
    }
    assert not projection & {"email", "commission_pct", "accounts", "password", "status"}


async def test_burst_of_changes_is_one_hint(peer: MongoPeer, listener: Listener) -> None:
    """Ten changes at once give one hint, and the load after it has the last of them."""
    before = listener.hints
    for number in range(10):
        peer.change([a_document(f"follower-{number}")])
    await until(lambda: listener.names == ["follower-9"], within=WITHIN)
    await asyncio.sleep(2 * QUIET)
    assert listener.hints == before + 1


async def test_broken_stream_is_resumed(peer: MongoPeer, listener: Listener) -> None:
    """After a break the stream goes on where it was: what changed meanwhile is told, and nothing needs a new beginning."""
    peer.change([a_document("anna")])
    await until(lambda: listener.names == ["anna"], within=WITHIN)
    for name in ("bert", "cleo"):
        await peer.close()
        peer.change([a_document(name)])
        await peer.listen()
        await until(lambda name=name: listener.names == [name], within=WITHIN)
    opened = [command["pipeline"][0]["$changeStream"] for command in peer.asked("aggregate")]
    assert "resumeAfter" not in opened[0]
    assert all("resumeAfter" in each for each in opened[1:])


async def test_forgotten_past_means_a_full_read(peer: MongoPeer, listener: Listener) -> None:
    """Where the server can't resume any more, a new stream is opened and one hint makes up for what was missed."""
    peer.change([a_document("anna")])
    await until(lambda: listener.names == ["anna"], within=WITHIN)
    await peer.close()
    peer.change([a_document("bert")])
    peer.kept_from = 100
    await peer.listen()
    await until(lambda: any("resumeAfter" in _stage(each) for each in peer.asked("aggregate")), within=WITHIN)
    await until(lambda: listener.names == ["bert"], within=WITHIN)
    peer.change([a_document("cleo")])
    await until(lambda: listener.names == ["cleo"], within=WITHIN)


def _stage(command: dict[str, Any]) -> dict[str, Any]:
    stage: dict[str, Any] = command["pipeline"][0]["$changeStream"]
    return stage


@pytest.mark.parametrize(
    "refusal",
    [
        NO_CHANGE_STREAMS,
        {"ok": 0.0, "errmsg": "aggregation stage $changeStream is not supported"},
        {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": "not authorized to execute changeStream"},
    ],
    ids=["standalone", "without a code", "not allowed"],
)
async def test_refused_stream_means_polling(peer: MongoPeer, refusal: dict[str, Any]) -> None:
    """Whatever error a server answers to the opening, with a code or without: the followers are polled."""
    peer.refuse_streams = refusal
    store = MongoFollowers(MongoDatabase(SecretStr(peer.uri), "spreadpilot"), poll_interval=0.05)
    await store.open()
    listener = Listener(store)
    task = asyncio.create_task(listener.listen())
    await until(lambda: listener.hints > 3, within=WITHIN)
    peer.change([a_document("anna")])
    await until(lambda: listener.names == ["anna"], within=WITHIN)
    assert len(peer.asked("aggregate")) == 1
    await store.close()
    await task


async def test_polled_server_is_asked_again(peer: MongoPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that had no change streams may have been replaced by one that has: it is asked again now and then."""
    monkeypatch.setattr(followers, "ASK_AGAIN_AFTER", 0.2)
    peer.refuse_streams = NO_CHANGE_STREAMS
    store = MongoFollowers(MongoDatabase(SecretStr(peer.uri), "spreadpilot"), poll_interval=0.05)
    await store.open()
    await until(lambda: len(peer.asked("aggregate")) > 1, within=WITHIN)
    peer.refuse_streams = None
    await until(lambda: peer.streams == 1, within=WITHIN)
    await store.close()
    assert peer.streams == 0, "the stream was closed at the server too"
