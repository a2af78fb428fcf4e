"""Whether a manager says of itself, rightly, that it does its work: with others on one MongoDB, and with that away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from spreadpilot_core.ibkr.gateway_manager import GatewayManager
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
    yield place
    await place.end()


def manager_of(home: Home, server: MongoServer, name: str) -> GatewayManager:
    """One of several on the same engine and database."""
    places = {"state_dir": home.directory / name, "runtime_url": f"simulated:{home.directory}"}
    return home.manager(**places, store_url="mongodb:", mongo_uri=server.uri, leader_lease=3.0)


async def test_who_stands_by_says_so_and_who_takes_over_is_ready(home: Home, server: MongoServer) -> None:
    """Both are fine for a probe: the one that stands by must not be killed for it."""
    first, second = manager_of(home, server, "first"), manager_of(home, server, "second")
    await first.start()
    await eventually(lambda: first.readiness().status == "ready", first.readiness)
    await second.start()
    await eventually(lambda: second.readiness().status == "standby", second.readiness)
    assert "first" in second.readiness().reason
    await first.stop()
    await eventually(lambda: second.readiness().status == "ready", second.readiness)
    assert second.readiness().reason == "0 of 0 gateways ready."
    await second.stop()


async def test_with_its_store_away_at_the_start_it_is_not_ready_and_says_why(home: Home, server: MongoServer) -> None:
    """And is once the store is there."""
    await asyncio.to_thread(server.stop)
    manager = manager_of(home, server, "first")
    await manager.start()
    try:
        assert manager.readiness().status != "ready"
        assert manager.readiness().reason
        await asyncio.to_thread(server.start)
        await eventually(lambda: manager.readiness().status == "ready", manager.readiness)
    finally:
        await manager.stop()
