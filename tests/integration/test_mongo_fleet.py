"""The manager on a real MongoDB-protocol server: hundreds of followers, broken records among them, and a churn of edits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.credentials.sources.encrypted.source import EncryptedCredentials
from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.model.followers import FollowerId
from spreadpilot_core.ibkr.model.states import GatewayStatus, State
from support.home import PASSWORD, PATIENCE, Home, eventually, seen
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

    def say_plainly(self) -> None:
        """Disable whoever's record can't be used: the reading before it is in force for those who had a gateway."""
        with pymongo.MongoClient(self._server.uri) as client:
            for name in set(self._names) - self.wanted:
                client["spreadpilot"]["followers"].update_one({"_id": name}, {"$set": {"enabled": False}})


@pytest.mark.timeout(BUILD_TIME)
@pytest.mark.parametrize("edits", [500, pytest.param(2000, marks=pytest.mark.soak)])
async def test_a_churn_of_edits_ends_with_exactly_the_gateways_that_are_asked_for(
    home: Home, server: MongoServer, edits: int
) -> None:
    """Random edits with the server killed in between: the end is exact, and no follower ever had two gateways."""
    names = [f"f{number}" for number in range(12)]
    await store_credentials(home, names)
    editor = Editor(server, names, seed=11)
    manager = manager_of(home, server, login_budget=8, removal_delay=0.5)
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
        await asyncio.to_thread(editor.say_plainly)
        operator = asyncio.create_task(retry_whoever_failed(manager))
        await eventually(
            lambda: running_of(manager) == containers_of(manager) == editor.wanted,
            lambda: (editor.wanted, [(each.follower_id, each.state, each.reason) for each in manager.list_gateways()]),
            within=120,
        )
        operator.cancel()
        assert manager._wired is not None
        runtime = home.runtime()
        runtime.identities = manager._wired.services.runtime.identities
        await runtime.open()
        assert {each.follower_id for each in await runtime.list()} == editor.wanted
        await runtime.close()
        assert await most_at_once(home) == 1
    finally:
        await manager.stop()


def running_of(manager: GatewayManager) -> set[str]:
    return {each.follower_id for each in manager.list_gateways() if each.state is State.READY}


def containers_of(manager: GatewayManager) -> set[str]:
    """Who has a container: ready, on its way, or being ended."""
    return {each.follower_id for each in manager.list_gateways() if each.container is not None}


async def retry_whoever_failed(manager: GatewayManager) -> None:
    """What an operator does about launches that an edit cut short and that may have cost their login, and about deletions."""
    while True:
        await manager.confirm_removals()
        for each in manager.list_gateways():
            if each.state in (State.BACKING_OFF, State.NEEDS_HUMAN):
                with contextlib.suppress(Exception):
                    await manager.launch_gateway(each.follower_id, retry_login=True)
        await asyncio.sleep(0.5)


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


async def test_the_second_of_two_followers_with_one_user_is_failed_and_both_are_named(
    home: Home, server: MongoServer
) -> None:
    """The running one keeps its gateway, also over a restart of the manager; when it is disabled, the other logs in."""
    await store_credentials(home, ["anna"])
    manager = manager_of(home, server)
    await asyncio.to_thread(put_follower, server, "zoe", ref="ibkr/anna")
    await manager.start()
    try:
        await eventually(lambda: running_of(manager) == {"zoe"}, manager.list_gateways)
        first = seen(manager, "zoe").endpoint
        await asyncio.to_thread(put_follower, server, "anna")
        await eventually(lambda: is_refused(manager), manager.list_gateways)
        assert (running_of(manager), seen(manager, "zoe").endpoint) == ({"zoe"}, first)
    finally:
        await manager.detach()
    manager = manager_of(home, server)
    await manager.start()
    try:
        await eventually(lambda: is_refused(manager) and running_of(manager) == {"zoe"}, manager.list_gateways)
        assert seen(manager, "zoe").endpoint == first
        assert await most_at_once(home) == 1
        await asyncio.to_thread(put_follower, server, "zoe", ref="ibkr/anna", enabled=False)
        await eventually(lambda: running_of(manager) == {"anna"}, manager.list_gateways)
    finally:
        await manager.stop()


def is_refused(manager: GatewayManager) -> bool:
    """Whether anna is FAILED, with the sentence that names both."""
    sentence = "IBKR user user-anna is logged in for follower zoe already; anna names the same user."
    [anna] = [each for each in manager.list_gateways() if each.follower_id == "anna"] or [None]
    return anna is not None and (anna.status, anna.reason) == (GatewayStatus.FAILED, sentence)


def put_follower(server: MongoServer, name: str, *, ref: str | None = None, enabled: bool = True) -> None:
    with pymongo.MongoClient(server.uri) as client:
        document = {"_id": name, "vault_secret_ref": ref or f"ibkr/{name}", "enabled": enabled}
        client["spreadpilot"]["followers"].replace_one({"_id": name}, document, upsert=True)


async def test_mappings_follow_every_change_and_heal(home: Home, server: MongoServer) -> None:
    """Launched, broken, back, stopped: what other services read is what the manager says, and what others spoil is put right."""
    await store_credentials(home, ["anna", "ben"])
    for each in ("anna", "ben"):
        await asyncio.to_thread(put_follower, server, each)
    manager = manager_of(home, server, full_comparison_interval=2)
    await manager.start()
    runtime = home.runtime()
    await runtime.open()
    try:
        await eventually(lambda: running_of(manager) == {"anna", "ben"}, manager.list_gateways)
        before = await mapped_as(server, manager, "anna", "ben")
        assert set(before["anna"]) == MAPPED
        await runtime.kill(FollowerId("ben"))
        await eventually(lambda: seen(manager, "ben").state is not State.READY, manager.list_gateways)
        await eventually(lambda: running_of(manager) == {"anna", "ben"}, manager.list_gateways)
        async with asyncio.timeout(PATIENCE):  # name, port and client id are as before: only the container tells
            while (after := await mapped_as(server, manager, "anna", "ben"))["ben"]["container_id"] == before["ben"][
                "container_id"
            ]:
                await asyncio.sleep(0.1)
        assert after["anna"] == before["anna"]

        await asyncio.to_thread(spoil_mappings, server)
        assert await mapped_as(server, manager, "anna", "ben") == after

        await manager.stop_gateway("ben")
        assert set(await mapped_as(server, manager, "anna")) == {"anna"}
    finally:
        await runtime.close()
        await manager.stop()
    assert await asyncio.to_thread(mappings_in, server) == {}


async def test_a_restarted_manager_never_empties_the_mappings(home: Home, server: MongoServer) -> None:
    """From detach to adoption, whoever reads finds the gateway that runs all the time."""
    await store_credentials(home, ["anna"])
    await asyncio.to_thread(put_follower, server, "anna")
    manager = manager_of(home, server)
    await manager.start()
    await eventually(lambda: running_of(manager) == {"anna"}, manager.list_gateways)
    await mapped_as(server, manager, "anna")
    await manager.detach()
    manager, found, ended = manager_of(home, server), [], asyncio.Event()

    async def watch() -> None:
        while not ended.is_set():
            found.append(set(await asyncio.to_thread(mappings_in, server)))

    watching = asyncio.create_task(watch())
    try:
        await manager.start()
        await eventually(lambda: running_of(manager) == {"anna"}, manager.list_gateways)
        await mapped_as(server, manager, "anna")
        ended.set()
        await watching
    finally:
        await manager.stop()
    assert [each for each in found if each != {"anna"}] == []


MAPPED = {"_id", "follower_id", "container_id", "container_name", "host_port", "client_id", "status", "last_updated"}


def mappings_in(server: MongoServer) -> dict[str, dict[str, Any]]:
    with pymongo.MongoClient(server.uri) as client:
        return {each["follower_id"]: each for each in client["spreadpilot"]["gateway_mappings"].find()}


def spoil_mappings(server: MongoServer) -> None:
    with pymongo.MongoClient(server.uri) as client:
        mappings = client["spreadpilot"]["gateway_mappings"]
        mappings.delete_one({"_id": "anna"})
        mappings.update_one({"_id": "ben"}, {"$set": {"host_port": 1}})
        mappings.insert_one({"_id": "carl", "follower_id": "carl"})


async def mapped_as(server: MongoServer, manager: GatewayManager, *names: str) -> dict[str, dict[str, Any]]:
    """Wait until the collection holds these gateways and no others, each as the manager shows it."""

    def wanted() -> dict[str, tuple[object, ...]]:
        shown = [seen(manager, name) for name in names]
        return {
            each.follower_id: (
                each.container,
                int((each.endpoint or ":0").rpartition(":")[2]),
                each.client_id,
                each.status.value,
            )
            for each in shown
        }

    fields = ("container_name", "host_port", "client_id", "status")
    async with asyncio.timeout(PATIENCE):
        while True:
            mappings = await asyncio.to_thread(mappings_in, server)
            if {name: tuple(each.get(field) for field in fields) for name, each in mappings.items()} == wanted():
                return mappings
            await asyncio.sleep(0.05)


FLEET = ("anna", "ben", "cleo", "dora")


def restore(server: MongoServer, names: tuple[str, ...] = FLEET, **fields: Any) -> None:
    """The records as they were, with fields of other services, one after the other."""
    for name in names:
        put_follower(server, name)
        with pymongo.MongoClient(server.uri) as client:
            extra = {
                "email": f"{name}@example.org",
                "commission_pct": 20,
                "accounts": ["x"],
                "status": "gold",
                **fields,
            }
            client["spreadpilot"]["followers"].update_one({"_id": name}, {"$set": extra})
        time.sleep(0.1)


def lose(server: MongoServer, how: str) -> None:
    with pymongo.MongoClient(server.uri) as client:
        followers = client["spreadpilot"]["followers"]
        match how:
            case "dropped":
                followers.drop()
            case "renamed":
                followers.rename(f"followers_{time.monotonic_ns()}")
            case "emptied":
                followers.delete_many({})
            case "one by one":
                for name in FLEET:
                    followers.delete_one({"_id": name})
                    time.sleep(0.3)
            case "more than half":
                followers.delete_many({"_id": {"$in": FLEET[:3]}})


async def test_no_accident_in_the_database_stops_anybody(home: Home, server: MongoServer) -> None:
    """Dropped, renamed, emptied, restored record by record, slips in documents that others share: everybody stays as they were."""
    await store_credentials(home, list(FLEET))
    await asyncio.to_thread(restore, server)
    manager = manager_of(home, server, removal_delay=1.5)
    await manager.start()
    try:
        await eventually(lambda: running_of(manager) == set(FLEET), manager.list_gateways)
        before = {each.follower_id: each.container for each in manager.list_gateways()}
        assert all(each.notices == () for each in manager.list_gateways())

        def says(name: str, words: str) -> bool:
            return words in " ".join(seen(manager, name).notices)

        for how in ("dropped", "renamed", "emptied", "one by one", "more than half"):
            await asyncio.to_thread(lose, server, how)
            await eventually(lambda: says("anna", "confirm-removals"), manager.list_gateways)
            await asyncio.to_thread(restore, server)
            await eventually(
                lambda: seen(manager, "dora").notices == () == seen(manager, "anna").notices, manager.list_gateways
            )
        for slip, words in (
            ({"enabled": None, "enbled": True}, "was enabled meant?"),
            ({"enabled": None}, "enabled is missing in its record"),
            ({"read_only_api": True}, "read_only_api stands outside of gateway"),
            ({"gateway": {"red_only_api": True}}, "gateway.red_only_api is unknown (read_only_api was meant?)"),
            ({"trading_mode": "live", "account": "U1"}, "account is 'U1' (it was not set)"),
        ):
            await asyncio.to_thread(restore, server, ("anna",), **slip)
            await eventually(lambda: says("anna", words), manager.list_gateways)  # noqa: B023  # waited for at once
            assert {each.follower_id: each.container for each in manager.list_gateways()} == before
        await asyncio.to_thread(restore, server, FLEET[:3], enabled=False)
        await eventually(lambda: running_of(manager) == {"dora"}, manager.list_gateways)
    finally:
        await manager.stop()
