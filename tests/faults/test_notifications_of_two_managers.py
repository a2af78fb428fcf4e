"""Two managers on one database: whatever becomes of the leader, people are told each thing once."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.notifications.notifier import DOCUMENT_KIND
from spreadpilot_core.ibkr.runtimes.simulated.runtime import SimulatedRuntime
from spreadpilot_core.ibkr.service.client import ControlClient, NoManagerError, SilentManagerError
from spreadpilot_core.ibkr.simulator.engine.files import SCRIPTS
from spreadpilot_core.ibkr.store.mongodb.shared import COLLECTION
from support.command import Command
from support.home import Home
from support.mongo import MongoServer, may_build
from support.receivers import Received, webhook
from support.waiting import wait_until

pytestmark = [may_build]

LEASE = 4.0


@pytest.fixture
def home() -> Iterator[Home]:
    place = Home(ports=20)
    yield place
    asyncio.run(place.end())


def managers(home: Home, server: MongoServer, hook: Received) -> tuple[Command, Command]:
    """The same settings for both, but for their state directories."""
    asyncio.run(home.add("anna", "ben"))
    engine = home.directory / "engine"
    engine.mkdir()
    (engine / SCRIPTS).write_text(json.dumps({"followers": {"anna": {"laps": [{"wrong_password": True}]}}}))
    stored = home.directory / "credentials.json"
    for name in ("one", "two"):
        (home.directory / name).mkdir()
        (home.directory / name / stored.name).write_bytes(stored.read_bytes())
    with pymongo.MongoClient[dict[str, Any]](server.uri) as client:
        client["spreadpilot"]["followers"].insert_many(
            [{"_id": each, "vault_secret_ref": f"ibkr/{each}", "enabled": True} for each in ("anna", "ben")]
        )
    common = {
        "runtime_url": f"simulated:{engine}",
        "store_url": "mongodb:",
        "mongo_uri": server.uri,
        "credentials_key_file": home.directory / "credentials.key",
        "leader_lease": LEASE,
        "poll_interval": 0.5,
        "notify_urls": hook.url,
        "notify_outage_delay": 2.0,
        "on_exit": "detach",
        "log_format": "json",
    }
    one, two = (Command(home, **common, state_dir=home.directory / name) for name in ("one", "two"))
    return one, two


def states(home: Home, name: str) -> dict[str, str]:
    """Of all gateways, as this manager sees them."""
    try:
        with ControlClient(home.directory / name) as client:
            return {each["follower_id"]: each["state"] for each in client.gateways()}
    except (NoManagerError, SilentManagerError):
        return {}


def nothing_waits(server: MongoServer) -> bool:
    """Whether the database says that every message was sent."""
    with pymongo.MongoClient[dict[str, Any]](server.uri) as client:
        found = client["spreadpilot"][COLLECTION].find_one({"kind": DOCUMENT_KIND})
        return found is not None and json.loads(found["document"])["messages"] == []


async def lose_ibkr(directory: Path, fault: str) -> None:
    """Ben's gateway loses IBKR, or has it again."""
    runtime = SimulatedRuntime(directory, owner="ibgateway-follower", manager_id="test")
    await runtime.open()
    await runtime.inject("ben", fault)
    await runtime.close()


def test_a_leader_that_is_killed_and_one_that_hands_over_leave_nothing_untold_and_nothing_told_twice(
    home: Home, tmp_path: Path
) -> None:
    """Kill -9 of the first, an orderly end of the second: the messages are those that one manager would have sent."""
    with ExitStack() as places:
        server = places.enter_context(MongoServer(tmp_path / "mongo"))
        hook = places.enter_context(webhook("word-that-nobody-may-see"))
        one, two = managers(home, server, hook)
        first = places.enter_context(one.begun("run"))
        wait_until(lambda: hook.about_followers == ["anna needs somebody"])
        wait_until(lambda: states(home, "one") == {"anna": "needs_human", "ben": "ready"})
        with two.begun("run") as second:
            second.says("stands by")
            wait_until(lambda: nothing_waits(server))
            first.signal(signal.SIGKILL)
            first.ends()
            second.says("takes over")
            wait_until(lambda: states(home, "two") == {"anna": "needs_human", "ben": "ready"})
            asyncio.run(lose_ibkr(home.directory / "engine", "link_lost"))
            wait_until(lambda: hook.about_followers[1:] == ["ben is out of service"])
            with one.begun("run") as third:
                third.says("stands by")
                second.signal(signal.SIGTERM)
                assert second.ends() == 0
                wait_until(lambda: states(home, "one") == {"anna": "needs_human", "ben": "degraded"})
                asyncio.run(lose_ibkr(home.directory / "engine", "link_restored"))
                wait_until(lambda: len(hook.about_followers) > 2)
                third.signal(signal.SIGTERM)
                assert third.ends() == 0
    assert hook.about_followers == ["anna needs somebody", "ben is out of service", "Resolved: ben"]
