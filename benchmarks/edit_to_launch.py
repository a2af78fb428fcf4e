"""From an edit in MongoDB to the launch request that follows from it, by polling and by change stream.

The clock runs from just before a follower's record is written until the engine notes that a container of it is asked
for: the record is read, the secret fetched and the login written down in between. Polled is a real server, with records
and the leader lease in it too; `poll_interval` has its default, and edits come at random moments of it. A change stream needs a
replica set, for which a scripted peer on the wire stands in; the records are then in the embedded store.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymongo
from pydantic import SecretStr

from benchmarks.support.figures import Findings, at_most, percentile, run, spread
from benchmarks.support.place import LONGEST, Place, place, started
from benchmarks.support.sizes import options
from spreadpilot_core.ibkr import wiring
from spreadpilot_core.ibkr.settings import Settings
from spreadpilot_core.ibkr.simulator.engine.files import OPERATIONS
from spreadpilot_core.ibkr.store.local import store as local_store
from spreadpilot_core.ibkr.store.mongodb.database import MongoDatabase
from spreadpilot_core.ibkr.store.mongodb.followers import MongoFollowers
from spreadpilot_core.ibkr.store.registry import Stores
from support.mongo import MongoServer
from support.mongo_peer import MongoPeer

Edit = Callable[[dict[str, Any]], Awaitable[None]]
NEVER = 3600.0


async def polled(edits: int) -> tuple[list[float], float]:
    """Milliseconds for each edit, and the poll interval in seconds."""
    with (
        place(edits, enabled=0) as here,
        MongoServer(here.directory / "mongo") as server,
        pymongo.MongoClient[dict[str, Any]](server.uri) as client,
    ):
        followers = client["spreadpilot"]["followers"]

        async def edit(record: dict[str, Any]) -> None:
            await asyncio.to_thread(followers.insert_one, record)

        interval = float(here.settings["poll_interval"])
        async with started(here, store_url="mongodb:", mongo_uri=server.uri):
            return await _edits(here, edit, pause=interval), interval


async def streamed(edits: int) -> list[float]:
    """Milliseconds for each edit; only a change stream can have told."""
    async with MongoPeer() as peer:
        with place(edits, enabled=0) as here:

            async def edit(record: dict[str, Any]) -> None:
                peer.change([*peer.documents, record])

            followers = MongoFollowers(MongoDatabase(SecretStr(peer.uri), "spreadpilot"), poll_interval=NEVER)
            with _records_elsewhere(followers):
                async with started(here):
                    while not peer.streams:  # noqa: ASYNC110  # the peer is no part of the measure
                        await asyncio.sleep(0.05)
                    return await _edits(here, edit, pause=1.0)


@contextmanager
def _records_elsewhere(followers: MongoFollowers) -> Iterator[None]:
    """Followers from here, all else in the embedded store; `wiring` is the one seam at which the two can be put together."""
    usual = wiring.stores

    def stores(settings: Settings, **rest: Any) -> Stores:
        return replace(local_store.make(settings, **rest), followers=followers)

    wiring.stores = stores
    try:
        yield
    finally:
        wiring.stores = usual


async def _edits(here: Place, edit: Edit, *, pause: float) -> list[float]:
    times = []
    chance = random.Random(7)  # noqa: S311  # moments, no secrets
    for follower in here.followers:
        await asyncio.sleep(0.5 + chance.random() * pause)
        begun = time.monotonic()
        await edit({"_id": follower, "vault_secret_ref": f"ibkr/{follower}", "enabled": True})
        async with asyncio.timeout(LONGEST):
            while (asked := await asyncio.to_thread(_asked_at, here.directory, follower)) is None:  # noqa: ASYNC110  # its file alone tells
                await asyncio.sleep(0.05)
        times.append((asked - begun) * 1000)
    return times


def _asked_at(directory: Path, follower: str) -> float | None:
    """When the engine was asked for a container of this follower, by the machine's clock."""
    trail = directory / OPERATIONS
    for line in trail.read_text().splitlines() if trail.exists() else []:
        noted = json.loads(line)
        if (noted["operation"], noted["follower"], noted["phase"]) == ("create", follower, "begin"):
            return float(noted["monotonic"])
    return None


async def measure(findings: Findings, edits: int) -> None:
    """Both ways, one after the other."""
    with findings.part("by change stream"):
        times = await streamed(edits)
        findings.figure(
            "How long from an edit in MongoDB to the launch request, by change stream?",
            spread(times),
            aim=at_most(max(times), 1000, "ms"),
            median=(percentile(times, 50), "ms"),
            max=(max(times), "ms"),
        )
    with findings.part("polled"):
        times, interval = await polled(edits)
        findings.figure(
            f"… and polled every {interval:g} s?",
            spread(times),
            aim=at_most(max(times), interval * 1000, "ms"),
            median=(percentile(times, 50), "ms"),
            max=(max(times), "ms"),
        )


if __name__ == "__main__":
    given = options(__doc__, edits=(12, 1))
    sys.exit(run(lambda findings: measure(findings, given.edits)))
