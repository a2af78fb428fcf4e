"""Clients in other programs while another manager takes over: they are the programs' own, and so are their ids."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
from spreadpilot_core.ibkr.remote import RemoteGatewayManager
from support.home import Home, eventually
from support.mongo import MongoServer, may_build

pytestmark = [may_build]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MongoServer]:
    with MongoServer(tmp_path / "mongo") as running:
        yield running


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    place = Home()
    await place.add("alice")
    yield place
    place.settings["runtime_url"] = f"simulated:{place.directory / 'engine'}"
    await asyncio.to_thread(shutil.rmtree, place.directory, ignore_errors=True)


def manager(home: Home, server: MongoServer, name: str) -> GatewayManager:
    """One of two on one engine and one database."""
    directory = home.directory / name
    directory.mkdir()
    (home.directory / "engine").mkdir(exist_ok=True)
    shutil.copy(home.directory / "credentials.json", directory)
    settings: dict[str, Any] = {
        "state_dir": directory,
        "runtime_url": f"simulated:{home.directory / 'engine'}",
        "store_url": "mongodb:",
        "mongo_uri": server.uri,
        "credentials_key_file": home.directory / "credentials.key",
        "leader_lease": 4.0,
        "poll_interval": 0.5,
    }
    return home.manager(**settings)


async def test_a_client_and_its_id_outlive_the_leader(home: Home, server: MongoServer) -> None:
    """A manager that stands by is asked and names the leader; when that one has gone, the other knows the lease."""
    with pymongo.MongoClient(server.uri) as client:
        client["spreadpilot"]["followers"].insert_one(
            {"_id": "alice", "vault_secret_ref": "ibkr/alice", "enabled": True}
        )
    one, two = manager(home, server, "one"), manager(home, server, "two")
    await one.start()
    await eventually(lambda: one.is_leader and one.is_healthy("alice"))
    await two.start()
    async with RemoteGatewayManager(f"unix:{two.settings.state_dir}", name="bot") as remote:
        ib = await remote.get_client("alice")
        assert ib is not None
        assert not two.is_leader
        (lease,) = await remote.list_clients()

        await one.detach()
        await eventually(lambda: two.is_leader and two.is_healthy("alice"))
        assert ib.isConnected()
        assert await remote.get_client("alice") is ib
        assert await remote.list_clients() == (lease,)
        await remote.restart_gateway("alice")
        again = await remote.get_client("alice")
        assert again is not ib
        assert again.client.clientId == ib.client.clientId == lease.client_id
    assert await two.clients.list() == ()
    await two.stop()
