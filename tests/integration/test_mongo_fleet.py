"""The manager on a real MongoDB-protocol server: hundreds of followers, broken records among them, and a churn of edits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.credentials.encrypted import EncryptedCredentials
from spreadpilot_core.ibkr.gateway_manager import GatewayManager, State
from support.home import PASSWORD, Home, eventually, seen
from support.mongo import BUILD_TIME, MongoServer, may_build

BROKEN: list[dict[str, Any]] = [
    {"enabled": True},  # no secret reference
    {"vault_secret_ref": "", "enabled": True},
    {"vault_secret_ref": 7, "enabled": True},
    {"vault_secret_ref": "ibkr/x", "enabled": "yes"},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "state": 5},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "trading_mode": "demo"},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "account": ["DU1"]},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "gateway": {"colour": "red"}},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "gateway": "big"},
    {"vault_secret_ref": "ibkr/x", "enabled": True, "id": "x" * 129},
]

pytestmark = [may_build]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo") as running:
        yield running


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home(ports=500)
    yield place
    await place.end()


async def store_credentials(home: Home, followers: list[str]) -> None:
    """One secret of its own for each follower."""

    def store() -> None:
        store = EncryptedCredentials.at(home.directory)
        for each in followers:
            store.set(f"ibkr/{each}", f"user-{each}", PASSWORD)

    await asyncio.to_thread(store)


def manager_of(home: Home, server: MongoServer, **settings: Any) -> GatewayManager:
    return home.manager(**{"store_url": "mongodb:", "mongo_uri": server.uri, "poll_interval": 0.3, **settings})


@pytest.mark.timeout(BUILD_TIME)
@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.soak)])
async def test_nine_of_ten_followers_start_and_the_broken_ones_are_named(
    home: Home, server: MongoServer, count: int
) -> None:
    """Each broken record is invalid with its own fault, and disturbs none of the others."""
    good = [f"follower_{number}" for number in range(count * 9 // 10)]
    await store_credentials(home, good)
    broken = [{"_id": f"broken_{number}", **BROKEN[number % len(BROKEN)]} for number in range(count // 10)]

    def fill() -> None:
        with pymongo.MongoClient(server.uri) as client:
            followers = client["spreadpilot"]["followers"]
            followers.insert_many(
                [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in good] + broken
            )

    await asyncio.to_thread(fill)
    manager = manager_of(
        home, server, poll_interval=5, healthcheck_interval=30, heartbeat_timeout=30, max_startup_time=90
    )
    await manager.start()
    try:
        await eventually(
            lambda: Counter(each.state for each in manager.list_gateways())[State.READY] == len(good),
            lambda: Counter((each.state, each.reason) for each in manager.list_gateways()).most_common(5),
            within=BUILD_TIME - 60,
        )
        invalid = [each for each in manager.list_gateways() if each.state is State.INVALID]
        assert len(invalid) == len(broken)
        assert len({each.reason for each in invalid}) == len(BROKEN)
        assert len({each.endpoint for each in manager.list_gateways() if each.endpoint}) == len(good)
    finally:
        await manager.stop()


class Editor:
    """Edits the collection at random, and knows what it asks for in the end."""

    def __init__(self, server: MongoServer, names: list[str], seed: int) -> None:
        self._server = server
        self._names = names
        self._rng = random.Random(seed)
        self.wanted: set[str] = set()

    def edit(self) -> None:
        """One random change: enable, disable, delete, change, garbage."""
        name = self._rng.choice(self._names)
        good = {"_id": name, "vault_secret_ref": f"ibkr/{name}", "enabled": True}
        with pymongo.MongoClient(self._server.uri) as client:
            followers = client["spreadpilot"]["followers"]
            kind = self._rng.choice(["enable", "enable", "disable", "delete", "change", "garbage"])
            if kind == "delete":
                followers.delete_one({"_id": name})
            elif kind == "disable":
                followers.replace_one({"_id": name}, {**good, "enabled": False}, upsert=True)
            elif kind == "garbage":
                followers.replace_one({"_id": name}, {"_id": name, **self._rng.choice(BROKEN[:9])}, upsert=True)
            else:
                extra = {"gateway": {"read_only_api": self._rng.random() < 0.5}} if kind == "change" else {}
                followers.replace_one({"_id": name}, {**good, **extra}, upsert=True)
        if kind in ("enable", "change"):
            self.wanted.add(name)
        else:
            self.wanted.discard(name)


@pytest.mark.timeout(BUILD_TIME)
@pytest.mark.parametrize("edits", [500, pytest.param(2000, marks=pytest.mark.soak)])
async def test_a_churn_of_edits_ends_with_exactly_the_gateways_that_are_asked_for(
    home: Home, server: MongoServer, edits: int
) -> None:
    """Random edits with the server killed in between: the end is exact, and no follower ever had two gateways."""
    names = [f"f{number}" for number in range(12)]
    await store_credentials(home, names)
    editor = Editor(server, names, seed=11)
    manager = manager_of(home, server, login_budget=8)
    await manager.start()
    try:
        for number in range(edits):
            await asyncio.to_thread(editor.edit)
            if number % 125 == 124:
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.start)
            if number % 10 == 9:
                await asyncio.sleep(0.2)
        await eventually(lambda: running_of(manager) >= editor.wanted or failed_of(manager), within=60)
        for each in failed_of(manager):  # a launch that an edit cut short may have cost its login: an operator's turn
            with contextlib.suppress(Exception):
                await manager.launch_gateway(each, retry_login=True)
        await eventually(
            lambda: running_of(manager) == editor.wanted,
            lambda: (editor.wanted, [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()]),
            within=60,
        )
        runtime = home.runtime()
        await runtime.open()
        assert {each.follower_id for each in await runtime.find()} == editor.wanted
        await runtime.close()
        assert await most_at_once(home) == 1
    finally:
        await manager.stop()


def running_of(manager: GatewayManager) -> set[str]:
    return {each.follower_id for each in manager.list_gateways() if each.state is State.READY}


def failed_of(manager: GatewayManager) -> list[str]:
    stuck = (State.BACKING_OFF, State.NEEDS_HUMAN)
    return [each.follower_id for each in manager.list_gateways() if seen(manager, each.follower_id).state in stuck]


async def most_at_once(home: Home) -> int:
    """How many containers one follower had at once at the most, by the engine's own trail."""
    text = await asyncio.to_thread((home.directory / "operations.jsonl").read_text)
    there: Counter[str] = Counter()
    most = 0
    for line in text.splitlines():
        entry = json.loads(line)
        if entry["phase"] != "end" or entry["result"] != "done":
            continue
        if entry["operation"] == "create":
            there[entry["follower"]] += 1
        elif entry["operation"] == "remove":
            there[entry["follower"]] -= 1
        most = max(most, *there.values(), 0)
    return most
